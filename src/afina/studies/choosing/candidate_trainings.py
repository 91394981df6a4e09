"""Trainings of candidates under a time limit, one of which is selected; as many at once as the executor has slots.

The time of a step is measured before the first training on a backbone and updated from each training. The most
expensive method's step time stands for that of an unmeasured method. Another method is measured only if the most
expensive one leaves no time for a training, but the cheapest possible one would. All trainings on a backbone have the
same length. Enough time is kept back to train the selected candidate again on all texts. Time that is left then trains
it on half of the texts, to estimate what more labels would gain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath

from afina import meter
from afina.errors import AfinaError
from afina.events import Listener, ignore
from afina.methods import is_fitted
from afina.stats.metrics import METRICS
from afina.studies.choosing import time_budget
from afina.studies.choosing.candidates import BATCH, CHEAPEST, Candidate, reason, weighed
from afina.studies.choosing.recommendation import NAME, Dropped
from afina.studies.choosing.setup import ChoiceSetup, Way
from afina.studies.choosing.step_times import FEWEST, StepTimes
from afina.studies.choosing.time_budget import MEASURED, StepTime, Stopwatch
from afina.studies.choosing.training_length import AT_LEAST, TrainingLength, training_length
from afina.studies.runs.executor import MemoryForecast, Overrun
from afina.studies.runs.output_directory import OutputLock
from afina.studies.runs.record import Record, Result
from afina.studies.runs.run import Run
from afina.studies.schedule import Slots, Tell, wait_for_memory, work

FASTER = 1.5
"""If the first training shows that there is time for this many times its steps, all trainings are made longer.

A machine that was busy while the step time was measured would otherwise make every training too short.
"""

EVALUATION_SHARE = 0.3
"""The largest share of a training's time for scoring held-out texts."""


@dataclass(frozen=True)
class _Begun:
    """A training in progress: its candidate, its number among all candidates, and its time."""

    candidate: Candidate
    number: int
    run: Run
    stopwatch: Stopwatch


_Slots = Slots[str, tuple[Record, float]]
"""Slots by the names of candidates; a value is a record and the time at which the run ended."""


@dataclass
class CandidateTrainings:
    """The trainings of a recommendation and their results.

    Attributes:
        times: The step times that are known so far.
        texts: The number of held-out texts on which each candidate is evaluated.
        lengths: The length of each training, by backbone.
        number: The number of candidates.
        candidates: Candidates by name.
        results: Results by the names of candidates, in their order.
        ended: When each training ended, in seconds from the start.
        again, half: The selected candidate, trained on all texts and on half of them.
        begun: Trainings in progress, by the names of candidates.
        memory: The memory of trainings; None if memory does not limit them.
        at_once: The largest number of trainings at the same time.
    """

    setting: ChoiceSetup
    held: OutputLock
    times: StepTimes
    texts: int = 0
    lengths: dict[str, TrainingLength] = field(default_factory=dict)
    number: int = 0
    candidates: dict[str, Candidate] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    dropped: dict[str, Dropped] = field(default_factory=dict)
    again: Result | None = None
    half: Result | None = None
    begun: dict[str, _Begun] = field(default_factory=dict)
    memory: MemoryForecast | None = None
    at_once: int = 1

    def plan(self, candidates: Sequence[Candidate]) -> None:
        """Measure the first candidate of each backbone that can be trained, and set `texts`.

        Raises an error if no candidate can be trained.
        """
        self.number = len(candidates)
        self.texts = len(self.setting.task.evaluation)
        self.memory = self.setting.memory_of(list(dict.fromkeys(one.way for one in candidates)))
        backbones = dict.fromkeys(one.way.backbone for one in candidates)
        problems = [self._measure_first(backbone, candidates, alone=len(backbones) == 1) for backbone in backbones]
        problem = next((one for one in problems if one), None)
        if problem and not self.times.known:
            raise problem  # no candidate can be trained: the user needs the reason

    def _measure_first(self, backbone: str, candidates: Sequence[Candidate], *, alone: bool) -> AfinaError | None:
        """Measure the first candidate of a backbone that can be trained; return the last error if all fail."""
        problem: AfinaError | None = None
        for number, one in enumerate(candidates):
            if one.way.backbone != backbone or is_fitted(one.way.method):
                continue
            try:
                self._measure(one.way)
            except AfinaError as error:
                problem = error
            if pace := self.times.known.get(one.way):
                left = self.setting.clock.left
                if alone or pace.steps(left, FEWEST) >= 1:  # else it is never trained
                    share = left / min(len(candidates) - number, AT_LEAST + 1) * EVALUATION_SHARE
                    self.texts = min(self.texts, max(FEWEST, int(share / max(pace.text, 1e-9))))
                return None
        return problem

    def evaluate(self, ways: Sequence[Way], seconds: float) -> None:
        """Evaluate ways that train nothing, each within `seconds`."""
        for number, way in enumerate(ways, start=1):
            name = self.setting.name(way)
            if seconds > 0:
                read = self.setting.read_first
                run = self.setting.run(way, train_examples=read, evaluation_examples=self.texts)
                with self.setting.stages.of(time_budget.ASKING):
                    made = self._execute(run, number, len(ways), meter.now() + seconds)
                if made:
                    self.results[name] = made
            else:
                self.dropped[name] = Dropped(why="start")

    def carry_out(self, candidates: Sequence[Candidate]) -> None:
        """Train each candidate for which there is time, and then train the selected candidate again."""
        self.candidates = {one.name: one for one in candidates}
        with _Slots(self.setting.executor) as slots:
            for number, one in enumerate(candidates, start=1):
                if self._has_failed(one.way):
                    continue
                self._settle_length(one.way.backbone)
                if self._should_measure(one.way):
                    try:
                        self._measure(one.way)
                    except AfinaError as error:
                        self.setting.watcher.says(str(error))
                    self._settle_length(one.way.backbone)
                if self.times.of(one.way) is not None:
                    self._wait_for_memory(one, slots)
                    self._train(one, number, slots)
                while slots.full:
                    self._end(slots, slots.next_if_full)
            while slots.busy:
                self._end(slots, slots.next)
        self.results = dict(sorted(self.results.items(), key=lambda one: self._place(one[0])))
        best = self.selected
        if best is not None:
            self._confirm(self.candidates[best])

    @property
    def selected(self) -> str | None:
        """The name of the best candidate; None if none was trained."""
        return next(iter(self.ranked), None)

    @property
    def ranked(self) -> list[str]:
        """The names of the trained candidates, best first."""
        trained = [name for name, one in self.results.items() if one.record.selection]
        return sorted(trained, key=partial(self._standing, among=self._weighed()), reverse=True)

    def weighed(self, name: str) -> float | None:
        """Return the metric on the texts for selecting, combined with recorded trainings, since few texts tell little.

        None for metrics other than shares, unrecorded kinds of task, and if there is no time to read all texts.
        """
        return self._weighed().get(name)

    def _weighed(self) -> dict[str, float]:
        scored = [
            (self.candidates[name], seen.value, seen.examples)
            for name, one in self.results.items()
            if (seen := one.record.selection) and METRICS[one.record.metric].share and not math.isnan(seen.value)
        ]
        return weighed(scored, several=len(self.setting.backbones) > 1) if scored and self._reads_all() else {}

    def _standing(self, name: str, among: Mapping[str, float]) -> tuple[float, float]:
        """Return a sort key: greater is better; the lower loss wins among equals. `among`: weighed values."""
        made = self.results[name].record
        assert made.selection
        measured = -made.selection.value if METRICS[made.metric].lower else made.selection.value
        return -math.inf if math.isnan(measured) else among.get(name, measured), -made.selection.loss

    def last(self, name: str) -> Result:
        """Return a candidate's final result: for the selected candidate, that of its second training."""
        return self.again if self.again and name == self.selected else self.results[name]

    def _reads_all(self) -> bool:  # the trainings on every backbone
        return all(one.used >= len(self.setting.task.train) for one in self.lengths.values())

    def _has_failed(self, way: Way) -> bool:
        """Return whether the way could not even begin to train."""
        name = self.setting.name(way)
        why = self.dropped[name].why if name in self.dropped else "train"
        return way not in self.times.known and why in ("start", "error")

    def _should_measure(self, way: Way) -> bool:
        """Return whether the step time is unknown and decides whether there is time to train the way."""
        if way in self.times.known or is_fitted(way.method):
            return False
        dearest = self.times.dearest(way.backbone)
        if dearest is None:
            return True
        if self._takes(way, dearest) <= self.setting.clock.left:
            return False
        least = dearest.at_least(CHEAPEST)
        return least.seconds(MEASURED, FEWEST) + self._takes(way, least) <= self.setting.clock.left

    def _takes(self, way: Way, pace: StepTime) -> float:
        """Return the seconds of a training at this step time, including the time to keep back."""
        length = self.lengths[way.backbone]
        scored = self.texts + math.ceil(length.share * length.used)
        return self.times.seconds(way, pace, length.steps, scored, length.used) + self._kept_back(way, pace)

    def _measure(self, way: Way) -> None:
        self.times.measure(way, self._fitting(way), self.dropped)

    def _fitting(self, way: Way) -> int:
        """Return how many measurements fit beside the trainings in progress, which slow each other down.

        There are never more than candidates, which are all that can be trained at once.
        """
        asked = self.setting.run_like(way)
        free = min(self.setting.executor.slots, self.number) - len(self.begun)
        while free > 1 and self.memory and self.memory.left(asked, [asked] * (free - 1)) is not None:
            free -= 1
        return max(1, free)

    def _settle_length(self, backbone: str) -> None:
        """Set the length of trainings on a backbone when the first step time is known; later calls change nothing."""
        pace = self.times.first(backbone)
        if pace is not None and backbone not in self.lengths:
            self._set_length(backbone, pace)

    def _set_length(self, backbone: str, pace: StepTime) -> None:
        there = len(self.setting.task.train)
        self.lengths[backbone] = training_length(pace, self.setting.clock.left, there, self.texts)

    def _longer(self, name: str, first: Result) -> bool:
        """Set the length again from the time of a first training; if longer, discard the training and return True."""
        way = self.candidates[name].way
        before = self.lengths[way.backbone]
        self._set_length(way.backbone, self.times.known[way])
        if self.lengths[way.backbone].steps < FASTER * before.steps:
            self.lengths[way.backbone] = before
            return False
        del self.results[name], self.ended[name]
        self._forget(first)
        return True

    def _is_first(self, name: str) -> bool:
        """Whether a training that has ended is the only one on its backbone that has begun, apart from fits."""
        ways = {one: self.candidates[one].way for one in (*self.ended, *self.begun)}
        alike = [one for one, way in ways.items() if way.backbone == ways[name].backbone and not is_fitted(way.method)]
        return alike == [name]

    def _place(self, name: str) -> int:
        """Return a candidate's position; -1 for results of other runs."""
        return [*self.candidates].index(name) if name in self.candidates else -1

    def _wait_for_memory(self, one: Candidate, slots: _Slots) -> None:
        def beside() -> list[Run]:
            return [self.setting.run_like(self.begun[name].candidate.way) for name in slots.busy]

        asked = self.setting.run_like(one.way)
        wait_for_memory(asked, self.memory, beside, lambda: self._end(slots, slots.next), self.setting.watcher)

    def _train(self, one: Candidate, number: int, slots: _Slots) -> None:
        pace, clock = self.times.of(one.way), self.setting.clock
        assert pace is not None
        length = self.lengths[one.way.backbone]
        if length.steps < 1 or clock.left <= 0 or self._takes(one.way, pace) > clock.left:
            self.dropped[one.name] = Dropped(why="train")
            return
        run = self._run(one, length.steps, length.used, selection=length.share)
        begun = _Begun(one, number, run, Stopwatch())
        carry_out = self._begin(run, number, len(self.candidates), clock.end, begun.stopwatch.hear)
        self.begun[one.name] = begun
        slots.start(one.name, lambda tell: (carry_out(tell), meter.now()))
        self.at_once = max(self.at_once, len(slots.busy))

    def _end(self, slots: _Slots, wait: Callable[[], tuple[str, Callable[[], tuple[Record, float]]] | None]) -> None:
        """Wait for a training to end. If the first one was faster than measured, all are made longer."""
        with self.setting.stages.of(time_budget.TRAINING):
            if (next_ended := wait()) is None:
                return
            name, outcome = next_ended
            begun, ended = self.begun.pop(name), meter.now()

            def carried_out() -> Record:
                nonlocal ended
                made, ended = outcome()
                return made

            later = {made.record.key for other, made in self.results.items() if self._place(other) > begun.number - 1}
            made = self._finish(begun.run, carried_out, before=later)
        if made is None:
            return
        one = begun.candidate
        self.results[name], self.ended[name] = made, self.setting.clock.spent
        self.times.known[one.way] = StepTime.of_run(made.record, ended - begun.stopwatch.began)
        if self._is_first(name) and self._longer(name, made):
            self._train(one, begun.number, slots)

    def _kept_back(self, way: Way, pace: StepTime) -> float:
        """Return the seconds to keep back for training the selected candidate again; 0 if there is no time in any case.

        The selected candidate is a candidate with this step time, or the one that is selected now.
        """
        if self.selected is None:
            return 0.0
        selected = self.candidates[self.selected].way
        now, then = self._again(selected, self.times.known[selected]), self._again(way, pace)
        return max(now, then) if now <= self.setting.clock.left else 0.0

    def _again(self, way: Way, pace: StepTime) -> float:
        """Return the seconds of a training on all texts; 0 if there are more texts than time."""
        length, there = self.lengths[way.backbone], len(self.setting.task.train)
        if length.used < there:
            return 0.0
        return self.times.seconds(way, pace, length.epochs(there) * math.ceil(there / BATCH), self.texts, there)

    def _confirm(self, one: Candidate) -> None:
        """Train the selected candidate on all texts, then on half of them, if there is time."""
        there = len(self.setting.task.train)
        if self.lengths[one.way.backbone].used < there:
            return  # there are more texts than time: a second training would show nothing
        with self.setting.stages.of(time_budget.AGAIN):
            self.again = self._once_more(one, there)
        if self.again is None:
            return
        self._forget(self.results[one.name])  # the first adapter is not needed any more, and may take gigabytes
        if there >= 2 * BATCH:
            with self.setting.stages.of(time_budget.HALF):
                self.half = self._once_more(one, there // 2)
            if self.half:
                self._forget(self.half)

    def _forget(self, result: Result) -> None:
        self.held.forget(result.record, PurePosixPath(result.record.adapter).name)

    def _once_more(self, one: Candidate, examples: int) -> Result | None:
        epochs = self.lengths[one.way.backbone].epochs(len(self.setting.task.train))
        steps = epochs * math.ceil(examples / BATCH)
        pace = self.times.known[one.way]
        if self.times.seconds(one.way, pace, steps, self.texts, examples) > self.setting.clock.left:
            return None
        return self._execute(self._run(one, steps, examples), 1, 1, self.setting.clock.end, noted=False)

    def _run(self, one: Candidate, steps: int, examples: int, selection: float | None = None) -> Run:
        data = {"train_examples": examples, "evaluation_examples": self.texts, "selection": selection}
        run = self.setting.run(one.way, rate=one.rate, steps=None if one.rate is None else steps, **data)
        return run.model_copy(update={"name": one.name})

    def _execute(self, run: Run, number: int, total: int, until: float, *, noted: bool = True) -> Result | None:
        """Execute a run and return its result, or None; with `noted`, `dropped` then has the reason."""
        carry_out = self._begin(run, number, total, until)
        return self._finish(run, lambda: carry_out(lambda call: call()), noted=noted)

    def _begin(
        self, run: Run, number: int, total: int, until: float, hear: Listener = ignore
    ) -> Callable[[Tell], Record]:
        setting = self.setting
        setting.watcher.started(run, number, total)
        return work(run, self.held, NAME, setting.executor, setting.watcher, until, hear)

    def _finish(
        self, run: Run, carried_out: Callable[[], Record], *, noted: bool = True, before: Collection[str] = ()
    ) -> Result | None:
        try:
            made = carried_out()
        except Overrun:
            self._drop(run, Dropped(why="overrun"), f"run {run.title}: stopped at the time limit.", noted=noted)
        except AfinaError as error:
            self._drop(run, Dropped(why="error", message=reason(run, error)), str(error), noted=noted)
        else:
            self.setting.watcher.finished(run, made, now=True)
            return self.held.keep(made, run.label, before)
        return None

    def _drop(self, run: Run, why: Dropped, message: str, *, noted: bool) -> None:
        if noted:
            self.dropped[run.title] = why
        self.held.abandon(run.label)
        self.setting.watcher.failed(run, message)
