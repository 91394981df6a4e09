"""`CandidateTrainings` trains the candidates of a recommendation under a time limit, and selects the best.

The first runs are cheap candidates: the linear probe, on the smallest backbone first, and the zero-shot model. Their
time gives an estimate of the time of a training step, which the first steps of each training correct. A run that would
not end in time is stopped, and begins again with fewer steps if there is time for them. All trainings on a backbone
have the same number of steps. Time is reserved to train the selected candidate again on all texts, and then on half of
the texts, which estimates the gain from more labels. Time that is left at the end is used for candidates that were
skipped for lack of time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from afina import meter
from afina.errors import AfinaError
from afina.events import Listener, Progress, ignore
from afina.methods import is_fitted
from afina.stats.metrics import METRICS
from afina.studies.choosing import time_budget
from afina.studies.choosing.candidates import Candidate, reason, takes_steps, weighed
from afina.studies.choosing.recommendation import BATCH, NAME, Dropped, whole_steps
from afina.studies.choosing.setup import MOST_TEXTS, ChoiceSetup, Way
from afina.studies.choosing.step_times import StepTime, StepTimes, Stopwatch
from afina.studies.choosing.training_length import ALONE, SHARE, TrainingLength, steps_of_epoch, training_length
from afina.studies.executors.executor import MemoryForecast, Overrun
from afina.studies.runs.output_directory import OutputLock
from afina.studies.runs.record import Record, Result
from afina.studies.runs.run import Run
from afina.studies.schedule import Slots, Tell, wait_for_memory, work

FASTER = 1.5
"""A run that sets the length of later runs starts again if a length that differs by this factor fits better."""

MEASURING = 0.15
"""The largest share of the given minutes for runs that are started again, and for evaluating the untrained model."""

EVALUATION_SHARE, TRAININGS = 0.3, 3
"""The largest share of a training's time for scoring held-out texts, and the most trainings assumed to follow."""

FEWEST = 100
"""The smallest number of held-out texts that are scored."""


class _Misjudged(Exception):
    """Raised in a run in progress whose number of training steps does not fit the remaining time."""


@dataclass
class _Begun:
    """A run in progress, with its number among all candidates.

    `decides`: its measured step time sets the length of later runs, because none was measured before. `judged`: it was
    measured.
    """

    candidate: Candidate
    number: int
    run: Run
    length: TrainingLength
    decides: bool
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    judged: bool = False


_Slots = Slots[str, tuple[Record, float]]
"""Slots whose keys are candidates' names, and whose results are a run's record and the time at which the run ended."""


@dataclass
class CandidateTrainings:
    """The runs of a recommendation and their results, by candidate in the order of training.

    Attributes:
        texts: The number of held-out texts on which each candidate is evaluated.
        settled: The backbones for which the length of trainings does not change any more.
        ended: The time at which each training ended, in seconds from the start of `afina choose`.
        again: The result of training the selected candidate again on all texts; None before that.
        half: The result of training the selected candidate on half of the texts; None before that.
        confirmed: The name of the candidate that was trained again.
        keeps_back: Whether time is still reserved to train the selected candidate again.
        short: Whether trainings may be too short to show how good a method is, because longer trainings do not fit.
        failed: The errors of methods on backbones whose runs failed before a step time was measured.
        few_texts: Whether at most MOST_TEXTS held-out texts are scored, also with one backbone.
        changed: Called when there is another result.
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
    few_texts: bool = False
    changed: Callable[[], object] = lambda: None

    def begin(self, first: Sequence[Candidate]) -> None:
        """Run the candidates that give the first answer, before it is known which others there are."""
        self.candidates = {one.name: one for one in first}
        texts = len(self.setting.task.evaluation)
        self.texts = min(texts, MOST_TEXTS) if self.few_texts or len(self.setting.backbones) > 1 else texts
        self._carry_out_each(first)

    def carry_out(self, candidates: Sequence[Candidate]) -> None:
        """Run each candidate for which there is time, after `begin`, and train the selected candidate again.

        If every trained candidate fails, the error of the first failed candidate is raised.
        """
        self.candidates = {one.name: one for one in sorted(candidates, key=lambda one: one.name not in self.results)}
        self.memory = self.setting.memory_of(list(dict.fromkeys(one.way for one in candidates if one.is_trained)))
        self._carry_out_each(self.untried)
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
    def untried(self) -> list[Candidate]:
        """The candidates without a result that were not left out either, in the order of training."""
        return [one for name, one in self.candidates.items() if name not in self.results.keys() | self.dropped.keys()]

    @property
    def _waiting(self) -> list[Candidate]:
        """The candidates that were left out because there was no time to train them."""
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
        """The name of the candidate that is best on the validation set."""
        return next(iter(self.ranked), None)

    @property
    def ranked(self) -> list[str]:
        """The names of the trained candidates, the best on the validation set first."""
        trained = [name for name, one in self.results.items() if one.record.selection]
        return sorted(trained, key=partial(self._standing, among=self._weighed()), reverse=True)

    def weighed(self, name: str) -> float | None:
        """Return a candidate's validation metric, shrunk towards its expected accuracy from recorded trainings.

        None: the metric is not a share such as accuracy, there are no recorded trainings for the kind of task, or the
        trainings did not read all training texts.
        """
        return self._weighed().get(name)

    def _weighed(self) -> dict[str, float]:
        scored = [
            (self.candidates[name], seen.value, seen.examples)
            for name, one in self.results.items()
            if (seen := one.record.selection) and METRICS[one.record.metric].share and not math.isnan(seen.value)
        ]
        if not scored or not self._reads_all():
            return {}
        several, learned = len(self.setting.backbones) > 1, self.setting.lessons
        return weighed(scored, several=several, level_counts=learned.level_counts)

    def _standing(self, name: str, among: Mapping[str, float]) -> tuple[float, float]:
        """Return the sort key of a candidate: its value in `among`, or its validation metric, and then the loss."""
        made = self.results[name].record
        assert made.selection
        measured = -made.selection.value if METRICS[made.metric].lower else made.selection.value
        return -math.inf if math.isnan(measured) else among.get(name, measured), -made.selection.loss

    def last(self, name: str) -> Result:
        """Return a candidate's final result, which is that of its second training if there was one."""
        return self.again if self.again and name == self.confirmed else self.results[name]

    def _reads_all(self) -> bool:
        sizes = [
            one.record.train_examples + one.record.selection.examples
            for one in self.results.values()
            if one.record.selection
        ]
        return min(sizes) >= len(self.setting.task.train)

    def _is_open(self, way: Way) -> bool:
        """Return whether a candidate's run must wait until a run in progress has measured the step time."""
        return any(
            one.decides and not one.judged and (way.backbone == one.candidate.way.backbone or not self.times.known)
            for one in self.begun.values()
        )

    def _place(self, name: str) -> int:
        return [*self.candidates].index(name)

    def _length(self, way: Way, pace: StepTime | None) -> TrainingLength | None:
        """Return the length of a run; None if no useful length fits the time, which counts if `pace` is known."""
        there, left = len(self.setting.task.train), self.setting.clock.left
        if way.backbone in self.settled and takes_steps(way.method):
            return self.lengths[way.backbone]
        if pace is None or not (takes_steps(way.method) or is_fitted(way.method)):
            read = self.setting.read_first
            return TrainingLength(whole_steps(read, steps_of_epoch(read)), read)
        if takes_steps(way.method):
            return training_length(pace, left, there, self.texts, short=self.short)
        # A fit reads the same texts as the trainings on its backbone, or fewer.
        training = self._first_training(left)
        used = training.used if training else there
        each = (1 - SHARE) * pace.step + SHARE * pace.text
        most = int((left / ALONE - pace.seconds(0, self.texts)) / max(each, 1e-9))
        return TrainingLength(1, min(used, most)) if most >= min(used, FEWEST) else None

    def _first_training(self, left: float) -> TrainingLength | None:
        """Return the length of the first training that fits in `left` seconds by the known step times.

        Candidates below the mean expected accuracy (`ahead` < 0) are skipped: the cheaper linear probe is as good.
        """
        good = (one for one in self.candidates.values() if takes_steps(one.way.method) and (one.ahead or 0.0) >= 0)
        paces = (self.times.of(one.way) for one in good)
        there = len(self.setting.task.train)
        lengths = (training_length(one, left, there, self.texts, short=self.short) for one in paces if one)
        return next((one for one in lengths if one), None)

    def _leaves_time(self, seconds: float) -> bool:
        """Return whether spending `seconds` does not prevent a useful first training that would fit otherwise."""
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
        """Receive progress in the thread of a slot; raise _Misjudged if another length fits better."""
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
        """Return the number of held-out texts that each training has time to score, at most `self.texts`."""
        trained = sum(takes_steps(one.way.method) for one in self.candidates.values()) or TRAININGS
        share = self.setting.clock.left / min(trained, TRAININGS) * EVALUATION_SHARE
        return min(self.texts, max(FEWEST, int(share / max(pace.text, 1e-9))))

    def _end(self, slots: _Slots, wait: Callable[[], tuple[str, Callable[[], tuple[Record, float]]] | None]) -> None:
        """Wait until a run ends, and keep its result, or start it again with the length that fits."""
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
            self.changed()

    def _kept_back(self, way: Way, pace: StepTime) -> float:
        """Return the seconds to reserve for training the selected candidate, or `way`, again; 0 if there is no time."""
        if self.selected is None:
            return 0.0
        selected = self.candidates[self.selected].way
        now, then = self._again(selected, self.times.known[selected]), self._again(way, pace)
        return max(now, then) if now <= self.setting.clock.left else 0.0

    def _again(self, way: Way, pace: StepTime) -> float:
        """Return the seconds of training a candidate again on all texts; 0 if trainings do not use all texts."""
        length, there = self.lengths.get(way.backbone), len(self.setting.task.train)
        if length and length.used < there:
            return 0.0
        steps = length.steps_on(there, there) if length else 0
        return self.times.seconds(way, pace, steps, self.texts, there)

    def _confirm(self, one: Candidate) -> None:
        """Train the selected candidate again on all texts, and then on half of the texts, if there is time."""
        there, first = len(self.setting.task.train), self.results[one.name]
        if not self._reads_all():
            return  # there are more texts than time: a second training would show nothing
        with self.setting.stages.of(time_budget.AGAIN):
            self.again = self._once_more(one, there)
        if self.again is None:
            return
        self.confirmed = one.name
        self._forget(first)  # the first adapter is not needed any more, and may take gigabytes
        self.changed()
        if there >= 2 * BATCH:
            with self.setting.stages.of(time_budget.HALF):
                self.half = self._once_more(one, there // 2)
            if self.half:
                self._forget(self.half)

    def _forget(self, result: Result) -> None:
        self.held.forget(result.record, result.record.label)

    def _once_more(self, one: Candidate, examples: int) -> Result | None:
        steps = 0
        if takes_steps(one.way.method):
            steps = self.lengths[one.way.backbone].steps_on(examples, len(self.setting.task.train))
        pace = self.times.known[one.way]
        if self.times.seconds(one.way, pace, steps, self.texts, examples) > self.setting.clock.left:
            return None
        run = self._run(one, steps, examples)
        carry_out = self._begin(run, 1, 1, self.setting.clock.end)
        return self._finish(run, lambda: carry_out(lambda call: call()), noted=False)

    def _run(self, one: Candidate, steps: int, examples: int, selection: float | None = None) -> Run:
        data = {"train_examples": examples, "evaluation_examples": self.texts, "selection": selection}
        run = self.setting.run(
            one.way, rate=one.rate, steps=None if one.rate is None else steps, shots=one.shots, **data
        )
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
