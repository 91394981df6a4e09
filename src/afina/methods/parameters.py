"""Which methods a backbone has a use for, and how many parameters each trains: from a configuration alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from afina.errors import InvalidStudy
from afina.methods import METHODS, make
from afina.methods.method import Method
from afina.models.classifier import Counts, count_parameters
from afina.models.meta import meta_model


@dataclass(frozen=True)
class Counted:
    """A backbone's parameters with a head for two labels, and what each method trains of it or beside it.

    methods  with the settings that `count` was given;  as_run  as a run counts, by the methods' defaults
    """

    total: int
    methods: dict[str, Counts]
    as_run: dict[str, Counts]


def count(address: str, settings: Mapping[str, Mapping[str, Any]] = MappingProxyType({})) -> Counted:
    """Counts for two labels, from the configuration at that address.

    settings  by method, hyperparameters that its count is wanted with; where none are given, its defaults
    The total is the unadapted classifier's. A method that has no meaning for the family is left out. Raises NotFound,
    InvalidStudy.
    """
    total = sum(parameter.numel() for parameter in meta_model(address).parameters())
    run = dict(_served(address, METHODS))
    wanted = {name: _counts(address, make(name, settings[name])) if name in settings else run[name] for name in run}
    return Counted(total, wanted, run)


def served(address: str, names: Iterable[str] = tuple(METHODS)) -> list[str]:
    """Those of `names` that have a meaning for the backbone whose configuration is at that address.

    Raises NotFound, InvalidStudy for an address.
    """
    meta_model(address)
    return [name for name, _ in _served(address, names)]


def _served(address: str, names: Iterable[str]) -> Iterator[tuple[str, Counts]]:
    for name in names:
        try:
            counts = _counts(address, METHODS[name]())
        except InvalidStudy:
            continue
        yield name, counts


def _counts(address: str, method: Method) -> Counts:
    model = meta_model(address)
    ready = method.for_family(model.config.model_type)
    return count_parameters(ready.trainable(ready.attach(model)))
