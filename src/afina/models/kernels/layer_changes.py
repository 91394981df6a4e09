"""Layer changes: the effect of each adapter of a mixed batch on its own rows, with one frozen model computed once.

A `LayerChange` is what an adapter adds to a layer's output or does to its input. A `BatchedAdapter` holds all changes
of an adapter, its prompt and its prefix. `changed_forward` computes a layer with the changes of the current row. The
module does not know methods, families or models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from afina.models.kernels.layout import Pooled


@dataclass(frozen=True, eq=False)
class LayerChange:
    """The effect of an adapter on its own rows at one layer. Tensor fields are the adapter's weights."""

    def entering(self, inputs: Tensor) -> Tensor:
        """Return the layer's input in place of `inputs`, [N, ...]; must not change `inputs`."""
        return inputs

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        """Change the layer's `outputs` [N, ...] in place.

        Args:
            inputs: [N, ...], the layer's input before any `entering`. None: the layer has no positional input.
            outputs: [N, ...], the layer's output.
        """

    @property
    def enters(self) -> bool:
        """Whether the class overrides `entering`."""
        return type(self).entering is not LayerChange.entering

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """Return the change with its weights on the device, in the frozen model's dtype."""
        moved = {name: tensor.to(device, dtype) for name, tensor in self.weights.items()}
        return replace(self, **moved) if moved else self

    @property
    def weights(self) -> dict[str, Tensor]:
        """The change's own weights, by field."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in given.items() if isinstance(value, Tensor)}


@dataclass(frozen=True, eq=False)
class BiasChange(LayerChange):
    """A changed bias: `by`, [M], is the difference from the frozen bias."""

    by: Tensor

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        outputs.add_(self.by)


@dataclass(frozen=True, eq=False)
class NormChange(LayerChange):
    """A changed weight or bias of a norm. The norm is computed again, which costs very little.

    Attributes:
        weight: Replaces the frozen weight. None: the frozen weight.
        bias: Replaces the frozen bias. None: the frozen bias.
    """

    layer: nn.Module
    weight: Tensor | None = None
    bias: Tensor | None = None

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        assert inputs is not None
        outputs.copy_(type(self.layer).forward(self._own, inputs))

    @cached_property
    def _own(self) -> nn.Module:
        """A copy of the layer with the changed parameters and its class's own forward."""
        made = copy(self.layer)
        made.__dict__["_parameters"] = {**self.layer._parameters, **self.weights}
        return made


class KeyValues(NamedTuple):
    """Keys and values before those of each text, [G, P, D] each."""

    key: Tensor
    value: Tensor


@dataclass(frozen=True, eq=False)
class BatchedAdapter:
    """The effect of an adapter below the head in a mixed batch.

    Attributes:
        changes: Changes by path of a layer in the frozen model, in the order in which they apply.
        prompt: Rows before the embeddings of each text, [K, width].
        prefix: Keys and values by path of an attention, with the same P everywhere.
        tensor_names: The saved tensors that are covered. An adapter with other tensors needs a model of its own.
        pooled: The pooling that makes the head's input from hidden states. None: the family's pooling.
    """

    changes: Mapping[str, tuple[LayerChange, ...]] = field(default_factory=dict)
    prompt: Tensor | None = None
    prefix: Mapping[str, KeyValues] = field(default_factory=dict)
    tensor_names: frozenset[str] = frozenset()
    pooled: Pooled | None = None

    @classmethod
    def joined(cls, adapters: Sequence[BatchedAdapter]) -> BatchedAdapter:
        """Return one adapter with the changes of all, in their order at each layer."""
        changes: dict[str, tuple[LayerChange, ...]] = {}
        prefix: dict[str, KeyValues] = {}
        for one in adapters:
            prefix |= one.prefix
            for path, more in one.changes.items():
                changes[path] = changes.get(path, ()) + more
        prompt = next((one.prompt for one in adapters if one.prompt is not None), None)
        pooled = next((one.pooled for one in adapters if one.pooled is not None), None)
        names = frozenset[str]().union(*(one.tensor_names for one in adapters))
        return cls(changes, prompt, prefix, names, pooled)

    def to(self, device: torch.device, dtype: torch.dtype) -> BatchedAdapter:
        """Return the adapter with all weights on the device, in the frozen model's dtype."""
        return replace(
            self,
            changes={path: tuple(one.to(device, dtype) for one in many) for path, many in self.changes.items()},
            prompt=None if self.prompt is None else self.prompt.to(device, dtype),
            prefix={path: KeyValues(*(one.to(device, dtype) for one in two)) for path, two in self.prefix.items()},
        )

    @property
    def is_empty(self) -> bool:
        """Whether the adapter changes nothing, so that hidden states are the frozen model's."""
        return not self.changes and self.prompt is None and not self.prefix

    @property
    def prompt_length(self) -> int:
        """Number of virtual tokens in the row before each text."""
        return 0 if self.prompt is None else len(self.prompt)

    @property
    def prefix_length(self) -> int:
        """Number of keys of the prefix."""
        return next((two.key.shape[1] for two in self.prefix.values()), 0)

    @property
    def size(self) -> int:
        """Size of all weights in bytes."""
        own = [weight for many in self.changes.values() for one in many for weight in one.weights.values()]
        own += [] if self.prompt is None else [self.prompt]
        own += [one for two in self.prefix.values() for one in two]
        return sum(weight.numel() * weight.element_size() for weight in own)


class PlacedChange(NamedTuple):
    """A change and its rows, as cells (`tokens`) or as sequences, for layers that read one cell of each sequence."""

    change: LayerChange
    tokens: slice
    sequences: slice


@dataclass(eq=False)
class RowChanges:
    """The changes of the current row. One object for all layers of a model, filled anew for every row.

    Attributes:
        length: Number of cells of the row.
    """

    length: int = 0
    changes: dict[str, list[PlacedChange]] = field(default_factory=dict)


def changed_forward(
    _: nn.Module, path: str, row: RowChanges, plain: Callable[..., Any], *inputs: Any, **options: Any
) -> Any:
    """Compute a layer (own forward: `plain`) with all changes, [1, N, ...] -> [1, N, ...] or a tuple that begins so."""
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
    """Return the layer's changed input as a copy, because other layers may read the same tensor."""
    copied = given.clone()
    rows = copied[0]
    for change, tokens, sequences in placed:
        if change.enters:
            where = tokens if len(rows) == length else sequences
            rows[where] = change.entering(rows[where])
    return copied
