"""Given: texts as a caller of the library holds them (lists, arrays, Series, frames, generators) -> lists.

Knows no file and no model, and imports none of the libraries whose objects it reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from afina.errors import InvalidData

EXPECTED = "Expected a list, an array or a Series of texts, or a frame with one column of texts or two of pairs."


def as_lists(texts: Iterable[Any], pairs: Iterable[Any] | None = None) -> tuple[Sequence[Any], Sequence[Any] | None]:
    """Return texts, and the second text of each pair or None, in the order given.

    texts  a sequence or one-dimensional array of texts; or a frame, array or list of rows of one text, or of two, which
           are pairs
    pairs  the second text of each, where `texts` has the first

    Raises InvalidData for one string, for what has no order (a set) or no texts (a mapping), for rows of more than two,
    and where there are not as many pairs as texts. What is in the lists is not looked at.
    """
    first, second = _columns(texts, "texts")
    if pairs is None:
        return first, second
    if second is not None:
        raise InvalidData(
            "`texts` holds pairs, and `pairs` is given too. Leave one of them out.",
            code="data.type-wrong",
            argument="pairs",
        )
    third, fourth = _columns(pairs, "pairs")
    if fourth is not None:
        raise InvalidData(f"`pairs`: rows of two. {EXPECTED}", code="data.type-wrong", argument="pairs")
    if len(first) != len(third):
        raise InvalidData(
            f"{len(first):,} texts and {len(third):,} second texts: expected one for each text.",
            code="data.lengths-differ",
            texts=len(first),
            pairs=len(third),
        )
    return first, third


def column_names(texts: object) -> list[str] | None:
    """Return the names of a frame's columns; None of anything else."""
    if len(getattr(texts, "shape", ())) != 2:
        return None
    names = list(getattr(texts, "columns", ()))
    return names if names and all(isinstance(name, str) for name in names) else None


def _columns(given: Any, what: str) -> tuple[Sequence[Any], Sequence[Any] | None]:
    if isinstance(given, str | bytes):
        raise InvalidData(
            f"one string, {given[:40]!r}: expected a list of texts, such as [{given[:40]!r}].",
            code="data.type-wrong",
            argument="texts",
        )
    if isinstance(given, Mapping | Set) or not isinstance(given, Iterable):
        raise InvalidData(
            f"`{what}`: found a {type(given).__name__}. {EXPECTED}",
            code="data.type-wrong",
            argument=what,
            found=type(given).__name__,
        )
    shape = getattr(given, "shape", None)
    if shape is not None:
        return _of_array(given, len(shape), what)
    rows = given if isinstance(given, list | tuple) else list(given)
    if rows and all(isinstance(row, list | tuple) for row in rows):
        return _of_rows(rows, what)
    return rows, None


def _of_array(given: Any, dimensions: int, what: str) -> tuple[Sequence[Any], Sequence[Any] | None]:
    if dimensions == 1:
        return list(given), None  # a Series in its order, whatever its index
    if dimensions != 2 or (width := given.shape[1]) not in (1, 2) or not hasattr(given, "__array__"):
        names = column_names(given)
        found = f" with the columns {', '.join(map(repr, names))}" if names else f" of shape {tuple(given.shape)}"
        raise InvalidData(
            f"`{what}`: found a {type(given).__name__}{found}. {EXPECTED}",
            code="data.type-wrong",
            argument=what,
            found=type(given).__name__,
        )
    columns = np.asarray(given, dtype=object).T.tolist()
    return columns[0], columns[1] if width == 2 else None


def _of_rows(rows: Sequence[Sequence[Any]], what: str) -> tuple[Sequence[Any], Sequence[Any] | None]:
    widths = sorted({len(row) for row in rows})
    if widths not in ([1], [2]):
        raise InvalidData(
            f"`{what}`: rows of {' and '.join(map(str, widths))} values. {EXPECTED}",
            code="data.type-wrong",
            argument=what,
        )
    return [row[0] for row in rows], [row[1] for row in rows] if widths == [2] else None
