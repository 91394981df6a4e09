"""Tune: choose each method's settings by a validation split cut from the training split, with the same budget for each.

The budget is a number of optimiser steps. Candidates that do badly are stopped early by one of Optuna's pruners, and
what that saves pays for more candidates, so every method takes exactly as many steps as the others. The trial of a
candidate is an executor's work. The held-out split is in no candidate's reach: see `Data.validation`. Starts without
torch and without optuna.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import isnan
from pathlib import Path

from afina import meter
from afina.errors import AfinaError, RunFailed
from afina.events import Progress, ValidationScore
from afina.studies.candidates import RUNGS, Candidate, Candidates, Tune, candidate, opened
from afina.studies.memory import wait_for_memory
from afina.studies.runs.executor import Executor
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.run import Run
from afina.studies.slots import Slots, Tell, again_where_lost
from afina.studies.space import RATE, Space
from afina.studies.trials import Tuned
from afina.studies.watcher import Watcher


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
    with opened(OutputDirectory(out).tuning_memory, run, space, how, fresh=fresh) as candidates:
        while not (so_far := candidates.so_far).budget or so_far.steps < so_far.budget:
            _try_batch(candidates, executor, watcher, keep)
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


def _try_batch(candidates: Candidates, executor: Executor, watcher: Watcher, keep: Callable[[Tuned], None]) -> None:
    """Try what a batch still lacks. It is told in its order, in any order of ending."""
    batch, budget = candidates.batch(), candidates.so_far.budget
    left = [candidates.ask(number, batch) for number in range(len(candidates.told), batch.began + batch.size)]
    alike = candidate(candidates.run, {}, candidates.how)
    memory = executor.foresee([alike]) if min(executor.slots, len(left)) > 1 else None
    ended: dict[int, tuple[Candidate, ValidationScore, float]] = {}
    failed: list[AfinaError] = []

    def end() -> None:
        number, tried = slots.next()
        try:
            ended[number] = tried()
        except AfinaError as error:
            failed.append(error)
        while (told := len(candidates.told)) in ended:
            one, score, seconds = ended.pop(told)
            made = candidates.tell(one, score, seconds)
            keep(candidates.so_far)
            watcher.tried(one.run, told + 1, made, score.steps)

    with Slots[int, tuple[Candidate, ValidationScore, float]](executor) as slots:
        for one in left:
            wait_for_memory(alike, memory, lambda: [alike for _ in slots.busy], end, watcher)
            if failed:
                break
            watcher.trying(one.run, one.number + 1, batch.spent / budget if budget else 0.0)
            slots.start(one.number, partial(_try_out, one, executor, watcher))
            while slots.full:
                end()
        while slots.busy:
            end()
    if failed:
        raise failed[0]


def _try_out(
    one: Candidate, executor: Executor, watcher: Watcher, tell: Tell
) -> tuple[Candidate, ValidationScore, float]:
    began, shares = meter.now(), tuple(rung / RUNGS[-1] for rung in RUNGS)

    def listen(progress: Progress) -> None:
        tell(partial(watcher.progress, one.run, progress))

    def try_out() -> ValidationScore:
        return executor.try_out(one.run, shares, one.limit, one.goes_on, listen)

    score = again_where_lost(one.run, try_out, lambda words: tell(partial(watcher.says, words)))
    return one, score, meter.now() - began
