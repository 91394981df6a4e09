"""Space: where a method's setting is looked for when it is tuned. Knows settings; not how they are tried.

Starts without torch and without optuna.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from afina.errors import InvalidStudy, UnknownName
from afina.methods import accepted, make
from afina.studies.runs.run import Run

RATE = "learning_rate"
SPREAD = 10.0
"""A method's default learning rate is divided and multiplied by this, where the study names no range."""


@dataclass(frozen=True)
class Space:
    """Where a method's setting is looked for.

    rates    lowest and highest learning rate; drawn log-uniformly
    choices  values of each hyperparameter that is tuned
    start    the setting that is tried first: the study's own, moved into the space where it lies outside
    """

    rates: tuple[float, float]
    choices: Mapping[str, tuple[Any, ...]]
    start: Mapping[str, Any]

    @classmethod
    def of(cls, run: Run, search: Mapping[str, Any], where: str) -> Space | None:
        """The method's own space, changed by `search`; None where it has nothing to tune.

        Raises UnknownName, InvalidStudy.
        """
        method = make(run.method)
        if method.search is None:
            if search:
                raise InvalidStudy(
                    f"{where}: {run.method} has nothing to tune. Remove search.",
                    code="study.value-invalid",
                    where=where,
                    method=run.method,
                )
            return None
        own = sorted(accepted(run.method))
        for key in search:
            if key not in (RATE, *own):
                raise UnknownName("key", key, [RATE, *own], f"{where}.search")
        rate = run.training.learning_rate or method.learning_rate
        low, high = _range(search[RATE], where) if RATE in search else (rate / SPREAD, rate * SPREAD)
        choices = {}
        for key, values in {**method.search, **search}.items():
            if key == RATE:
                continue
            if not isinstance(values, list | tuple) or not values:
                raise InvalidStudy(
                    f"{where}.search.{key} = {values!r}: expected a list of values to choose from.",
                    code="study.value-invalid",
                    where=where,
                    key=key,
                    found=values,
                )
            for value in values:
                make(run.method, {**run.hyperparameters, key: value}, f"{where}.search")
            choices[key] = tuple(values)
        untold = make(run.method, run.hyperparameters)  # a `later` one at its default is not among what is told
        given = {key: run.hyperparameters.get(key, getattr(untold, key, None)) for key in choices}
        start = {key: value if value in choices[key] else choices[key][0] for key, value in given.items()}
        return cls((low, high), choices, {RATE: min(max(rate, low), high), **start})


def _range(given: Any, where: str) -> tuple[float, float]:
    try:
        low, high = map(float, given)
    except (TypeError, ValueError, OverflowError):
        low = high = 0.0
    if not 0 < low < high < math.inf:
        raise InvalidStudy(
            f"{where}.search.{RATE} = {given!r}: expected [lowest, highest], finite and above 0.",
            code="study.value-invalid",
            where=where,
            key=RATE,
            found=given,
        )
    return low, high
