"""Trainings of candidates under a time limit, one of which is selected; as many at once as the executor has slots.

The time of a step is measured before the first training and updated from each training. The most expensive method's
step time stands for that of an unmeasured method. Another method is measured only if the most expensive one leaves no
time for a training, but the cheapest possible one would. All trainings have the same length. Enough time is kept back
to train the selected candidate again on all texts. Time that is left then trains it on half of the texts, to estimate
what more labels would gain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath

from afina import meter
from afina.errors import AfinaError
from afina.events import Listener, ignore
from afina.stats.metrics import METRICS
from afina.studies.choosing import time_budget
from afina.studies.choosing.candidates import BATCH, CHEAPEST, DEAREST, Candidate, ChoiceSetup, reason
from afina.studies.choosing.recommendation import NAME, Dropped
from afina.studies.choosing.time_budget import MEASURED, StepTime, Stopwatch, measure_step_time
from afina.studies.choosing.training_length import AT_LEAST, SHARE, share_aside, training_length
from afina.studies.runs.executor import MemoryForecast, Overrun
from afina.studies.runs.output_directory import OutputLock
from afina.studies.runs.record import Record, Result
from afina.studies.runs.run import Run
from afina.studies.schedule import Slots, Tell, wait_for_memory, work

FASTER = 1.5
"""If the first training shows that there is time for this many times its steps, all trainings are made longer.

A machine that was busy while the step time was measured would otherwise make every training too short.
"""

EVALUATION_SHARE, FEWEST = 0.3, 100
"""The largest share of a training's time for scoring held-out texts, and the number of texts that are always scored."""


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
        lowered: Whether training computes in bfloat16.
        texts: The number of held-out texts on which each candidate is evaluated.
        steps, used: The steps and the training texts of each training; `used` counts texts set aside for selecting too.
        number: The number of candidates.
        candidates: Candidates by name.
        paces: Step times by method, updated as better ones are known.
        results: Results by the names of candidates, in their order.
        ended: When each training ended, in seconds from the start.
        again, half: The selected candidate, trained on all texts and on half of them.
        begun: Trainings in progress, by the names of candidates.
        memory: The memory of trainings; None if memory does not limit them.
        at_once: The largest number of trainings at the same time.
    """

    setting: ChoiceSetup
    held: OutputLock
    lowered: bool
    texts: int = 0
    steps: int = 0
    used: int = 0
    number: int = 0
    candidates: dict[str, Candidate] = field(default_factory=dict)
    paces: dict[str, StepTime] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    dropped: dict[str, Dropped] = field(default_factory=dict)
    again: Result | None = None
    half: Result | None = None
    begun: dict[str, _Begun] = field(default_factory=dict)
    memory: MemoryForecast | None = None
    at_once: int = 1

    def plan(self, candidates: Sequence[Candidate]) -> None:
        """Measure the first candidate that can be trained, and set `texts`. Raises an error if none can be trained."""
        self.number = len(candidates)
        self.texts = len(self.setting.task.evaluation)
        self.memory = self.setting.memory_of(list(dict.fromkeys(one.method for one in candidates)))
        problem: AfinaError | None = None
        for number, one in enumerate(candidates):
            try:
                self._measure(one)
            except AfinaError as error:
                problem = error
            if one.method in self.paces:
                share = self.setting.clock.left / min(len(candidates) - number, AT_LEAST + 1) * EVALUATION_SHARE
                bought = int(share / max(self.paces[one.method].text, 1e-9))
                self.texts = min(self.texts, max(FEWEST, bought))
                return
        if problem:
            raise problem  # no candidate can be trained: the user needs the reason

    def evaluate(self, methods: Sequence[str], seconds: float) -> None:
        """Evaluate methods that train nothing, each within `seconds`."""
        for number, method in enumerate(methods, start=1):
            if seconds > 0:
                read = self.setting.read_first
                run = self.setting.run(method, train_examples=read, evaluation_examples=self.texts)
                with self.setting.stages.of(time_budget.ASKING):
                    made = self._execute(run, number, len(methods), meter.now() + seconds)
                if made:
                    self.results[method] = made
            else:
                self.dropped[method] = Dropped(why="start")

    def carry_out(self, candidates: Sequence[Candidate]) -> None:
        """Train each candidate for which there is time, and then train the selected candidate again."""
        self.candidates = {one.name: one for one in candidates}
        if self.paces:
            self._set_length(next(iter(self.paces.values())))
        with _Slots(self.setting.executor) as slots:
            for number, one in enumerate(candidates, start=1):
                if self._has_failed(one.method):
                    continue
                if self._should_measure(one):
                    try:
                        self._measure(one)
                    except AfinaError as error:
                        self.setting.watcher.says(str(error))
                if self._pace(one.method) is not None:
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
        return sorted(trained, key=self._standing, reverse=True)

    def weighed(self, name: str) -> float | None:
        """Return the metric on the texts for selecting, combined with recorded trainings, since few texts tell little.

        None for metrics other than shares, unrecorded kinds of task, and if there is no time to read all texts.
        """
        made = self.results[name].record
        metric, seen = METRICS[made.metric], made.selection
        if not seen or math.isnan(seen.value) or not metric.share or self.used < len(self.setting.task.train):
            return None
        return self.candidates[name].weighed(seen.value, seen.examples)

    def _standing(self, name: str) -> tuple[float, float]:
        """Return a sort key: greater is better; the lower loss wins among equals."""
        made, weighed = self.results[name].record, self.weighed(name)
        assert made.selection
        measured = -made.selection.value if METRICS[made.metric].lower else made.selection.value
        if math.isnan(measured):
            return -math.inf, -made.selection.loss
        return measured if weighed is None else weighed, -made.selection.loss

    def last(self, name: str) -> Result:
        """Return a candidate's final result: for the selected candidate, that of its second training."""
        return self.again if self.again and name == self.selected else self.results[name]

    @property
    def share(self) -> float:
        """The share of the texts read that is set aside for selecting."""
        return share_aside(self.used)

    def _pace(self, method: str) -> StepTime | None:
        """Return the method's step time, or else that of the most expensive method."""
        return self.paces.get(method) or self.paces.get(DEAREST)

    def _has_failed(self, method: str) -> bool:
        """Return whether the method could not even begin to train."""
        why = self.dropped[method].why if method in self.dropped else "train"
        return method not in self.paces and why in ("start", "error")

    def _should_measure(self, one: Candidate) -> bool:
        """Return whether the step time is unknown and decides whether there is time to train the candidate."""
        if one.method in self.paces:
            return False
        dearest = self.paces.get(DEAREST)
        if dearest is None:
            return True
        if self._takes(dearest) <= self.setting.clock.left:
            return False
        least = dearest.at_least(CHEAPEST)
        return least.seconds(MEASURED, FEWEST) + self._takes(least) <= self.setting.clock.left

    def _takes(self, pace: StepTime) -> float:
        """Return the seconds of a training at this step time, including the time to keep back."""
        scored = self.texts + math.ceil(self.share * self.used)
        return pace.seconds(self.steps, scored) + self._kept_back(pace)

    def _measure(self, one: Candidate) -> None:
        setting, clock = self.setting, self.setting.clock
        if clock.left <= 0:
            self.dropped[one.method] = Dropped(why="start")
            return
        read = setting.read_first
        run = setting.run(one.method, train_examples=read, validation=min(SHARE, FEWEST / read))
        setting.watcher.says(f"measuring the time of a step of {one.method}")
        listen = partial(setting.watcher.progress, run)
        until = meter.now() + clock.left / AT_LEAST
        try:
            with setting.stages.of(time_budget.STEP_TIME):
                beside = self._fitting(one.method)
                self.paces[one.method] = measure_step_time(
                    run, setting.executor, listen, until, lowered=self.lowered, at_once=beside
                )
        except Overrun:
            self.dropped[one.method] = Dropped(why="start")
        except AfinaError as error:
            self.dropped[one.method] = Dropped(why="error", message=reason(run, error))
            raise

    def _fitting(self, method: str) -> int:
        """Return how many measurements fit beside the trainings in progress, which slow each other down.

        There are never more than candidates, which are all that can be trained at once.
        """
        asked = self.setting.run_like(method)
        free = min(self.setting.executor.slots, self.number) - len(self.begun)
        while free > 1 and self.memory and self.memory.left(asked, [asked] * (free - 1)) is not None:
            free -= 1
        return max(1, free)

    def _set_length(self, pace: StepTime) -> None:
        there = len(self.setting.task.train)
        self.steps, self.used = training_length(pace, self.setting.clock.left, there, self.texts)

    def _longer(self, first: Result) -> bool:
        """Set the length again from the time of the first training; if longer, discard `first` and return True."""
        before = self.steps, self.used
        self._set_length(self.paces[first.record.method])
        if self.steps < FASTER * before[0]:
            self.steps, self.used = before
            return False
        name = next(iter(self.ended))
        del self.results[name], self.ended[name]
        self._forget(first)
        return True

    def _place(self, name: str) -> int:
        """Return a candidate's position; -1 for results of other runs."""
        return [*self.candidates].index(name) if name in self.candidates else -1

    def _wait_for_memory(self, one: Candidate, slots: _Slots) -> None:
        def beside() -> list[Run]:
            return [self.setting.run_like(self.begun[name].candidate.method) for name in slots.busy]

        asked = self.setting.run_like(one.method)
        wait_for_memory(asked, self.memory, beside, lambda: self._end(slots, slots.next), self.setting.watcher)

    def _train(self, one: Candidate, number: int, slots: _Slots) -> None:
        pace, clock = self._pace(one.method), self.setting.clock
        assert pace is not None
        if self.steps < 1 or clock.left <= 0 or self._takes(pace) > clock.left:
            self.dropped[one.name] = Dropped(why="train")
            return
        run = self._run(one, self.steps, self.used, selection=self.share)
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
        self.paces[one.method] = StepTime.of_run(made.record, ended - begun.stopwatch.began)
        if [*self.ended] == [name] and not slots.busy and self._longer(made):
            self._train(one, begun.number, slots)

    def _kept_back(self, pace: StepTime) -> float:
        """Return the seconds to keep back for training the selected candidate again; 0 if there is no time in any case.

        The selected candidate is a candidate with this step time, or the one that is selected now.
        """
        selected, there = self.selected, len(self.setting.task.train)
        if selected is None or self.used < there:
            return 0.0
        steps = self._epochs * math.ceil(there / BATCH)
        now, then = (
            each.seconds(steps, self.texts) for each in (self.paces[self.results[selected].record.method], pace)
        )
        return max(now, then) if now <= self.setting.clock.left else 0.0

    @property
    def _epochs(self) -> int:
        """Epochs of trainings on all texts."""
        there = len(self.setting.task.train)
        return max(1, round(self.steps / math.ceil(there * (1 - self.share) / BATCH)))

    def _confirm(self, one: Candidate) -> None:
        """Train the selected candidate on all texts, then on half of them, if there is time."""
        there = len(self.setting.task.train)
        if self.used < there:
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
        steps = self._epochs * math.ceil(examples / BATCH)
        if self.paces[one.method].seconds(steps, self.texts) > self.setting.clock.left:
            return None
        return self._execute(self._run(one, steps, examples), 1, 1, self.setting.clock.end, noted=False)

    def _run(self, one: Candidate, steps: int, examples: int, selection: float | None = None) -> Run:
        data = {"train_examples": examples, "evaluation_examples": self.texts, "selection": selection}
        run = self.setting.run(one.method, rate=one.rate, steps=steps, **data)
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
