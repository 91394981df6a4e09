"""Every function that asks for a CUDA device is named by a test that runs on one, and every such name is a function.

A function asks for a device if it compares a device's type, uses `torch.cuda` or torch's kernel of flash attention, or
has a word of CUDA's in a string. A test names what it executes in its mark, `@pytest.mark.gpu("module.function")`. On a
GPU, a test fails that does not call what it names (`pytest_pyfunc_call` in conftest.py).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from devices import SOURCE, module_of

TESTS = Path(__file__).parent

WORDS = re.compile(r"\b(cuda|nccl)\b|/dev/nvidia|OutOfMemoryError")
"""Strings of code that only a machine with a CUDA device executes. Docstrings do not count."""


MAY_ASK = re.compile(rf"device\.type|is_cuda|varlen_attn|{WORDS.pattern}")
"""What the text of a module that asks has; parsing every module would take seconds."""


def _of_a_device(node: ast.expr) -> bool:
    """Whether it is the type of a device: `x.device.type`, `device.type`, `self._device.type`."""
    if not (isinstance(node, ast.Attribute) and node.attr == "type"):
        return False
    owner = node.value
    name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
    return name.strip("_") == "device"


def asks(node: ast.AST) -> bool:
    """Whether the node itself asks for a CUDA device. "meta" is no device that computes."""
    match node:
        case ast.Compare():
            compared = (node.left, *node.comparators)
            other = {one.value for one in compared if isinstance(one, ast.Constant)}
            return any(map(_of_a_device, compared)) and other != {"meta"}
        case ast.Attribute(value=ast.Name("torch"), attr="cuda"):
            return True
        case ast.Attribute(attr="is_cuda"):
            return True
        case ast.Call(func=ast.Name("varlen_attn")):
            return True
        case ast.Constant(value=str() as text):
            return bool(WORDS.search(text))
    return False


def asking(text: str) -> Iterator[tuple[str, int]]:
    """The qualified name of each function or class that asks, "" for the module itself, with the line."""

    def visit(node: ast.AST, name: str) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant):
                continue  # a docstring, of a constant too
            inner = name
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inner = f"{name}.{child.name}".lstrip(".")
            if asks(child):
                yield inner, getattr(child, "lineno", 0)
            yield from visit(child, inner)

    yield from visit(ast.parse(text), "")


def asking_functions() -> dict[str, int]:
    """The functions of afina that ask, "meter.Meter.phase", each with a line; a constant's are those that read it."""
    found: dict[str, int] = {}
    for path in SOURCE.rglob("*.py"):
        text, module = path.read_text(encoding="utf-8"), module_of(path)
        for name, line in asking(text) if MAY_ASK.search(text) else ():
            for each in (name,) if name else readers(text, line):
                found.setdefault(f"{module}.{each}", line)
    return found


def readers(text: str, line: int) -> Iterator[str]:
    """The functions that read the constant which a line of a module gives a value."""
    tree = ast.parse(text)
    (made,) = (node for node in tree.body if node.lineno <= line <= (node.end_lineno or 0))
    assert isinstance(made, ast.Assign | ast.AnnAssign), f"line {line} asks when the module is imported"
    targets = made.targets if isinstance(made, ast.Assign) else [made.target]
    names = {one.id for one in targets if isinstance(one, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any(isinstance(n, ast.Name) and n.id in names for n in ast.walk(node)):
            yield node.name


def marks(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each test of a module that is marked `gpu`, with the names in its mark."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            for one in node.decorator_list:
                called = one.func if isinstance(one, ast.Call) else one
                if isinstance(called, ast.Attribute) and called.attr == "gpu":
                    yield node.name, [each.value for each in ast.walk(one) if isinstance(each, ast.Constant)]


def test_every_function_that_asks_for_a_device_is_executed_by_a_test_on_a_gpu() -> None:
    asked, named = asking_functions(), set[str]()
    for path in TESTS.rglob("test_*.py"):
        if "gpu" in (text := path.read_text(encoding="utf-8")):
            named |= {name for _, names in marks(text) for name in names}
    missing = {f"{name} (line {line})" for name, line in asked.items() if name not in named}
    assert not missing, f"name them in the mark of a test that executes them: {', '.join(sorted(missing))}"
    gone = {name for name in named if not is_function(name)}
    assert not gone, f"no functions of afina: {', '.join(sorted(gone))}"


def is_function(name: str) -> bool:
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        path = SOURCE.joinpath(*parts[:end]).with_suffix(".py")
        if path.exists():
            nodes: list[ast.stmt] = ast.parse(path.read_text(encoding="utf-8")).body
            for part in parts[end:]:
                inner = [one for one in nodes if isinstance(one, ast.FunctionDef | ast.ClassDef) and one.name == part]
                if not inner:
                    return False
                nodes = inner[0].body
            return True
    return False


@pytest.mark.parametrize(
    "code",
    [
        'if x.device.type == "cuda": ...',
        'if self._device.type != "cpu": ...',
        "torch.cuda.synchronize()",
        "if weight.is_cuda: ...",
        "varlen_attn(q, k, v)",
        'backend = "cpu:gloo,cuda:nccl"',
    ],
)
def test_code_that_asks_for_a_device_is_found(code: str) -> None:
    assert {name for name, _ in asking(f"class A:\n    def f(self):\n        {code}")} == {"A.f"}


@pytest.mark.parametrize(
    "code",
    [
        'if x.device.type == "meta": ...',
        'if event.type == "cpu": ...',
        "x.to(device)",
        '"""On cuda, a sum."""',
        "y = 1",
    ],
)
def test_other_code_does_not_ask(code: str) -> None:
    assert not [*asking(f"def f(x, event, device):\n    {code}")]
