"""Recommend: which way of adapting to use for a task, within a number of minutes. Starts without torch.

In order: the floors (`floors.py`), what fits in memory (`cost.py`), what a step costs here, the model as it is, the
race on a validation cut (`halving.py`), then a head alone and the two best on as much of the training split as there
is time for (`finals.py`), and one evaluation of all on the same held-out texts. What the race saw chooses who is
trained; the held-out texts only say how good that is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from afina import digest, meter
from afina.data.readers import rows
from afina.data.split import Split
from afina.data.task import Task
from afina.errors import AfinaError, InvalidData, InvalidStudy
from afina.methods import METHODS, make
from afina.models import objectives
from afina.models.objective import metric_for
from afina.stats.comparison import compare
from afina.stats.metrics import METRICS
from afina.studies import contenders, floors
from afina.studies.clock import Clock
from afina.studies.directory import Directory
from afina.studies.executors.executor import Executor, Overrun
from afina.studies.executors.local import LocalExecutor
from afina.studies.finals import Finals, expected, texts_to_score
from afina.studies.floors import Floor
from afina.studies.halving import EPOCHS, Race, Speed, Standing, affords_another, measure
from afina.studies.holding import Held
from afina.studies.recommendation import Contender, Dropped, Recommendation, decide
from afina.studies.result import Result
from afina.studies.results import Results, of_recommendation
from afina.studies.run import Run
from afina.studies.setting import BATCH, Setting, reason
from afina.studies.spec import Ask, Data
from afina.studies.watcher import Watcher, watching

MEASURING_SHARE = 0.4
"""Of the minutes, by when all that is measured beforehand has to be, so that a slow machine answers too."""

RACE_SHARE = 0.4
"""Of the time that is left when every method's pace is known; the rest trains and evaluates the best."""

FINALISTS = 2
VALIDATION, MOST_VALIDATION = 0.2, 300
"""Share of the training texts in the cut, and most of them: scoring more would cost the time to train."""

AT_FIRST = 2_000
"""Training texts that are read before it is known how many there is time for."""


def recommend(
    task: str,
    minutes: float,
    *,
    memory: int | None = None,
    backbone: str = "embedded",
    out: str | Path = "results/choose",
    data: Mapping[str, Any] | None = None,
    ask: Mapping[str, Any] | None = None,
    metric: str | None = None,
    watcher: Watcher | None = None,
    executor: Executor | None = None,
    command: Sequence[str] = (),
    began: float | None = None,
) -> Results:
    """Recommend a method for `task`, and train its adapter under `out`, in about `minutes` and at most 10 % more.

    memory    bytes that a run may have, a GPU's where it trains on one; None: what is available here
    ask       how texts are asked about, as in `Ask`
    data      columns, labels and `allow_leakage`, as in `Data`
    metric    what methods are chosen by; None: the task's own, or its kind's
    executor  by default, a process a run here
    command   what a reader may type to repeat it
    began     `meter.now()` of the start, where that was earlier
    The recommendation is the results' `recommendation`, and they are its finalists'.
    Raises whatever reading the task or the backbone does, InvalidData, NotFound, Busy.
    """
    if not 0 < minutes < math.inf:
        raise InvalidData(f"`minutes` {minutes:g}: expected more than 0; from 5 up the answer is of use.")
    clock = Clock(meter.now() if began is None else began, minutes)
    whole, asked = Task.load(task, **(data or {})), Data(**{**(data or {}), "allow_leakage": True})
    metric = metric_for(objectives.make(whole.label_names, {"kind": whole.kind}), metric, whole.metric)
    with Results.hold(Path(out)) as held, watching(watcher) as watcher:
        chosen = executor or LocalExecutor()
        setting = Setting(whole, asked, backbone, Ask(**(ask or {})), clock, watcher, chosen, metric)
        made = _recommend(setting, memory, held).model_copy(update={"command": tuple(command)})
        held.describe(held.directory.recommendation, made.model_dump_json(indent=2) + "\n")
        results = of_recommendation(held, made)
        watcher.changed(results)
    return results


def _recommend(setting: Setting, memory: int | None, held: Held) -> Recommendation:
    task, clock = setting.task, setting.clock
    setting.watcher.says(task.told)
    setting.watcher.says("fitting what needs no language model")
    fitted = [floors.constant(task.train, setting.objective), floors.tfidf(task.train, setting.objective)]
    handed = {floor.name: _hand_over(floor, setting, held.directory) for floor in fitted if floor.model}
    names, lowered, dropped = _that_fit(setting, memory)
    cut = min(VALIDATION, MOST_VALIDATION / min(len(task.train), AT_FIRST))
    untrained = [name for name in names if METHODS[name].head == "words"]
    probes = [name for name in names if name not in untrained and not METHODS[name].trains_body]
    raced = [name for name in names if name not in (*untrained, *probes)]
    runs = {name: setting.run(name, train_examples=AT_FIRST, validation=cut) for name in raced}
    validation = math.ceil(cut * min(len(task.train), AT_FIRST))
    speeds = _speeds(setting, runs, dropped, validation)
    standings: list[Standing] = []
    texts = len(task.evaluation)
    if speeds and clock.left > 0:
        guess = {name: expected(speed, lowered=lowered) for name, speed in speeds.items()}
        texts = texts_to_score(texts, guess, min(len(guess), FINALISTS), (1 - RACE_SHARE) * clock.left)
    finals = Finals(setting, held, texts)
    finals.evaluate(untrained, AT_FIRST, clock.left / (1 + FINALISTS))
    if speeds and clock.left > 0:
        standings = _race(setting, {name: runs[name] for name in speeds}, speeds, validation)
    standing = {one.method for one in standings}
    dropped |= {name: Dropped(why="train") for name in speeds if name not in standing}
    finalists = [one for one in standings if one.value is not None][:FINALISTS]
    finals.paces = {one.method: expected(one.speed or speeds[one.method], lowered=lowered) for one in finalists}
    finals.evaluate(probes, AT_FIRST, clock.left / (1 + FINALISTS))
    finals.carry_out(finalists)
    held_out = rows.first(task.evaluation, texts, "evaluation_examples")
    return _answer(setting, fitted, handed, held_out, standings, finals.results, dropped | finals.dropped)


def _hand_over(floor: Floor, setting: Setting, directory: Directory) -> str:
    """Save a floor's model as an adapter; its path, as the recommendation names it."""
    from afina import environment  # loads torch

    assert floor.model
    task, (commit, dirty) = setting.task, environment.git_state()
    adapter = floor.model.adapter(
        task.label_names,
        floor.hyperparameters,
        objective=setting.objective.told,
        task=task.address,
        data=setting.data.model_dump(mode="json", exclude_defaults=True),
        train_digest=task.train.digest,
        versions=environment.versions(),
        environment={"git_commit": commit, "git_dirty": dirty},
    )
    path = directory.adapter(f"{adapter.manifest.method}-{adapter.digest.removeprefix(digest.PREFIX)[:8]}")
    adapter.save(path)
    return directory.relative(path)


def _that_fit(setting: Setting, memory: int | None) -> tuple[list[str], bool, dict[str, Dropped]]:
    """Methods that fit in memory, whether training computes in bfloat16, and methods that do not fit."""
    from afina import device  # these load torch
    from afina.methods.parameters import served
    from afina.studies import cost

    gpu = meter.gpu_memory(device.choose())
    there = [gpu] if gpu is not None else [meter.memory_available(), meter.machine_memory()]
    limit = memory if memory is not None else min((size for size in there if size is not None), default=None)
    considered = [name for name, kind in METHODS.items() if kind.practical or kind.head == "words"]
    runs = [setting.run(name) for name in served(setting.backbone, considered)]
    encodings = cost.Encodings(setting.task)
    fitting, dropped, lowered = [], {}, False
    for run in runs:
        try:
            texts = encodings.of(run)
        except InvalidStudy as error:
            if make(run.method).head is None:
                raise
            dropped[run.method] = Dropped(why="error", message=str(error))  # its labels are no words
            continue
        one = cost.cost(run, texts, memory=limit, calibrate=False)
        lowered = one.terms.dtype == "bfloat16"
        fits, needed = (one.fits, one.peak) if gpu is None else (one.fits_gpu, one.gpu_peak)
        if fits:
            fitting.append(one.method)
        else:
            dropped[one.method] = Dropped(why="memory", needed=needed, available=one.terms.memory)
    return fitting, lowered, dropped


def _speeds(setting: Setting, runs: Mapping[str, Run], dropped: dict[str, Dropped], texts: int) -> dict[str, Speed]:
    """What each run costs that can be raced, where a trial is scored on `texts`; the others are put into `dropped`."""
    speeds: dict[str, Speed] = {}
    problem: AfinaError | None = None
    until = setting.clock.began + MEASURING_SHARE * 60 * setting.clock.minutes
    for name, run in runs.items():
        if meter.now() >= until or not affords_another(speeds, RACE_SHARE * setting.clock.left, texts):
            dropped[name] = Dropped(why="start")
            continue
        setting.watcher.says(f"measuring what a step of {name} takes")
        listen = partial(setting.watcher.progress, run)
        try:
            speeds[name] = measure(run, setting.executor, listen, until)
        except Overrun:
            dropped[name] = Dropped(why="start")
        except AfinaError as error:
            problem = error
            dropped[name] = Dropped(why="error", message=reason(run, error))
    if problem and not speeds:
        raise problem  # nothing can be trained here at all: its reason is what the user needs
    return speeds


def _race(setting: Setting, runs: Mapping[str, Run], speeds: Mapping[str, Speed], texts: int) -> list[Standing]:
    examples = min(len(setting.task.train), AT_FIRST)
    race = Race(
        texts=texts,
        longest=EPOCHS * math.ceil(examples * (1 - VALIDATION) / BATCH),
        seconds=RACE_SHARE * setting.clock.left,
        until=setting.clock.end,
        executor=setting.executor,
        watcher=setting.watcher,
    )
    return race.standings(runs, speeds)


def _answer(
    setting: Setting,
    fitted: Sequence[Floor],
    handed: Mapping[str, str],
    held_out: Split,
    standings: Sequence[Standing],
    results: Mapping[str, Result],
    dropped: Mapping[str, Dropped],
) -> Recommendation:
    task, objective, metric = setting.task, setting.objective, METRICS[setting.metric]
    outputs = {floor.name: floor.outputs(held_out) for floor in fitted}
    untrained = {name: one for name, one in results.items() if not one.record.steps}
    finalists = [one.method for one in standings if one.method in results]
    others = [name for name in results if name not in (*finalists, *untrained)]
    scores = {name: results[name].scores[None] for name in (*finalists, *others)}
    simple = {name: objective.values(metric.name, one, held_out.labels)[None] for name, one in outputs.items()}
    simple |= {name: result.scores[None] for name, result in untrained.items()}
    everything = {name: one for name, one in (scores | simple).items() if name not in floors.CONSTANT.values()}
    compared = compare(everything, metric=metric, margin=metric.margin(held_out.labels), references=simple)
    recommended = decide(list(scores), scores, simple, compared, lower=metric.lower)
    of_floors = [
        contenders.of_floor(
            floor, objective.metrics(outputs[floor.name], held_out.labels), task, handed.get(floor.name)
        )
        for floor in fitted
    ]
    as_they_are = [contenders.measured(Contender(name=name), one) for name, one in untrained.items()]
    chosen = results.get(recommended)
    raced = [contenders.of_method(one, results.get(one.method)) for one in standings]
    probes = [contenders.measured(Contender(name=name), results[name]) for name in scores if name not in finalists]
    return Recommendation(
        task=task.address,
        data=setting.data.model_copy(update={"evaluation_examples": len(held_out)}),
        backbone=setting.backbone,
        kind=task.kind,
        metric=metric.name,
        recommended=recommended,
        adapter=chosen.record.adapter if chosen else handed.get(recommended),
        contenders=(*of_floors, *as_they_are, *raced, *probes),
        comparisons=tuple(compared),
        dropped=dict(dropped),
        train_examples=len(task.train),
        examples=len(held_out),
        minutes=setting.clock.minutes,
        seconds=setting.clock.spent,
    )
