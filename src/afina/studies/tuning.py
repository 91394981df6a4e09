"""Tune: choose each method's settings by a validation split cut from the training split, with the same budget for each.

The budget is a number of optimiser steps. Candidates that do badly are stopped early by one of Optuna's pruners, and
what that saves pays for more candidates, so every method takes exactly as many steps as the others. The trial of a
candidate is an executor's work; what has been tried is kept in Optuna's database, so that a killed study goes on.
The held-out split is in no candidate's reach: see `Data.validation`. Starts without torch and without optuna.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from math import inf, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from afina import digest, meter
from afina.errors import CannotWrite, InvalidData, RunFailed
from afina.events import Score
from afina.schema import Frozen
from afina.seeds import derive
from afina.studies.directory import Directory
from afina.studies.executors.executor import Executor
from afina.studies.run import Run
from afina.studies.space import RATE, Space
from afina.studies.trials import Trial, Tuned
from afina.studies.watcher import Watcher

if TYPE_CHECKING:
    import optuna

RUNGS = (1, 2, 4)
"""A candidate is scored after so many quarters of its steps."""

AT_RANDOM = 3
"""Candidates before Optuna's sampler learns from what was tried."""


_FIRST_DATA = {
    *("text", "text_pair", "label", "labels", "kind", "separator", "train_examples", "evaluation_examples"),
    *("validation", "evaluation", "selection"),
}
"""Fields of `Data` that stand in a tuning's name even where they are neutral."""


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


def tune(
    run: Run,
    space: Space | None,
    how: Tune,
    out: Path,
    executor: Executor,
    watcher: Watcher,
    keep: Callable[[Tuned], None],
    *,
    fresh: bool = False,
) -> Tuned:
    """Choose the setting of one run of a study, whatever its seed.

    out   where the database is, so that a tuning that was ended goes on
    keep  called with what there is after each trial
    fresh forget what was tried before
    Raises RunFailed where a trial could not be carried out, or none took all its steps.
    """
    so_far = Tuned(name=run.title, method=run.method, setting={})
    if space is None:
        return so_far
    with _memory(Directory(out).tuning_memory) as storage:
        study = _study(storage, run, space, how, fresh=fresh)
        so_far = _told(study, run, space, how)
        while not so_far.budget or so_far.steps < so_far.budget:
            _try_next(study, run, space, how, so_far, executor, watcher)
            so_far = _told(study, run, space, how)
            keep(so_far)
    if so_far.setting is None:
        if any(trial.value is not None and isnan(trial.value) for trial in so_far.trials):
            raise RunFailed(
                f"run {run.title}: what its candidates are chosen by is undefined on the validation cut. Raise "
                "tune.validation, or choose by another `metric`.",
                code="tune.metric-undefined",
                run=run.title,
            )
        raise RunFailed(
            f"run {run.title}: none of its {len(so_far.trials)} candidates took all of its steps. "
            f"Lower methods.{run.title}.search.{RATE}, or raise tune.candidates.",
            code="tune.no-candidate",
            run=run.title,
            candidates=len(so_far.trials),
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


def _try_next(
    study: optuna.Study, run: Run, space: Space, how: Tune, so_far: Tuned, executor: Executor, watcher: Watcher
) -> None:
    import optuna
    from optuna.trial import TrialState

    number = len(so_far.trials)
    if number == 0 and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        study.enqueue_trial(_encoded(space.start))
    # Drawn from the number and what was tried, so that a study that was killed draws the same.
    study.sampler = optuna.samplers.TPESampler(
        seed=derive(how.seed, "candidate", number) % 2**32, n_startup_trials=AT_RANDOM
    )
    trial = study.ask()
    trying = candidate(run, _draw(space, trial), how)
    watcher.trying(run, number + 1, so_far.steps / so_far.budget if so_far.budget else 0.0)
    began = meter.now()

    def goes_on(score: Score) -> bool:
        quarter = next((rung for rung in RUNGS if _quarter(rung, score.steps) == score.step), None)
        if score.value is None or quarter is None:
            return False
        trial.report(_value(score), quarter)
        return score.step < score.steps and not trial.should_prune()

    limit = so_far.budget - so_far.steps if so_far.budget else None
    shares = tuple(rung / RUNGS[-1] for rung in RUNGS)
    score = executor.try_out(trying, shares, limit, goes_on, partial(watcher.progress, run))
    facts = {
        "steps": score.step,
        "length": score.steps,
        "examples": score.examples,
        "value": score.value,
        "seconds": meter.now() - began,
    }
    trial.set_user_attr("facts", facts)
    complete = score.step == score.steps and score.value is not None
    if complete:
        study.tell(trial, _value(score))
    else:
        study.tell(trial, state=TrialState.PRUNED)
    watcher.tried(run, number + 1, _tried(study.get_trials(deepcopy=False)[trial.number]), score.steps)


def _draw(space: Space, trial: optuna.Trial) -> dict[str, Any]:
    """The setting of a trial."""
    drawn: dict[str, Any] = {RATE: trial.suggest_float(RATE, *space.rates, log=True)}
    for key, values in space.choices.items():
        # As text, since a value may be a list and Optuna's database takes none.
        drawn[key] = trial.suggest_categorical(key, [*map(json.dumps, values)])
    return _decoded(drawn)


def _encoded(setting: Mapping[str, Any]) -> dict[str, Any]:
    """A setting as the database holds it."""
    return {key: value if key == RATE else json.dumps(value) for key, value in setting.items()}


def _decoded(drawn: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value if key == RATE else json.loads(value) for key, value in drawn.items()}


def _quarter(rung: int, steps: int) -> int:
    return max(1, round(rung / RUNGS[-1] * steps))


def _value(score: Score) -> float:
    """What is won by the metric; among equal ones a lower loss is better, by less than half a text."""
    assert score.gain is not None
    assert score.loss is not None
    return score.gain - score.loss / (1 + score.loss) / (2 * score.examples)


def _tried(trial: optuna.trial.FrozenTrial) -> Trial:
    facts = trial.user_attrs["facts"]
    setting = _decoded(trial.params)
    return Trial(
        setting=setting,
        steps=facts["steps"],
        value=facts["value"] if "value" in facts else facts["accuracy"],
        seconds=facts["seconds"],
    )


def _told(study: optuna.Study, run: Run, space: Space, how: Tune) -> Tuned:
    """What the database holds of finished trials."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    if not trials:
        return Tuned(name=run.title, method=run.method)
    facts = trials[0].user_attrs["facts"]
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.value != -inf]
    best = max(complete, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)
    return Tuned(
        name=run.title,
        method=run.method,
        length=facts["length"],
        budget=how.candidates * facts["length"],
        trials=tuple(map(_tried, trials)),
        setting=_tried(best).setting if best else None,
        validation_examples=facts["examples"],
    )


def _study(storage: optuna.storages.RDBStorage, run: Run, space: Space, how: Tune, *, fresh: bool) -> optuna.Study:
    import optuna
    from optuna.trial import TrialState

    pruners: dict[str, Callable[[], optuna.pruners.BasePruner]] = {
        "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=1),
        "successive-halving": lambda: optuna.pruners.SuccessiveHalvingPruner(RUNGS[0], reduction_factor=2),
        "hyperband": lambda: optuna.pruners.HyperbandPruner(RUNGS[0], RUNGS[-1], reduction_factor=2),
    }
    name = _name(run, space, how)
    if fresh and name in optuna.get_all_study_names(storage):
        optuna.delete_study(study_name=name, storage=storage)
    made = optuna.create_study(
        storage=storage,
        study_name=name,
        direction="maximize",
        pruner=pruners[how.pruner](),
        load_if_exists=True,
    )
    for left in made.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        made.tell(left.number, state=TrialState.FAIL)  # killed under way: it starts again
    return made


def _name(run: Run, space: Space, how: Tune) -> str:
    """What the database calls it: of all that makes a candidate, so that what another setting tried is never taken for
    this one's. What candidates had not when databases were first written is in it only where it is not neutral.
    """
    asked = candidate(run, {}, how).model_dump(mode="json", exclude={"name": True, "data": {"allow_leakage"}})
    later = {"data": asked["data"].keys() - _FIRST_DATA, "": {"data_digest"}}
    for part, names in later.items():
        table, of = (asked[part], type(run.data)) if part else (asked, type(run))
        for name in names:
            if table[name] == of.model_fields[name].default:
                del table[name]
    whole = [asked, how.model_dump(exclude={"candidates"}), space.rates, {k: [*v] for k, v in space.choices.items()}]
    return f"{run.title}-{digest.of_json(whole).removeprefix(digest.PREFIX)[:16]}"


@contextmanager
def _memory(path: Path) -> Iterator[optuna.storages.RDBStorage]:
    """Optuna's database, and Optuna silent: what it says of its trials is not for our user."""
    if path.exists():
        with path.open("rb") as file:
            if file.read(16) not in (b"", b"SQLite format 3\0"):
                raise InvalidData(
                    f"{path}: not a database. Remove it, and the tuning starts anew.",
                    code="results.damaged",
                    path=path,
                )
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
        try:
            yield storage
        finally:
            storage.remove_session()
            storage.engine.dispose()
    except Exception as error:
        problem = _of_sqlite(error)
        if problem is None:
            raise
        raise CannotWrite(path, str(problem)) from None
    finally:
        optuna.logging.set_verbosity(level)


def _of_sqlite(error: BaseException | None) -> sqlite3.OperationalError | None:
    """What the database could not do, such as for want of room, which Optuna wraps in errors of two libraries."""
    while error is not None and not isinstance(error, sqlite3.OperationalError):
        error = error.__cause__ or error.__context__
    return error
