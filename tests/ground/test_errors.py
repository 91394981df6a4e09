"""The errors a user can cause: one hierarchy, one exit code, messages that point on."""

import inspect
from pathlib import Path

import numpy as np
import pytest

from afina import errors
from afina.errors import AfinaError, UnknownName


def _all() -> list[type]:
    return [item for item in vars(errors).values() if inspect.isclass(item) and issubclass(item, Exception)]


@pytest.mark.parametrize("error", _all(), ids=lambda error: error.__name__)
def test_every_error_is_an_afina_error_and_stands_in_the_tree_of_the_docstring(error: type[AfinaError]) -> None:
    assert issubclass(error, AfinaError)
    assert error.exit_code == 2
    assert error.__name__ in (errors.__doc__ or "")


def test_leakage_is_invalid_data() -> None:
    assert issubclass(errors.Leakage, errors.InvalidData)


def test_an_unknown_name_lists_what_exists_in_order_and_names_the_nearest() -> None:
    error = UnknownName("method", "loar", ["prelayer", "lora", "full"])
    assert str(error) == "unknown method 'loar'. Did you mean 'lora'? Known: full, lora, prelayer."
    known = ["full", "lora", "prelayer"]
    assert error.fields == {"kind": "method", "name": "loar", "known": known, "nearest": "lora", "where": ""}


def test_an_unknown_name_that_resembles_nothing_guesses_nothing() -> None:
    error = UnknownName("method", "xyz", {"lora": 1, "full": 2})
    assert str(error) == "unknown method 'xyz'. Known: full, lora."
    assert error.fields["nearest"] is None


def test_an_unknown_name_says_where_it_stood() -> None:
    assert str(UnknownName("key", "sed", ["seed"], "study.toml")).startswith("study.toml: unknown key 'sed'. Did you")


def test_fields_are_json_values() -> None:
    given = {"path": Path("a"), "rows": np.int64(3), "share": float("nan"), "names": ("a", 1), "of": {1: None}}
    error = AfinaError("words", code="a.code", **given)
    assert error.as_json() == {
        "class": "AfinaError",
        "code": "a.code",
        "message": "words",
        "parts": ["words"],
        "fields": {"path": "a", "rows": 3, "share": "nan", "names": ["a", 1], "of": {"1": None}},
    }


def test_an_error_within_a_place_keeps_class_code_and_fields() -> None:
    error = UnknownName("method", "loar", ["lora"]).within("here: ").advising(" Look again.")
    assert (type(error), error.code) == (UnknownName, "name.unknown")
    assert str(error).startswith("here: unknown method")
    assert str(error).endswith(" Look again.")
    assert error.fields["nearest"] == "lora"
