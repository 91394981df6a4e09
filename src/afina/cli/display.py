"""A study's progress on standard error: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from afina import meter
from afina.events import Progress
from afina.report.words import in_words
from afina.studies.record import Record
from afina.studies.run import Run
from afina.studies.trials import Trial
from afina.studies.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console
    from rich.progress import Progress as Bars

    from afina.studies.results import Results

_LINE_SECONDS = 15.0
"""Between two plain lines of one phase."""


def watcher(console: Console, write: Callable[[Results], object]) -> Watcher:
    """The watcher that suits where `console` writes; `write` writes a report of what there is so far."""
    return Bar(console, write) if console.is_terminal else Lines(console, write)


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
        """Name the finalist."""
        self.says(f"training {run.method} on {run.data.train_examples:,} texts")


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


class Lines(Watcher):
    """One line a phase, and one now and then while training."""

    def __init__(self, console: Console, write: Callable[[Results], object]) -> None:
        self.console, self.write = console, write
        self.phase, self.last, self.place = "", 0.0, ""

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def changed(self, results: Results) -> None:
        """Have the report written."""
        self.write(results)

    def started(self, run: Run, number: int, total: int) -> None:
        """Name the run."""
        self.phase, self.place = "", f"[{number}/{total}] {run.title}, seed {run.seed}"

    def trying(self, run: Run, number: int, spent: float) -> None:
        """Name the candidate."""
        self.phase, self.place = "", f"[tuning {run.title}, {spent:.0%}] candidate {number}"

    def tried(self, run: Run, number: int, trial: Trial, length: int) -> None:
        """Say what it came to."""
        self._say(f"tuning {run.title}, candidate {number}: {_attempt(trial, length)}")

    def progress(self, run: Run, progress: Progress) -> None:
        """Say the phase when it begins, and figures every so often."""
        due = meter.now() - self.last >= _LINE_SECONDS
        if progress.phase == self.phase and not (due and progress.steps):
            return
        begins = progress.phase != self.phase
        self.phase, self.last = progress.phase, meter.now()
        counted = f" {progress.step}/{progress.steps}" if progress.steps and not begins else ""
        figures = f": {_figures(progress)}" if not begins and _figures(progress) else ""
        self._say(f"{self.place}: {progress.phase}{counted}{figures}")

    def finished(self, run: Run, record: Record, *, now: bool) -> None:
        """Say the result."""
        self._say(f"{run.title}, seed {run.seed}: {_result(record)}{'' if now else ' (recorded before)'}")

    def failed(self, run: Run, message: str) -> None:
        """Say why."""
        self._say(f"Error: {run.title}, seed {run.seed}: {message.removeprefix(f'run {run.title}: ')}")


class Bar(Lines):
    """A bar for the current phase, with loss, speed and time left."""

    def __init__(self, console: Console, write: Callable[[Results], object]) -> None:
        super().__init__(console, write)
        self.bars: Bars | None = None

    def started(self, run: Run, number: int, total: int) -> None:
        """Open the bar."""
        super().started(run, number, total)
        self._open()

    def trying(self, run: Run, number: int, spent: float) -> None:
        """Open the bar."""
        super().trying(run, number, spent)
        self._open()

    def tried(self, run: Run, number: int, trial: Trial, length: int) -> None:
        """Replace the bar by what it came to."""
        self.stop()
        super().tried(run, number, trial, length)

    def _open(self) -> None:
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn
        from rich.progress import Progress as Bars

        self.bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=self.console,
            transient=True,
        )
        self.bars.start()
        self.bars.add_task(self.place, total=None, figures="")

    def progress(self, run: Run, progress: Progress) -> None:
        """Move the bar."""
        if self.bars:
            self.bars.update(
                self.bars.task_ids[0],
                description=f"{self.place}: {progress.phase}",
                completed=progress.step,
                total=progress.steps or None,
                figures=_figures(progress),
            )

    def stop(self) -> None:
        """Take the bar away, also when interrupted."""
        if self.bars:
            self.bars.stop()
            self.bars = None

    def finished(self, run: Run, record: Record, *, now: bool) -> None:
        """Replace the bar by the result."""
        self.stop()
        super().finished(run, record, now=now)

    def failed(self, run: Run, message: str) -> None:
        """Replace the bar by the reason."""
        self.stop()
        super().failed(run, message)
