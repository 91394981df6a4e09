"""Read cells with several labels: a list in JSON or Python notation, names between separators, or a multi-hot list.

A multi-hot list holds 1 for each label that the text has and 0 for each other label, in the order of the labels.
`label_recognition.py` recognises which separator a column has.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from afina.data import problems
from afina.data.kinds import CLASSES
from afina.data.readers.label_column import LabelColumn

_ITEM = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\d+|True|False|None)"""
_PYTHON = re.compile(rf"\[\s*(?:{_ITEM}(?:\s*,\s*{_ITEM})*\s*,?\s*)?\]")

NAMED = "label_{}"
"""The name of the label at a position of multi-hot lists, if neither the data nor the user name the labels."""


def as_list(value: Any) -> list[Any] | None:
    """Return the list in a cell that is a list, or the JSON or Python text of a list; None for any other cell."""
    if isinstance(value, list | tuple):
        return list(value)
    if not bracketed(value):
        return None
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        # Reject numpy's print format, ['a' 'b'], which Python would read as the single name 'ab'.
        found = ast.literal_eval(value) if _PYTHON.fullmatch(value) else None
    return found if isinstance(found, list) else None


def bracketed(value: Any) -> bool:
    """Return whether a cell is a string in square brackets."""
    return isinstance(value, str) and value.startswith("[") and value.endswith("]")


def split_labels(value: Any, separator: str | None) -> list[Any]:
    """Return the labels in a cell: the items of a list, or the names between separators."""
    found = as_list(value)
    if found is not None:
        return found
    if isinstance(value, str) and separator:
        return [part.strip() for part in value.split(separator)]
    return [value]


def multi_hot_names(column: LabelColumn, separator: str | None, labels: Sequence[str] | None) -> tuple[str, ...]:
    """Return the label name of each position of multi-hot lists; empty if the cells hold label names.

    Lists are multi-hot if they hold only 0 and 1 and all have the same length of at least two. Raises InvalidData if
    the lists may be multi-hot or hold names, or if only some lists are multi-hot.
    """
    cells = column.known
    lists = {
        row: parts
        for row, cell in cells.items()
        if (parts := split_labels(cell, separator)) or as_list(cell) is not None
    }
    if not all(as_list(cell) is not None or separator for cell in cells.values()):
        return ()
    binary = {row: parts for row, parts in lists.items() if parts and all(_bit(part) is not None for part in parts)}
    if not binary:
        return ()
    length, count = Counter(len(parts) for parts in binary.values()).most_common(1)[0]
    other = next((row for row, parts in lists.items() if row not in binary or len(parts) != length), None)
    if other is None:
        return _names(column, length, labels, next(iter(lists)))
    twice = any(len(parts) > len({_bit(part) for part in parts}) for parts in binary.values())
    names = {str(part) for parts in lists.values() for part in parts}
    filled = sum(bool(parts) for parts in lists.values())
    if twice or (length > 1 and 2 * count > filled and set(labels or ()) != names):
        raise problems.MULTI_HOT_MIXED(
            found=str(column.table.columns[column.name][other])[:40],
            where=column.table.where(other),
            column=column.name,
            expected=length,
        )
    return ()


def _names(column: LabelColumn, length: int, labels: Sequence[str] | None, row: int) -> tuple[str, ...]:
    where = column.table.where(row)
    if length == 1 and (labels is None or len(labels) > 2):
        raise problems.SINGLE_BIT_LISTS(where=where, column=column.name)
    if length == 1 and labels is not None and len(labels) == 2:
        return ()
    if labels is None:
        return tuple(NAMED.format(place) for place in range(length))
    if len(labels) != length:
        raise problems.MULTI_HOT_NAMES(
            where=where, column=column.name, expected=length, found=labels, labels=labels, _count=len(labels)
        )
    return tuple(labels)


def multi_hot_labels(column: LabelColumn, row: int, parts: Sequence[Any], names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the labels that a multi-hot list marks with 1. Raises InvalidData for a malformed list."""
    bits = [_bit(part) for part in parts]
    if len(bits) != len(names) or None in bits:
        found = str(column.table.columns[column.name][row])[:40]
        raise problems.MULTI_HOT_MALFORMED(
            found=found, where=column.table.where(row), column=column.name, expected=len(names)
        )
    return tuple(name for name, bit in zip(names, bits, strict=True) if bit)


def _bit(part: Any) -> int | None:
    """Return an item of a multi-hot list as the integer 0 or 1; None if the item is neither 0 nor 1."""
    if isinstance(part, str):
        return {"0": 0, "1": 1}.get(part)
    return int(part) if isinstance(part, bool | int | float) and part in (0, 1) else None


def check_readable(column: LabelColumn) -> None:
    """Raise InvalidData if all cells of a label column are in square brackets, but a cell is not a readable list."""
    cells = column.known
    if cells and all(bracketed(cell) for cell in cells.values()):
        row = next((row for row, cell in cells.items() if as_list(cell) is None), None)
        if row is not None:
            found = str(cells[row])[:40]
            raise problems.LIST_MALFORMED(
                found=found, where=column.table.where(row), column=column.name, kinds=[CLASSES]
            )
