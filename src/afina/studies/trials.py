"""The parts of tuning: the search space (`Space`), the options (`Tune`), and the outcome (`Trial`, `Tuned`).

The outcome is stored in the file `tuning.json` in a study's output directory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from afina import file_io
from afina.digest import derive_seed
from afina.errors import UnknownName
from afina.methods import accepted, make
from afina.schema import FigureOrNone, Frozen, validator
from afina.studies import problems
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.run import Run
from afina.studies.study_file import checked
from afina.training.settings import Training

RATE = "learning_rate"
LESSONS: Mapping[str, tuple[float, ...]] = {"distil_temperature": (1.0, 2.0, 4.0), "distil_weight": (0.1, 0.5, 0.9)}
"""The values that tuning tries for the settings of a run with a teacher, unless `search` gives others."""

SPREAD = 10.0
"""By default, tuning searches from the default learning rate divided by SPREAD to the rate times SPREAD."""


@dataclass(frozen=True)
class Space:
    """The search space of a method's learning rate, hyperparameters and settings of distillation.

    `rates`: the lowest and highest learning rate, drawn log-uniformly. `start` is tried first: the study's setting,
    changed where it lies outside of the space.
    """

    rates: tuple[float, float]
    choices: Mapping[str, tuple[Any, ...]]
    start: Mapping[str, Any]

    @classmethod
    def of(cls, run: Run, search: Mapping[str, Any], where: str) -> Space | None:
        """Return the space of a run's method, changed by the table `search`; None if there is nothing to tune."""
        method = make(run.method, run.hyperparameters)
        if method.search is None:
            if search:
                raise problems.NOTHING_TO_TUNE(where=where, method=run.method)
            return None
        own, lesson = sorted(accepted(run.method)), LESSONS if run.teacher is not None else {}
        for key in search:
            if key not in (RATE, *lesson, *own):
                raise UnknownName("key", key, [RATE, *lesson, *own], f"{where}.search")
        rate = run.training.learning_rate or method.learning_rate
        low, high = _range(search[RATE], where) if RATE in search else (rate / SPREAD, rate * SPREAD)
        choices = {}
        for key, values in {**method.search, **lesson, **search}.items():
            if key == RATE:
                continue
            if not isinstance(values, list | tuple) or not values:
                raise problems.FORM_WRONG(
                    _place=f"{where}.search.{key}",
                    _expected="a list of values to choose from",
                    where=where,
                    key=key,
                    found=values,
                )
            for value in values:
                if key in lesson:
                    checked(Training, {key: value}, f"{where}.search")
                else:
                    make(run.method, {**run.hyperparameters, key: value}, f"{where}.search")
            choices[key] = tuple(values)
        # `hyperparameters` leaves out some that have their defaults
        given = {key: run.hyperparameters.get(key, getattr(method, key, None)) for key in choices}
        given |= {key: getattr(run.training, key) for key in lesson}
        start = {key: value if value in choices[key] else choices[key][0] for key, value in given.items()}
        return cls((low, high), choices, {RATE: min(max(rate, low), high), **start})


def _range(given: Any, where: str) -> tuple[float, float]:
    try:
        low, high = validator(tuple[float, float]).validate_python(given)
    except ValidationError:
        low = high = 0.0
    if not 0 < low < high < math.inf:
        raise problems.FORM_WRONG(
            _place=f"{where}.search.{RATE}",
            _expected="[lowest, highest], finite and above 0",
            where=where,
            key=RATE,
            found=given,
        )
    return low, high


RUNGS = (1, 2, 4)
"""A tuning trial is scored on the validation split after a quarter, half and all of its steps (in quarters)."""


class Tune(Frozen):
    """The options of tuning: the section [tune] of a study file.

    Attributes:
        candidates: The tuning budget of each method, as the number of candidates (settings) that can be trained with
            all their steps. Candidates that are stopped early leave steps for more candidates.
        validation: The share of the training split that is cut off as the validation split.
        pruner: The rule by which a bad candidate is stopped after a quarter or half of its steps.
        seed: The random seed of the candidates' settings, and of their heads, orders of texts and dropout.
        at_once: The number of settings in a batch, so that an executor can try them at the same time. Each setting is
            drawn and pruned by the outcomes of earlier batches only. Trials depend on `at_once`, but not on how many
            trials really run at the same time.
    """

    candidates: int = Field(default=6, ge=1)
    validation: float = Field(default=0.2, gt=0, lt=1)
    pruner: Literal["median", "successive-halving", "hyperband"] = "median"
    seed: int = 0
    at_once: int = Field(default=1, ge=1)


def candidate_run(run: Run, setting: Mapping[str, Any], how: Tune) -> Run:
    """Return the run that trains with a setting and is scored on the validation split, never on the held-out split.

    The run's seed is derived from `how.seed`, so that the study's own runs are unlikely to have the same seed.
    """
    of_training = {key: value for key, value in setting.items() if key in (RATE, *LESSONS)}
    changes = {
        "data": replace(run.data, validation=how.validation),
        "training": run.training.model_copy(update=of_training),
        "hyperparameters": run.hyperparameters | {key: setting[key] for key in setting if key not in of_training},
        "seed": derive_seed(how.seed, "tuning"),
    }
    return Run.model_validate({name: getattr(run, name) for name in Run.model_fields} | changes)


class Trial(Frozen):
    """A setting that tuning tried.

    `steps` are fewer than `Tuned.length` if the trial was stopped early. `value` is the headline metric on the
    validation split after the last step, in the precision of training; None if the training diverged, and NaN (null in
    JSON, and never chosen) if the metric is undefined. `seconds` include the start of the process and loading.
    """

    setting: dict[str, Any]
    steps: int
    value: FigureOrNone
    seconds: float


class Tuned(Frozen):
    """The outcome of tuning one method.

    `backbone` is None if the study has one. `length` is the number of steps of a trial that is not stopped early, and
    `budget` the number that each method may take in tuning. `setting` is None if no trial is complete yet.
    """

    name: str
    method: str
    backbone: str | None = None
    length: int = 0
    budget: int = 0
    trials: tuple[Trial, ...] = ()
    setting: dict[str, Any] | None = None
    validation_examples: int = 0

    def on(self, backbone: str | None) -> Tuned:
        """Return a copy with the given address as `backbone`."""
        return self.model_copy(update={"backbone": backbone})

    @property
    def steps(self) -> int:
        return sum(trial.steps for trial in self.trials)

    @property
    def seconds(self) -> float:
        return sum(trial.seconds for trial in self.trials)

    @property
    def stopped(self) -> int:
        """The number of trials that were stopped early."""
        return sum(trial.steps < self.length for trial in self.trials)


_MANY = TypeAdapter(tuple[Tuned, ...])


def read_tuned(out: Path) -> tuple[Tuned, ...]:
    """Read the file `tuning.json` in the output directory `out`; () if there was no tuning. Raises InvalidData."""
    path = OutputDirectory(out).tuning
    if not path.exists():
        return ()
    try:
        return _MANY.validate_json(path.read_bytes())
    except ValidationError:
        raise problems.FILE_DAMAGED(
            path=path, _instead="Run the study again; only methods without a chosen setting are tuned."
        ) from None


def write_tuned(out: Path, tuned: Iterable[Tuned]) -> None:
    text = json.dumps([one.model_dump(mode="json") for one in tuned], indent=2)
    file_io.write_text(OutputDirectory(out).tuning, text + "\n")
