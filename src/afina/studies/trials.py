"""Trials of tuning: where settings are looked for (Space) and how (Tune); what was tried and chosen, as facts (Trial,
Tuned), in `tuning.json` of a study.

Starts without torch and without optuna. Knows nothing of how a setting is drawn.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import AliasChoices, ConfigDict, Field, TypeAdapter, ValidationError

from afina import file_io
from afina.digest import derive_seed
from afina.errors import InvalidData, InvalidStudy, UnknownName
from afina.methods import accepted, make
from afina.schema import FigureOrNone, Frozen, Sparing
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.run import Run

if TYPE_CHECKING:
    pass


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


RUNGS = (1, 2, 4)
"""A candidate is scored after so many quarters of its steps."""


class Tune(Sparing):
    """How to tune.

    candidates  each method's budget is the steps of so many candidates that are not stopped
    validation  share of the training split that is cut from it to choose by
    pruner      stops a candidate at a quarter or at half of its steps
    seed        of the candidates' settings, and of their heads, orders and dropout
    at_once     settings that are asked for and told together, so that an executor may try them at once; each is drawn
                and stopped by what was told before them. Trials depend on it, and not on how many really go on at once
    """

    unwritten: ClassVar[frozenset[str]] = frozenset({"at_once"})

    candidates: int = Field(default=6, ge=1)
    validation: float = Field(default=0.2, gt=0, lt=1)
    pruner: Literal["median", "successive-halving", "hyperband"] = "median"
    seed: int = 0
    at_once: int = Field(default=1, ge=1)


def settled(run: Run, setting: Mapping[str, Any]) -> Run:
    """`run` with a setting."""
    changes = {
        "training": run.training.model_copy(update={RATE: setting[RATE]}) if RATE in setting else run.training,
        "hyperparameters": run.hyperparameters | {key: value for key, value in setting.items() if key != RATE},
    }
    return Run.model_validate({name: getattr(run, name) for name in Run.model_fields} | changes)


def candidate_run(run: Run, setting: Mapping[str, Any], how: Tune) -> Run:
    """What is tried: never on the held-out split, and with a seed that no run of the study is likely to have."""
    fixed = {
        "data": run.data.model_copy(update={"validation": how.validation}),
        "seed": derive_seed(how.seed, "tuning"),
    }
    made = settled(run, setting)
    return Run.model_validate({name: getattr(made, name) for name in Run.model_fields} | fixed)


class Trial(Frozen):
    """A candidate for a run's settings that was tried out.

    steps     optimiser steps taken; fewer than `Tuned.length` where it was stopped early
    value     of the headline metric on the validation cut, in training's precision, after the last of them; None where
              training diverged, NaN (null in JSON) where the metric is undefined: then the candidate loses
    seconds   wall-clock, its process's start and loading included
    """

    model_config = ConfigDict(populate_by_name=True)  # earlier files say `accuracy`

    setting: dict[str, Any]
    steps: int
    value: FigureOrNone = Field(validation_alias=AliasChoices("value", "accuracy"))
    seconds: float


class Tuned(Frozen):
    """What one method's tuning came to.

    name        of the run in its study;  method  its key
    length      optimiser steps of a trial that is not stopped
    budget      optimiser steps that each method of the study is given
    trials      in their order; none for a method that has nothing to tune
    setting     the chosen one; None while there is none
    validation_examples  texts cut from the training split, which chose it
    """

    name: str
    method: str
    length: int = 0
    budget: int = 0
    trials: tuple[Trial, ...] = ()
    setting: dict[str, Any] | None = None
    validation_examples: int = 0

    @property
    def steps(self) -> int:
        """Optimiser steps taken in all."""
        return sum(trial.steps for trial in self.trials)

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of all trials."""
        return sum(trial.seconds for trial in self.trials)

    @property
    def stopped(self) -> int:
        """Trials that did not take all their steps."""
        return sum(trial.steps < self.length for trial in self.trials)


_MANY = TypeAdapter(tuple[Tuned, ...])


def read_tuned(out: Path) -> tuple[Tuned, ...]:
    """What the tuning in `out` has come to; nothing where there was none. Raises InvalidData."""
    path = OutputDirectory(out).tuning
    if not path.exists():
        return ()
    try:
        return _MANY.validate_json(path.read_bytes())
    except ValidationError:
        raise InvalidData(
            f"{path}: damaged. Run the study again; it tunes only what is not tuned.",
            code="results.damaged",
            path=path,
        ) from None


def write_tuned(out: Path, tuned: Iterable[Tuned]) -> None:
    """Replace what the tuning in `out` has come to."""
    text = json.dumps([one.model_dump(mode="json") for one in tuned], indent=2)
    file_io.write_text(OutputDirectory(out).tuning, text + "\n")
