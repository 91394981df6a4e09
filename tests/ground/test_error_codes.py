"""Laws of error codes: every error has one, of the table; every code of the table is used, and documented."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from afina.error_codes import CODES
from afina.errors import AfinaError, InvalidData
from raised import PAGE, WORDED, Raised, page, raised, source
from raises import raises

RENEW = "Look at the difference; if it is meant, run `make errors` and commit what it writes."


def _broken(found: list[Raised]) -> list[str]:
    """The constructions without a literal code of the table that belongs to their class."""
    return [
        f"{one.where}: {one.of}, code {one.code}"
        for one in found
        if one.of != WORDED and one.code not in CODES.get(one.of, {})
    ]


def test_every_error_that_is_raised_has_a_code_of_the_table_that_belongs_to_its_class() -> None:
    assert _broken(source()) == []


def test_an_error_without_a_literal_code_of_its_class_is_found() -> None:
    text = """
class Own(NotFound):
    code = "server.model-missing"

raise NotFound(f"{path}: gone", code="file.missing")
raise NotFound("no code")
raise errors.InvalidData("code of another class", code="file.missing")
raise InvalidData("made up", code="data.made-up")
raise InvalidData("computed", code=code)
raise UnknownName("method", name, METHODS)
"""
    assert _broken(raised({"a.py": text})) == [
        "a.py, line 6: NotFound, code None",
        "a.py, line 7: InvalidData, code file.missing",
        "a.py, line 8: InvalidData, code data.made-up",
        "a.py, line 9: InvalidData, code None",
    ]
    assert raised({"a.py": text + "raise Own()"})[-1].code == "server.model-missing"


def test_every_code_of_the_table_is_used() -> None:
    used = {one.code for one in source()} | {AfinaError.code}
    assert {code for codes in CODES.values() for code in codes} - used == set()


def test_a_code_belongs_to_one_class() -> None:
    assert [
        code for code, times in Counter(code for codes in CODES.values() for code in codes).items() if times > 1
    ] == []


def test_the_page_of_errors_has_every_code() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), RENEW


@pytest.mark.parametrize(
    ("code", "fields"),
    [
        ("data.no-rows", {}),
        ("data.column-missing", {"column": "label"}),
        ("data.column-missing", {"row": 1}),
    ],
)
def test_raises_notices_another_code_and_another_field(code: str, fields: dict[str, Any]) -> None:
    def fail() -> None:
        raise InvalidData("words", code="data.column-missing", column="text", path="/somewhere/else/a.csv")

    with raises(InvalidData, code="data.column-missing", column="text", path="a.csv"):
        fail()
    with pytest.raises(AssertionError), raises(InvalidData, code=code, **fields):
        fail()
