"""A kind of task is asked for in the table of each package, and nowhere else: no code outside compares with a kind."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import afina as package
from afina.data.kinds import ENTITIES, KINDS, TEXT
from afina.data.readers.target_kinds import TARGETS
from afina.endpoints.questions import QUESTIONS
from afina.models.counted_kinds import COUNTED_KINDS
from afina.models.objectives import OBJECTIVES
from afina.report.presentation import PRESENTATIONS
from afina.server.answer_formats import ANSWER_FORMATS
from afina.stats import metrics
from afina.store.card_kinds import CARD_KINDS
from afina.store.flips import FLIP_KINDS
from afina.studies.choosing import floors
from afina.studies.labelling.doubtful_kinds import DOUBTFUL_KINDS
from afina.studio.answer_kinds import ANSWER_KINDS

TABLES = {
    *(
        "stats.metrics",
        "studies.choosing.floors",
        "studies.labelling.doubtful_kinds",
        "report.presentation",
        "models.counted_kinds",
    ),
    *("server.answer_formats", "store.card_kinds", "store.flips", "studio.answer_kinds"),
}
"""The modules that may ask for a kind, since a table of theirs is written with the kinds as keys."""

ENTRIES: dict[str, Callable[[str], object]] = {
    "data": TARGETS.get,
    "stats": metrics.of_kind,
    "models": OBJECTIVES.get,
    "endpoints": QUESTIONS.get,
    "studies": floors.FLOORS.get,
    "report": PRESENTATIONS.get,
    "store.card_kinds": CARD_KINDS.get,
    "store.flips": FLIP_KINDS.get,
    "server": ANSWER_FORMATS.get,
    "studio": ANSWER_KINDS.get,
}
"""By package, the entry of a kind in its table."""

CONSTANTS = {f"afina.data.kinds.{kind.upper()}" for kind in KINDS}
OBJECTIVE_CLASSES = {f"{made.__module__}.{made.__name__}" for made in OBJECTIVES.values()}
"""Full names of the constants of `data.kinds`, and of the subclasses of Objective."""

WORDS = {*KINDS, *(made.problem_type for made in OBJECTIVES.values())} - {TEXT, ""}
"""Strings that name a kind, ours and transformers'; "text" is also the role of a column, so it counts only beside a
`kind`. transformers has no name, "", for texts to write."""

SOURCE = Path(package.__file__).parent


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ENTRIES)
def test_every_table_has_every_kind(name: str, kind: str) -> None:
    assert ENTRIES[name](kind), f"the table of {name} has no entry for {kind}"


def test_answers_of_every_kind_but_texts_and_entities_are_counted() -> None:
    assert {*COUNTED_KINDS} == {*KINDS} - {TEXT, ENTITIES}


def test_labels_of_every_kind_but_texts_can_be_doubtful() -> None:
    assert {*DOUBTFUL_KINDS} == {*KINDS} - {TEXT}


def test_every_kind_but_texts_has_a_linear_model() -> None:
    assert {kind for kind, objective in OBJECTIVES.items() if hasattr(objective, "linear")} == {*KINDS} - {TEXT}


class Asking:
    """Where a module asks for a kind.

    What counts is what is compared, not what the compared name is: the constants and strings of the kinds, and the
    subclasses of Objective. So `message.kind == "error"`, `dtype.kind == "f"` and `a.kind != b.kind` do not count.
    """

    def __init__(self, text: str) -> None:
        self.tree = ast.parse(text)
        self.names: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                self.names |= {one.asname: one.name for one in node.names if one.asname}
            elif isinstance(node, ast.ImportFrom):
                self.names |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
        for node in ast.walk(self.tree):  # other names that a module gives a constant
            given = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
            if given is not None and self._full(given) in CONSTANTS | OBJECTIVE_CLASSES:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                made = {one.id: self._full(given) for one in targets if isinstance(one, ast.Name)}
                self.names |= {name: full for name, full in made.items() if name != "kind"}

    def _full(self, node: ast.expr) -> str:
        """`afina.data.kinds.NUMBER` for `NUMBER`, `kinds.NUMBER` and `afina.data.kinds.NUMBER`."""
        if isinstance(node, ast.Attribute):
            return f"{self._full(node.value)}.{node.attr}"
        return self.names.get(node.id, node.id) if isinstance(node, ast.Name) else ""

    def _is_kind(self, node: ast.expr) -> bool:
        """Whether it is a kind, or a literal that holds one."""
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            return any(map(self._is_kind, node.elts))
        if isinstance(node, ast.Subscript):  # KINDS[1]
            return self._full(node.value) == "afina.data.kinds.KINDS"
        return self._is_constant(node) or self._full(node) in OBJECTIVE_CLASSES

    def _is_constant(self, node: ast.expr | None) -> bool:
        if isinstance(node, ast.Constant):
            return node.value in WORDS
        return node is not None and self._full(node) in CONSTANTS

    def lines(self) -> Iterator[int]:
        """The line of each comparison with a kind, choice by a kind, and question for a subclass of Objective."""
        for node in ast.walk(self.tree):
            if any(self._asks(node)):
                yield getattr(node, "lineno", 0)

    def _asks(self, node: ast.AST) -> Iterator[bool]:
        match node:
            case ast.Compare():
                compared = (node.left, *node.comparators)
                yield any(map(self._is_kind, compared))
                yield any(_is_text(one) for one in compared) and any(_is_named_kind(one) for one in compared)
            case ast.MatchValue() | ast.MatchClass():
                yield self._is_kind(node.value if isinstance(node, ast.MatchValue) else node.cls)
            case ast.Call(func=ast.Name(id="isinstance" | "issubclass"), args=[_, asked]):
                yield self._is_kind(asked)
            case ast.Dict():  # a table: two kinds or more, or one by its constant
                keys = [one for one in node.keys if self._is_constant(one)]
                yield len(keys) > 1 or any(not isinstance(one, ast.Constant) for one in keys)
            case ast.Subscript(slice=ast.Name() | ast.Attribute() as chosen) if self._is_constant(chosen):
                yield True
            case ast.Subscript(value=ast.Dict() as table):
                yield any(map(self._is_constant, table.keys))
            case ast.Call(func=ast.Attribute(value=ast.Dict() as table, attr="get")):
                yield any(map(self._is_constant, table.keys))


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value == TEXT


def _is_named_kind(node: ast.expr) -> bool:
    return (isinstance(node, ast.Attribute) and node.attr == "kind") or (
        isinstance(node, ast.Name) and node.id == "kind"
    )


def asking(text: str) -> list[int]:
    """Lines of a module that ask for a kind."""
    return sorted({*Asking(text).lines()})


def test_code_that_asks_for_a_kind_is_found_and_other_comparisons_are_not() -> None:
    for code in (
        'if record.kind == "number": ...',
        'if kind == "text" or record.kind != "text": ...',
        "from afina.data.kinds import NUMBER as N\nif kind in (N, None): ...",
        "from afina.data import kinds\nSEVERAL = kinds.LABELS\nif kind == SEVERAL: ...",
        'match kind:\n    case "number": ...',
        'made = {"classes": 1, "number": 2}[kind]',
        'made = {"number": 2}.get(record.kind, 1)',
        "from afina.data.kinds import NUMBER\nPRESENTATIONS[NUMBER]",
        "from afina.models import objectives\nif issubclass(made, (objectives.Number, objectives.Labels)): ...",
        "from afina.models.objectives import Number\nmatch objective:\n    case Number(): ...",
    ):
        assert asking(code), code
    for code in (
        'if message.kind == "error" or first.kind != second.kind or role == "text": ...',
        "from afina.data.kinds import CLASSES, Kind\nclass Task:\n    kind: Kind = CLASSES",
        "from afina.server.json_shapes import NUMBER\nif shape == NUMBER: ...",
    ):
        assert asking(code) == [], code


def test_no_code_outside_the_tables_asks_for_a_kind() -> None:
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        if lines := asking(path.read_text(encoding="utf-8")):
            found[module] = lines
    assert {module: lines for module, lines in found.items() if module not in TABLES} == {}
    assert found.keys() >= TABLES, "a module of TABLES asks no more"
