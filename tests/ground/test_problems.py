"""Laws of errors: every one is a declared problem or has its own constructor; every sentence can be formatted."""

from __future__ import annotations

import ast
import string
from collections.abc import Mapping
from typing import Any

import pytest

from afina.errors import InvalidData, Problem
from errors_page import (
    PAGE,
    calls,
    codes,
    constructions,
    declared,
    error_classes,
    has_constructor,
    last_name,
    page,
    sources,
    tree_of,
)
from raises import raises

DECLARED = declared()


def _names(problem: Problem) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(problem.sentence) if name is not None}


def _raised() -> list[tuple[str, str, set[str] | None]]:
    """Every call of a declared problem: where, which, and the names that it gives; None if they are not written out."""
    found, words = [], {which.rpartition(".")[2] for which in DECLARED}
    for module, text in sources().items():
        tree = tree_of(text)
        homes = {
            alias.asname or alias.name: f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for call in calls(text):
            if last_name(call.func) not in words:
                continue
            *module, name = ast.unparse(call.func).split(".")
            which = f"{homes.get('.'.join(module), '')}.{name}"
            if which in DECLARED:
                given = None if any(each.arg is None for each in call.keywords) else {str(e.arg) for e in call.keywords}
                found.append((f"{module}, line {call.lineno}", which, given))
    return found


def _undeclared(files: Mapping[str, str]) -> list[str]:
    """The constructions of errors that are no declared problem, and of no class with its own constructor."""
    classes = error_classes(files)
    return [
        f"{module}, line {call.lineno}: {name}"
        for module, call, name in constructions(files)
        if module != "afina.errors" and not has_constructor(name, classes)
    ]


def test_every_error_is_a_declared_problem_or_of_a_class_with_its_own_constructor() -> None:
    assert _undeclared(sources()) == []


def test_an_error_beside_the_problems_is_found() -> None:
    text = """
class Own(NotFound):
    def __init__(self): ...

class Inherits(NotFound): ...

raise Own()
raise UnknownName("method", name, METHODS)
raise problems.FILE_MISSING(path=path)
raise NotFound("gone", code="file.missing")
raise errors.InvalidData("text")
raise Inherits("text")
"""
    assert _undeclared({"a": text}) == ["a, line 10: NotFound", "a, line 11: InvalidData", "a, line 12: Inherits"]


def test_a_code_belongs_to_one_class() -> None:
    homes: dict[str, set[str]] = {}
    for name, of in codes().items():
        for code in of:
            homes.setdefault(code, set()).add(name)
    assert {code: names for code, names in homes.items() if len(names) > 1} == {}


def test_the_page_of_errors_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make errors`, look at the difference, and commit it"


def test_every_place_gives_the_fields_that_its_sentence_names() -> None:
    lacking = [
        (where, which, sorted(_names(DECLARED[which]) - given))
        for where, which, given in _raised()
        if given is not None and _names(DECLARED[which]) - given
    ]
    assert lacking == []


def test_every_declared_problem_is_raised() -> None:
    text = "\n".join(text for module, text in sources().items() if not module.endswith(".problems"))
    assert [name for name in DECLARED if f".{name.rpartition('.')[2]}" not in text] == []


def test_every_sentence_names_fields_and_can_be_formatted() -> None:
    for name, problem in DECLARED.items():
        fields = _names(problem)
        assert all(field.isidentifier() for field in fields), f"{name}: {sorted(fields)}"
        numbers = {
            field for _, field, form, _ in string.Formatter().parse(problem.sentence) if form and form[-1] in ",%defg"
        }
        error = problem(**{field: 7 if field in numbers else "x" for field in fields})
        assert error.code == problem.code
        assert str(error).endswith((".", "?", "x", "'")), f"{name}: {error}"


@pytest.mark.parametrize(
    ("sentence", "fields", "said"),
    [
        ("{path}: {known}.", {"path": "a.csv", "known": ["b", "c"]}, "a.csv: b, c."),
        ("{found!r:.3} of {count:,}.", {"found": "it's long", "count": 1234}, '"it\'" of 1,234.'),
        ("{found!r}.", {"found": None}, "None."),
        ("{known}.", {"known": {"b", "a"}}, "a, b."),
        ("{share:.0%}.{_hint}", {"share": 0.5, "_hint": " Do it."}, "50%. Do it."),
    ],
)
def test_a_sentence_shows_its_fields(sentence: str, fields: dict[str, object], said: str) -> None:
    error = Problem(InvalidData, "data.no-rows", sentence)(**fields, extra=1)
    assert (str(error), error.code, error.fields["extra"]) == (said, "data.no-rows", 1)
    assert "_hint" not in error.fields


@pytest.mark.parametrize(
    ("code", "fields"),
    [("data.no-rows", {}), ("data.column-missing", {"column": "label"}), ("data.column-missing", {"row": 1})],
)
def test_raises_notices_another_code_and_another_field(code: str, fields: dict[str, Any]) -> None:
    def fail() -> None:
        raise InvalidData("words", code="data.column-missing", column="text", path="/somewhere/else/a.csv")

    with raises(InvalidData, code="data.column-missing", column="text", path="a.csv"):
        fail()
    with pytest.raises(AssertionError), raises(InvalidData, code=code, **fields):
        fail()
