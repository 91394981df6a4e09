"""Progress on standard error: a bar for each run that goes on where that is a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from afina import meter
from afina.cli.hints import with_flags
from afina.events import Progress
from afina.methods import make
from afina.report.words import in_words
from afina.studies.record import Record
from afina.studies.run import Run
from afina.studies.trials import Trial
from afina.studies.watcher import Watcher

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from afina.data.readers.texts import Chunk
    from afina.studies.results import Results

_LINE_SECONDS = 15.0
"""Between two plain lines of one phase."""


def watcher(console: Console, write: Callable[[Results], object]) -> Watcher:
    """The watcher that suits where `console` writes; `write` writes a report of what there is so far."""
    return Bars(console, write) if console.is_terminal else Lines(console, write)


def bars(console: Console) -> RichProgress:
    """Bars that vanish when they stop: a description, how far, and figures."""
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        console=console,
        transient=True,
        redirect_stdout=False,
    )


def progress(command: str) -> Callable[[str], None]:
    """Say on standard error what `command` does now, a line each."""
    return lambda words: print(f"{command}: {words}", file=sys.stderr, flush=True)


@contextmanager
def reading() -> Iterator[Callable[[Chunk], None]]:
    """Told of each chunk that was answered, show how far a file is; where the answers themselves do not show it."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal or sys.stdout.isatty():
        yield lambda chunk: None
        return
    with bars(console) as shown:
        task, began = shown.add_task("predict", total=None, figures=""), meter.now()

        def read(chunk: Chunk) -> None:
            done = chunk.before + len(chunk.texts)
            figures = f"{done:,} texts, {done / max(meter.now() - began, 1e-9):,.0f} texts/s"
            if chunk.share is not None:
                shown.update(task, total=1.0, completed=chunk.share)
            shown.update(task, figures=figures)

        yield read


@dataclass
class _Line:
    """What was said of a run: its place among others, the phase, and when."""

    place: str
    phase: str = ""
    last: float = 0.0


def _figures(progress: Progress) -> str:
    parts = []
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.tokens_per_second is not None:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.seconds_left is not None:
        parts.append(f"{_clock(progress.seconds_left)} left")
    return ", ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _result(record: Record) -> str:
    return f"accuracy {record.accuracy:.4f}, F1 {record.f1:.4f}, trained in {_clock(record.seconds.train)}"


def _attempt(trial: Trial, length: int) -> str:
    setting = {key: f"{value:.2g}" if isinstance(value, float) else value for key, value in trial.setting.items()}
    if trial.accuracy is None:
        return f"{in_words(setting)}: diverged at step {trial.steps} of {length}"
    early = "" if trial.steps == length else f", stopped at step {trial.steps} of {length}"
    return f"{in_words(setting)}: {trial.accuracy:.4f} on the validation cut{early}"


class Minutes(Watcher):
    """What a recommendation does: a line with the minutes so far when something begins. `say` prints it."""

    def __init__(self, began: float, say: Callable[[str], None]) -> None:
        self.began, self.say = began, say

    def says(self, words: str) -> None:
        """Say it."""
        self.say(f"[{(meter.now() - self.began) / 60:.1f} min] {words}")

    def trying(self, run: Run, number: int, spent: float) -> None:
        """Name the candidate."""
        self.says(f"race, candidate {number}: {run.method}")

    def started(self, run: Run, number: int, total: int) -> None:
        """Name the finalist, or what is evaluated as it is."""
        trains = not make(run.method).trains_nothing
        self.says(f"training {run.method} on {run.data.train_examples:,} texts" if trains else f"asking: {run.method}")


class Lines(Watcher):
    """One line a phase, and one now and then while training; each begins with the run that it is about."""

    def __init__(self, console: Console, write: Callable[[Results], object]) -> None:
        self.console, self.write = console, write
        self.lines: dict[str, _Line] = {}

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def changed(self, results: Results) -> None:
        """Have the report written."""
        self.write(results)

    def _begin(self, run: Run, place: str) -> None:
        self.lines[run.label] = _Line(place)

    def _end(self, run: Run) -> None:
        self.lines.pop(run.label, None)

    def started(self, run: Run, number: int, total: int) -> None:
        """Name the run."""
        self._begin(run, f"[{number}/{total}] {run.title}, seed {run.seed}")

    def trying(self, run: Run, number: int, spent: float) -> None:
        """Name the candidate."""
        self._begin(run, f"[tuning {run.title}, {spent:.0%}] candidate {number}")

    def tried(self, run: Run, number: int, trial: Trial, length: int) -> None:
        """Say what it came to."""
        self._end(run)
        self._say(f"tuning {run.title}, candidate {number}: {_attempt(trial, length)}")

    def progress(self, run: Run, progress: Progress) -> None:
        """Say the phase when it begins, and figures every so often."""
        line = self.lines.setdefault(run.label, _Line(run.title))
        due = meter.now() - line.last >= _LINE_SECONDS
        if progress.phase == line.phase and not (due and progress.steps):
            return
        begins = progress.phase != line.phase
        line.phase, line.last = progress.phase, meter.now()
        counted = f" {progress.step}/{progress.steps}" if progress.steps and not begins else ""
        figures = f": {_figures(progress)}" if not begins and _figures(progress) else ""
        self._say(f"{line.place}: {progress.phase}{counted}{figures}")

    def finished(self, run: Run, record: Record, *, now: bool) -> None:
        """Say the result."""
        self._end(run)
        self._say(f"{run.title}, seed {run.seed}: {_result(record)}{'' if now else ' (recorded before)'}")

    def failed(self, run: Run, message: str) -> None:
        """Say why."""
        self._end(run)
        self._say(f"Error: {run.title}, seed {run.seed}: {with_flags(message.removeprefix(f'run {run.title}: '))}")


class Bars(Lines):
    """A bar a run that goes on, with phase, loss, speed and time left; it gives way to the result."""

    def __init__(self, console: Console, write: Callable[[Results], object]) -> None:
        super().__init__(console, write)
        self.bars: RichProgress | None = None
        self.tasks: dict[str, TaskID] = {}

    def _begin(self, run: Run, place: str) -> None:
        super()._begin(run, place)
        if self.bars is None:
            self.bars = bars(self.console)
            self.bars.start()
        self.tasks[run.label] = self.bars.add_task(place, total=None, figures="")

    def _end(self, run: Run) -> None:
        super()._end(run)
        task = self.tasks.pop(run.label, None)
        if self.bars and task is not None:
            self.bars.remove_task(task)
            if not self.tasks:
                self.stop()

    def progress(self, run: Run, progress: Progress) -> None:
        """Move the run's bar."""
        if self.bars and run.label in self.tasks:
            self.bars.update(
                self.tasks[run.label],
                description=f"{self.lines[run.label].place}: {progress.phase}",
                completed=progress.step,
                total=progress.steps or None,
                figures=_figures(progress),
            )

    def stop(self) -> None:
        """Take the bars away, also when interrupted."""
        if self.bars:
            self.bars.stop()
        self.bars, self.tasks = None, {}
