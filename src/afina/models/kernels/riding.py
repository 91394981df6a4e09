"""A layer over a row that several adapters share: computed once, then changed for each adapter's rows alone.

Knows layers and `Change`s, not the model or an adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from afina.models.kernels.layout import Layout
from afina.models.rider import Change, Columns


class Ridden(NamedTuple):
    """A change, and where its rows are: among the cells, or among the sequences where a layer sees one cell of each."""

    change: Change
    tokens: slice
    sequences: slice


@dataclass(eq=False)
class Seats:
    """Who rides in the row that is computed just now. One for all layers of a model; exchanged for every row.

    length   cells of the row
    changes  by path of a layer
    """

    length: int = 0
    changes: dict[str, list[Ridden]] = field(default_factory=dict)


class Stretch(NamedTuple):
    """A part of a row, whose attention is computed at once: where it is, its layout, and its prefix by attention."""

    cells: slice
    layout: Layout
    prefix: dict[nn.Module, Columns] | None = None


Stretches = Sequence[Stretch]


def ridden(_: nn.Module, path: str, seats: Seats, plain: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    """A layer whose own forward is `plain`, [1, N, ...] -> [1, N, ...] or a tuple that begins so, and all changes."""
    riding = seats.changes.get(path)
    if not riding:
        return plain(*inputs, **options)
    given: Tensor | None = inputs[0] if inputs else None
    if any(one.change.enters for one in riding):
        assert given is not None
        inputs = (_entered(given, riding, seats.length), *inputs[1:])
    outputs = plain(*inputs, **options)
    hidden: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
    rows, before = hidden[0], None if given is None else given[0]
    for change, tokens, sequences in riding:
        where = tokens if len(rows) == seats.length else sequences
        change.leaving(None if before is None else before[where], rows[where])
    return outputs


def _entered(given: Tensor, riding: Sequence[Ridden], length: int) -> Tensor:
    """What the layer is given, in a copy: others may read the same tensor."""
    copied = given.clone()
    rows = copied[0]
    for change, tokens, sequences in riding:
        if change.enters:
            where = tokens if len(rows) == length else sequences
            rows[where] = change.entering(rows[where])
    return copied
