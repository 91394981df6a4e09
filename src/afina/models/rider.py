"""Rider: an adapter in a row that it shares with others, over one frozen model. Knows no method and no family.

The model computes the whole row once. What an adapter adds to a layer's output, or does to its input, is a `Change`
for its own rows alone; what it puts before its texts is its prompt and its prefix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Change:
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
        return type(self).entering is not Change.entering

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
class Shifted(Change):
    """Another bias: `by`, [M], is what it is more than the frozen one."""

    by: Tensor

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        """outputs + by."""
        outputs.add_(self.by)


@dataclass(frozen=True, eq=False)
class Renormed(Change):
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


class Columns(NamedTuple):
    """Keys and values before those of each text, [G, P, D]."""

    key: Tensor
    value: Tensor


@dataclass(frozen=True, eq=False)
class Rider:
    """All that an adapter's body does.

    changes  by path of a layer in the frozen model, in the order in which they apply
    prompt   rows before the embeddings of each text, [K, width]
    prefix   by path of an attention; of each as many columns
    heard    names of the saved tensors that are in it: of one that is not, nobody may say that it takes part
    """

    changes: Mapping[str, tuple[Change, ...]] = field(default_factory=dict)
    prompt: Tensor | None = None
    prefix: Mapping[str, Columns] = field(default_factory=dict)
    heard: frozenset[str] = frozenset()

    @classmethod
    def joined(cls, riders: Sequence[Rider]) -> Rider:
        """One that does what all do, the first first, at each layer."""
        changes: dict[str, tuple[Change, ...]] = {}
        prefix: dict[str, Columns] = {}
        for one in riders:
            prefix |= one.prefix
            for path, more in one.changes.items():
                changes[path] = changes.get(path, ()) + more
        prompts = [one.prompt for one in riders if one.prompt is not None]
        return cls(changes, prompts[0] if prompts else None, prefix, frozenset().union(*(one.heard for one in riders)))

    def to(self, device: torch.device, dtype: torch.dtype) -> Rider:
        """With all weights there, in the precision of the frozen model's."""
        return replace(
            self,
            changes={path: tuple(one.to(device, dtype) for one in many) for path, many in self.changes.items()},
            prompt=None if self.prompt is None else self.prompt.to(device, dtype),
            prefix={path: Columns(*(one.to(device, dtype) for one in two)) for path, two in self.prefix.items()},
        )

    @property
    def bare(self) -> bool:
        """Whether it does nothing, so that a text's features are the frozen model's own."""
        return not self.changes and self.prompt is None and not self.prefix

    @property
    def before(self) -> int:
        """Virtual tokens in the row before each text."""
        return 0 if self.prompt is None else len(self.prompt)

    @property
    def columns(self) -> int:
        """Keys of its prefix."""
        return next((two.key.shape[1] for two in self.prefix.values()), 0)

    @property
    def size(self) -> int:
        """Bytes of all its weights."""
        own = [weight for many in self.changes.values() for one in many for weight in one.weights.values()]
        own += [] if self.prompt is None else [self.prompt]
        own += [one for two in self.prefix.values() for one in two]
        return sum(weight.numel() * weight.element_size() for weight in own)
