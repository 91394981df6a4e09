"""Recommend which method to use for a task, within a number of minutes. Starts without torch.

The steps, in order: baselines (`floors.py`), a memory forecast (`forecast.py`), the time of a step (`time_budget.py`),
the untrained model, and then whole trainings one after the other (`candidate_trainings.py`), in the order of
`candidates.py`. One candidate is selected on training texts that no candidate was trained on. The held-out texts only
measure how good each contender is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from afina import digest, meter
from afina.data.leakage import TextHashes
from afina.data.readers import splitting
from afina.data.readers.target_kinds import TARGETS
from afina.data.split import Split
from afina.data.task import Task
from afina.errors import InvalidData, InvalidStudy
from afina.methods import METHODS, make
from afina.models import objectives
from afina.models.objective import Objective, metric_for
from afina.schema import null_where_undefined
from afina.stats.comparison import compare
from afina.stats.metrics import METRICS, Metric
from afina.studies.choosing import floors, time_budget
from afina.studies.choosing.candidate_trainings import CandidateTrainings
from afina.studies.choosing.candidates import DEAREST, MORE, ChoiceSetup, in_order
from afina.studies.choosing.floor import Floor
from afina.studies.choosing.recommendation import HALF, Contender, Dropped, Fewer, Recommendation, decide
from afina.studies.choosing.time_budget import TimeBudget
from afina.studies.choosing.training_length import AT_LEAST
from afina.studies.results import Results, of_recommendation
from afina.studies.runs import executors
from afina.studies.runs.executor import Executor
from afina.studies.runs.output_directory import OutputDirectory, OutputLock
from afina.studies.runs.record import Result
from afina.studies.runs.spec import Ask, Data
from afina.studies.schedule import Watcher, watching
from afina.studies.study_file import checked


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
    """Recommend a method for `task`, and train its adapter below `out`, in about `minutes` and at most 10 % more.

    Args:
        task: The task's address.
        minutes: The time for everything; 5 minutes or more give a useful answer.
        memory: The bytes that a run may use: GPU memory if it trains on a GPU. None: the memory available here, or that
            of the largest node of a cluster.
        data: Columns, labels and `allow_leakage`, as in `Data`.
        ask: How texts are asked about, as in `Ask`.
        metric: The metric by which methods are chosen. None: the metric of the task, or of its kind.
        executor: Default: each run in a process of its own on this machine.
        command: The command line arguments that repeat the recommendation.
        began: The start time by `meter.now()`, if work began before this call.

    Returns:
        The results of the trained contenders; their `recommendation` has the answer.

    Raises:
        InvalidData: `minutes` is not valid, or the task cannot be read.
        NotFound: The task or the backbone does not exist.
        Busy: Another process writes to `out`.
    """
    if not isinstance(minutes, int | float) or not 0 < minutes < math.inf:
        found = f"{minutes:g}" if isinstance(minutes, int | float) else str(minutes)
        raise InvalidData(
            f"`minutes` {found}: expected more than 0. Give 5 or more for a useful answer.",
            code="argument.invalid",
            found=found,
        )
    clock = TimeBudget(meter.now() if began is None else began, minutes)
    asked = checked(Data, {**(data or {}), "allow_leakage": True}, "recommend: data")
    how = checked(Ask, ask or {}, "recommend: ask")
    whole = Task.load(task, **(data or {}))
    objective = objectives.make(whole.label_names, {"kind": whole.kind}).of(whole.train.labels)
    metric = metric_for(objective, metric, whole.metric)
    _check_defined(metric, objective, whole)
    with Results.hold(Path(out)) as held, watching(watcher) as watcher:
        chosen = executor or executors.make(None)
        setting = ChoiceSetup(whole, asked, backbone, how, clock, watcher, chosen, objective, metric)
        made = _recommend(setting, memory, held).model_copy(update={"command": tuple(command)}).sealed()
        held.describe(held.directory.recommendation, made.model_dump_json(indent=2) + "\n")
        results = of_recommendation(held, made)
        watcher.changed(results)
    return results


def _check_defined(metric: str, objective: Objective, task: Task) -> None:
    """Raise InvalidData if the metric is undefined on the held-out texts for any answers."""
    if np.isnan(METRICS[metric].value(objective.perfect(task.evaluation.labels))):
        raise InvalidData(
            f"task {task.address}: {METRICS[metric].words} is undefined on the {len(task.evaluation)} held-out texts: "
            f"the metric needs {METRICS[metric].needs}. Add such texts, or set another `metric`.",
            code="metric.undefined",
            task=task.address,
            metric=metric,
        )


def _recommend(setting: ChoiceSetup, memory: int | None, held: OutputLock) -> Recommendation:
    task, clock = setting.task, setting.clock
    setting.executor.check_machines(setting.run(DEAREST))
    setting.watcher.says(task.told)
    setting.watcher.says("fitting baselines without a language model")
    with setting.stages.of(time_budget.SIMPLE):
        fitted = floors.fit(task.train, setting.objective)
        handed = {floor.name: _hand_over(floor, setting, held.directory) for floor in fitted if floor.model}
    setting.watcher.says("forecasting which methods fit in memory")
    with setting.stages.of(time_budget.MEMORY):
        names, lowered, dropped = _that_fit(setting, memory)
    untrained = [name for name in names if METHODS[name].head == "words"]
    chosen = in_order([name for name in names if name not in untrained], setting.objective.kind)
    trainings = CandidateTrainings(setting, held, lowered)
    trainings.plan(chosen)
    trainings.evaluate(untrained, clock.left / (1 + AT_LEAST))
    trainings.carry_out(chosen)
    trainings.dropped |= dropped
    return _answer(setting, fitted, handed, trainings)


def _hand_over(floor: Floor, setting: ChoiceSetup, directory: OutputDirectory) -> str:
    """Save a baseline's model as an adapter, and return its path in the form of the recommendation."""
    from afina import device  # loads torch

    assert floor.model
    task, (commit, dirty) = setting.task, device.git_state()
    adapter = floor.model.adapter(
        task.label_names,
        floor.hyperparameters,
        TextHashes.of(task.train),
        objective=setting.objective.settings,
        task=task.address,
        data=setting.data.model_dump(mode="json", exclude_defaults=True),
        train_digest=task.train.digest,
        pairs=task.train.pairs is not None,
        versions=device.versions(),
        environment={"git_commit": commit, "git_dirty": dirty},
    )
    path = directory.adapter(f"{adapter.manifest.method}-{adapter.digest.removeprefix(digest.PREFIX)[:8]}")
    adapter.save(path)
    return directory.relative(path)


def _that_fit(setting: ChoiceSetup, memory: int | None) -> tuple[list[str], bool, dict[str, Dropped]]:
    """Return the methods that fit in memory, whether training computes in bfloat16, and the methods that do not fit."""
    from afina import device  # these load torch
    from afina.methods.attachment import applicable
    from afina.studies.runs import forecast

    elsewhere = setting.executor.largest_memory()
    gpu = meter.gpu_memory(device.choose()) if elsewhere is None else None
    there = [meter.memory_available(), meter.machine_memory()] if elsewhere is None else [elsewhere]
    there = [gpu] if gpu is not None else there
    limit = memory if memory is not None else min((size for size in there if size is not None), default=None)
    considered = [name for name, kind in METHODS.items() if kind.practical or kind.head == "words"]
    adapting = applicable(setting.backbone, considered, setting.objective.opening)
    runs = [setting.run(name) for name in adapting]
    encodings = forecast.Encodings(setting.task)
    fitting, dropped, lowered = [], {}, False
    most: int | None = None  # the memory of the most expensive method
    for run in sorted(runs, key=lambda one: one.method != DEAREST):
        try:
            texts = encodings.of(run)
        except InvalidStudy as error:
            if make(run.method).head is None:
                raise
            dropped[run.method] = Dropped(why="error", message=str(error))  # the labels are not words
            continue
        if most is not None and limit is not None and MORE * most <= limit:
            fitting.append(run.method)  # a forecast of its memory would take seconds
            continue
        one = forecast.forecast_run(run, texts, memory=limit, calibrate=False)
        lowered = one.terms.dtype == "bfloat16"
        fits, needed = (one.fits, one.peak) if gpu is None else (bool(one.fits_gpu), one.gpu_peak)
        if fits:
            fitting.append(one.method)
        else:
            dropped[one.method] = Dropped(why="memory", needed=needed, available=one.terms.memory)
        if one.method == DEAREST:
            most = needed
    return [run.method for run in runs if run.method in fitting], lowered, dropped


def _answer(
    setting: ChoiceSetup, fitted: Sequence[Floor], handed: Mapping[str, str], trainings: CandidateTrainings
) -> Recommendation:
    task, objective, metric = setting.task, setting.objective, METRICS[setting.metric]
    held_out = splitting.first(task.evaluation, trainings.texts, "evaluation_examples")
    untrained = {name: one for name, one in trainings.results.items() if not one.record.steps}
    finalists = best_of_each_method(trainings)
    read = len(held_out)
    held_out, finalists, untrained = _same_texts(held_out, finalists, untrained)
    answered = {floor.name: floor.predictions(held_out) for floor in fitted}
    simple = {name: objective.values(metric.name, one)[None] for name, one in answered.items()}
    simple |= {name: result.scores[None] for name, result in untrained.items()}
    scores = {name: one.scores[None] for name, one in finalists.items()}
    defined = {name: one for name, one in (scores | simple).items() if not np.isnan(one).any()}
    compared = compare(defined, metric=metric, margin=metric.margin(held_out.labels), references=simple)
    recommended = decide(list(scores), scores, simple, compared, lower=metric.lower)
    of_floors = [
        contender_of_floor(floor, objective.metrics(answered[floor.name]), handed.get(floor.name)) for floor in fitted
    ]
    as_they_are = [with_measurements(Contender(name=name), one) for name, one in untrained.items()]
    chosen = finalists.get(recommended) or untrained.get(recommended)
    return Recommendation(
        task=task.address,
        data=setting.data.model_copy(update={"evaluation_examples": read}),
        backbone=setting.backbone,
        kind=task.kind,
        metric=metric.name,
        recommended=recommended,
        adapter=chosen.record.adapter if chosen else handed.get(recommended),
        contenders=(*of_floors, *as_they_are, *trained_contenders(trainings)),
        comparisons=tuple(compared),
        dropped=trainings.dropped,
        fewer=with_fewer_texts(trainings, metric, metric.margin(held_out.labels)),
        train_examples=len(task.train),
        examples=len(held_out),
        minutes=setting.clock.minutes,
        seconds=setting.clock.spent,
        stages=dict(setting.stages.seconds),
        at_once=trainings.at_once,
    )


def _same_texts(
    held_out: Split, finalists: dict[str, Result], untrained: dict[str, Result]
) -> tuple[Split, dict[str, Result], dict[str, Result]]:
    """Return the texts and targets of the first result, and the results on the same texts.

    Results differ in their texts only if targets that are too long were left out (`Task.long`), and methods with
    virtual tokens leave less room for a text.
    """
    first = next(iter([*finalists.values(), *untrained.values()]), None)
    if first is None or not TARGETS[first.objective.kind].written:
        return held_out, finalists, untrained
    left_out = np.array(first.record.too_long_rows, np.int64)
    texts = held_out.take(np.delete(np.arange(len(held_out)), left_out))
    same = [
        {name: one for name, one in some.items() if one.predictions.right_as_bytes == first.predictions.right_as_bytes}
        for some in (finalists, untrained)
    ]
    return replace(texts, labels=first.targets), same[0], same[1]


def contender_of_floor(floor: Floor, figures: Mapping[str, float], adapter: str | None) -> Contender:
    """Return a baseline with its metrics on the held-out texts."""
    return Contender(
        name=floor.name,
        setting=floor.setting,
        metrics=dict(figures),
        examples=floor.examples,
        adapter=adapter,
    )


def best_of_each_method(trainings: CandidateTrainings) -> dict[str, Result]:
    """Return each method's best candidate, best first; the selected candidate with its last training."""
    found: dict[str, Result] = {}
    for name in trainings.ranked:
        if trainings.results[name].record.method not in {one.record.method for one in found.values()}:
            found[name] = trainings.last(name)
    return found


def trained_contenders(trainings: CandidateTrainings) -> list[Contender]:
    """Return all trained candidates, in their order."""
    made = []
    for name, result in trainings.results.items():
        selection = result.record.selection
        if selection is None:
            continue
        one = Contender(
            name=name,
            method=result.record.method,
            rate=result.record.training["learning_rate"],
            validation=null_where_undefined(selection.value),
            validation_examples=selection.examples,
            weighed=trainings.weighed(name),
            ended=trainings.ended[name],
        )
        made.append(with_measurements(one, trainings.last(name)))
    return made


def with_fewer_texts(trainings: CandidateTrainings, metric: Metric, margin: float | None) -> Fewer | None:
    """Return the result of the selected candidate with half of the texts; None if it was not measured."""
    best, again, half = trainings.selected, trainings.again, trainings.half
    if not best or not again or not half:
        return None
    values = {best: again.scores[None], HALF: half.scores[None]}
    if any(np.isnan(scores).any() for scores in values.values()):
        return None
    (compared,) = compare(values, metric=metric, margin=margin)
    return Fewer(name=best, examples=half.record.train_examples, metrics=half.record.metrics, comparison=compared)


def with_measurements(contender: Contender, result: Result) -> Contender:
    """Return the contender with the measurements of its run."""
    made = result.record
    figures = {
        "metrics": made.metrics,
        "examples": made.train_examples if made.steps else None,
        "steps": made.steps or None,
        "seconds": made.seconds.train if made.steps else None,
        "memory": made.memory.rss_peak,
        "trainable": made.trainable,
        "total": made.total,
        "key": made.key,
        "adapter": made.adapter,
        "ask": made.ask,
    }
    return contender.model_copy(update=figures)
