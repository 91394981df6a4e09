"""`recommend` recommends which method to use for a task, within a number of minutes.

It measures baselines and the zero-shot model, finds the methods that can be tried, and trains candidates (methods with
learning rates) one after the other. The best is selected on a validation set that is cut from the training split. The
held-out texts measure how good each contender is. The linear probe on the smallest backbone comes first, so that there
is an answer after some seconds; a better one replaces it. An interrupt ends with the best answer so far.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from afina import digest, meter
from afina.data.label_words import no_words_note
from afina.data.readers import splitting
from afina.data.readers.target_kinds import TARGETS
from afina.data.reading_options import ReadingOptions
from afina.data.split import Split
from afina.data.task import Task
from afina.data.text_hashes import TextHashes
from afina.models import objectives
from afina.models.objective import Objective, metric_for
from afina.schema import is_number, null_where_undefined
from afina.stats.comparison import compare
from afina.stats.metrics import METRICS, Metric
from afina.studies import problems
from afina.studies.backbones import usual_backbones
from afina.studies.choosing import floors, time_budget
from afina.studies.choosing.asked_rival import AskedRival, check_table
from afina.studies.choosing.candidate_trainings import CandidateTrainings
from afina.studies.choosing.candidates import cheapest_first, in_order, zero_shot
from afina.studies.choosing.eligibility import (
    EVERY_METHOD_ON,
    Eligible,
    eligible,
    fitted_on_cheapest,
    leave_out_slow,
)
from afina.studies.choosing.floors import Floor
from afina.studies.choosing.label_doubts import count_doubtful
from afina.studies.choosing.recommendation import (
    HALF,
    Contender,
    DoubtfulCount,
    Dropped,
    Fewer,
    Prior,
    Recommendation,
    Student,
    decide,
)
from afina.studies.choosing.setup import DEAREST, ChoiceSetup, Way
from afina.studies.choosing.step_times import StepTimes
from afina.studies.choosing.students import SHARE, distil
from afina.studies.choosing.time_budget import TimeBudget
from afina.studies.event_file import EventFile
from afina.studies.executors import by_name
from afina.studies.executors.executor import Executor
from afina.studies.results import Results, of_recommendation
from afina.studies.runs.output_directory import OutputDirectory, OutputLock
from afina.studies.runs.record import Result
from afina.studies.runs.spec import Ask, with_address
from afina.studies.study_file import checked
from afina.studies.watcher import Watcher, watching
from afina.training.settings import Products, Training


def recommend(
    task: str | Task,
    minutes: float,
    *,
    memory: int | None = None,
    backbone: str | Sequence[str] | None = None,
    out: str | Path = "results/choose",
    data: ReadingOptions | Mapping[str, Any] | None = None,
    ask: Mapping[str, Any] | None = None,
    metric: str | None = None,
    products: Products | None = None,
    latency: float | None = None,
    endpoint: Mapping[str, Any] | None = None,
    send_texts: bool = False,
    watcher: Watcher | None = None,
    executor: Executor | None = None,
    command: Sequence[str] = (),
    began: float | None = None,
) -> Results:
    """Recommend a method for `task`, and train its adapter in `out`, in about `minutes` and at most 5 % more.

    Returns the results with their `recommendation`. Ctrl-C after the first answer lets it return the best so far.

    Args:
        task: The task's address, or a `Task` of `Task.load` or `Task.of`.
        minutes: The time for everything after the download of the backbones; with few texts, 1 minute gives an answer.
        memory: The bytes that a run may use, of GPU memory if runs train on a GPU. None: those of the largest machine.
        backbone: The address of the backbone. Several are compared. None: `bge` and `embedded`; `embedded` for texts.
        data: The options with which the task is read, such as columns and labels, as in `ReadingOptions`.
        ask: The prompt template, the label words, and whether the head starts from label words, as in `Ask`.
        metric: The metric by which methods are chosen; None means the default metric of the task or of its kind.
        products: `Training.products` for methods that int8 suits. None: the usual products of the executor.
        latency: The most milliseconds that a model may take to predict a single text on this machine. None: no limit.
        endpoint: The settings (`Endpoint`) of a model behind an API that is asked for at most 1,000 held-out texts.
        send_texts: Whether texts may be sent to the endpoint. Kept answers need no permission.
        executor: The executor of the runs; None means that each run has a process of its own on this machine.
        command: The command line arguments that repeat the recommendation.
        began: The start time by `meter.now()`, if the work began before this call. None: now.

    Raises:
        InvalidData: `minutes`, `backbone` or `latency` is not valid, or the task cannot be read.
        InvalidStudy: A backbone or `products` is unsupported, no backbone suits the task, or no model is fast enough.
        NotFound: The task or a backbone does not exist.
        Busy: Another process writes to `out`.
        Refused: Texts would be sent to the endpoint, and `send_texts` is not set.
    """
    _check_settings(minutes, latency, products, endpoint)
    given = None if backbone is None else _checked_backbones(backbone)
    began = meter.now() if began is None else began
    how = checked(Ask, ask or {}, "recommend: ask")
    asked, whole = _read(task, data or {})
    objective, metric = _aim(whole, metric)
    with Results.hold(Path(out)) as held, watching(watcher) as watcher:
        watcher = EventFile(held.directory.events, watcher, anew=True)
        chosen = executor or by_name.make(None)
        backbones, seconds = _fetch(given, whole, chosen, watcher)
        made = whole, asked, backbones, how, TimeBudget(began + seconds, minutes), watcher, chosen, objective, metric
        setting = ChoiceSetup(*made, products or chosen.usual_products(), latency)
        rival = AskedRival.of(setting, held, endpoint, send_texts=send_texts)
        return _Choice(setting, held, rival).made(memory, command)


def _read(task: str | Task, data: ReadingOptions | Mapping[str, Any]) -> tuple[ReadingOptions, Task]:
    if not isinstance(data, ReadingOptions | Mapping):
        raise problems.DATA_NOT_DICT(argument="data", found=type(data).__name__)
    fields = with_address({"task": task, "data": data})
    asked = checked(ReadingOptions, fields["data"], "recommend: data")
    return replace(asked, allow_leakage=True, unlabelled=None), Task.load(fields["task"], asked)


def _fetch(
    given: tuple[str, ...] | None, task: Task, executor: Executor, watcher: Watcher
) -> tuple[tuple[str, ...], float]:
    """Download the missing backbones; return the backbones, and the seconds that this took."""
    executor.prepare()
    from afina.models import pretrained  # noqa: F401 - loads torch, which the minutes count

    start = meter.now()
    backbones = usual_backbones(task.kind, watcher.says, task.train.texts) if given is None else given
    for backbone in backbones:
        executor.fetch(backbone)
    watcher.fetched(seconds := meter.now() - start)
    return backbones, seconds


def _check_settings(
    minutes: float, latency: float | None, products: str | None, endpoint: Mapping[str, Any] | None
) -> None:
    checked(Training, {"products": products or "float"}, "recommend")
    check_table(endpoint)
    _check_above_zero("minutes", minutes, "Give 1 or more.")
    if latency is not None:
        _check_above_zero("latency", latency, "Give milliseconds.")


def _check_above_zero(name: str, value: float, instead: str) -> None:
    if not is_number(value) or not 0 < value < math.inf:
        found = f"{value:g}" if is_number(value) else str(value)
        raise problems.NOT_ABOVE_ZERO(argument=name, _instead=instead, found=found)


def _checked_backbones(given: str | Sequence[str]) -> tuple[str, ...]:
    """Return the backbone addresses. Raises InvalidData for an empty list or a repeated address."""
    backbones = (given,) if isinstance(given, str) else tuple(given)
    twice = [one for number, one in enumerate(backbones) if one in backbones[:number]]
    if not backbones or twice:
        found = f"{twice[0]} is given twice" if twice else "no backbone is given"
        raise problems.CANDIDATE_BACKBONE_TWICE(_problem=found, found=list(backbones))
    return backbones


def _aim(task: Task, metric: str | None) -> tuple[Objective, str]:
    """Return the objective of the task, and the metric by which methods are chosen.

    Raises InvalidData if the metric is undefined on the held-out texts even for perfect predictions.
    """
    objective = objectives.make(task.label_names, {"kind": task.kind}).of(task.train.labels)
    chosen = METRICS[metric_for(objective, metric, task.metric)]
    if np.isnan(chosen.value(objective.perfect(task.evaluation.labels))):
        raise problems.METRIC_UNDEFINED(
            _metric=chosen.words,
            examples=len(task.evaluation),
            _needs=chosen.needs,
            task=task.address,
            metric=chosen.name,
        )
    return objective, chosen.name


@dataclass
class _Choice:
    """A recommendation that is being made.

    Attributes:
        tried: The methods on backbones that can be tried; those of the first answer until the others are known.
        student: The student, or the reason for its absence, as a clause.
        early: Whether the user has ended the choice.
    """

    setting: ChoiceSetup
    held: OutputLock
    rival: AskedRival | None
    fitted: Sequence[Floor] = ()
    handed: Mapping[str, str] = field(default_factory=dict)
    tried: Eligible = field(default_factory=Eligible)
    labels: DoubtfulCount | None = None
    student: Student | str = ""
    early: bool = False

    def __post_init__(self) -> None:
        times, few = StepTimes(lowered=False), self.rival is not None
        self.trainings = CandidateTrainings(self.setting, self.held, times, few_texts=few, changed=self._tell)

    def made(self, memory: int | None, command: Sequence[str]) -> Results:
        """Return the recommendation; after an interrupt, the best so far. Raises KeyboardInterrupt before an answer."""
        try:
            self._carry_out(memory)
            return self._keep(command)
        except KeyboardInterrupt:
            if not self.trainings.results:
                raise
            self.early = True
            self.setting.watcher.says("ending with the best so far")
            return self._keep(command)

    def _carry_out(self, memory: int | None) -> None:
        """Measure all contenders, and train a student if there are texts without labels."""
        with self.rival.asking() if self.rival else nullcontext():
            self.fitted, self.handed = _baselines(self.setting, self.held)
            self._begin(memory)
            self.labels = count_doubtful(self.setting)
            self._carry_on(memory)
            if self.setting.unlabelled is not None:
                best = self._answer()[0].recommended
                taught_by = self.trainings.last(best) if best in self.trainings.results else None
                self.student = distil(self.setting, self.held, taught_by, self.trainings.texts)

    def _begin(self, memory: int | None) -> None:
        setting = self.setting
        with setting.stages.of(time_budget.MEMORY):
            first = fitted_on_cheapest(setting, memory)
        self.trainings.begin(in_order(first.trained, first.kinds, setting))

    def _carry_on(self, memory: int | None) -> None:
        setting, trainings = self.setting, self.trainings
        setting.watcher.says("forecasting which methods fit in memory")
        with setting.stages.of(time_budget.MEMORY):
            tried = eligible(setting, memory)
        leave_out_slow(setting, tried)
        chosen = in_order(tried.trained, tried.kinds, setting)
        self.tried, trainings.times.lowered = tried, tried.lowered
        trainings.carry_out(cheapest_first(chosen, zero_shot(tried.untrained, tried.kinds, setting)))

    def _tell(self) -> None:
        """Tell the watcher the answer so far."""
        made = self._answer()[0].model_copy(update={"early": True})
        self.setting.watcher.changed(of_recommendation(self.held, made))

    def _keep(self, command: Sequence[str]) -> Results:
        """Write the recommendation of what was measured so far into the output directory, and return it."""
        made, scores = self._answer()
        student = self.student
        if self.early and self.setting.unlabelled is not None and not student:
            student = "the choice was ended before"
        figures = {"no_student" if isinstance(student, str) else "student": student}
        made = made.model_copy(update={"labels": self.labels, "early": self.early, **figures})
        if self.rival is not None:
            made = self.rival.joined(made, scores, self.trainings.texts)
        made = made.model_copy(update={"command": tuple(command)}).sealed()
        self.held.describe(self.held.directory.recommendation, made.model_dump_json(indent=2) + "\n")
        self.setting.watcher.changed(results := of_recommendation(self.held, made))
        return results

    def _answer(self) -> tuple[Recommendation, Mapping[str, np.ndarray]]:
        made, scores = _answer(self.setting, self.fitted, self.handed, self.trainings, self.tried.latencies)
        ended, names = Dropped(why="ended"), self.setting.names
        waiting = {one.name: ended for one in self.trainings.untried}
        if not self.tried.kinds:
            tried = {one.record.backbone for one in self.trainings.results.values()}
            other = {address: "every other method on " if address in tried else EVERY_METHOD_ON for address in names}
            waiting |= {other[address] + name: ended for address, name in names.items()}
        return made.model_copy(update={"dropped": self.trainings.dropped | self.tried.dropped | waiting}), scores


def _baselines(setting: ChoiceSetup, held: OutputLock) -> tuple[Sequence[Floor], Mapping[str, str]]:
    task = setting.task
    if setting.unlabelled is not None:
        setting.clock.aside = SHARE * 60 * setting.clock.minutes
    for backbone in setting.backbones:
        setting.executor.check_machines(setting.run(Way(backbone, DEAREST)))
    setting.executor.check_products(setting.products)
    setting.watcher.says(task.told)
    if setting.products != "float":
        setting.watcher.says(f"trainings compute products with frozen weights in {setting.products}")
    if setting.lacks_words:
        setting.watcher.says(no_words_note(task.label_names, len(task.train)))
    setting.watcher.says("fitting baselines without a language model")
    with setting.stages.of(time_budget.SIMPLE):
        fitted = floors.fit(task.train, setting.objective)
        handed = {floor.name: _hand_over(floor, setting, held.directory) for floor in fitted if floor.model}
    # Comparisons and report take about as long as the baselines, however slow the machine is.
    setting.clock.keep_back(setting.stages.seconds[time_budget.SIMPLE])
    return fitted, handed


def _hand_over(floor: Floor, setting: ChoiceSetup, directory: OutputDirectory) -> str:
    """Save a baseline's model as an adapter, and return its path relative to the output directory."""
    from afina import device  # loads torch

    assert floor.model
    task, (commit, dirty) = setting.task, device.git_state()
    adapter = floor.model.adapter(
        task.label_names,
        floor.hyperparameters,
        TextHashes.of(task.known_texts),
        objective=setting.objective.settings,
        task=task.address,
        data=setting.data.given,
        train_digest=task.train.digest,
        pairs=task.train.pairs is not None,
        versions=device.versions(),
        environment={"git_commit": commit, "git_dirty": dirty},
    )
    path = directory.adapter(f"{adapter.manifest.method}-{adapter.digest.removeprefix(digest.PREFIX)[:8]}")
    adapter.save(path)
    return directory.relative(path)


def _answer(
    setting: ChoiceSetup,
    fitted: Sequence[Floor],
    handed: Mapping[str, str],
    trainings: CandidateTrainings,
    latencies: Mapping[str, float],
) -> tuple[Recommendation, Mapping[str, np.ndarray]]:
    """Return the recommendation, and the per-example values of the metric, [1, N], by contender."""
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
    margin, unit = metric.margin(held_out.labels), objective.answered(next(iter(answered.values()))).unit
    compared = compare(defined, metric=metric, margin=margin, references=simple, unit=unit)
    recommended = decide(list(scores), scores, simple, compared, lower=metric.lower, prior=_prior(trainings, simple))
    of_floors = []
    for floor in fitted:
        one = Contender(name=floor.name, setting=floor.setting, examples=floor.examples, adapter=handed.get(floor.name))
        of_floors.append(one.model_copy(update={"metrics": objective.metrics(answered[floor.name])}))
    several = len(setting.backbones) > 1
    as_they_are = [
        with_measurements(Contender(name=name, backbone=one.record.backbone if several else None), one)
        for name, one in untrained.items()
    ]
    chosen = finalists.get(recommended) or untrained.get(recommended)
    made = Recommendation(
        task=task.address,
        data=replace(setting.data, evaluation_examples=read),
        backbone=chosen.record.backbone if chosen else setting.backbones[0],
        backbones=setting.backbones if several else (),
        kind=task.kind,
        unasked=task.label_names if setting.lacks_words else (),
        metric=metric.name,
        recommended=recommended,
        adapter=chosen.record.adapter if chosen else handed.get(recommended),
        contenders=(*of_floors, *as_they_are, *trained_contenders(trainings)),
        comparisons=tuple(compared),
        dropped=trainings.dropped,
        fewer=with_fewer_texts(trainings, metric, margin),
        train_examples=len(task.train),
        examples=len(held_out),
        held_out=len(task.evaluation),
        minutes=setting.clock.minutes,
        seconds=setting.clock.spent,
        stages=dict(setting.stages.seconds),
        at_once=trainings.at_once,
        products=setting.products,
        latency=setting.latency,
        latencies=dict(latencies),
    )
    short = {one.name for one in made.contenders if made.is_short(one)} - {recommended}
    told = [one for one in compared if not short & {one.first, one.second}]
    return made.model_copy(update={"comparisons": tuple(told)}), defined


def _prior(trainings: CandidateTrainings, simple: Collection[str]) -> Prior | None:
    """Return what recorded trainings tell about the contenders.

    None: the held-out texts alone decide, unless the training texts are few, the metric is a share such as accuracy,
    and trainings on tasks of this kind were recorded with few texts.
    """
    setting = trainings.setting
    expected = {name: one.expected for name, one in trainings.candidates.items()} | dict(setting.lessons.baselines)
    known = {name: value for name, value in expected.items() if value is not None}
    if not METRICS[setting.metric].share or not trainings.candidates or not set(simple) <= known.keys():
        return None
    return Prior(known, min(one.counts for one in trainings.candidates.values()))


def _same_texts(
    held_out: Split, finalists: dict[str, Result], untrained: dict[str, Result]
) -> tuple[Split, dict[str, Result], dict[str, Result]]:
    """Return the held-out texts of the first result, and the results that were measured on the same texts.

    Virtual tokens leave less room for texts and targets, so that more texts may have been left out.
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


def best_of_each_method(trainings: CandidateTrainings) -> dict[str, Result]:
    """Return the result of the best candidate of each method on each backbone, the best candidate first."""
    found: dict[Way, str] = {}
    for name in trainings.ranked:
        found.setdefault(trainings.candidates[name].way, name)
    return {name: trainings.last(name) for name in found.values()}


def trained_contenders(trainings: CandidateTrainings) -> list[Contender]:
    made = []
    for name, result in trainings.results.items():
        selection = result.record.selection
        if selection is None:
            continue
        one = Contender(
            name=name,
            method=result.record.method,
            backbone=result.record.backbone if len(trainings.setting.backbones) > 1 else None,
            rate=result.record.training["learning_rate"],
            validation=null_where_undefined(selection.value),
            validation_examples=selection.examples,
            weighed=trainings.weighed(name),
            ended=trainings.ended[name],
        )
        made.append(with_measurements(one, trainings.last(name)))
    return made


def with_fewer_texts(trainings: CandidateTrainings, metric: Metric, margin: float | None) -> Fewer | None:
    """Return the result of training the selected candidate on half of the texts, if there is one."""
    best, again, half = trainings.confirmed, trainings.again, trainings.half
    if not best or not again or not half:
        return None
    values = {best: again.scores[None], HALF: half.scores[None]}
    if any(np.isnan(scores).any() for scores in values.values()):
        return None
    (compared,) = compare(values, metric=metric, margin=margin, unit=again.answered.unit)
    return Fewer(name=best, examples=half.record.trained_on, metrics=half.record.metrics, comparison=compared)


def with_measurements(contender: Contender, result: Result) -> Contender:
    made = result.record
    figures = {
        "metrics": made.metrics,
        "examples": made.trained_on if made.steps else None,
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
