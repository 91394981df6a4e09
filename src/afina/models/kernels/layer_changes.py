"""Layer changes: what each adapter of a mixed batch does to its own rows, over one frozen model computed once.

What an adapter adds to a layer's output, or does to its input, is a `LayerChange`; what stands before its texts is its
prompt and its prefix; all of it is a `BatchedAdapter`. `changed_forward` is the layer with the changes of the row that
is computed just now. Knows no method, no family and no model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from afina.models.kernels.layout import Layout


@dataclass(frozen=True, eq=False)
class LayerChange:
    """What an adapter does at one layer to the rows that are its own. Fields that are tensors are its weights."""

    def entering(self, inputs: Tensor) -> Tensor:
        """What the layer is given in place of `inputs`, [N, ...]; leaves them as they are."""
        return inputs

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        """Change the layer's own `outputs` [N, ...] in place.

        inputs  [N, ...], what the layer was given before any `entering`; None where it has no one positional input
        """

    @property
    def enters(self) -> bool:
        """Whether `entering` does anything."""
        return type(self).entering is not LayerChange.entering

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """With its weights there, in the precision of the frozen model's."""
        moved = {name: tensor.to(device, dtype) for name, tensor in self.weights.items()}
        return replace(self, **moved) if moved else self

    @property
    def weights(self) -> dict[str, Tensor]:
        """By field, those that are its own."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in given.items() if isinstance(value, Tensor)}


@dataclass(frozen=True, eq=False)
class BiasChange(LayerChange):
    """Another bias: `by`, [M], is what it is more than the frozen one."""

    by: Tensor

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        """outputs + by."""
        outputs.add_(self.by)


@dataclass(frozen=True, eq=False)
class NormChange(LayerChange):
    """Another weight or bias of a layer that has only vectors, a norm: computed again, which costs next to nothing.

    layer         the frozen one
    weight, bias  in place of its own; None: its own
    """

    layer: nn.Module
    weight: Tensor | None = None
    bias: Tensor | None = None

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        """The layer's output with these."""
        assert inputs is not None
        outputs.copy_(type(self.layer).forward(self._own, inputs))

    @cached_property
    def _own(self) -> nn.Module:
        """The layer with these, and the forward of its class."""
        made = copy(self.layer)
        made.__dict__["_parameters"] = {**self.layer._parameters, **self.weights}
        return made


class KeyValues(NamedTuple):
    """Keys and values before those of each text, [G, P, D]."""

    key: Tensor
    value: Tensor


@dataclass(frozen=True, eq=False)
class BatchedAdapter:
    """All that an adapter does below the head, in a batch that it shares with others.

    changes  by path of a layer in the frozen model, in the order in which they apply
    prompt   rows before the embeddings of each text, [K, width]
    prefix   by path of an attention; of each as many columns
    tensor_names  the saved tensors that are in it: an adapter with others needs a model of its own
    """

    changes: Mapping[str, tuple[LayerChange, ...]] = field(default_factory=dict)
    prompt: Tensor | None = None
    prefix: Mapping[str, KeyValues] = field(default_factory=dict)
    tensor_names: frozenset[str] = frozenset()

    @classmethod
    def joined(cls, adapters: Sequence[BatchedAdapter]) -> BatchedAdapter:
        """One that does what all do, the first first, at each layer."""
        changes: dict[str, tuple[LayerChange, ...]] = {}
        prefix: dict[str, KeyValues] = {}
        for one in adapters:
            prefix |= one.prefix
            for path, more in one.changes.items():
                changes[path] = changes.get(path, ()) + more
        prompts = [one.prompt for one in adapters if one.prompt is not None]
        return cls(
            changes, prompts[0] if prompts else None, prefix, frozenset().union(*(one.tensor_names for one in adapters))
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> BatchedAdapter:
        """With all weights there, in the precision of the frozen model's."""
        return replace(
            self,
            changes={path: tuple(one.to(device, dtype) for one in many) for path, many in self.changes.items()},
            prompt=None if self.prompt is None else self.prompt.to(device, dtype),
            prefix={path: KeyValues(*(one.to(device, dtype) for one in two)) for path, two in self.prefix.items()},
        )

    @property
    def is_empty(self) -> bool:
        """Whether it does nothing, so that a text's features are the frozen model's own."""
        return not self.changes and self.prompt is None and not self.prefix

    @property
    def prompt_length(self) -> int:
        """Virtual tokens in the row before each text."""
        return 0 if self.prompt is None else len(self.prompt)

    @property
    def prefix_length(self) -> int:
        """Keys of its prefix."""
        return next((two.key.shape[1] for two in self.prefix.values()), 0)

    @property
    def size(self) -> int:
        """Bytes of all its weights."""
        own = [weight for many in self.changes.values() for one in many for weight in one.weights.values()]
        own += [] if self.prompt is None else [self.prompt]
        own += [one for two in self.prefix.values() for one in two]
        return sum(weight.numel() * weight.element_size() for weight in own)


class PlacedChange(NamedTuple):
    """A change, and where its rows are: among the cells, or among the sequences where a layer sees one cell of each."""

    change: LayerChange
    tokens: slice
    sequences: slice


@dataclass(eq=False)
class RowChanges:
    """The changes of the row that is computed just now. One object for all layers of a model; filled for every row.

    length   cells of the row
    changes  by path of a layer
    """

    length: int = 0
    changes: dict[str, list[PlacedChange]] = field(default_factory=dict)


class RowSegment(NamedTuple):
    """A part of a row, whose attention is computed at once: where it is, its layout, and its prefix by attention."""

    cells: slice
    layout: Layout
    prefix: dict[nn.Module, KeyValues] | None = None


def changed_forward(
    _: nn.Module, path: str, row: RowChanges, plain: Callable[..., Any], *inputs: Any, **options: Any
) -> Any:
    """A layer whose own forward is `plain`, [1, N, ...] -> [1, N, ...] or a tuple that begins so, and all changes."""
    placed = row.changes.get(path)
    if not placed:
        return plain(*inputs, **options)
    given: Tensor | None = inputs[0] if inputs else None
    if any(one.change.enters for one in placed):
        assert given is not None
        inputs = (_entered(given, placed, row.length), *inputs[1:])
    outputs = plain(*inputs, **options)
    hidden: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
    rows, before = hidden[0], None if given is None else given[0]
    for change, tokens, sequences in placed:
        where = tokens if len(rows) == row.length else sequences
        change.leaving(None if before is None else before[where], rows[where])
    return outputs


def _entered(given: Tensor, placed: Sequence[PlacedChange], length: int) -> Tensor:
    """What the layer is given, in a copy: others may read the same tensor."""
    copied = given.clone()
    rows = copied[0]
    for change, tokens, sequences in placed:
        if change.enters:
            where = tokens if len(rows) == length else sequences
            rows[where] = change.entering(rows[where])
    return copied
