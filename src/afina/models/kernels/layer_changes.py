"""Layer changes: what each adapter of a mixed batch changes in its own rows of one frozen model's computation.

A `LayerChange` is what an adapter adds to a layer's output, or how it changes the layer's input. A `BatchedAdapter` has
all layer changes of an adapter, with its prompt and its prefix. `changed_forward` computes a layer with the changes of
all adapters in the current row. The module `layer_changes` does not know adaptation methods, model families or models.
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
    """How an adapter changes the input or output of one layer, in its own rows; tensor fields are its weights."""

    def entering(self, inputs: Tensor) -> Tensor:
        """Return the input that the layer gets in place of `inputs` [N, ...], which must not be changed."""
        return inputs

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        """Change the layer's `outputs` [N, ...] in place; `inputs` [N, ...] are those before `entering`, or None."""

    @property
    def enters(self) -> bool:
        return type(self).entering is not LayerChange.entering

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        moved = {name: tensor.to(device, dtype) for name, tensor in self.weights.items()}
        return replace(self, **moved) if moved else self

    @property
    def weights(self) -> dict[str, Tensor]:
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: value for name, value in given.items() if isinstance(value, Tensor)}


@dataclass(frozen=True, eq=False)
class BiasChange(LayerChange):
    """A bias that an adapter trained: `by` [M] is the trained bias minus the frozen bias."""

    by: Tensor

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        outputs.add_(self.by)


@dataclass(frozen=True, eq=False)
class NormChange(LayerChange):
    """A weight or bias of a norm that an adapter trained (None: the frozen one); the norm is computed again."""

    layer: nn.Module
    weight: Tensor | None = None
    bias: Tensor | None = None

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        assert inputs is not None
        outputs.copy_(type(self.layer).forward(self._own, inputs))

    @cached_property
    def _own(self) -> nn.Module:
        """A copy of the norm with the trained parameters and the forward of its class."""
        made = copy(self.layer)
        made.__dict__["_parameters"] = {**self.layer._parameters, **self.weights}
        return made


class KeyValues(NamedTuple):
    """Keys and values of a prefix, [G, P, D] each, which are put before those of each text."""

    key: Tensor
    value: Tensor


@dataclass(frozen=True, eq=False)
class BatchedAdapter:
    """The changes of an adapter in a mixed batch, except for its head.

    Attributes:
        changes: By the layer's path in the frozen model, in the order in which they apply.
        prompt: Embeddings [K, width] that are put before the embeddings of each text.
        prefix: Keys and values by path of an attention, with P virtual tokens in every attention.
        tensor_names: The saved tensors that this object contains. An adapter with others outside the head needs a model
            of its own.
        pooled: None: the model family's pooling.
    """

    changes: Mapping[str, tuple[LayerChange, ...]] = field(default_factory=dict)
    prompt: Tensor | None = None
    prefix: Mapping[str, KeyValues] = field(default_factory=dict)
    tensor_names: frozenset[str] = frozenset()
    pooled: Pooled | None = None

    @classmethod
    def joined(cls, adapters: Sequence[BatchedAdapter]) -> BatchedAdapter:
        """Return one adapter with the changes of all adapters, in their order at each layer."""
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
        return replace(
            self,
            changes={path: tuple(one.to(device, dtype) for one in many) for path, many in self.changes.items()},
            prompt=None if self.prompt is None else self.prompt.to(device, dtype),
            prefix={path: KeyValues(*(one.to(device, dtype) for one in two)) for path, two in self.prefix.items()},
        )

    @property
    def is_empty(self) -> bool:
        """Whether hidden states are those of the frozen model: no layer changes and no virtual tokens."""
        return not self.changes and self.prompt is None and not self.prefix

    @property
    def prompt_length(self) -> int:
        return 0 if self.prompt is None else len(self.prompt)

    @property
    def prefix_length(self) -> int:
        return next((two.key.shape[1] for two in self.prefix.values()), 0)

    @property
    def size(self) -> int:
        """Size in bytes of all weights of the adapter except its head."""
        own = [weight for many in self.changes.values() for one in many for weight in one.weights.values()]
        own += [] if self.prompt is None else [self.prompt]
        own += [one for two in self.prefix.values() for one in two]
        return sum(weight.numel() * weight.element_size() for weight in own)


class PlacedChange(NamedTuple):
    """A layer change with its rows: a slice of cells, and a slice of texts for layers that read one cell of each."""

    change: LayerChange
    tokens: slice
    sequences: slice


@dataclass(eq=False)
class RowChanges:
    """The layer changes of the row that is being computed. All layers of a model share one such object."""

    length: int = 0
    changes: dict[str, list[PlacedChange]] = field(default_factory=dict)


def changed_forward(
    _: nn.Module, path: str, row: RowChanges, plain: Callable[..., Any], *inputs: Any, **options: Any
) -> Any:
    """Compute a layer, [1, N, ...] -> [1, N, ...] or a tuple, with all layer changes; `plain`: its own forward."""
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
