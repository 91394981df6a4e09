"""Precision: what the frozen weights of a backbone's linear layers are held in. Starts without torch.

Apart from the dtype that is computed in (`train.dtype`, `--dtype`). Of each precision, `FrozenWeight` in
`afina.models.kernels.frozen` says what a weight can be asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from afina.errors import UnknownName

if TYPE_CHECKING:
    from torch import Tensor

    from afina.models.kernels.frozen import HeldWeight


@dataclass(frozen=True)
class Precision:
    """How weights are held.

    hold  what holds a float32 weight [M, K]; None: weights stay parameters, in the dtype that is computed in
    """

    hold: Callable[[Tensor], HeldWeight] | None = None


FLOAT = "float"
"""The neutral one: not written into keys, manifests, digests or receipts."""

PRECISIONS: dict[str, Precision] = {FLOAT: Precision()}


def precision_of(name: str, where: str) -> Precision:
    """The precision of that name. Raises UnknownName; `where` begins its message."""
    if name not in PRECISIONS:
        raise UnknownName("precision", name, PRECISIONS, where)
    return PRECISIONS[name]


def _known(name: str) -> str:
    if name not in PRECISIONS:
        raise ValueError(f"expected one of {', '.join(PRECISIONS)}, found {name[:80]!r}")
    return name


PrecisionName = Annotated[str, AfterValidator(_known)]
"""A key of PRECISIONS, as a field of what is written down."""
