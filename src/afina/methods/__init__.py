"""Every way of adapting that afina knows; METHODS has them by key, and those that other packages bring as entry points.

Holds all that differs between methods: no other package knows one by name. Knows no task and no run; starts without
torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import TypeAdapter, ValidationError

from afina.errors import InvalidStudy, UnknownName
from afina.methods.bottleneck_adapter import BottleneckAdapter
from afina.methods.ia3_and_vera import Ia3, Vera
from afina.methods.lora import Lora
from afina.methods.method import REQUIRED, Method
from afina.methods.peft_types import PeftType, SavedPeft
from afina.methods.prompt_and_prefix import PrefixTuning, PromptTuning
from afina.methods.selective import Baseline, BitFit, Full, Head, Last, LayerNorm, PreLayer, PreLayer46080, ZeroShot
from afina.methods.sum import MULTIPLIER, PLUS, Sum
from afina.schema import Problem

GROUP = "afina.methods"
"""The group of entry points by which other packages name their methods' classes."""

_KEY = re.compile(r"[a-z][a-z0-9-]*")

_OF_A_PACKAGE = (AttributeError, ImportError, LookupError, RuntimeError, SyntaxError, TypeError, ValueError)
"""What importing somebody's module raises, beside what should end the program."""


def entry_point_methods(known: Iterable[str]) -> tuple[dict[str, type[Method]], dict[str, str]]:
    """The classes that are of use, by key, and why others are not, by the names of their entry points.

    known  keys that are taken
    """
    methods: dict[str, type[Method]] = {}
    refused: dict[str, str] = {}
    taken = set(known)
    for entry in sorted(entry_points(group=GROUP), key=lambda one: (one.name, one.value)):
        why = _load(entry, taken, methods)
        if why:
            refused[entry.name] = f"{entry.value}: {why}"
    return methods, refused


def _load(entry: EntryPoint, taken: set[str], methods: dict[str, type[Method]]) -> str:
    """Put the class where it belongs; otherwise the reason."""
    try:
        kind = entry.load()
    except _OF_A_PACKAGE as error:
        return f"cannot be imported ({type(error).__name__}: {error})"
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        return "no subclass of afina.methods.method.Method"
    if getattr(kind, "__abstractmethods__", None):
        return f"lacks {', '.join(sorted(kind.__abstractmethods__))}"
    missing = [word for word in REQUIRED if not isinstance(getattr(kind, word, None), str)]
    if missing:
        return f"lacks {', '.join(missing)}"
    if not _KEY.fullmatch(kind.name):
        return f"its name {kind.name!r} is no key: lower-case letters, digits and hyphens"
    if kind.name in taken:
        return f"there is a method {kind.name} already"
    taken.add(kind.name)
    methods[kind.name] = kind
    return ""


METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        *(Baseline, ZeroShot, Head, Full, Last, BitFit, LayerNorm, Lora, Ia3, Vera),
        *(BottleneckAdapter, PromptTuning, PrefixTuning, PreLayer, PreLayer46080),
    )
}
"""In the order of the paper's tables, what it has not beside what is like it; then what other packages bring. Each can
be made without being told anything, so that all may be listed, counted and foreseen."""

NEEDS_SETTINGS: dict[str, type[Method]] = {PeftType.name: PeftType}
"""Methods that have to be told something, and so are not in METHODS."""

_OUTSIDE, REFUSED = entry_point_methods(METHODS | NEEDS_SETTINGS)
"""REFUSED: by the name of another package's entry point, why its method is not among METHODS."""

METHODS |= _OUTSIDE

MOST_MULTIPLIER = 1e6
"""Far more than any use of it."""


def make(name: str, hyperparameters: Mapping[str, Any] | None = None, where: str = "") -> Method:
    """The method of that key with these hyperparameters; of `a+b`, those of each part in a table of its own.

    Raises UnknownName, InvalidStudy.
    """
    given = dict(hyperparameters or {})
    if name == SavedPeft.name and given and "type" not in given:
        return SavedPeft(given)
    known = accepted(name, where)
    for key in given:
        if key not in known:
            raise UnknownName(f"hyperparameter of {name}", key, known, where)
    if PLUS in name:
        return _sum(name, given, where)
    place = f"{where}: " if where else ""
    try:
        return TypeAdapter(_kind(name)).validate_python(given)
    except InvalidStudy as error:
        raise error.reworded(f"{place}{error}") from None
    except ValidationError as error:
        problem = Problem.of(error)
        raise InvalidStudy(
            f"{place}{name}.{problem.field} = {problem.found!r}: {problem.message}.",
            code="method.setting-invalid",
            where=where,
            method=name,
            setting=problem.field,
            found=problem.found,
        ) from None


def accepted(name: str, where: str = "") -> set[str]:
    """Names of the hyperparameters of the method of that key; of `a+b`, its parts. Raises UnknownName."""
    parts = name.split(PLUS)
    kinds = [_kind(part, where) for part in parts]
    return kinds[0].accepts() if len(parts) == 1 else set(parts)


def _kind(name: str, where: str = "") -> type[Method]:
    kinds = METHODS | NEEDS_SETTINGS
    if name in REFUSED:
        raise InvalidStudy(
            f"{where}: method {name}, of another package, cannot be used: {REFUSED[name]}.",
            code="method.package-unusable",
            where=where,
            method=name,
        )
    if name not in kinds:
        raise UnknownName("method", name, kinds, where)
    return kinds[name]


def _sum(name: str, tables: Mapping[str, Any], where: str) -> Sum:
    place, parts, multipliers = f"{where}: " if where else "", {}, {}
    for part in name.split(PLUS):
        table = tables.get(part, {})
        if not isinstance(table, Mapping):
            raise InvalidStudy(
                f"{place}{name}.{part} = {table!r}: expected a table of its hyperparameters.",
                code="method.setting-invalid",
                where=where,
                method=name,
                setting=part,
            )
        if part in parts:
            raise InvalidStudy(
                f"{place}method {name}: {part} twice. Leave one out.",
                code="method.sum-contradiction",
                where=where,
                method=name,
                part=part,
            )
        own = dict(table)
        if MULTIPLIER in own:
            multipliers[part] = _multiplier(own.pop(MULTIPLIER), f"{place}{name}.{part}")
        parts[part] = make(part, own, where)
    try:
        return Sum(parts, multipliers)
    except InvalidStudy as error:
        raise error.reworded(f"{place}{error}") from None


def _multiplier(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < MOST_MULTIPLIER:
        raise InvalidStudy(
            f"{where}.{MULTIPLIER} = {value!r}: expected a number above 0 and below {MOST_MULTIPLIER:g}.",
            code="method.setting-invalid",
            where=where,
            setting=MULTIPLIER,
            found=value,
        )
    return float(value)
