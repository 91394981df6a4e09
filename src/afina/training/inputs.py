"""Inputs: what a step computes its outputs from. For most methods that is texts, through the whole model.

The other kind is in `features.py`. Knows a classifier, batches and how to train; no method and no optimiser.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from afina.data.batch import Loader, Packed
from afina.digest import derive_seed
from afina.models.classifier import Classifier
from afina.models.kernels.layout import Layout
from afina.training.recipe import Recipe


class Part(Protocol):
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
class Laid:
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
    def parts(self, batch: Any) -> Sequence[Part]:
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
    def stand_in(self, largest: Packed) -> Part:
        """What is computed at once of that batch, which is `largest`, for measuring what it keeps."""

    @abstractmethod
    def rehearse(self, made: Sequence[Laid]) -> Sequence[Part]:
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
    def rehearsal(cls, loader: Loader, recipe: Recipe, layout: Callable[[Packed], Layout]) -> list[Laid]:
        """What `rehearse` takes; made where there are values, for it reads some. layout: the classifier's."""


class Texts(Inputs):
    """Packed batches of texts, through the whole model in training."""

    def begin(self) -> None:
        """With dropout."""
        self.classifier.train()

    def batches(self, start: int, stop: int) -> Iterator[Packed]:
        """The loader's."""
        return self.loader.batches(start, stop)

    def parts(self, batch: Packed) -> Sequence[Laid]:
        """As the recipe bounds them."""
        return [Laid(part.to(self.device)) for part in self.recipe.at_once.parts(batch)]

    def tokens(self, batch: Packed) -> int:
        """All of it."""
        return len(batch.tokens)

    def prepare(self, step: int) -> None:
        """Start the dropout stream of the step, whatever was drawn before."""
        torch.manual_seed(derive_seed(self.recipe.seed, "dropout", step))

    def outputs(self, part: Laid) -> Tensor:
        """By the whole classifier."""
        logits: Tensor = self.classifier(part.packed, part.layout)
        return logits

    def stand_in(self, largest: Packed) -> Laid:
        """Itself."""
        self.prepare(self.recipe.steps)
        return Laid(largest.to(self.device))

    def rehearse(self, made: Sequence[Laid]) -> Sequence[Laid]:
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
    def rehearsal(cls, loader: Loader, recipe: Recipe, layout: Callable[[Packed], Layout]) -> list[Laid]:
        """The largest part, twice where a batch has several: from the second on, there are gradients."""
        largest = cls.largest(loader, recipe)
        return [Laid(largest, layout(largest).made())] * min(2, loader.most_parts(recipe.steps, recipe.at_once))
