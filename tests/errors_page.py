"""The page docs/reference/errors.md: every error that a user can cause, by class and code.

`make errors` writes the page from the `problems.py` of each package and from the classes with a constructor of their
own. `tests/ground/test_problems.py` checks that the page is current.
"""

from __future__ import annotations

import ast
import importlib
import string
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import afina
from afina import errors
from afina.errors import AfinaError, Problem

SOURCE = Path(afina.__file__).parent
PAGE = Path(__file__).parent.parent / "docs" / "reference" / "errors.md"


@cache
def sources() -> dict[str, str]:
    """Return the text of every module of afina, by its dotted name."""
    return {
        ".".join(("afina", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): path.read_text(
            encoding="utf-8"
        )
        for path in sorted(SOURCE.rglob("*.py"))
    }


@cache
def tree_of(text: str) -> ast.Module:
    return ast.parse(text)


@cache
def calls(text: str) -> tuple[ast.Call, ...]:
    return tuple(node for node in ast.walk(tree_of(text)) if isinstance(node, ast.Call))


@cache
def _definitions(text: str) -> tuple[ast.ClassDef, ...]:
    return tuple(node for node in ast.walk(tree_of(text)) if isinstance(node, ast.ClassDef))


def declared() -> dict[str, Problem[AfinaError]]:
    """Return every declared problem by its dotted name, such as `afina.data.problems.COLUMN_MISSING`."""
    return {
        f"{module}.{name}": value
        for module in sources()
        if module.endswith(".problems")
        for name, value in vars(importlib.import_module(module)).items()
        if isinstance(value, Problem)
    }


def error_classes(files: Mapping[str, str]) -> dict[str, type[AfinaError] | ast.ClassDef]:
    """Return the classes of errors by name: those of `afina.errors`, and those that files define."""
    found: dict[str, type[AfinaError] | ast.ClassDef] = {
        name: each for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, AfinaError)
    }
    defined = [node for text in files.values() for node in _definitions(text)]
    while new := [node for node in defined if node.name not in found and _bases(node) & found.keys()]:
        found |= {node.name: node for node in new}
    return found


def has_constructor(name: str, classes: Mapping[str, type[AfinaError] | ast.ClassDef]) -> bool:
    """Return whether the class, or one that it is derived from except AfinaError, has its own constructor."""
    each = classes[name]
    if isinstance(each, ast.ClassDef):
        own = any(isinstance(node, ast.FunctionDef) and node.name == "__init__" for node in each.body)
        return own or any(has_constructor(base, classes) for base in _bases(each) & classes.keys())
    return each.__init__ is not AfinaError.__init__


def constructions(files: Mapping[str, str]) -> Iterator[tuple[str, ast.Call, str]]:
    """Yield the module, the call and the class of every error that is constructed outside of a Problem."""
    classes = error_classes(files)
    for module, text in files.items():
        for call in calls(text):
            if (name := last_name(call.func)) in classes:
                yield module, call, name


@cache
def codes() -> dict[str, dict[str, list[str]]]:
    """Return the sentences of each code, by class: of declared problems, then of classes with their own constructor."""
    found: dict[str, dict[str, list[str]]] = {}
    for problem in declared().values():
        found.setdefault(problem.error.__name__, {}).setdefault(problem.code, []).append(_shown(problem.sentence))
    classes = error_classes(sources())
    for name, each in classes.items():
        if not has_constructor(name, classes):
            continue
        code, said = (
            (_code(each), ast.get_docstring(each)) if isinstance(each, ast.ClassDef) else (each.code, each.__doc__)
        )
        found.setdefault(name, {}).setdefault(code, []).insert(0, (said or "").strip().partition("\n")[0])
    for _, call, name in constructions(sources()):
        given = next((each.value for each in call.keywords if each.arg == "code"), None)
        if isinstance(given, ast.Constant) and has_constructor(name, classes):
            found[name].setdefault(given.value, []).append(_said(call))
    return {name: dict(sorted(of.items())) for name, of in sorted(found.items())}


def page() -> str:
    """Return the content of docs/reference/errors.md."""
    parts = [INTRODUCTION]
    for name, of in codes().items():
        parts.append(f"\n## {name}\n\n| code | sentences |\n| --- | --- |\n")
        parts += [f"| `{code}` | {'<br>'.join(map(_cell, dict.fromkeys(said)))} |\n" for code, said in of.items()]
    return "".join(parts)


def _shown(sentence: str) -> str:
    """Return a sentence with its fields in braces, without their formats; words of advice are shown as `...`."""
    parts = string.Formatter().parse(sentence)
    return "".join(
        text + ("" if name is None else "..." if name.startswith("_") else f"{{{name}}}") for text, name, *_ in parts
    )


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(
            f"{{{ast.unparse(each.value)}}}" if isinstance(each, ast.FormattedValue) else str(ast.literal_eval(each))
            for each in node.values
        )
    return str(node.value) if isinstance(node, ast.Constant) else f"{{{ast.unparse(node)}}}"


def _said(call: ast.Call) -> str:
    """Return the last text among the arguments."""
    return next((_text(each) for each in reversed(call.args) if isinstance(each, ast.Constant | ast.JoinedStr)), "...")


def _cell(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")


def _bases(node: ast.ClassDef) -> set[str]:
    return {last_name(base) for base in node.bases}


def _code(node: ast.ClassDef) -> str:
    """Return the code of a class that is defined outside of `afina.errors`."""
    assigned = [each for each in node.body if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "code"]
    return str(ast.literal_eval(assigned[0].value)) if assigned else AfinaError.code


def last_name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


INTRODUCTION = """# Errors

Every error that a user can cause is a subclass of `afina.errors.AfinaError`, with

- `code`: the situation, such as `data.column-missing`. A code is stable, and belongs to one class.
- `fields`: what the message is about, as JSON values, such as `path`, `column`, `known`.
- the message, for people. Its words may change.

```python
from afina import Task
from afina.errors import InvalidData

try:
    Task.load("reviews.csv")
except InvalidData as error:
    if error.code == "data.column-missing":
        print(error.fields["found"])
```

A command with `--json` that fails prints one object on standard output; standard error and the exit status are the same
as without `--json`:

```json
{"error": {"class": "InvalidData", "code": "data.column-missing", "message": "...", "fields": {"found": ["a", "b"]}}}
```

`RunFailed` of a run in a process of its own has the code of the error there as `fields["cause"]`, and its fields as
`fields["of_cause"]`. A method of another package may raise a subclass without a code; its code is `error`.

The tables have the sentences of each code. A name in braces is a field of the error. This page is made from the files
`problems.py` in `src/afina` by `make errors`.
"""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
