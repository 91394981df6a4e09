"""The five kinds of task: the target of a text is a class, a number, several labels, a text, or entities.

`TARGETS` has an object for each kind; everything in `afina.data` that depends on the kind is a method of these objects.
"""

from __future__ import annotations

from collections.abc import Mapping

from afina.data import problems
from afina.data.kinds import KINDS, LONGS, Kind, Long
from afina.data.readers.class_targets import ClassTargets
from afina.data.readers.entity_targets import EntityTargets
from afina.data.readers.label_targets import LabelTargets
from afina.data.readers.number_targets import NumberTargets
from afina.data.readers.target_kind import TargetKind
from afina.data.readers.text_targets import TextTargets
from afina.errors import UnknownName

TARGETS: Mapping[Kind, TargetKind] = {
    made.kind: made for made in (ClassTargets(), NumberTargets(), LabelTargets(), TextTargets(), EntityTargets())
}


def of_kind(kind: str) -> TargetKind:
    """Return the object in TARGETS for the name of a kind, such as "number". Raises UnknownName."""
    if kind not in KINDS:
        raise UnknownName("kind", kind, KINDS)
    return TARGETS[kind]


def check_long(where: str, kind: Kind, long: str | None) -> Long:
    """Return the value of the option `long`, how to treat target texts that are too long; default "refuse".

    Raises UnknownName for an unknown value, and InvalidData if the targets are not texts.
    """
    if long is not None and not TARGETS[kind].written:
        raise problems.LONG_INAPPLICABLE(kind=kind, where=where, option="long")
    for one in LONGS:
        if one == (long or "refuse"):
            return one
    raise UnknownName("long", str(long), LONGS)
