"""Tuning chooses each method's hyperparameters on a validation split, with the same number of steps for each method.

The validation split is cut from the training split, and no candidate is evaluated on the held-out split. A pruner of
Optuna stops bad candidates early, and the saved steps are used for more candidates.

Optuna draws and prunes each candidate in a copy of its database from before the candidate's batch. The candidate is
added to Optuna's database when its trial has ended. A tuning that was killed continues with the same candidates.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from math import ceil, inf, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afina import digest, meter
from afina.digest import derive_seed
from afina.errors import AfinaError, CannotWrite
from afina.events import Progress, ValidationScore
from afina.studies import problems
from afina.studies.executors.executor import Executor
from afina.studies.executors.lost_runs import retry_if_lost
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.run import Run
from afina.studies.schedule import Slots, Tell, wait_for_memory
from afina.studies.trials import RATE, RUNGS, Space, Trial, Tune, Tuned, candidate_run
from afina.studies.watcher import Watcher

if TYPE_CHECKING:
    import optuna

AT_RANDOM = 3
"""The number of candidates that are drawn at random before Optuna's sampler uses the results of earlier trials."""


@dataclass(frozen=True)
class PendingTrial:
    """A tuning trial in progress, of a copy of Optuna's study from before its batch.

    `number` is that among all trials, from 0; `limit` the largest number of steps. None: no limit.
    """

    number: int
    limit: int | None
    batch: Batch
    study: optuna.Study
    trial: optuna.Trial
    run: Run

    def goes_on(self, score: ValidationScore) -> bool:
        """Return whether the trial continues after this score, or is stopped early."""
        quarter = next((rung for rung in RUNGS if max(1, round(rung / RUNGS[-1] * score.steps)) == score.step), None)
        if score.value is None or quarter is None:
            return False
        # a trial that is repeated after its machine was lost may have this score already
        if quarter not in self.study.get_trials(deepcopy=False)[self.trial.number].intermediate_values:
            self.trial.report(_value(score), quarter)
        return score.step < score.steps and not self.trial.should_prune()

    def ended(self, score: ValidationScore, seconds: float) -> optuna.trial.FrozenTrial:
        """Return the trial with its last score, as Optuna's database stores it."""
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
    """Trials that are all drawn before Optuna has the result of any of them.

    `began` is the number of the first trial; `spent` the steps taken by the trials before the batch.
    """

    began: int
    size: int
    spent: int


@dataclass(frozen=True)
class Candidates:
    """The candidate settings that tuning tries for one run of a study, stored in Optuna's database."""

    study: optuna.Study
    run: Run
    space: Space
    how: Tune

    @property
    def trials(self) -> list[optuna.trial.FrozenTrial]:
        """The trials that have ended (complete or stopped early), in the order of their numbers."""
        from optuna.trial import TrialState

        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))

    @property
    def so_far(self) -> Tuned:
        return _tuned(self.trials, self.run, self.how)

    def batch(self) -> Batch:
        """Return the batch of trials to execute now: the batch that a killed study began, or the next batch."""
        trials = self.trials
        if not trials:
            return Batch(0, min(self.how.at_once, self.how.candidates), 0)
        began, size = trials[-1].user_attrs["facts"].get("batch", (len(trials) - 1, 1))
        if began + size > len(trials):
            return Batch(began, size, _tuned(trials[:began], self.run, self.how).steps)
        made = self.so_far
        return Batch(len(trials), min(self.how.at_once, ceil((made.budget - made.steps) / made.length)), made.steps)

    def ask(self, number: int, batch: Batch) -> PendingTrial:
        """Return a new trial, whose setting depends only on its number and the trials before the batch."""
        import optuna
        from optuna.trial import TrialState, create_trial

        trials, place = self.trials, number - batch.began
        until = trials[batch.began].number if batch.began < len(trials) else inf
        copy = optuna.create_study(
            study_name=self.study.study_name,
            direction="maximize",
            pruner=deepcopy(self.study.pruner),  # Hyperband's pruner changes when it first judges, in another thread
            sampler=optuna.samplers.TPESampler(
                seed=derive_seed(self.how.seed, "candidate", number) % 2**32, n_startup_trials=AT_RANDOM
            ),
        )
        for trial in self.study.get_trials(deepcopy=False):
            if trial.number < until and trial.state.is_finished():
                copy.add_trial(trial)
        for _ in range(place):  # Hyperband assigns brackets by the trial's number
            copy.add_trial(create_trial(state=TrialState.FAIL))
        if number == 0:
            copy.enqueue_trial(
                {key: value if key == RATE else json.dumps(value) for key, value in self.space.start.items()}
            )
        made = _tuned(trials[: batch.began], self.run, self.how)
        limit = min(made.length, made.budget - batch.spent - place * made.length) if made.budget else None
        asked = copy.ask()
        run = candidate_run(self.run, _draw(self.space, asked), self.how)
        return PendingTrial(number, limit, batch, copy, asked, run)

    def tell(self, one: PendingTrial, score: ValidationScore, seconds: float) -> Trial:
        """Store an ended trial in Optuna's database; call it in the order of trials' numbers."""
        self.study.add_trial(one.ended(score, seconds))
        return _tried(self.trials[-1])


def _draw(space: Space, trial: optuna.Trial) -> dict[str, Any]:
    drawn: dict[str, Any] = {RATE: trial.suggest_float(RATE, *space.rates, log=True)}
    for key, values in space.choices.items():
        # As JSON text, since a value may be a list, which Optuna's database does not accept.
        drawn[key] = trial.suggest_categorical(key, [*map(json.dumps, values)])
    return _decoded(drawn)


def _decoded(drawn: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value if key == RATE else json.loads(value) for key, value in drawn.items()}


def _value(score: ValidationScore) -> float:
    """Return what Optuna maximizes: the gain of the headline metric, and among equal gains the lower loss."""
    assert score.gain is not None
    assert score.loss is not None
    return score.gain - score.loss / (1 + score.loss) / (2 * score.examples)


def _tried(trial: optuna.trial.FrozenTrial) -> Trial:
    facts = trial.user_attrs["facts"]
    setting = _decoded(trial.params)
    return Trial(
        setting=setting,
        steps=facts["steps"],
        value=facts["value"],
        seconds=facts["seconds"],
    )


def _tuned(trials: Sequence[optuna.trial.FrozenTrial], run: Run, how: Tune) -> Tuned:
    """Return the outcome, with the setting of the best complete trial."""
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
        made.tell(left.number, state=TrialState.FAIL)  # its process was killed: try it again
    return made


def _name(run: Run, space: Space, how: Tune) -> str:
    choices = {name: [*values] for name, values in space.choices.items()}
    settings = (
        candidate_run(run, {}, how).key,
        run.metric,
        how.non_defaults(without={"candidates"}),
        space.rates,
        choices,
    )
    return f"{run.title}-{digest.of_settings(*settings).removeprefix(digest.PREFIX)[:16]}"


@contextmanager
def _memory(path: Path) -> Iterator[optuna.storages.RDBStorage]:
    """Open Optuna's database at `path` for a `with` block, in which Optuna logs only errors."""
    if path.exists():
        with path.open("rb") as file:
            if file.read(16) not in (b"", b"SQLite format 3\0"):
                raise problems.FILE_DAMAGED(path=path, _instead="Remove the file to start the tuning anew.")
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
    """Return the SQLite error (such as a full disk) that caused an error of Optuna or SQLAlchemy, if any."""
    while error is not None and not isinstance(error, sqlite3.OperationalError):
        error = error.__cause__ or error.__context__
    return error


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
    """Choose the hyperparameters of a run of a study, which are then used with every seed.

    The database of Optuna in `out` lets an interrupted tuning continue; `fresh` deletes it. `keep` is called with the
    outcome so far after each trial. Raises RunFailed if no trial took all its steps.
    """
    so_far = Tuned(name=run.title, method=run.method, setting={})
    if space is None:
        return so_far
    with _memory(OutputDirectory(out).tuning_memory) as storage:
        candidates = Candidates(_study(storage, run, space, how, fresh=fresh), run, space, how)
        while not (so_far := candidates.so_far).budget or so_far.steps < so_far.budget:
            _try_batch(candidates, executor, watcher, keep)
    if so_far.setting is None:
        if any(trial.value is not None and isnan(trial.value) for trial in so_far.trials):
            raise problems.VALIDATION_METRIC_UNDEFINED(run=run.title)
        raise problems.NO_CANDIDATE(run=run.title, candidates=len(so_far.trials))
    return so_far


def _try_batch(candidates: Candidates, executor: Executor, watcher: Watcher, keep: Callable[[Tuned], None]) -> None:
    """Execute the trials of the current batch that have not ended, and store them in the order of their numbers."""
    batch, budget = candidates.batch(), candidates.so_far.budget
    left = [candidates.ask(number, batch) for number in range(len(candidates.trials), batch.began + batch.size)]
    alike = candidate_run(candidates.run, {}, candidates.how)
    memory = executor.foresee([alike]) if min(executor.slots, len(left)) > 1 else None
    ended: dict[int, tuple[PendingTrial, ValidationScore, float]] = {}
    failed: list[AfinaError] = []

    def end(number: int, tried: Callable[[], tuple[PendingTrial, ValidationScore, float]]) -> None:
        try:
            ended[number] = tried()
        except AfinaError as error:
            failed.append(error)
        while (count := len(candidates.trials)) in ended:
            one, score, seconds = ended.pop(count)
            made = candidates.tell(one, score, seconds)
            keep(candidates.so_far)
            watcher.tried(one.run, count + 1, made, score.steps)

    with Slots[int, tuple[PendingTrial, ValidationScore, float]](executor) as slots:
        for one in left:
            wait_for_memory(alike, memory, lambda: [alike for _ in slots.busy], lambda: end(*slots.next()), watcher)
            if failed:
                break
            watcher.trying(one.run, one.number + 1, batch.spent / budget if budget else 0.0)
            slots.start(one.number, partial(_try_out, one, executor, watcher))
            while (next_ended := slots.next_if_full()) is not None:
                end(*next_ended)
        while slots.busy:
            end(*slots.next())
    if failed:
        raise failed[0]


def _try_out(
    one: PendingTrial, executor: Executor, watcher: Watcher, tell: Tell
) -> tuple[PendingTrial, ValidationScore, float]:
    began, shares = meter.now(), tuple(rung / RUNGS[-1] for rung in RUNGS)

    def listen(progress: Progress) -> None:
        tell(partial(watcher.progress, one.run, progress))

    def try_out() -> ValidationScore:
        return executor.try_out(one.run, shares, one.limit, one.goes_on, listen)

    score = retry_if_lost(one.run, try_out, lambda words: tell(partial(watcher.says, words)))
    return one, score, meter.now() - began
