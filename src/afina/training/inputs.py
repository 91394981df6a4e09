"""Inputs of a step: what it computes its outputs from. Texts, through the whole model; or, where the head alone trains,
features of the texts, which the frozen body gives once and which are kept.

Features are computed in predicting's batches and without dropout, in training's precision. So many steps cost what
reading each text once costs. Knows a classifier, batches and how to train; no optimiser, and of a method only what
trains.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from afina.data.batch import Loader, Packed, by_length
from afina.digest import derive_seed
from afina.methods.method import Method
from afina.models.classifier import Classifier
from afina.models.kernels.layout import Layout
from afina.training.optimizer import Recipe


class MicroBatch(Protocol):
    """What is computed at once of a batch; its length is the number of its examples."""

    @property
    def learnt(self) -> int:
        """How many targets its mean loss is the mean of."""

    @property
    def targets(self) -> Tensor:
        """What is to be learnt, as the objective has it."""

    def __len__(self) -> int:
        """Examples."""


@dataclass(frozen=True, eq=False)
class TextBatch:
    """A packed batch, and its layout where that is made already."""

    packed: Packed
    layout: Layout | None = None

    @property
    def targets(self) -> Tensor:
        """The batch's."""
        return self.packed.targets

    @property
    def learnt(self) -> int:
        """The batch's."""
        return self.packed.learnt

    def __len__(self) -> int:
        return len(self.packed)


class Inputs(ABC):
    """Of one training session.

    classifier  in the weights that it trains in;  loader  its examples;  recipe  its steps
    """

    def __init__(self, classifier: Classifier, loader: Loader, recipe: Recipe) -> None:
        self.classifier, self.loader, self.recipe = classifier, loader, recipe

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.classifier.parameters()).device

    @property
    def held(self) -> Sequence[Tensor]:
        """What is kept from step to step, beside weights."""
        return ()

    @abstractmethod
    def begin(self) -> None:
        """Ready the model for steps, whatever it did before."""

    @abstractmethod
    def batches(self, start: int, stop: int) -> Iterator[Any]:
        """The batches of steps start, ..., stop - 1."""

    @abstractmethod
    def parts(self, batch: Any) -> Sequence[MicroBatch]:
        """What is computed at once of a batch, on the device."""

    @abstractmethod
    def tokens(self, batch: Any) -> int:
        """Those of the batch's texts."""

    @abstractmethod
    def prepare(self, step: int) -> None:
        """What a step needs before its outputs; its time is a part of the step's."""

    @abstractmethod
    def outputs(self, part: Any) -> Tensor:
        """Logits, float32 [B, width of the head]."""

    @abstractmethod
    def stand_in(self, largest: Packed) -> MicroBatch:
        """What is computed at once of that batch, which is `largest`, for measuring what it keeps."""

    @abstractmethod
    def rehearse(self, made: Sequence[TextBatch]) -> Sequence[MicroBatch]:
        """Do all that steps need where nothing has values, with what `rehearsal` made; the parts of such a step."""

    @classmethod
    @abstractmethod
    def largest(cls, loader: Loader, recipe: Recipe) -> Packed:
        """Of all that is computed at once in a step, what has the most tokens."""

    @classmethod
    @abstractmethod
    def computed(cls, loader: Loader, steps: int) -> int:
        """Tokens that go through the model in so many steps."""

    @classmethod
    @abstractmethod
    def rehearsal(cls, loader: Loader, recipe: Recipe, layout: Callable[[Packed], Layout]) -> list[TextBatch]:
        """What `rehearse` takes; made where there are values, for it reads some. layout: the classifier's."""


class PackedInputs(Inputs):
    """Packed batches of texts, through the whole model in training."""

    def begin(self) -> None:
        """With dropout."""
        self.classifier.train()

    def batches(self, start: int, stop: int) -> Iterator[Packed]:
        """The loader's."""
        return self.loader.batches(start, stop)

    def parts(self, batch: Packed) -> Sequence[TextBatch]:
        """As the recipe bounds them."""
        return [TextBatch(part.to(self.device)) for part in self.recipe.at_once.parts(batch)]

    def tokens(self, batch: Packed) -> int:
        """All of it."""
        return len(batch.tokens)

    def prepare(self, step: int) -> None:
        """Start the dropout stream of the step, whatever was drawn before."""
        torch.manual_seed(derive_seed(self.recipe.seed, "dropout", step))

    def outputs(self, part: TextBatch) -> Tensor:
        """By the whole classifier."""
        logits: Tensor = self.classifier(part.packed, part.layout)
        return logits

    def stand_in(self, largest: Packed) -> TextBatch:
        """Itself."""
        self.prepare(self.recipe.steps)
        return TextBatch(largest.to(self.device))

    def rehearse(self, made: Sequence[TextBatch]) -> Sequence[TextBatch]:
        """There is nothing else to do."""
        return made

    @classmethod
    def largest(cls, loader: Loader, recipe: Recipe) -> Packed:
        """Of all parts."""
        return loader.largest(recipe.steps, recipe.at_once)

    @classmethod
    def computed(cls, loader: Loader, steps: int) -> int:
        """Those of every batch."""
        return loader.tokens(steps)

    @classmethod
    def rehearsal(cls, loader: Loader, recipe: Recipe, layout: Callable[[Packed], Layout]) -> list[TextBatch]:
        """The largest part, twice where a batch has several: from the second on, there are gradients."""
        largest = cls.largest(loader, recipe)
        return [TextBatch(largest, layout(largest).made())] * min(2, loader.most_parts(recipe.steps, recipe.at_once))


_STEPS_TOGETHER = 64
"""Steps whose texts are computed together: enough that batches by length lose nothing, and a pause little."""


def inputs_of(method: Method) -> type[Inputs]:
    """What the steps of `method` compute their outputs from."""
    return FeatureInputs if method.trains_head and not method.trains_body else PackedInputs


@dataclass(frozen=True, eq=False)
class FeatureBatch:
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


class FeatureInputs(Inputs):
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

    def batches(self, start: int, stop: int) -> Iterator[FeatureBatch]:
        """The loader's examples."""
        for chosen in self.loader.chosen(start, stop):
            rows, targets = (
                torch.from_numpy(self._rows[chosen]),
                torch.from_numpy(np.asarray(self.loader.labels)[chosen]),
            )
            yield FeatureBatch(rows, targets, int(self._lengths[chosen].sum()))

    def parts(self, batch: FeatureBatch) -> Sequence[FeatureBatch]:
        """The whole batch."""
        return [FeatureBatch(batch.rows.to(self.device), batch.targets.to(self.device), batch.tokens)]

    def tokens(self, batch: FeatureBatch) -> int:
        """Whether they are read now or were before."""
        return batch.tokens

    def prepare(self, step: int) -> None:
        """Compute the features that it needs and that are not there: in the first epoch its stretch's, else all."""
        late = step >= self.loader.steps_per_epoch
        for start, stop in [each for each in self._missing if late or each[0] <= step < each[1]]:
            for indices, packed in _batches(self.loader, self._examples, start, stop):
                self._compute(TextBatch(packed), torch.from_numpy(self._rows[indices]))
            self._missing.remove((start, stop))

    def _compute(self, laid: TextBatch, rows: Tensor) -> None:
        assert self._kept is not None
        with torch.inference_mode():
            features = self.classifier.features(laid.packed.to(self.device), laid.layout)
            self._kept.index_copy_(0, rows.to(self.device), features)

    def outputs(self, part: FeatureBatch) -> Tensor:
        """By the head alone."""
        assert self._kept is not None
        return self.classifier.answer(self._kept.index_select(0, part.rows))

    def stand_in(self, largest: Packed) -> FeatureBatch:
        """As many rows."""
        count = len(largest)
        rows = torch.zeros(count, dtype=torch.int64, device=self.device)
        return FeatureBatch(rows, largest.targets.to(self.device), len(largest.tokens))

    def rehearse(self, made: Sequence[TextBatch]) -> Sequence[FeatureBatch]:
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
    def rehearsal(cls, loader: Loader, recipe: Recipe, layout: Callable[[Packed], Layout]) -> list[TextBatch]:
        """The largest batch of texts that is read, and the largest of a step."""
        examples = _examples(loader, recipe.steps)
        stretches = _stretches(min(recipe.steps, loader.steps_per_epoch))
        read = chain.from_iterable(_batches(loader, examples, start, stop) for start, stop in stretches)
        heaviest = max((packed for _, packed in read), key=lambda packed: len(packed.tokens))
        return [TextBatch(heaviest, layout(heaviest).made()), TextBatch(cls.largest(loader, recipe))]


def _examples(loader: Loader, steps: int) -> np.ndarray:
    """Every example of so many steps once, in the order of the first epoch."""
    return loader.order(0)[: steps * loader.batch_size]


def _stretches(steps: int) -> Iterator[tuple[int, int]]:
    """The first epoch's steps in pieces (first, last + 1), small ones first: what few steps need is little."""
    start = 0
    while start < steps:
        stop = min(start + min(max(start, 1), _STEPS_TOGETHER), steps)
        yield start, stop
        start = stop


def _batches(loader: Loader, examples: np.ndarray, start: int, stop: int) -> Iterator[tuple[np.ndarray, Packed]]:
    return by_length(loader.encoded, among=examples[start * loader.batch_size : stop * loader.batch_size])
