"""Recognise missing values: empty cells, and words that pandas or spreadsheets write for a missing value."""

from __future__ import annotations

import math
from typing import Any

from afina.data.readers.source import is_blank

PANDAS = frozenset(
    ("-1.#IND", "1.#QNAN", "1.#IND", "-1.#QNAN", "#N/A N/A", "#N/A", "N/A", "n/a", "NA", "<NA>", "#NA", "NULL")
) | {"null", "NaN", "-NaN", "nan", "-nan", "None"}
"""Words that pandas reads as a missing value: `STR_NA_VALUES` of pandas 3.0 (pandas/_libs/parsers.pyx), without ""."""


SPREADSHEETS = frozenset(("#DIV/0!", "#NAME?", "#NULL!", "#NUM!", "#REF!", "#VALUE!"))
"""Words that a spreadsheet shows if a formula fails, except `#N/A`, which is in PANDAS."""


ANY_CASE = frozenset({"nan", "<na>"})
"""Words that pandas writes if a missing value is converted to a string; cells are compared with them without case."""


def is_empty(value: Any) -> bool:
    """Return whether a cell is None, NaN, or a string without visible characters."""
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and is_blank(value))
    )


def means_missing(value: Any) -> bool:
    """Return whether a cell holds a word such as `NA` that pandas or a spreadsheet writes for a missing value."""
    if not isinstance(value, str):
        return False
    bare = value.strip()
    return bare in PANDAS or bare in SPREADSHEETS or bare.casefold() in ANY_CASE
