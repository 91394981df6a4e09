"""Features: where the head alone trains, what the frozen body gives of each training text is computed once, and kept.

In predicting's batches and without dropout, in training's precision. So many steps cost what reading each text once
costs. Knows no method, but for whether it trains the body.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from afina.data.batch import Loader, Packed, by_length
from afina.methods.method import Method
from afina.models.classifier import Classifier
from afina.models.kernels.layout import Layout
from afina.training.inputs import Inputs, Laid, Texts
from afina.training.recipe import Recipe

_MOST = 64
"""Steps whose texts are computed together: enough that batches by length lose nothing, and a pause little."""


def inputs_of(method: Method) -> type[Inputs]:
    """What the steps of `method` compute their outputs from."""
    return Features if method.trains_head and not method.trains_body else Texts


@dataclass(frozen=True, eq=False)
class Rows:
    """A batch: rows of the features, int64 [B], with their targets.

    tokens  those of its texts
    """

    rows: Tensor
    targets: Tensor
    tokens: int

    @property
    def learnt(self) -> int:
        """One target an example."""
        return len(self)

    def __len__(self) -> int:
        return len(self.targets)


class Features(Inputs):
    """Float32 [N, width], of the texts of all steps; they become known a stretch of the first epoch's steps at a time.

    The stretches depend on nothing but the steps in all, so that a run which pauses, or is resumed, has the same bits.
    """

    def __init__(self, classifier: Classifier, loader: Loader, recipe: Recipe) -> None:
        super().__init__(classifier, loader, recipe)
        self._examples = _examples(loader, recipe.steps)
        self._rows = np.zeros(len(loader.encoded), np.int64)
        self._rows[self._examples] = np.arange(len(self._examples))
        self._lengths = loader.encoded.lengths
        self._missing = list(_stretches(min(recipe.steps, loader.steps_per_epoch)))
        self._kept: Tensor | None = None

    @property
    def held(self) -> Sequence[Tensor]:
        """The features."""
        return () if self._kept is None else (self._kept,)

    def begin(self) -> None:
        """Without dropout."""
        self.classifier.eval()
        if self._kept is None:
            shape = len(self._examples), self.classifier.model.config.hidden_size
            self._kept = torch.empty(shape, device=self.device)

    def batches(self, start: int, stop: int) -> Iterator[Rows]:
        """The loader's examples."""
        for chosen in self.loader.chosen(start, stop):
            rows, targets = (
                torch.from_numpy(self._rows[chosen]),
                torch.from_numpy(np.asarray(self.loader.labels)[chosen]),
            )
            yield Rows(rows, targets, int(self._lengths[chosen].sum()))

    def parts(self, batch: Rows) -> Sequence[Rows]:
        """The whole batch."""
        return [Rows(batch.rows.to(self.device), batch.targets.to(self.device), batch.tokens)]

    def tokens(self, batch: Rows) -> int:
        """Whether they are read now or were before."""
        return batch.tokens

    def prepare(self, step: int) -> None:
        """Compute the features that it needs and that are not there: in the first epoch its stretch's, else all."""
        late = step >= self.loader.steps_per_epoch
        for start, stop in [each for each in self._missing if late or each[0] <= step < each[1]]:
            for indices, packed in _batches(self.loader, self._examples, start, stop):
                self._compute(Laid(packed), torch.from_numpy(self._rows[indices]))
            self._missing.remove((start, stop))

    def _compute(self, laid: Laid, rows: Tensor) -> None:
        assert self._kept is not None
        with torch.inference_mode():
            features = self.classifier.features(laid.packed.to(self.device), laid.layout)
            self._kept.index_copy_(0, rows.to(self.device), features)

    def outputs(self, part: Rows) -> Tensor:
        """By the head alone."""
        assert self._kept is not None
        return self.classifier.answer(self._kept.index_select(0, part.rows))

    def stand_in(self, largest: Packed) -> Rows:
        """As many rows."""
        count = len(largest)
        rows = torch.zeros(count, dtype=torch.int64, device=self.device)
        return Rows(rows, largest.targets.to(self.device), len(largest.tokens))

    def rehearse(self, made: Sequence[Laid]) -> Sequence[Rows]:
        """Compute the largest batch of texts; the step's batch is the last of `made`."""
        texts, batch = made
        self._compute(texts, torch.zeros(len(texts), dtype=torch.int64))
        return [self.stand_in(batch.packed)]

    @classmethod
    def largest(cls, loader: Loader, recipe: Recipe) -> Packed:
        """Of whole batches."""
        return loader.largest(recipe.steps)

    @classmethod
    def computed(cls, loader: Loader, steps: int) -> int:
        """Those of each text, once."""
        return int(loader.encoded.lengths[_examples(loader, steps)].sum())

    @classmethod
    def rehearsal(cls, loader: Loader, recipe: Recipe, layout: Callable[[Packed], Layout]) -> list[Laid]:
        """The largest batch of texts that is read, and the largest of a step."""
        examples = _examples(loader, recipe.steps)
        stretches = _stretches(min(recipe.steps, loader.steps_per_epoch))
        read = chain.from_iterable(_batches(loader, examples, start, stop) for start, stop in stretches)
        heaviest = max((packed for _, packed in read), key=lambda packed: len(packed.tokens))
        return [Laid(heaviest, layout(heaviest).made()), Laid(cls.largest(loader, recipe))]


def _examples(loader: Loader, steps: int) -> np.ndarray:
    """Every example of so many steps once, in the order of the first epoch."""
    return loader.order(0)[: steps * loader.batch_size]


def _stretches(steps: int) -> Iterator[tuple[int, int]]:
    """The first epoch's steps in pieces (first, last + 1), small ones first: what few steps need is little."""
    start = 0
    while start < steps:
        stop = min(start + min(max(start, 1), _MOST), steps)
        yield start, stop
        start = stop


def _batches(loader: Loader, examples: np.ndarray, start: int, stop: int) -> Iterator[tuple[np.ndarray, Packed]]:
    return by_length(loader.encoded, among=examples[start * loader.batch_size : stop * loader.batch_size])
