"""Candidates: settings for a run that tuning tries, and Optuna's database of what was tried. Starts without optuna.

Every candidate is drawn and judged in a copy of what the database held before its batch, and put into the database when
its trial has ended. So a tuning that was killed goes on as if it had not been. Knows no executor.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from math import ceil, inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from afina import digest
from afina.digest import derive_seed
from afina.errors import CannotWrite, InvalidData
from afina.events import ValidationScore
from afina.schema import Sparing
from afina.studies.runs.run import Run
from afina.studies.space import RATE, Space
from afina.studies.trials import Trial, Tuned

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


def candidate(run: Run, setting: Mapping[str, Any], how: Tune) -> Run:
    """What is tried: never on the held-out split, and with a seed that no run of the study is likely to have."""
    fixed = {
        "data": run.data.model_copy(update={"validation": how.validation}),
        "seed": derive_seed(how.seed, "tuning"),
    }
    made = settled(run, setting)
    return Run.model_validate({name: getattr(made, name) for name in Run.model_fields} | fixed)


@dataclass(frozen=True)
class Candidate:
    """A setting of a batch, in a copy of what Optuna knew before the batch, so that none of the batch sees another.

    number  among all that were tried, from 0
    limit   the most steps that it may take; None: all
    """

    number: int
    limit: int | None
    batch: Batch
    study: optuna.Study
    trial: optuna.Trial
    run: Run

    def goes_on(self, score: ValidationScore) -> bool:
        """Whether it is not stopped after that score."""
        quarter = next((rung for rung in RUNGS if _quarter(rung, score.steps) == score.step), None)
        if score.value is None or quarter is None:
            return False
        if quarter not in self.study.get_trials(deepcopy=False)[self.trial.number].intermediate_values:  # else it was
            self.trial.report(_value(score), quarter)  # scored before its machine was lost
        return score.step < score.steps and not self.trial.should_prune()

    def ended(self, score: ValidationScore, seconds: float) -> optuna.trial.FrozenTrial:
        """Its last score, as the trial that Optuna remembers."""
        from optuna.trial import TrialState

        facts: dict[str, Any] = {
            "steps": score.step,
            "length": score.steps,
            "examples": score.examples,
            "value": score.value,
            "seconds": seconds,
        }
        if self.batch.size > 1:
            facts["batch"] = [self.batch.began, self.batch.size]
        self.trial.set_user_attr("facts", facts)
        if score.step == score.steps and score.value is not None:
            self.study.tell(self.trial, _value(score))
        else:
            self.study.tell(self.trial, state=TrialState.PRUNED)
        return self.study.get_trials(deepcopy=False)[self.trial.number]


@dataclass(frozen=True)
class Batch:
    """Candidates that are asked for and told together.

    began, size  the number of the first, and how many there are
    spent        steps that were taken before it
    """

    began: int
    size: int
    spent: int


@dataclass(frozen=True)
class Candidates:
    """The candidates for the settings of one run of a study."""

    study: optuna.Study
    run: Run
    space: Space
    how: Tune

    @property
    def told(self) -> list[optuna.trial.FrozenTrial]:
        """The trials that have ended, in their order."""
        from optuna.trial import TrialState

        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))

    @property
    def so_far(self) -> Tuned:
        """What has come of them."""
        return _tuned(self.told, self.run, self.how)

    def batch(self) -> Batch:
        """The batch to try now: the rest of one that a killed study had begun, or the next one."""
        told = self.told
        if not told:
            return Batch(0, min(self.how.at_once, self.how.candidates), 0)
        began, size = told[-1].user_attrs["facts"].get("batch", (len(told) - 1, 1))
        if began + size > len(told):
            return Batch(began, size, _tuned(told[:began], self.run, self.how).steps)
        made = self.so_far
        return Batch(len(told), min(self.how.at_once, ceil((made.budget - made.steps) / made.length)), made.steps)

    def ask(self, number: int, batch: Batch) -> Candidate:
        """A candidate of the batch, drawn from its number and from what was told before the batch."""
        import optuna
        from optuna.trial import TrialState, create_trial

        told, place = self.told, number - batch.began
        until = told[batch.began].number if batch.began < len(told) else inf
        copy = optuna.create_study(
            study_name=self.study.study_name,
            direction="maximize",
            pruner=deepcopy(self.study.pruner),  # Hyperband's changes when it first judges, in another thread
            sampler=optuna.samplers.TPESampler(
                seed=derive_seed(self.how.seed, "candidate", number) % 2**32, n_startup_trials=AT_RANDOM
            ),
        )
        for trial in self.study.get_trials(deepcopy=False):
            if trial.number < until and trial.state.is_finished():
                copy.add_trial(trial)
        for _ in range(place):  # Hyperband goes by a trial's number
            copy.add_trial(create_trial(state=TrialState.FAIL))
        if number == 0:
            copy.enqueue_trial(_encoded(self.space.start))
        made = _tuned(told[: batch.began], self.run, self.how)
        limit = min(made.length, made.budget - batch.spent - place * made.length) if made.budget else None
        asked = copy.ask()
        run = candidate(self.run, _draw(self.space, asked), self.how)
        return Candidate(number, limit, batch, copy, asked, run)

    def tell(self, one: Candidate, score: ValidationScore, seconds: float) -> Trial:
        """Keep what came of a candidate, the next in order; `score` is its last one."""
        self.study.add_trial(one.ended(score, seconds))
        return _tried(self.told[-1])


@contextmanager
def opened(path: Path, run: Run, space: Space, how: Tune, *, fresh: bool) -> Iterator[Candidates]:
    """What was tried before for `run` in a database, which is made where it is missing; nothing if `fresh`."""
    with _memory(path) as storage:
        yield Candidates(_study(storage, run, space, how, fresh=fresh), run, space, how)


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


def _value(score: ValidationScore) -> float:
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


def _tuned(trials: Sequence[optuna.trial.FrozenTrial], run: Run, how: Tune) -> Tuned:
    """The outcome of trials."""
    from optuna.trial import TrialState

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
        made.tell(left.number, state=TrialState.FAIL)  # killed under way, by an earlier version: it starts again
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
