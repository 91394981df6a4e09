"""What stands in the column of the label: one label, a number, or several labels. Found out, or as the user says.

Knows values as files hold them; not which labels a task has, nor their order.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from afina.data.kinds import CLASSES, KINDS, LABELS, NUMBER, Kind
from afina.data.readers.table import Table
from afina.errors import InvalidData, UnknownName

Label = str | int | float | tuple[str, ...]
"""Of one text, as the data spell it: a class, a number, or several labels."""

MISSING = frozenset({"nan", "<na>"})
"""What pandas makes of a missing value when it is written as a string; in any case of letters."""

TELLING, SEPARATORS = (";", "|"), (";", "|", ",")
"""What is taken for a separator where a label then stands in cells that differ; and what else may be one where the kind
is said. A comma stands in the names of classes too."""

MOST_CLASSES = 20
"""More whole numbers than these are a measurement, unless they count from 0 or 1."""

# Leading zeros make a code, not a number: such labels stay strings.
WHOLE = re.compile(r"(-?(?:0|[1-9]\d*))(?:\.0*)?", re.ASCII)
_MEASUREMENT = re.compile(r"[-+]?(?:\d*\.\d+|\d+)(?:[eE][-+]?\d+)?", re.ASCII)
_INFINITE = re.compile(r"[-+]?inf(?:inity)?", re.IGNORECASE)
_TRUTH = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


@dataclass(frozen=True)
class Form:
    """How the cells of a label are read.

    separator  between the labels of a cell; None: it holds a list, or one label at most
    """

    kind: Kind
    separator: str | None = None


def spelled(label: Label, whole: bool) -> str:
    """A class as it is told; `1.0` is `1` where labels are whole numbers."""
    match = WHOLE.fullmatch(str(label)) if whole else None
    return str(int(match[1])) if match else str(label)


def missing(value: Any) -> bool:
    """Whether a cell holds nothing."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def form_of(table: Table, names: Sequence[str], kind: str | None = None, separator: str | None = None) -> Form:
    """How the columns `names` of a table are read, as far as `kind` and `separator` do not say.

    Raises InvalidData, UnknownName.
    """
    if kind is not None and kind not in KINDS:
        raise UnknownName("kind", kind, KINDS)
    if separator is not None and kind not in (None, LABELS):
        raise InvalidData(f"`separator` {separator!r}: stands between several labels, and `kind` is {kind}.")
    if len(names) > 1:
        if kind not in (None, LABELS) or separator is not None:
            raise InvalidData(
                f"{table.path}: `label` names {len(names)} columns, one a label, so `kind` can only be labels, and "
                "nothing separates them."
            )
        return Form(LABELS)
    cells = [value.strip() if isinstance(value, str) else value for value in table.columns[names[0]]]
    filled = [value for value in cells if not (missing(value) or value == "")]
    if separator is not None:
        if not any(isinstance(value, str) and separator in value for value in filled):
            raise InvalidData(
                f"{table.path}: `separator` {separator!r} stands in no row of column {names[0]!r}. Give the one that "
                "does, or leave it out."
            )
        return Form(LABELS, separator)
    if kind == LABELS:
        return Form(LABELS, None if _lists(filled) else _occurring(filled, SEPARATORS))
    return Form(kind) if kind in (CLASSES, NUMBER) else _found(table, names[0], cells, filled)


def _found(table: Table, name: str, cells: Sequence[Any], filled: Sequence[Any]) -> Form:
    if _lists(filled):
        return Form(LABELS)
    known = [value for value in filled if not (isinstance(value, str) and value.casefold() in MISSING)]
    numbers = [value for value in known if _number(value) is not None]
    if known and len(numbers) == len(known):
        return Form(NUMBER if _measured(numbers) else CLASSES)
    if 2 * len(numbers) > len(known) and any(WHOLE.fullmatch(str(value)) is None for value in numbers):
        _refuse_text(table, name, cells)
    separator = _occurring(filled, TELLING)
    if separator:
        distinct = [{part.strip() for part in cell.split(separator)} for cell in set(map(str, filled))]
        cells_of = Counter(part for parts in distinct for part in parts)
        if max(cells_of.values()) > 1:
            return Form(LABELS, separator)
    return Form(CLASSES)


def _refuse_text(table: Table, name: str, cells: Sequence[Any]) -> None:
    row = next(i for i, value in enumerate(cells) if not missing(value) and value != "" and _number(value) is None)
    raise InvalidData(
        f"{table.where(row)}: column {name!r} holds {str(cells[row])[:40]!r} among numbers. Correct it or remove the "
        "row; if these are names and no numbers, say so with `kind` classes."
    )


def _measured(numbers: Sequence[Any]) -> bool:
    """Whether numbers measure something, and are no classes that are counted."""
    if not all(WHOLE.fullmatch(str(value)) for value in numbers):
        return True
    distinct = {int(float(value)) for value in numbers}
    first, last = min(distinct), max(distinct)
    return len(distinct) > MOST_CLASSES and not (first in (0, 1) and last - first + 1 == len(distinct))


def _lists(filled: Sequence[Any]) -> bool:
    """Whether every cell is a list, or JSON of one."""
    return bool(filled) and all(isinstance(value, list | tuple) or _json_list(value) is not None for value in filled)


def _json_list(value: Any) -> list[Any] | None:
    if not isinstance(value, str) or not (value.startswith("[") and value.endswith("]")):
        return None
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def _occurring(filled: Sequence[Any], separators: Sequence[str]) -> str | None:
    return next((mark for mark in separators if any(isinstance(v, str) and mark in v for v in filled)), None)


def _number(value: Any) -> float | None:
    """The finite number that a cell holds, if it does."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        if not (WHOLE.fullmatch(value) or _MEASUREMENT.fullmatch(value)) or re.match(r"[-+]?0\d", value):
            return None
        value = float(value)
    if not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def parse(table: Table, names: Sequence[str], form: Form) -> list[Label]:
    """The label of every row. Raises InvalidData that names the row."""
    if len(names) > 1:
        made = [tuple(name for name in names if _truth(table, name, i)) for i in range(len(table.places))]
        return list(_some(table, names, made))
    name = names[0]
    if form.kind == NUMBER:
        return [_as_number(table, name, i) for i in range(len(table.places))]
    if form.kind == LABELS:
        several = [_several(table, name, i, form.separator) for i in range(len(table.places))]
        return list(_some(table, names, several))
    return [_one(table, name, i) for i in range(len(table.places))]


def _some(table: Table, names: Sequence[str], made: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    if not any(made):
        raise InvalidData(
            f"{table.path}: no row has a label in {', '.join(names)}, so there is nothing to learn. Give some."
        )
    return made


def _as_number(table: Table, name: str, row: int) -> float:
    value = table.columns[name][row]
    value = value.strip() if isinstance(value, str) else value
    where = f"{table.where(row)}: column {name!r}"
    if missing(value) or value == "" or (isinstance(value, str) and value.casefold() in MISSING):
        raise InvalidData(f"{where} is empty. Expected a number; fill it in or remove the row.")
    found = _number(value)
    if found is not None:
        return found
    if (isinstance(value, float) and math.isinf(value)) or _INFINITE.fullmatch(str(value)):
        raise InvalidData(f"{where} is infinite. Expected a finite number; correct it or remove the row.")
    raise InvalidData(
        f"{where} holds {str(value)[:40]!r}, expected a number such as 3.5. Correct it or remove the row."
    )


def _several(table: Table, name: str, row: int, separator: str | None) -> tuple[str, ...]:
    value = table.columns[name][row]
    value = value.strip() if isinstance(value, str) else value
    if missing(value) or (isinstance(value, str) and (not value or value.casefold() in MISSING)):
        return ()
    if isinstance(value, str):
        listed = _json_list(value)
        parts = listed if listed is not None else value.split(separator) if separator else [value]
    else:
        parts = list(value) if isinstance(value, list | tuple) else [value]
    if any(isinstance(part, dict | list | tuple | bool | float) or part is None for part in parts):
        raise InvalidData(f"{table.where(row)}: column {name!r} holds {str(value)[:60]}, expected names of labels.")
    return tuple(dict.fromkeys(stripped for part in parts if (stripped := str(part).strip())))


def _truth(table: Table, name: str, row: int) -> bool:
    value = table.columns[name][row]
    told = "" if missing(value) else str(value).strip().casefold()
    if told not in _TRUTH:
        raise InvalidData(
            f"{table.where(row)}: column {name!r} holds {str(value)[:40]!r}, expected 1 or true where the text has "
            "that label, else 0 or false."
        )
    return _TRUTH[told]


def _one(table: Table, name: str, row: int) -> str | int:
    value = table.columns[name][row]
    if isinstance(value, str):
        value = value.strip()
    if missing(value) or value == "":
        raise InvalidData(
            f"{table.where(row)}: column {name!r} is empty. Expected a label; fill it in or remove the row."
        )
    if isinstance(value, str) and value.casefold() in MISSING:
        raise InvalidData(
            f"{table.where(row)}: column {name!r} is {value!r}, as a missing label is written. Fill it in or remove "
            "the row; if it is a label, give it another name."
        )
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else str(value)
    raise InvalidData(
        f"{table.where(row)}: column {name!r} holds a {type(value).__name__}, expected a name or an integer."
    )
