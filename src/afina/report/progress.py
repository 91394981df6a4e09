"""The progress of runs in words: the lines of a log, and the texts of a progress bar or table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isnan

from afina import meter
from afina.events import NOTED, Progress
from afina.methods import make
from afina.report.formatting import count, counted, in_words, metric_figure, metrics_of, number_of_texts, size
from afina.report.recommendation import title
from afina.sentence import Sentence
from afina.studies.runs.record import Record
from afina.studies.runs.run import Run
from afina.studies.trials import Trial
from afina.studies.watcher import Watcher

LINE_SECONDS = 15.0
"""`Lines` writes at most one line per this number of seconds about the same phase of a run."""


def figures(progress: Progress) -> str:
    """Return the known figures of a run's progress as text, such as `loss 0.512, 1,019 tokens/s, 0:41 left`."""
    if progress.phase == "download":
        return f"{progress.step / 1e6:,.0f} MB"
    parts = []
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.tokens_per_second is not None:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.seconds_left is not None:
        parts.append(f"{clock(progress.seconds_left)} left")
    return ", ".join(parts)


def doing(progress: Progress) -> str:
    if progress.phase == "download":
        return f"downloading {progress.steps / 1e6:,.0f} MB of {progress.note} (once)"
    if progress.phase == "draw":
        return f"draws {progress.note}, which the backbone's files lack; peft would draw other weights"
    if progress.phase in NOTED:
        return progress.note
    return f"waits for {progress.note}" if progress.phase == "wait" and progress.note else progress.phase


def clock(seconds: float) -> str:
    """Return a duration as text, such as `0:41` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def named(run: Run) -> str:
    """Return the title and seed of a run as text, such as `LoRA, seed 0`."""
    return f"{run.title}, seed {run.seed}"


def begun(run: Run, number: int, total: int) -> str:
    """Return the number, title and seed of a run as text, such as `[2/6] LoRA, seed 0`."""
    return f"[{number}/{total}] {named(run)}"


def tuned(run: Run, number: int, spent: float) -> str:
    """Return the name of a tuning candidate as text, such as `[tuning LoRA, 40%] candidate 3`."""
    return f"[tuning {run.title}, {spent:.0%}] candidate {number}"


def planned(run: Run) -> str:
    if make(run.method, run.hyperparameters).trains_nothing:
        return f"asking: {title(run.title)}"
    aside = ", of which some are for validation" if run.data.selection else ""
    texts = run.data.train_examples  # None: a student reads all
    return f"training {title(run.title)} on {'all' if texts is None else format(texts, ',')} texts{aside}"


def waiting(run: Run, needed: int, available: int) -> str:
    return f"{named(run)}: waits for memory: needs {size(needed)}, beside the others are {size(available)}"


def attempt(run: Run, number: int, trial: Trial, length: int) -> str:
    setting = {key: f"{value:.2g}" if isinstance(value, float) else value for key, value in trial.setting.items()}
    start = f"tuning {run.title}, candidate {number}: {in_words(setting)}"
    if trial.value is None:
        return f"{start}: diverged at step {trial.steps} of {length}"
    early = "" if trial.steps == length else f", stopped at step {trial.steps} of {length}"
    if isnan(trial.value):
        return f"{start}: the metric is undefined on the validation cut, so it loses{early}"
    return f"{start}: {trial.value:.4f} on the validation cut{early}"


def selected(record: Record) -> str:
    seen = record.selection
    if seen is None:
        return ""
    figure = metric_figure(record.metric, seen.value, record.label_names)
    loses = "; another training with a figure is preferred" if isnan(seen.value) else ""
    return f"{title(record.name)}: {figure} on {counted(seen.examples, 'validation text')}{loses}"


def result(run: Run, record: Record, *, now: bool) -> str:
    names = metrics_of(record)[:2]
    figures = [metric_figure(name, record.metrics[name], record.label_names) for name in names]
    found = f"{', '.join(figures)}, {_time(record)}"
    return f"{named(run)}: {found}{'' if now else ' (recorded before)'}"


def _time(record: Record) -> str:
    if record.endpoint is None:
        return f"trained in {clock(record.seconds.train)}" if record.steps else "nothing trained"
    lacking = record.endpoint.missing_texts
    missing = f", no answer to {count(lacking)} of {number_of_texts(record.examples)}" if lacking else ""
    return f"answered in {clock(record.seconds.evaluate)}{missing}"


def failure(run: Run, message: str) -> str:
    return Sentence([f"Error: {named(run)}: ", message.removeprefix(f"run {run.title}: ")])


@dataclass
class _Line:
    """The last line that was written about a run."""

    place: str
    phase: str = ""
    words: str = ""
    last: float = 0.0


class Lines(Watcher):
    """A watcher that passes a line per phase of a run to `say`, and at most one per LINE_SECONDS within a phase."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self.say = say
        self.lines: dict[str, _Line] = {}
        self.candidates: dict[str, Run] = {}

    def begin(self, run: Run, place: str) -> None:
        self.lines[run.label] = _Line(place)

    def end(self, run: Run) -> None:
        self.lines.pop(run.label, None)

    def says(self, words: str) -> None:
        self.say(words)

    def started(self, run: Run, number: int, total: int) -> None:
        self.begin(run, begun(run, number, total))

    def waits(self, run: Run, needed: int, available: int) -> None:
        self.say(waiting(run, needed, available))

    def trying(self, run: Run, number: int, spent: float) -> None:
        self.candidates[run.label] = run
        self.begin(run, tuned(run, number, spent))

    def tried(self, run: Run, number: int, trial: Trial, length: int) -> None:
        self.candidates.pop(run.label, None)
        self.end(run)
        self.say(attempt(run, number, trial, length))

    def progress(self, run: Run, progress: Progress) -> None:
        line = self.lines.setdefault(run.label, _Line(run.title))
        due, words = meter.now() - line.last >= LINE_SECONDS, doing(progress)
        begins = words != line.words
        if progress.phase == line.phase and not (due and (begins or progress.steps)):
            return
        line.phase, line.words, line.last = progress.phase, words, meter.now()
        in_steps = progress.steps and progress.phase != "download"
        counted = f" {progress.step}/{progress.steps}" if in_steps and not begins else ""
        said = f": {figures(progress)}" if not begins and figures(progress) else ""
        self.say(f"{line.place}: {words}{counted}{said}")

    def finished(self, run: Run, record: Record, *, now: bool) -> None:
        self.end(run)
        self.say(result(run, record, now=now))

    def failed(self, run: Run, message: str) -> None:
        for candidate in [one for one in self.candidates.values() if one.title == run.title]:
            self.end(self.candidates.pop(candidate.label))
        self.end(run)
        self.say(failure(run, message))
