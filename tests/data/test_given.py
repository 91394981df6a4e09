"""Texts as callers hold them: every form gives the same lists, in order; what is no list of texts is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from afina.data.given import as_lists, column_names
from afina.errors import InvalidData

TEXTS = ["What a warm ferry!", "the novel was dull."]
SECOND = ["It sank.", "It was not."]


@pytest.mark.parametrize(
    "given",
    [
        TEXTS,
        tuple(TEXTS),
        (text for text in TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        np.array(TEXTS)[:, None],
        [[text] for text in TEXTS],
        pd.Series(TEXTS, index=[7, 3]),
        pd.DataFrame({"text": TEXTS}, index=[1, 0]),
        pa.array(TEXTS).to_pylist(),
        iter(TEXTS),
    ],
    ids=lambda value: type(value).__name__,
)
def test_texts_are_the_same_in_whatever_form_they_come(given: Any) -> None:
    texts, pairs = as_lists(given)
    assert list(texts) == TEXTS
    assert all(isinstance(text, str) for text in texts)
    assert pairs is None


@pytest.mark.parametrize(
    "given",
    [
        list(zip(TEXTS, SECOND, strict=True)),
        np.array([TEXTS, SECOND]).T,
        pd.DataFrame({"first": TEXTS, "second": SECOND}, index=[5, 5]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_rows_of_two_are_pairs(given: Any) -> None:
    assert tuple(map(list, as_lists(given))) == (TEXTS, SECOND)  # type: ignore[arg-type]
    with pytest.raises(InvalidData, match="Leave one of them out"):
        as_lists(given, SECOND)


def test_pairs_come_in_any_form_too_one_for_each_text() -> None:
    assert as_lists(TEXTS, pd.Series(SECOND, index=[1, 0])) == (TEXTS, SECOND)
    with pytest.raises(InvalidData, match=r"2 texts and 1 second texts: expected one for each text\."):
        as_lists(TEXTS, SECOND[:1])
    with pytest.raises(InvalidData, match="`pairs`: rows of two"):
        as_lists(TEXTS, [("a", "b"), ("c", "d")])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("What a warm ferry!", r"one string, 'What a warm ferry!': expected a list of texts, such as \['What"),
        (b"What", "one string, b'What'"),
        ({"text": TEXTS}, "`texts`: found a dict. Expected a list, an array or a Series of texts"),
        (set(TEXTS), "`texts`: found a set"),
        (None, "`texts`: found a NoneType"),
        (7, "`texts`: found a int"),
        (np.array("one"), r"found a ndarray of shape \(\)"),
        (np.array([["a", "b", "c"]]), r"found a ndarray of shape \(1, 3\)"),
        (pd.DataFrame([["a", 1, 2]], columns=["text", "x", "y"]), "DataFrame with the columns 'text', 'x', 'y'"),
        ([("a", "b"), ("c",)], "rows of 1 and 2 values"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(given: Any, told: str) -> None:
    with pytest.raises(InvalidData, match=told):
        as_lists(given)


def test_names_of_columns_are_a_frames() -> None:
    assert column_names(pd.DataFrame({"text": TEXTS})) == ["text"]
    assert column_names(pd.DataFrame([TEXTS])) is None
    assert column_names(np.array([TEXTS])) is None
    assert column_names(TEXTS) is None
