"""Laws of declared problems: every place gives the fields of its sentence, and every sentence can be formatted."""

from __future__ import annotations

import ast
import importlib
import string
from pathlib import Path

import pytest

import afina
from afina.errors import InvalidData, Problem

SOURCE = Path(afina.__file__).parent
FILES = {
    ".".join(("afina", *path.relative_to(SOURCE).with_suffix("").parts)): path for path in SOURCE.rglob("problems.py")
}
DECLARED = {
    f"{module}.{name}": value
    for module in sorted(FILES)
    for name, value in vars(importlib.import_module(module)).items()
    if isinstance(value, Problem)
}


def _names(problem: Problem) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(problem.sentence) if name is not None}


def _raised() -> list[tuple[str, str, set[str] | None]]:
    """Every call of a declared problem: where, which, and the names that it gives; None if they are not written out."""
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        homes = {
            alias.asname or alias.name: f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            *module, name = ast.unparse(call.func).split(".")
            which = f"{homes.get('.'.join(module), '')}.{name}"
            if which in DECLARED:
                given = None if any(each.arg is None for each in call.keywords) else {str(e.arg) for e in call.keywords}
                found.append((f"{path.relative_to(SOURCE)}, line {call.lineno}", which, given))
    return found


def test_every_place_gives_the_fields_that_its_sentence_names() -> None:
    lacking = [
        (where, which, sorted(_names(DECLARED[which]) - given))
        for where, which, given in _raised()
        if given is not None and _names(DECLARED[which]) - given
    ]
    assert lacking == []


def test_every_declared_problem_is_raised() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py") if path.name != "problems.py")
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
