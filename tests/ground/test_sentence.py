"""Sentence: typed references to options, which each face names in its own words."""

import copy
import pickle

import pytest

from afina.errors import AfinaError, InvalidData, Problem
from afina.sentence import Option, Sentence

COLUMN_MISSING = Problem(
    InvalidData, "a.code", "{path}: no column {column!r}. Name the right one with `{field}`.{_more}"
)


def flag(name: str) -> str | None:
    return {"label": "--label", "kind": "--kind"}.get(name)


def test_a_declared_message_names_its_options_in_the_words_of_each_face() -> None:
    error = COLUMN_MISSING(path="a.csv", column="x", field="label", _more=Sentence.of(" Or give `kind`."))
    assert str(error) == "a.csv: no column 'x'. Name the right one with `label`. Or give `kind`."
    assert error.said(flag) == "a.csv: no column 'x'. Name the right one with --label. Or give --kind."
    assert error.sentence.options == ("label", "kind")
    assert error.fields == {"path": "a.csv", "column": "x", "field": "label"}


def test_backquotes_in_a_value_are_no_option() -> None:
    error = COLUMN_MISSING(path="`label`.csv", column="`kind`", field="label", _more="")
    assert error.said(flag) == "`label`.csv: no column '`kind`'. Name the right one with --label."


def test_an_option_that_a_face_does_not_know_keeps_its_name() -> None:
    assert Sentence.of("Give `other`.").named(flag) == "Give `other`."


def test_places_and_advice_keep_the_references() -> None:
    error = COLUMN_MISSING(path="a.csv", column="x", field="label", _more="").within(Option("kind"), " b: ")
    error.advising(Sentence.of(" Leave out `kind`."))
    assert error.said(flag) == "--kind b: a.csv: no column 'x'. Name the right one with --label. Leave out --kind."


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copy_keeps_the_references(copied) -> None:  # type: ignore[no-untyped-def]
    error = copied(COLUMN_MISSING(path="a.csv", column="x", field="label", _more=""))
    assert error.said(flag).endswith("with --label.")
    assert Sentence.from_json(error.sentence.as_json()).parts == error.sentence.parts


def test_lists_are_joined_and_quoted_values_are_cut() -> None:
    assert Sentence.of("{names}: {found!r:.3}, {count:,}", names=["a", "b"], found="abcdef", count=1200) == (
        "a, b: 'abc', 1,200"
    )


def test_a_plain_message_has_no_options() -> None:
    assert AfinaError("with `label`").sentence.options == ()


def test_plain_texts_beside_each_other_are_one_part() -> None:
    made = Sentence.of("run {run}: give `label`", run="lora")
    assert made.parts == ("run lora: give ", "label")
    assert made.removeprefix("run lora: ") == "give `label`"
