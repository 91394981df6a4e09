"""Every error that the source raises, found in its syntax: class, code, and the sentence with its `{...}` unfilled."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import afina
from afina import errors
from afina.error_codes import CODES

SOURCE = Path(afina.__file__).parent
PAGE = Path(__file__).parent.parent / "docs" / "reference" / "errors.md"

WORDED = "reworded"
"""The class of a sentence that an error takes on its way, by `AfinaError.reworded`, where it keeps class and code."""


@dataclass(frozen=True)
class Raised:
    """One construction of an error. code: as it is written there, or that of the class; None without one."""

    where: str
    of: str
    code: str | None
    message: str


def raised(files: Mapping[str, str]) -> list[Raised]:
    """All constructions in files, given as texts by name."""
    trees = {name: ast.parse(text) for name, text in files.items()}
    defaults = _defaults(trees.values())
    return [one for name, tree in trees.items() for one in _in(name, tree, defaults)]


@cache
def source() -> list[Raised]:
    """Those of the package, but for the file that defines the errors."""
    found = sorted(SOURCE.rglob("*.py"))
    return raised(
        {str(path.relative_to(SOURCE)): path.read_text(encoding="utf-8") for path in found if path.stem != "errors"}
    )


def _defaults(trees: Iterator[ast.Module] | list[ast.Module]) -> dict[str, str | None]:
    """Each class of errors with its own or inherited code; AfinaError's own stands for none."""
    known = {
        name: one.code if one.code != errors.AfinaError.code else None
        for name, one in vars(errors).items()
        if isinstance(one, type) and issubclass(one, errors.AfinaError)
    }
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    while new := [one for one in classes if one.name not in known and _bases(one) & known.keys()]:
        for one in new:
            own = [
                node.value.value
                for node in one.body
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
                if [ast.unparse(target) for target in node.targets] == ["code"]
            ]
            known[one.name] = own[0] if own else known[min(_bases(one) & known.keys())]
    return known


def _bases(one: ast.ClassDef) -> set[str]:
    return {_last(base) for base in one.bases}


def _last(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _in(name: str, tree: ast.Module, defaults: Mapping[str, str | None]) -> Iterator[Raised]:
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        of = _last(call.func)
        if of == "Problem":
            error, code, sentence = call.args
            assert isinstance(code, ast.Constant), ast.unparse(call)
            yield Raised(f"{name}, line {call.lineno}", _last(error), code.value, _template(sentence, []))
            continue
        if of != WORDED and of not in defaults:
            continue
        around = [one for one in functions if one.lineno <= call.lineno <= (one.end_lineno or 0)]
        message = " | ".join(_template(argument, around) for argument in call.args)
        where = f"{name}, line {call.lineno}"
        given = next((each.value for each in call.keywords if each.arg == "code"), None)
        code = defaults.get(of) if given is None else given.value if isinstance(given, ast.Constant) else None
        yield Raised(where, of, code, message)


def _template(node: ast.expr, around: list[ast.FunctionDef]) -> str:
    """A literal or f-string as text; a name as what the function assigns to it; anything else in braces."""
    match node:
        case ast.Constant(value=str()):
            return node.value
        case ast.JoinedStr():
            return "".join(_template(part, around) for part in node.values)
        case ast.FormattedValue():
            form = "".join(_template(part, around) for part in node.format_spec.values) if node.format_spec else ""
            mark = "" if node.conversion == -1 else f"!{chr(node.conversion)}"
            return f"{{{ast.unparse(node.value)}{mark}{':' * bool(form)}{form}}}"
        case ast.Name() if texts := _assigned(node.id, around):
            return " OR ".join(texts)
        case _:
            return f"{{{ast.unparse(node)}}}"


def _assigned(name: str, around: list[ast.FunctionDef]) -> list[str]:
    return [
        _template(node.value, [])
        for function in around
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant | ast.JoinedStr)
        if [ast.unparse(target) for target in node.targets] == [name]
    ]


def page() -> str:
    """docs/reference/errors.md, from the table of codes."""
    parts = [INTRODUCTION]
    for of, codes in CODES.items():
        parts.append(f"\n## {of}\n\n| code | meaning |\n| --- | --- |\n")
        parts += [f"| `{code}` | {meaning} |\n" for code, meaning in codes.items()]
    return "".join(parts)


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

This page is made from `src/afina/error_codes.py` by `make errors`.
"""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
