"""A study's progress on standard error: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from afina import meter
from afina.cli.hints import with_flags
from afina.events import Progress
from afina.report.rows import in_words
from afina.studies.record import Record
from afina.studies.run import Run
from afina.studies.study import Watcher
from afina.studies.trials import Candidate

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars

_LINE_SECONDS = 15.0
"""Between two plain lines of one phase."""


def watcher(console: Console) -> Watcher:
    """The watcher that suits where `console` writes."""
    return Bar(console) if console.is_terminal else Lines(console)


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


def _attempt(candidate: Candidate, length: int) -> str:
    setting = {key: f"{value:.2g}" if isinstance(value, float) else value for key, value in candidate.setting.items()}
    if candidate.accuracy is None:
        return f"{in_words(setting)}: diverged at step {candidate.steps} of {length}"
    early = "" if candidate.steps == length else f", stopped at step {candidate.steps} of {length}"
    return f"{in_words(setting)}: {candidate.accuracy:.4f} on the validation cut{early}"


class Lines(Watcher):
    """One line a phase, and one now and then while training."""

    def __init__(self, console: Console) -> None:
        self.console, self.phase, self.last, self.place = console, "", 0.0, ""

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def started(self, run: Run, number: int, total: int) -> None:
        """Name the run."""
        self.phase, self.place = "", f"[{number}/{total}] {run.title}, seed {run.seed}"

    def trying(self, run: Run, number: int, spent: float) -> None:
        """Name the candidate."""
        self.phase, self.place = "", f"[tuning {run.title}, {spent:.0%}] candidate {number}"

    def tried(self, run: Run, number: int, candidate: Candidate, length: int) -> None:
        """Say what it came to."""
        self._say(f"tuning {run.title}, candidate {number}: {_attempt(candidate, length)}")

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
        self._say(f"Error: {run.title}, seed {run.seed}: {with_flags(message.removeprefix(f'run {run.title}: '))}")


class Bar(Lines):
    """A bar for the current phase, with loss, speed and time left."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.bars: Bars | None = None

    def started(self, run: Run, number: int, total: int) -> None:
        """Open the bar."""
        super().started(run, number, total)
        self._open()

    def trying(self, run: Run, number: int, spent: float) -> None:
        """Open the bar."""
        super().trying(run, number, spent)
        self._open()

    def tried(self, run: Run, number: int, candidate: Candidate, length: int) -> None:
        """Replace the bar by what it came to."""
        self.stop()
        super().tried(run, number, candidate, length)

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
