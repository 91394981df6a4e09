"""Train candidates under a time limit, as many at once as the executor has slots, and select the best.

The first runs are cheap candidates: the linear probe and the zero-shot model. Their time gives an estimate of the time
of a training step (`step_times.py`), which the first steps of each training correct. A run that would not end in time
is stopped, and begins again with fewer steps if this fits. All trainings on a backbone have the same number of steps.
Time is kept back to train the selected candidate again on all texts, and then on half of the texts, to estimate what
more labels would gain. Remaining time goes to candidates that were left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath

from afina import meter
from afina.errors import AfinaError
from afina.events import Listener, Progress, ignore
from afina.methods import is_fitted
from afina.stats.metrics import METRICS
from afina.studies.choosing import time_budget
from afina.studies.choosing.candidates import Candidate, reason, takes_steps, weighed
from afina.studies.choosing.recommendation import BATCH, EPOCHS, NAME, Dropped
from afina.studies.choosing.setup import ChoiceSetup, Way
from afina.studies.choosing.step_times import StepTime, StepTimes, Stopwatch
from afina.studies.choosing.training_length import ALONE, SHARE, TrainingLength, steps_of_epoch, training_length
from afina.studies.executors.executor import MemoryForecast, Overrun
from afina.studies.runs.output_directory import OutputLock
from afina.studies.runs.record import Record, Result
from afina.studies.runs.run import Run
from afina.studies.schedule import Slots, Tell, wait_for_memory, work

FASTER = 1.5
"""A first run begins again if it turns out that this many times its length, or a part as small, suits the time."""

MEASURING = 0.15
"""The largest share of the minutes for runs that begin again to be longer, and for the untrained model."""

EVALUATION_SHARE, TRAININGS = 0.3, 3
"""The largest share of a training's time for scoring held-out texts, and the number of trainings to expect."""

FEWEST, MOST_TEXTS = 100, 1_000
"""The number of held-out texts that are always scored, if there are so many, and the most on several backbones.

The speed of a backbone is unknown when the first one has been scored on these texts.
"""


class _Misjudged(Exception):
    """Raised in a run in progress whose number of training steps does not suit the time that is left."""


@dataclass
class _Begun:
    """A run in progress: its candidate, its number among all candidates, its training length and its stopwatch.

    Attributes:
        decides: Whether this run's measured step time sets the length of later runs, since only an estimate was known.
        judged: Whether the step time was measured in the run itself.
    """

    candidate: Candidate
    number: int
    run: Run
    length: TrainingLength
    decides: bool
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    judged: bool = False


_Slots = Slots[str, tuple[Record, float]]
"""Slots by the names of candidates; a value is a record and the time at which the run ended."""


@dataclass
class CandidateTrainings:
    """The runs of a recommendation and their results.

    Attributes:
        times: The measured step times of methods on backbones so far.
        texts: The number of held-out texts on which each candidate is evaluated.
        lengths: The number of steps and texts of each training, by backbone.
        settled: The backbones whose training length does not change any more.
        candidates: Candidates by name, in the order of training.
        results: Results by the names of candidates, in the order of `candidates`.
        ended: When each training ended, in seconds from the start.
        again, half: The results of the selected candidate trained on all texts, and on half of the texts.
        confirmed: The name of the candidate that was trained again.
        keeps_back: Whether time is kept back to train the selected candidate again.
        short: Whether trainings may be too short to tell how good a method is, because longer ones do not fit.
        begun: Runs in progress, by the names of candidates.
        failed: Methods on backbones whose runs failed before the first training step, with their errors.
        memory: The memory forecast of the trainings; None if memory does not limit the number of trainings at once.
        at_once: The largest number of runs at the same time.
    """

    setting: ChoiceSetup
    held: OutputLock
    times: StepTimes
    texts: int = 0
    lengths: dict[str, TrainingLength] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)
    candidates: dict[str, Candidate] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    dropped: dict[str, Dropped] = field(default_factory=dict)
    again: Result | None = None
    half: Result | None = None
    confirmed: str | None = None
    keeps_back: bool = True
    short: bool = False
    begun: dict[str, _Begun] = field(default_factory=dict)
    failed: dict[Way, AfinaError] = field(default_factory=dict)
    memory: MemoryForecast | None = None
    at_once: int = 1

    def carry_out(self, candidates: Sequence[Candidate]) -> None:
        """Run each candidate for which there is time, and train the selected candidate again.

        If every trained candidate fails, raises the error of the first.
        """
        self.candidates = {one.name: one for one in candidates}
        self.memory = self.setting.memory_of(list(dict.fromkeys(one.way for one in candidates if one.is_trained)))
        texts = len(self.setting.task.evaluation)
        self.texts = texts if len(self.setting.backbones) == 1 else min(texts, MOST_TEXTS)
        self._carry_out_each(candidates)
        if not any(takes_steps(one.record.method) for one in self.results.values()):
            self.short = True
            self._carry_out_each(self._waiting)
        best = self.selected
        if best is None and self.failed and all(one.why == "error" for one in self.dropped.values()):
            raise next(iter(self.failed.values()))  # the user needs the reason
        if best is not None:
            self._confirm(self.candidates[best])
        self.keeps_back = False
        self._carry_out_each(self._waiting)
        self.results = dict(sorted(self.results.items(), key=lambda one: self._place(one[0])))

    @property
    def _waiting(self) -> list[Candidate]:
        """The candidates that were left out for want of time."""
        return [self.candidates[name] for name, one in self.dropped.items() if one.why == "train"]

    def _carry_out_each(self, candidates: Sequence[Candidate]) -> None:
        with _Slots(self.setting.executor) as slots:
            for one in candidates:
                is_open = partial(self._is_open, one.way)
                while is_open():
                    self._end(slots, partial(slots.next_while, is_open))
                if one.way in self.failed:
                    continue
                self._wait_for_memory(one, slots)
                self._start(one, slots)
                while slots.full:
                    self._end(slots, slots.next_if_full)
            while slots.busy:
                self._end(slots, slots.next)

    @property
    def selected(self) -> str | None:
        """The name of the best candidate; None if no candidate was trained."""
        return next(iter(self.ranked), None)

    @property
    def ranked(self) -> list[str]:
        """The names of the trained candidates, best first."""
        trained = [name for name, one in self.results.items() if one.record.selection]
        return sorted(trained, key=partial(self._standing, among=self._weighed()), reverse=True)

    def weighed(self, name: str) -> float | None:
        """Return a candidate's validation metric, shrunk towards its accuracy in trainings recorded by afina.

        None if the metric is not a share such as accuracy, the kind of task is not recorded, or time is short for all
        texts.
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
        """Return a sort key: greater is better; the lower loss breaks ties. `among`: values of `weighed` by name."""
        made = self.results[name].record
        assert made.selection
        measured = -made.selection.value if METRICS[made.metric].lower else made.selection.value
        return -math.inf if math.isnan(measured) else among.get(name, measured), -made.selection.loss

    def last(self, name: str) -> Result:
        """Return a candidate's final result: that of the training on all texts if the candidate was trained again."""
        return self.again if self.again and name == self.confirmed else self.results[name]

    def _reads_all(self) -> bool:
        """Return whether every training has read all training texts."""
        sizes = [
            one.record.train_examples + one.record.selection.examples
            for one in self.results.values()
            if one.record.selection
        ]
        return min(sizes) >= len(self.setting.task.train)

    def _is_open(self, way: Way) -> bool:
        """Return whether a run in progress is about to measure the step time that sets the length of a run of `way`."""
        return any(
            one.decides and not one.judged and (way.backbone == one.candidate.way.backbone or not self.times.known)
            for one in self.begun.values()
        )

    def _place(self, name: str) -> int:
        return [*self.candidates].index(name)

    def _length(self, way: Way, pace: StepTime | None) -> TrainingLength | None:
        """Return the length of a run; None if no useful length fits. `pace` None: the length with plenty of time."""
        there, left = len(self.setting.task.train), self.setting.clock.left
        if way.backbone in self.settled and takes_steps(way.method):
            return self.lengths[way.backbone]
        if pace is None or not (takes_steps(way.method) or is_fitted(way.method)):
            read = self.setting.read_first
            return TrainingLength(EPOCHS * steps_of_epoch(read), read)
        if takes_steps(way.method):
            return training_length(pace, left, there, self.texts, short=self.short)
        # A fit reads the same texts as the trainings on its backbone, or fewer.
        training = self._first_training(left)
        used = training.used if training else there
        each = (1 - SHARE) * pace.step + SHARE * pace.text
        most = int((left / ALONE - pace.seconds(0, self.texts)) / max(each, 1e-9))
        return TrainingLength(1, min(used, most)) if most >= min(used, FEWEST) else None

    def _first_training(self, left: float) -> TrainingLength | None:
        """Return the length of the first training for which `left` seconds suffice, by the known step times.

        A candidate that is expected to be worse than the mean candidate is skipped: the linear probe is as good.
        """
        good = (one for one in self.candidates.values() if takes_steps(one.way.method) and (one.ahead or 0.0) >= 0)
        paces = (self.times.of(one.way) for one in good)
        there = len(self.setting.task.train)
        lengths = (training_length(one, left, there, self.texts, short=self.short) for one in paces if one)
        return next((one for one in lengths if one), None)

    def _leaves_time(self, seconds: float) -> bool:
        """Return whether a useful first training still fits after `seconds`, or fits in no case."""
        left = self.setting.clock.left
        return bool(self.settled or self._first_training(left - seconds) or not self._first_training(left))

    def _takes(self, way: Way, pace: StepTime, length: TrainingLength) -> float:
        aside = 0 if not (takes_steps(way.method) or is_fitted(way.method)) else math.ceil(length.share * length.used)
        return self.times.seconds(way, pace, length.steps, self.texts + aside, length.used)

    def _wait_for_memory(self, one: Candidate, slots: _Slots) -> None:
        def beside() -> list[Run]:
            return [self.setting.run_like(self.begun[name].candidate.way) for name in slots.busy]

        asked = self.setting.run_like(one.way)
        wait_for_memory(asked, self.memory, beside, lambda: self._end(slots, slots.next), self.setting.watcher)

    def _start(self, one: Candidate, slots: _Slots) -> None:
        pace, clock, backbone = self.times.of(one.way), self.setting.clock, one.way.backbone
        length = self._length(one.way, pace)
        least = min((one.opening for one in self.times.known.values()), default=0.0)
        if clock.left <= least or length is None or (pace and not self._has_time(one, pace, length)):
            self.dropped[one.name] = Dropped(why="train")
            return
        self.dropped.pop(one.name, None)
        decides = pace is None or (takes_steps(one.way.method) and backbone not in self.settled)
        if takes_steps(one.way.method):
            self.lengths[backbone] = length
        number = self._place(one.name) + 1
        run = self._run(one, length.steps, length.used, selection=length.share if one.is_trained else None)
        begun = self.begun[one.name] = _Begun(one, number, run, length, decides)
        carry_out = self._begin(run, number, len(self.candidates), clock.end, partial(self._judge, begun))
        slots.start(one.name, lambda tell: (carry_out(tell), meter.now()))
        self.at_once = max(self.at_once, len(slots.busy))

    def _has_time(self, one: Candidate, pace: StepTime, length: TrainingLength) -> bool:
        takes, clock = self._takes(one.way, pace, length), self.setting.clock
        if not takes_steps(one.way.method) and not self._leaves_time(takes):
            return False
        if not one.is_trained:
            return takes <= (min(clock.left, MEASURING * 60 * clock.minutes) if self.keeps_back else clock.left)
        is_first = takes_steps(one.way.method) and one.way.backbone not in self.settled
        return takes + (self._kept_back(one.way, pace) if self.keeps_back and not is_first else 0.0) <= clock.left

    def _judge(self, begun: _Begun, progress: Progress) -> None:
        """Receive a run's progress, in its slot's thread; raise _Misjudged if another length suits the time left."""
        begun.stopwatch.hear(progress)
        way, clock = begun.candidate.way, self.setting.clock
        pace = self.times.seen(way, begun.stopwatch)
        if pace is None or (begun.judged and 2 * progress.step >= progress.steps):
            return
        is_blind, is_new = begun.decides and not self.times.known, not begun.judged
        self.times.note(way, pace)
        end = begun.stopwatch.began + self._takes(way, pace, begun.length)
        if end > clock.end or not (takes_steps(way.method) or self._leaves_time(end - meter.now())):
            if is_blind:
                self.texts = self._most_texts(pace)
            if begun.decides:
                self.settled.discard(way.backbone)
            raise _Misjudged
        if not is_new:
            return
        lost = self.setting.stages.seconds.get(time_budget.STEP_TIME, 0.0) + meter.now() - begun.stopwatch.began
        if begun.decides and lost <= MEASURING * 60 * clock.minutes:
            texts = self._most_texts(pace)
            if is_blind and TRAININGS * (self.texts - texts) * pace.text > pace.opening:
                self.texts = texts
                raise _Misjudged
            if (better := self._length(way, pace)) is not None:
                measure = "steps" if takes_steps(way.method) else "used"
                ratio = getattr(better, measure) / getattr(begun.length, measure)
                if max(ratio, 1 / ratio) >= FASTER:
                    raise _Misjudged
        begun.judged = True
        if takes_steps(way.method):
            self.settled.add(way.backbone)

    def _most_texts(self, pace: StepTime) -> int:
        """Return the number of held-out texts for which there is time, at most `texts`."""
        trained = sum(takes_steps(one.way.method) for one in self.candidates.values())
        share = self.setting.clock.left / max(1, min(trained, TRAININGS)) * EVALUATION_SHARE
        return min(self.texts, max(FEWEST, int(share / max(pace.text, 1e-9))))

    def _end(self, slots: _Slots, wait: Callable[[], tuple[str, Callable[[], tuple[Record, float]]] | None]) -> None:
        """Wait for a run to end. A run stopped by _Misjudged begins again with a length from the measured step time."""
        start, stage = meter.now(), time_budget.TRAINING
        try:
            if (next_ended := wait()) is None:
                return
            name, outcome = next_ended
            begun, ended = self.begun.pop(name), meter.now()
            one = begun.candidate
            if not one.is_trained:
                stage = time_budget.ASKING

            def carried_out() -> Record:
                nonlocal ended
                made, ended = outcome()
                return made

            later = {made.record.key for other, made in self.results.items() if self._place(other) >= begun.number}
            try:
                made = self._finish(begun.run, carried_out, before=later)
            except _Misjudged:
                stage = time_budget.STEP_TIME
                self.held.abandon(begun.run.label)
                self.setting.watcher.says(f"{one.name}: the time of a step is known now")
        finally:
            self.setting.stages.add(stage, meter.now() - start)
        if stage == time_budget.STEP_TIME:
            self._start(one, slots)
        elif made is not None:
            self.results[name], self.ended[name] = made, self.setting.clock.spent
            self.times.note(one.way, StepTime.of_run(made.record, ended - begun.stopwatch.began))
            if takes_steps(one.way.method):
                self.settled.add(one.way.backbone)

    def _kept_back(self, way: Way, pace: StepTime) -> float:
        """Return the seconds to keep back for training the selected candidate again; 0 if there is no time in any case.

        The seconds suffice for a candidate with the step time `pace` and for the candidate that is selected now.
        """
        if self.selected is None:
            return 0.0
        selected = self.candidates[self.selected].way
        now, then = self._again(selected, self.times.known[selected]), self._again(way, pace)
        return max(now, then) if now <= self.setting.clock.left else 0.0

    def _again(self, way: Way, pace: StepTime) -> float:
        """Return the seconds of a training on all texts; 0 if such a training does not fit in the given minutes."""
        length, there = self.lengths.get(way.backbone), len(self.setting.task.train)
        if length and length.used < there:
            return 0.0
        steps = length.epochs(there) * math.ceil(there / BATCH) if length else 0
        return self.times.seconds(way, pace, steps, self.texts, there)

    def _confirm(self, one: Candidate) -> None:
        """Train the selected candidate on all texts, then on half of them, if there is time."""
        there, first = len(self.setting.task.train), self.results[one.name]
        if not self._reads_all():
            return  # there are more texts than time: a second training would show nothing
        with self.setting.stages.of(time_budget.AGAIN):
            self.again = self._once_more(one, there)
        if self.again is None:
            return
        self.confirmed = one.name
        self._forget(first)  # the first adapter is not needed any more, and may take gigabytes
        if there >= 2 * BATCH:
            with self.setting.stages.of(time_budget.HALF):
                self.half = self._once_more(one, there // 2)
            if self.half:
                self._forget(self.half)

    def _forget(self, result: Result) -> None:
        self.held.forget(result.record, PurePosixPath(result.record.adapter).name)

    def _once_more(self, one: Candidate, examples: int) -> Result | None:
        steps = 0
        if takes_steps(one.way.method):
            epochs = self.lengths[one.way.backbone].epochs(len(self.setting.task.train))
            steps = epochs * math.ceil(examples / BATCH)
        pace = self.times.known[one.way]
        if self.times.seconds(one.way, pace, steps, self.texts, examples) > self.setting.clock.left:
            return None
        run = self._run(one, steps, examples)
        carry_out = self._begin(run, 1, 1, self.setting.clock.end)
        return self._finish(run, lambda: carry_out(lambda call: call()), noted=False)

    def _run(self, one: Candidate, steps: int, examples: int, selection: float | None = None) -> Run:
        data = {"train_examples": examples, "evaluation_examples": self.texts, "selection": selection}
        run = self.setting.run(one.way, rate=one.rate, steps=None if one.rate is None else steps, **data)
        return run.model_copy(update={"name": one.name})

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
            if (way := Way(run.backbone, run.method)) not in self.times.known:
                self.failed.setdefault(way, error)
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
