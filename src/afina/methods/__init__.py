"""The methods of adapting a model, such as LoRA. `METHODS` maps keys to method classes, also those of other packages.

All code that differs between adaptation methods is in `afina.methods`; no other package names a method. `afina.methods`
does not know tasks or runs, and does not import torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import ValidationError

from afina.errors import InvalidStudy, UnknownName
from afina.methods import problems
from afina.methods.bottleneck_adapter import BottleneckAdapter
from afina.methods.endpoint import AskedEndpoint
from afina.methods.ia3_and_vera import Ia3, Vera
from afina.methods.linear_probe import LinearProbe
from afina.methods.lora import Lora
from afina.methods.method import REQUIRED, Method
from afina.methods.peft_types import PeftType, SavedPeft, saved_by_peft
from afina.methods.prompt_and_prefix import PrefixTuning, PromptTuning
from afina.methods.selective import Baseline, BitFit, Full, Head, Last, LayerNorm, PreLayer, PreLayer46080
from afina.methods.setfit import SetFit
from afina.methods.sum import MULTIPLIER, PLUS, Sum
from afina.methods.zero_shot import ZeroShot
from afina.schema import WrongValue, is_number, validator

GROUP = "afina.methods"
"""The group of Python entry points through which other packages offer adaptation methods."""

_KEY = re.compile(r"[a-z][a-z0-9-]*")

_OF_A_PACKAGE = (AttributeError, ImportError, LookupError, RuntimeError, SyntaxError, TypeError, ValueError)
"""The exceptions that afina catches when importing another package's method fails; KeyboardInterrupt is not caught."""


def entry_point_methods(known: Iterable[str]) -> tuple[dict[str, type[Method]], dict[str, str]]:
    """Return the methods that other packages offer by key, and why others cannot be used by entry point's name."""
    methods: dict[str, type[Method]] = {}
    refused: dict[str, str] = {}
    taken = set(known)
    for entry in sorted(entry_points(group=GROUP), key=lambda one: (one.name, one.value)):
        why = _load(entry, taken, methods)
        if why:
            refused[entry.name] = f"{entry.value}: {why}"
    return methods, refused


def _load(entry: EntryPoint, taken: set[str], methods: dict[str, type[Method]]) -> str:
    """Add the method class of an entry point to `methods`, or return why it cannot be used."""
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
        *(Baseline, ZeroShot, LinearProbe, Head, SetFit, Full, Last, BitFit, LayerNorm, Lora, Ia3, Vera),
        *(BottleneckAdapter, PromptTuning, PrefixTuning, PreLayer, PreLayer46080),
    )
}
"""The adaptation methods by key: first in the order of the published study's tables, with each further method beside a
similar one; then those of other packages. Every class in `METHODS` can be built without arguments, so afina can list
all methods, count their parameters and plan runs with them."""

NEEDS_SETTINGS: dict[str, type[Method]] = {method.name: method for method in (PeftType, AskedEndpoint)}
"""Methods that cannot be built without hyperparameters."""

_OUTSIDE, REFUSED = entry_point_methods(METHODS | NEEDS_SETTINGS)
"""`REFUSED` maps the names of entry points whose method cannot be used to the reasons."""

METHODS |= _OUTSIDE

MOST_MULTIPLIER = 1e6
"""Exclusive upper bound of a learning-rate multiplier."""


def make(name: str, hyperparameters: Mapping[str, Any] | None = None, where: str = "") -> Method:
    """Return a method with these hyperparameters.

    For `lora+bitfit`, `hyperparameters` has a table for each of the two parts.

    Args:
        name: A key in METHODS, or several keys joined by "+".
        where: The option or file of the user's input, with which error messages begin.

    Raises:
        UnknownName: There is no method `name`, or the method has no hyperparameter of a given name.
        InvalidStudy: A hyperparameter's value is invalid, or the methods of a combination contradict each other.
    """
    given = dict(hyperparameters or {})
    if name == SavedPeft.name and given and "type" not in given:
        return saved_by_peft(given)
    known = accepted(name, where)
    for key in given:
        if key not in known:
            raise UnknownName(f"hyperparameter of {name}", key, known, where)
    if PLUS in name:
        return _sum(name, given, where)
    place = f"{where}: " if where else ""
    try:
        made: Method = validator(_kind(name)).validate_python(given)
    except InvalidStudy as error:
        raise error.within(place) from None
    except ValidationError as error:
        problem = WrongValue.of(error)
        if problem.kind == "missing":
            about = {"where": where, "method": name, "setting": problem.field}
            expected = _kind(name).required.get(problem.field, "a value")
            raise problems.SETTING_MISSING(_place=place, expected=expected, **about) from None
        raise problems.SETTING_INVALID(
            _place=place,
            expected=problem.sentence,
            where=where,
            method=name,
            setting=problem.field,
            found=problem.found,
        ) from None
    return made


REMOVED: Mapping[str, frozenset[str]] = {AskedEndpoint.name: frozenset({"ask_again"})}
"""By method, the hyperparameters that only earlier versions of afina had, which records may still have."""


def recorded(name: str, hyperparameters: Mapping[str, Any]) -> Method:
    """Return the method of a record, without hyperparameters that only earlier versions of afina had."""
    removed = REMOVED.get(name, frozenset())
    return make(name, {key: value for key, value in hyperparameters.items() if key not in removed})


def is_fitted(name: str) -> bool:
    """Whether scikit-learn fits the head, without gradient steps."""
    return name in METHODS and METHODS[name].is_fitted


def asks_endpoint(name: str) -> bool:
    """Whether the method asks a model behind an API; False for an unknown method."""
    kind = NEEDS_SETTINGS.get(name) or METHODS.get(name)
    return kind is not None and kind.asks_endpoint


def why_without_adapter(name: str) -> str:
    """Why a run with this method may have no adapter, as the end of a sentence; "" for no stated reason."""
    kind = NEEDS_SETTINGS.get(name) or METHODS.get(name)
    return "" if kind is None or not kind.why_without_adapter else f", because {kind.why_without_adapter}"


def accepted(name: str, where: str = "") -> set[str]:
    """Return the names of a method's hyperparameters; for a combination such as `lora+bitfit`, the keys of its methods.

    Raises UnknownName.
    """
    parts = name.split(PLUS)
    kinds = [_kind(part, where) for part in parts]
    return kinds[0].accepts() if len(parts) == 1 else set(parts)


def _kind(name: str, where: str = "") -> type[Method]:
    kinds = METHODS | NEEDS_SETTINGS
    if name in REFUSED:
        raise problems.PACKAGE_UNUSABLE(reason=REFUSED[name], where=where, method=name)
    if name not in kinds:
        raise UnknownName("method", name, kinds, where)
    return kinds[name]


def _sum(name: str, tables: Mapping[str, Any], where: str) -> Sum:
    place, parts, multipliers = f"{where}: " if where else "", {}, {}
    for part in name.split(PLUS):
        table = tables.get(part, {})
        if not isinstance(table, Mapping):
            raise problems.SETTINGS_NOT_A_TABLE(_place=place, found=table, where=where, method=name, setting=part)
        if part in parts:
            raise problems.PART_TWICE(_place=place, where=where, method=name, part=part)
        own = dict(table)
        if MULTIPLIER in own:
            multipliers[part] = _multiplier(own.pop(MULTIPLIER), f"{place}{name}.{part}")
        parts[part] = make(part, own, where)
    try:
        return Sum(parts, multipliers)
    except InvalidStudy as error:
        raise error.within(place) from None


def _multiplier(value: Any, where: str) -> float:
    if not is_number(value) or not 0 < value < MOST_MULTIPLIER:
        raise problems.MULTIPLIER_INVALID(most=MOST_MULTIPLIER, where=where, setting=MULTIPLIER, found=value)
    return float(value)
