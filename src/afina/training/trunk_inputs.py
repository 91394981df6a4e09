"""Inputs of training steps that begin above the trunk: the outputs of the frozen lower blocks are computed once.

`RunSpec.training.trunk` says when. The outputs of each text are computed once, without a graph, in the batches used for
prediction and in the compute dtype of training. Later steps on the text begin at the lowest block that gets a
gradient. The outputs are kept in memory, or in a mapped file without a name if they are larger than MOST_IN_MEMORY. If
neither has room, the lower blocks are computed in every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from afina import file_io, meter
from afina.data.batch import Loader, Packed
from afina.errors import CannotWrite
from afina.methods.method import Method
from afina.models.architectures import architecture_of
from afina.models.classifier import Classifier
from afina.models.kernels.layout import Layout
from afina.models.trunk import Trunk, is_random
from afina.training import problems
from afina.training.inputs import (
    Inputs,
    PackedInputs,
    Place,
    TextBatch,
    TrunkUse,
    group_batches,
    in_mib,
    inputs_of,
    step_groups,
)
from afina.training.mixed_precision import first_with_gradient
from afina.training.optimizer import Recipe

SPARE = 2
"""Available memory divided by the size of outputs above which the outputs are kept in memory."""

MOST_IN_MEMORY = 2**30
"""Size in bytes above which outputs of the trunk are kept in a file, whose pages the system can take back."""


def frozen_blocks(classifier: Classifier) -> int:
    """Return the number of lowest transformer blocks that no gradient passes; 0 also if none is above them."""
    trained = [name for name, parameter in classifier.model.named_parameters() if parameter.requires_grad]
    first = first_with_gradient(architecture_of(classifier.body), trained)
    return 0 if math.isinf(first) else int(first)


def training_inputs(method: Method, classifier: Classifier, loader: Loader, recipe: Recipe) -> type[Inputs]:
    """Return the class of inputs for a training session of a classifier to which `method` is attached.

    Raises InvalidStudy if the recipe asks for a trunk, but the model has no trunk or its outputs differ in every step.
    """
    usual, blocks = inputs_of(method), 0
    if usual is PackedInputs:
        blocks = frozen_blocks(classifier)
    asked = recipe.trunk == "kept" or not recipe.trunk_dropout
    if asked and not blocks:
        option = "trunk" if recipe.trunk == "kept" else "trunk_dropout"
        raise problems.NO_TRUNK(method=method.name, option=option)
    random = blocks > 0 and recipe.trunk_dropout and is_random(classifier.body, blocks)
    if recipe.trunk == "kept" and random:
        raise problems.TRUNK_RANDOM(method=method.name, blocks=blocks)
    wanted = recipe.trunk == "kept" or (recipe.trunk == "auto" and method.adapts_upper_blocks)
    return TrunkInputs if blocks and (wanted or not recipe.trunk_dropout) else usual


@dataclass(frozen=True, eq=False)
class RowsBatch(TextBatch):
    """A packed batch of texts whose outputs of the trunk are kept.

    Attributes:
        rows: Row of each token among the kept outputs of all texts, int64 [T].
    """

    rows: Tensor | None = None


@dataclass(frozen=True, eq=False)
class ChosenTexts:
    """The packed batch of a step, with the indices of its texts, int64 [B]."""

    packed: Packed
    chosen: np.ndarray


class TrunkInputs(PackedInputs):
    """Packed texts of which only the blocks above the trunk are computed in each step.

    The first epoch computes the outputs of the trunk in groups of steps, as `FeatureInputs` does, so that a paused or
    resumed run has bitwise the same result.
    """

    def __init__(self, classifier: Classifier, loader: Loader, recipe: Recipe) -> None:
        super().__init__(classifier, loader, recipe)
        self.trunk = Trunk(classifier, frozen_blocks(classifier))
        self._starts = np.concatenate([[0], np.cumsum(loader.encoded.lengths, dtype=np.int64)])
        self._missing = list(step_groups(loader.steps_per_epoch))
        self._kept: KeptStates | None = None
        self._reason = self._why_not()
        if not self._reason:
            rehearses = isinstance(next(classifier.parameters()), FakeTensor)
            shape = int(self._starts[-1]), self.trunk.width
            self._kept = KeptStates.of(shape, self.trunk.dtype, None if rehearses else recipe.scratch, rehearses)
            if self._kept is None:
                self._reason = NO_ROOM.format(size=in_mib(_bytes(shape, self.trunk.dtype)))

    def _why_not(self) -> str:
        """Return why no output is kept, whether there is room for them or not; "" if they are kept."""
        recipe = self.recipe
        if recipe.trunk == "recomputed":
            return "`trunk` is recomputed"
        if recipe.ranks.count > 1:
            return "several processes train together"
        if recipe.trunk_dropout and is_random(self.classifier.body, self.trunk.blocks):
            return "the blocks have dropout, which `trunk_dropout` = false turns off"
        return "each text is in one step only" if recipe.steps <= self.loader.steps_per_epoch else ""

    @property
    def trunk_use(self) -> TrunkUse:
        kept, blocks, dropout = self._kept, self.trunk.blocks, self.recipe.trunk_dropout
        if kept is None:
            return TrunkUse(blocks, dropout=dropout, reason=self._reason)
        return TrunkUse(blocks, kept.place, kept.bytes, dropout)

    @property
    def held(self) -> Sequence[Tensor]:
        """The kept outputs, if they are in memory; the system can take back the pages of a file."""
        return () if self._kept is None or self._kept.place == "file" else (self._kept.states,)

    def begin(self) -> None:
        """Switch the model to training mode; with `trunk_dropout` = false, the trunk has no dropout."""
        super().begin()
        if not self.recipe.trunk_dropout:
            self.trunk.rest()

    def batches(self, start: int, stop: int) -> Iterator[ChosenTexts]:  # type: ignore[override]
        given = zip(self.loader.batches(start, stop), self.loader.chosen(start, stop), strict=True)
        return (ChosenTexts(packed, chosen) for packed, chosen in given)

    def parts(self, batch: ChosenTexts) -> Sequence[RowsBatch]:  # type: ignore[override]
        made = batch.packed.parts(self.recipe.at_once.cut(batch.packed.lengths))
        return [
            RowsBatch(packed.to(self.device), None, numbers, self._rows(batch.chosen[numbers]))
            for numbers, packed in made
        ]

    def learnt(self, batch: ChosenTexts) -> int:  # type: ignore[override]
        return batch.packed.learnt

    def tokens(self, batch: ChosenTexts) -> int:  # type: ignore[override]
        return len(batch.packed.tokens)

    def prepare(self, step: int) -> None:
        """Compute missing outputs of the trunk: in the first epoch for the step's group of texts, later for all texts.

        Then seed the generator of dropout, as for every packed batch.
        """
        late = step >= self.loader.steps_per_epoch
        due = [each for each in self._missing if late or each[0] <= step < each[1]] if self._kept else []
        began = meter.now()
        for start, stop in due:
            for indices, packed in group_batches(self.loader, start, stop):
                self._compute(TextBatch(packed), self._rows(indices))
            self._missing.remove((start, stop))
        if due:
            self.once_seconds += meter.now() - began
        super().prepare(step)

    def _rows(self, texts: np.ndarray) -> Tensor:
        """Return the row of each token of these texts among the kept outputs, int64 [T]."""
        starts, lengths = self._starts[texts], self._starts[texts + 1] - self._starts[texts]
        ends = np.cumsum(lengths)
        return torch.from_numpy(np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths))

    def _compute(self, laid: TextBatch, rows: Tensor) -> None:
        assert self._kept is not None
        self._kept.write(rows, self.trunk.states(laid.packed.to(self.device), laid.layout))
        self.once_tokens += len(rows)

    def outputs(self, part: RowsBatch) -> Tensor:  # type: ignore[override]
        if self._kept is None or part.rows is None:
            return super().outputs(part)
        with self.trunk.giving(self._kept.read(part.rows).to(self.device)):
            return super().outputs(part)

    def stand_in(self, largest: Packed) -> RowsBatch:
        made = super().stand_in(largest)
        return RowsBatch(made.packed, rows=torch.zeros(len(largest.tokens), dtype=torch.int64))

    def rehearse(self, made: Sequence[TextBatch]) -> Sequence[RowsBatch]:
        """Compute the outputs of the largest batch of texts; the other items of `made` are the batches of a step."""
        texts, *parts = made
        if self._kept is not None:
            self._compute(texts, torch.zeros(len(texts.packed.tokens), dtype=torch.int64))
        return [
            RowsBatch(part.packed, part.layout, rows=torch.zeros(len(part.packed.tokens), dtype=torch.int64))
            for part in parts
        ]

    @classmethod
    def rehearsal(cls, loader: Loader, recipe: Recipe, layout: Callable[[Packed], Layout]) -> list[TextBatch]:
        """Return the largest batch for which outputs are computed at once, and the largest micro-batches of a step."""
        steps = step_groups(loader.steps_per_epoch)
        read = chain.from_iterable(group_batches(loader, start, stop) for start, stop in steps)
        heaviest = max((packed for _, packed in read), key=lambda packed: len(packed.tokens))
        return [TextBatch(heaviest, layout(heaviest).made()), *super().rehearsal(loader, recipe, layout)]


NO_ROOM = "neither memory nor the disk has room for the {size} of outputs"


class KeptStates:
    """The outputs of a trunk for all tokens of a training split, [tokens, width], in memory or in a mapped file.

    Attributes:
        bytes: Size of the outputs.
    """

    def __init__(self, states: Tensor, place: Place) -> None:
        self.states, self.place = states, place
        self.bytes = _bytes(states.shape, states.dtype)

    @classmethod
    def of(
        cls, shape: tuple[int, int], dtype: torch.dtype, scratch: Path | None, rehearses: bool = False
    ) -> KeptStates | None:
        """Return room for outputs; None if neither memory nor disk has room.

        Args:
            scratch: The directory for a file. None: outputs are kept in memory only.
            rehearses: Whether only the sizes of tensors matter, so that neither memory nor disk is needed.
        """
        size = _bytes(shape, dtype)
        if rehearses:
            small = size <= MOST_IN_MEMORY
            states = torch.empty(shape, dtype=dtype) if small else torch.empty(1, shape[1], dtype=dtype).expand(shape)
            return cls(states, "memory" if small else "file")
        if size <= MOST_IN_MEMORY and SPARE * size <= meter.memory_available():
            return cls(torch.empty(shape, dtype=dtype), "memory")
        if scratch is None:
            return None
        try:
            return cls(torch.frombuffer(file_io.mapped(scratch, size), dtype=dtype).view(shape), "file")
        except CannotWrite:
            return None

    def write(self, rows: Tensor, states: Tensor) -> None:
        """Keep the outputs of some tokens, [T, width], in the rows `rows`, int64 [T]."""
        if self.states.stride(0):
            with torch.inference_mode():
                self.states.index_copy_(0, rows, states.to(self.states.device, self.states.dtype))

    def read(self, rows: Tensor) -> Tensor:
        """Return the outputs of some tokens, [T, width], given their rows, int64 [T]."""
        return self.states.index_select(0, rows)


def _bytes(shape: Sequence[int], dtype: torch.dtype) -> int:
    return math.prod(shape) * dtype.itemsize
