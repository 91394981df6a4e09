"""Texts as callers hold them: every form gives the same lists, in order; what is no list of texts is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from afina.data.readers.texts import as_lists, column_names
from afina.errors import InvalidData
from raises import raises

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
        pa.array(TEXTS),
        pa.chunked_array([TEXTS[:1], TEXTS[1:]]),
        pa.array(TEXTS).dictionary_encode(),
        pa.table({"text": TEXTS}),
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
        pa.table({"first": TEXTS, "second": SECOND}),
        pa.record_batch({"first": TEXTS, "second": SECOND}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_rows_of_two_are_pairs(given: Any) -> None:
    assert tuple(map(list, as_lists(given))) == (TEXTS, SECOND)  # type: ignore[arg-type]
    with raises(InvalidData, code="data.type-wrong", argument="pairs"):
        as_lists(given, SECOND)


def test_pairs_come_in_any_form_too_one_for_each_text() -> None:
    assert as_lists(TEXTS, pd.Series(SECOND, index=[1, 0])) == (TEXTS, SECOND)
    with raises(InvalidData, code="data.lengths-differ", texts=2, pairs=1):
        as_lists(TEXTS, SECOND[:1])
    with raises(InvalidData, code="data.type-wrong", argument="pairs"):
        as_lists(TEXTS, [("a", "b"), ("c", "d")])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("What a warm ferry!", {"code": "data.type-wrong", "argument": "texts"}),
        (b"What", {"code": "data.type-wrong", "argument": "texts"}),
        ({"text": TEXTS}, {"code": "data.type-wrong", "argument": "texts", "found": "dict"}),
        (set(TEXTS), {"code": "data.type-wrong", "argument": "texts", "found": "set"}),
        (None, {"code": "data.type-wrong", "argument": "texts", "found": "NoneType"}),
        (7, {"code": "data.type-wrong", "argument": "texts", "found": "int"}),
        (np.array("one"), {"code": "data.type-wrong", "argument": "texts", "found": "ndarray"}),
        (np.array([["a", "b", "c"]]), {"code": "data.type-wrong", "argument": "texts", "found": "ndarray"}),
        (
            pd.DataFrame([["a", 1, 2]], columns=["text", "x", "y"]),
            {"code": "data.type-wrong", "argument": "texts", "found": "DataFrame"},
        ),
        (pa.table({"a": TEXTS, "b": TEXTS, "c": TEXTS}), {"found": "Table", "code": "data.type-wrong"}),
        ([("a", "b"), ("c",)], {"code": "data.type-wrong", "argument": "texts"}),
    ],
)
def test_what_is_no_list_of_texts_is_refused(given: Any, told: dict[str, Any]) -> None:
    with raises(InvalidData, **told):
        as_lists(given)


def test_names_of_columns_are_a_frames() -> None:
    assert column_names(pd.DataFrame({"text": TEXTS})) == ["text"]
    assert column_names(pa.table({"text": TEXTS})) == ["text"]
    assert column_names(pd.DataFrame([TEXTS])) is None
    assert column_names(np.array([TEXTS])) is None
    assert column_names(TEXTS) is None
