"""Several labels in a cell: a list, JSON or Python of one, or names between separators; by name, or multi-hot.

Multi-hot: of each of L labels a 0 or a 1, in the labels' order. Knows cells of one column; does not find a separator.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from afina.data.readers.table import Table
from afina.errors import InvalidData

_ITEM = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\d+|True|False|None)"""
_PYTHON = re.compile(rf"\[\s*(?:{_ITEM}(?:\s*,\s*{_ITEM})*\s*,?\s*)?\]")

NAMED = "label_{}"
"""What the label at that place is called, where the data and the user give no name."""


def listed(value: Any) -> list[Any] | None:
    """The list that a cell is, or that stands there as JSON or as Python writes one."""
    if isinstance(value, list | tuple):
        return list(value)
    if not bracketed(value):
        return None
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        # Not what numpy prints, ['a' 'b'], which Python would read as the one name 'ab'.
        found = ast.literal_eval(value) if _PYTHON.fullmatch(value) else None
    return found if isinstance(found, list) else None


def bracketed(value: Any) -> bool:
    """Whether a cell is a text in square brackets."""
    return isinstance(value, str) and value.startswith("[") and value.endswith("]")


def cut(value: Any, separator: str | None) -> list[Any]:
    """The labels of a cell that holds some."""
    found = listed(value)
    if found is not None:
        return found
    if isinstance(value, str) and separator:
        return [part.strip() for part in value.split(separator)]
    return [value]


def multi_hot(
    table: Table, name: str, cells: Mapping[int, Any], separator: str | None, labels: Sequence[str] | None
) -> tuple[str, ...]:
    """What the places of multi-hot lists are called; nothing where the cells hold names of labels.

    cells  by row, those that hold something
    Lists of one length, of two or more, that hold 0 and 1 alone are multi-hot. Raises InvalidData where both readings
    are possible, or some lists are multi-hot and others are not.
    """
    lists = {row: parts for row, cell in cells.items() if (parts := cut(cell, separator)) or listed(cell) is not None}
    if not all(listed(cell) is not None or separator for cell in cells.values()):
        return ()
    binary = {row: parts for row, parts in lists.items() if parts and all(_bit(part) is not None for part in parts)}
    if not binary:
        return ()
    length, count = Counter(len(parts) for parts in binary.values()).most_common(1)[0]
    other = next((row for row, parts in lists.items() if row not in binary or len(parts) != length), None)
    if other is None:
        return _names(table, name, length, labels, next(iter(lists)))
    twice = any(len(parts) > len({_bit(part) for part in parts}) for parts in binary.values())
    told = {str(part) for parts in lists.values() for part in parts}
    filled = sum(bool(parts) for parts in lists.values())
    if twice or (length > 1 and 2 * count > filled and set(labels or ()) != told):
        raise InvalidData(
            f"{table.where(other)}: column {name!r} holds {str(table.columns[name][other])[:40]!r}, and most other "
            f"rows hold {length} times 0 or 1. Expected {length} times 0 or 1 in each row, or the names of its labels "
            "in each row. Correct the row or remove it.",
            code="data.label-malformed",
            where=table.where(other),
            column=name,
            expected=length,
        )
    return ()


def _names(table: Table, name: str, length: int, labels: Sequence[str] | None, row: int) -> tuple[str, ...]:
    if length == 1 and (labels is None or len(labels) > 2):
        raise InvalidData(
            f"{table.where(row)}: each list of column {name!r} holds one 0 or 1, which may be the name of a label, or "
            "say whether there is a label. For two classes, remove the brackets; for one label, give its name with "
            "`labels`; for two labels, give both names with `labels`.",
            code="data.kind-ambiguous",
            where=table.where(row),
            column=name,
        )
    if length == 1 and labels is not None and len(labels) == 2:
        return ()
    if labels is None:
        return tuple(NAMED.format(place) for place in range(length))
    if len(labels) != length:
        raise InvalidData(
            f"{table.where(row)}: the lists of column {name!r} hold 0 or 1 for each of {length} labels, and `labels` "
            f"{','.join(labels)} gives {len(labels)}. Give a name for each of the {length}, in their order.",
            code="data.labels-mismatch",
            where=table.where(row),
            column=name,
            expected=length,
            found=labels,
        )
    return tuple(labels)


def hot(table: Table, name: str, row: int, parts: Sequence[Any], names: Sequence[str]) -> tuple[str, ...]:
    """The labels of which a multi-hot list says 1. Raises InvalidData."""
    bits = [_bit(part) for part in parts]
    if len(bits) != len(names) or None in bits:
        raise InvalidData(
            f"{table.where(row)}: column {name!r} holds {str(table.columns[name][row])[:40]!r}, expected "
            f"{len(names)} times 0 or 1. Correct it or remove the row.",
            code="data.label-malformed",
            where=table.where(row),
            column=name,
            expected=len(names),
        )
    return tuple(name for name, bit in zip(names, bits, strict=True) if bit)


def _bit(part: Any) -> int | None:
    """0 or 1, where a part of a list is that."""
    if isinstance(part, str):
        return {"0": 0, "1": 1}.get(part)
    return int(part) if isinstance(part, bool | int | float) and part in (0, 1) else None


def check_readable(table: Table, name: str, cells: Mapping[int, Any]) -> None:
    """Raise InvalidData where all cells stand in square brackets, and one of them is no list that can be read."""
    if cells and all(bracketed(cell) for cell in cells.values()):
        row = next((row for row, cell in cells.items() if listed(cell) is None), None)
        if row is not None:
            raise InvalidData(
                f"{table.where(row)}: column {name!r} holds {str(cells[row])[:40]!r}, which is no list as JSON or "
                'Python writes one, such as ["late", "broken"] or [0, 1, 0]. Write lists so; if these are names of '
                "classes, say so with `kind` classes.",
                code="data.label-malformed",
                where=table.where(row),
                column=name,
            )
