"""Tune: choose each method's settings by a validation split cut from the training split, with the same budget for each.

The budget is a number of optimiser steps. Candidates that do badly are stopped early by one of Optuna's pruners, and
what that saves pays for more candidates, so every method takes exactly as many steps as the others. Candidates are
processes of their own; what has been tried is kept in `tuning.db`, so that a killed study goes on.
The held-out split is in no candidate's reach: see `Data.validation`. Starts without torch and without optuna.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from afina import digest, meter
from afina.errors import InvalidData, InvalidStudy, RunFailed, UnknownName
from afina.events import Progress, Score
from afina.methods import METHODS, make
from afina.schema import Frozen
from afina.seeds import derive
from afina.studies.executors import local
from afina.studies.run import Run
from afina.studies.trials import Candidate, Tuned

if TYPE_CHECKING:
    import optuna

MEMORY = "tuning.db"
RATE = "learning_rate"
SPREAD = 10.0
"""A method's default learning rate is divided and multiplied by this, where the study names no range."""

RUNGS = (1, 2, 4)
"""A candidate is scored after so many quarters of its steps."""

AT_RANDOM = 3
"""Candidates before Optuna's sampler learns from what was tried."""


class Tune(Frozen):
    """How to tune.

    candidates  each method's budget is the steps of so many candidates that are not stopped
    validation  share of the training split that is cut from it to choose by
    pruner      stops a candidate at a quarter or at half of its steps. Where a study was killed, `median` decides as
                if it had not been; the other two count what the killed candidate had scored once more
    seed        of the candidates' settings, and of their heads, orders and dropout
    """

    candidates: int = Field(default=6, ge=1)
    validation: float = Field(default=0.2, gt=0, lt=1)
    pruner: Literal["median", "successive-halving", "hyperband"] = "median"
    seed: int = 0


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
        method = METHODS[run.method]
        if method.search is None:
            if search:
                raise InvalidStudy(f"{where}: {run.method} has nothing to tune. Remove search.")
            return None
        own = [field.name for field in fields(method)]
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
                raise InvalidStudy(f"{where}.search.{key} = {values!r}: expected a list of values to choose from.")
            for value in values:
                make(run.method, {**run.hyperparameters, key: value}, f"{where}.search")
            choices[key] = tuple(values)
        given = {key: run.hyperparameters[key] for key in choices}
        start = {key: value if value in choices[key] else choices[key][0] for key, value in given.items()}
        return cls((low, high), choices, {RATE: min(max(rate, low), high), **start})

    def draw(self, trial: optuna.Trial) -> dict[str, Any]:
        """The trial's setting."""
        rate = trial.suggest_float(RATE, *self.rates, log=True)
        # As text, since a value may be a list and Optuna's database takes none.
        drawn = {key: trial.suggest_categorical(key, [*map(json.dumps, v)]) for key, v in self.choices.items()}
        return {RATE: rate, **{key: json.loads(value) for key, value in drawn.items()}}

    def encoded(self, setting: Mapping[str, Any]) -> dict[str, Any]:
        """A setting as the database holds it."""
        return {key: value if key == RATE else json.dumps(value) for key, value in setting.items()}


def _range(given: Any, where: str) -> tuple[float, float]:
    try:
        low, high = map(float, given)
    except (TypeError, ValueError):
        low = high = 0.0
    if not 0 < low < high:
        raise InvalidStudy(f"{where}.search.{RATE} = {given!r}: expected [lowest, highest], both above 0.")
    return low, high


@dataclass(frozen=True)
class Hearing:
    """Who is told of the candidates of a run."""

    started: Callable[[Run, int, float], None]
    progress: Callable[[Run, Progress], None]
    tried: Callable[[Run, int, Candidate, int], None]


def tune(run: Run, space: Space | None, how: Tune, out: Path, hearing: Hearing, keep: Callable[[Tuned], None]) -> Tuned:
    """Choose the setting of one run of a study, whatever its seed.

    keep  called with what there is after each candidate
    Raises RunFailed where a candidate could not be carried out, or none took all its steps.
    """
    so_far = Tuned(name=run.title, method=run.method, setting={})
    if space is None:
        return so_far
    with _memory(out / MEMORY) as storage:
        study = _study(storage, run, space, how)
        so_far = _told(study, run, space, how)
        while not so_far.budget or so_far.steps < so_far.budget:
            _try_next(study, run, space, how, so_far, hearing)
            so_far = _told(study, run, space, how)
            keep(so_far)
    if so_far.setting is None:
        raise RunFailed(
            f"run {run.title}: none of its {len(so_far.candidates)} candidates took all of its steps. "
            f"Lower methods.{run.title}.search.{RATE}, or raise tune.candidates."
        )
    return so_far


def settled(run: Run, setting: Mapping[str, Any]) -> Run:
    """`run` with a setting."""
    changes = {
        "training": run.training.model_copy(update={RATE: setting[RATE]}) if RATE in setting else run.training,
        "hyperparameters": run.hyperparameters | {key: value for key, value in setting.items() if key != RATE},
    }
    return Run.model_validate({name: getattr(run, name) for name in Run.model_fields} | changes)


def candidate(run: Run, setting: Mapping[str, Any], how: Tune) -> Run:
    """What is tried: never on the held-out split, and with a seed that no run of the study is likely to have."""
    fixed = {"data": run.data.model_copy(update={"validation": how.validation}), "seed": derive(how.seed, "tuning")}
    made = settled(run, setting)
    return Run.model_validate({name: getattr(made, name) for name in Run.model_fields} | fixed)


def _try_next(study: optuna.Study, run: Run, space: Space, how: Tune, so_far: Tuned, hearing: Hearing) -> None:
    import optuna
    from optuna.trial import TrialState

    number = len(so_far.candidates)
    if number == 0 and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.enqueue_trial(space.encoded(space.start))
    # Drawn from the number and what was tried, so that a study that was killed draws the same.
    study.sampler = optuna.samplers.TPESampler(
        seed=derive(how.seed, "candidate", number) % 2**32, n_startup_trials=AT_RANDOM
    )
    trial = study.ask()
    tried = candidate(run, space.draw(trial), how)
    hearing.started(run, number + 1, so_far.steps / so_far.budget if so_far.budget else 0.0)
    began = meter.now()

    def goes_on(score: Score) -> bool:
        quarter = next((rung for rung in RUNGS if _quarter(rung, score.steps) == score.step), None)
        if score.accuracy is None or quarter is None:
            return False
        trial.report(_value(score), quarter)
        return score.step < score.steps and not trial.should_prune()

    limit = so_far.budget - so_far.steps if so_far.budget else None
    shares = tuple(rung / RUNGS[-1] for rung in RUNGS)
    score = local.try_out(tried, shares, limit, goes_on, partial(hearing.progress, run))
    facts = {
        "steps": score.step,
        "length": score.steps,
        "examples": score.examples,
        "accuracy": score.accuracy,
        "seconds": meter.now() - began,
    }
    trial.set_user_attr("facts", facts)
    complete = score.step == score.steps and score.accuracy is not None
    if complete:
        study.tell(trial, _value(score))
    else:
        study.tell(trial, state=TrialState.PRUNED)
    hearing.tried(run, number + 1, _tried(study.get_trials(deepcopy=False)[trial.number]), score.steps)


def _quarter(rung: int, steps: int) -> int:
    return max(1, round(rung / RUNGS[-1] * steps))


def _value(score: Score) -> float:
    """The accuracy; among equal ones a lower loss is better, by less than half a text."""
    assert score.accuracy is not None
    assert score.loss is not None
    return score.accuracy - score.loss / (1 + score.loss) / (2 * score.examples)


def _tried(trial: optuna.trial.FrozenTrial) -> Candidate:
    facts = trial.user_attrs["facts"]
    setting = {key: value if key == RATE else json.loads(value) for key, value in trial.params.items()}
    return Candidate(setting=setting, steps=facts["steps"], accuracy=facts["accuracy"], seconds=facts["seconds"])


def _told(study: optuna.Study, run: Run, space: Space, how: Tune) -> Tuned:
    """What the database holds of finished candidates."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    if not trials:
        return Tuned(name=run.title, method=run.method)
    facts = trials[0].user_attrs["facts"]
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = max(complete, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)
    return Tuned(
        name=run.title,
        method=run.method,
        length=facts["length"],
        budget=how.candidates * facts["length"],
        candidates=tuple(map(_tried, trials)),
        setting=_tried(best).setting if best else None,
        validation_examples=facts["examples"],
    )


def _study(storage: optuna.storages.RDBStorage, run: Run, space: Space, how: Tune) -> optuna.Study:
    import optuna
    from optuna.trial import TrialState

    pruners: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
        "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=1),
        "successive-halving": lambda: optuna.pruners.SuccessiveHalvingPruner(RUNGS[0], reduction_factor=2),
        "hyperband": lambda: optuna.pruners.HyperbandPruner(RUNGS[0], RUNGS[-1], reduction_factor=2),
    }
    # All that makes a candidate, so that what another setting tried is never taken for this one's.
    asked = candidate(run, {}, how).model_dump(mode="json", exclude={"name": True, "data": {"allow_leakage"}})
    whole = [asked, how.model_dump(exclude={"candidates"}), space.rates, {k: [*v] for k, v in space.choices.items()}]
    made = optuna.create_study(
        storage=storage,
        study_name=f"{run.title}-{digest.of_json(whole).removeprefix(digest.PREFIX)[:16]}",
        direction="maximize",
        pruner=pruners[how.pruner](),
        load_if_exists=True,
    )
    for left in made.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        made.tell(left.number, state=TrialState.FAIL)  # killed under way: it starts again
    return made


@contextmanager
def _memory(path: Path) -> Iterator[optuna.storages.RDBStorage]:
    """Optuna's database, and Optuna silent: what it says of its trials is not for our user."""
    if path.exists():
        with path.open("rb") as file:
            if file.read(16) not in (b"", b"SQLite format 3\0"):
                raise InvalidData(f"{path}: not a database. Remove it, and the tuning starts anew.")
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()
        optuna.logging.set_verbosity(level)
