"""Every way of adapting that afina knows, a file each; METHODS has them by key.

Holds all that differs between methods: nothing outside knows one by name. Knows no task and no run; starts without
torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from afina.errors import InvalidStudy, UnknownName
from afina.methods.baseline import Baseline
from afina.methods.foreign import Foreign
from afina.methods.full import Full
from afina.methods.lora import Lora
from afina.methods.method import Method
from afina.methods.prelayer import PreLayer, PreLayer46080
from afina.methods.zero_shot import ZeroShot
from afina.schema import Problem

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (Baseline, ZeroShot, Full, Lora, PreLayer, PreLayer46080)
}
"""In the order of the paper's tables, what it has not beside what is like it."""


def make(name: str, hyperparameters: Mapping[str, Any] | None = None, where: str = "") -> Method:
    """The method of that key with these hyperparameters. Raises UnknownName, InvalidStudy."""
    if name == Foreign.name:
        return Foreign(dict(hyperparameters or {}))
    if name not in METHODS:
        raise UnknownName("method", name, METHODS, where)
    known = {field.name for field in fields(METHODS[name])}
    for key in hyperparameters or {}:
        if key not in known:
            raise UnknownName(f"hyperparameter of {name}", key, known, where)
    place = f"{where}: " if where else ""
    try:
        return TypeAdapter(METHODS[name]).validate_python(dict(hyperparameters or {}))
    except InvalidStudy as error:
        raise InvalidStudy(f"{place}{error}") from None
    except ValidationError as error:
        problem = Problem.of(error)
        raise InvalidStudy(f"{place}{name}.{problem.field} = {problem.found!r}: {problem.message}.") from None
