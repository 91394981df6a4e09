"""Show progress on standard error: on a terminal a progress bar for each run, otherwise plain lines."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from afina import meter
from afina.cli.option_names import with_flags
from afina.events import NOTED, Progress
from afina.report import progress
from afina.report.progress import doing, figures
from afina.studies.runs.record import Record
from afina.studies.runs.run import Run
from afina.studies.watcher import Watcher

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from afina.data.readers.texts import Chunk
    from afina.studies.results import Results


def watcher(console: Console, write: Callable[[Results], object]) -> Watcher:
    """Return a watcher that shows the progress of runs, as bars on a terminal and as lines otherwise.

    `write` writes report.md when a result arrives.
    """
    return Bars(console, write) if console.is_terminal else PlainLines(console, write)


def bars(console: Console) -> RichProgress:
    """Return rich's progress bars with a description and numbers. The bars disappear when they stop."""
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


@contextmanager
def file_progress() -> Iterator[Callable[[Chunk], None]]:
    """Show the progress of `predict --file` as a bar, unless the predictions are printed on the same terminal."""
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


class Downloads:
    """Shows downloads outside of runs on standard error: a bar on a terminal, otherwise a line every LINE_SECONDS."""

    def __init__(self) -> None:
        self.bars: RichProgress | None = None
        self.last = -math.inf

    def __call__(self, told: Progress) -> None:
        if told.phase != "download":
            if self.bars:
                self.bars.stop()
            self.bars, self.last = None, -math.inf
        elif sys.stderr.isatty():
            shown = self._bar()
            shown.update(
                shown.task_ids[0], description=doing(told), completed=told.step, total=told.steps, figures=figures(told)
            )
        elif meter.now() - self.last >= progress.LINE_SECONDS:
            so_far = f": {figures(told)}" if self.last > 0 else ""
            self.last = meter.now()
            print(f"{doing(told)}{so_far}", file=sys.stderr, flush=True)

    def _bar(self) -> RichProgress:
        if self.bars is None:
            from rich.console import Console

            self.bars = bars(Console(stderr=True))
            self.bars.add_task("", total=None, figures="")
            self.bars.start()
        return self.bars


class Minutes(Watcher):
    """Shows the progress of `afina choose`: lines with the minutes, for each training, wait and better answer."""

    def __init__(self, began: float, say: Callable[[str], None]) -> None:
        self.began, self.say, self.answer = began, say, ""
        self.waiting: set[str] = set()

    def says(self, words: str) -> None:
        self.say(f"[{(meter.now() - self.began) / 60:.1f} min] {with_flags(words)}")

    def fetched(self, seconds: float) -> None:
        """Subtract the seconds of fetching the model from the elapsed minutes; print them if at least one."""
        self.began += seconds
        if seconds >= 1:
            self.says(f"the model was fetched in {seconds:,.0f} s; the minutes begin after that")

    def changed(self, results: Results) -> None:
        made = results.recommendation
        if made is not None and made.early and made.recommended != self.answer:
            from afina.report.report import Report

            self.answer = made.recommended
            self.says(Report.of(results).so_far)

    def waits(self, run: Run, needed: int, available: int) -> None:
        self.says(progress.waiting(run, needed, available))

    def progress(self, run: Run, progress: Progress) -> None:
        if progress.phase in ("wait", "download") and (said := f"{run.title}: {doing(progress)}") not in self.waiting:
            self.waiting.add(said)
            self.says(said)

    def started(self, run: Run, number: int, total: int) -> None:
        self.says(progress.planned(run))

    def finished(self, run: Run, record: Record, *, now: bool) -> None:
        if said := progress.selected(record):
            self.says(said)


class PlainLines(progress.Lines):
    """Shows progress as plain lines, with command-line options in place of the library's field names."""

    def __init__(self, console: Console, write: Callable[[Results], object]) -> None:
        super().__init__(lambda text: console.print(with_flags(text), markup=False, highlight=False, soft_wrap=True))
        self.console, self.write = console, write

    def changed(self, results: Results) -> None:
        self.write(results)


class Bars(PlainLines):
    """Shows a bar for each running run, with phase, loss, speed and time left, and then a line with the result."""

    def __init__(self, console: Console, write: Callable[[Results], object]) -> None:
        super().__init__(console, write)
        self.bars: RichProgress | None = None
        self.tasks: dict[str, TaskID] = {}

    def begin(self, run: Run, place: str) -> None:
        super().begin(run, place)
        if self.bars is None:
            self.bars = bars(self.console)
            self.bars.start()
        self.tasks[run.label] = self.bars.add_task(place, total=None, figures="")

    def end(self, run: Run) -> None:
        super().end(run)
        task = self.tasks.pop(run.label, None)
        if self.bars and task is not None:
            self.bars.remove_task(task)
            if not self.tasks:
                self.stop()

    def progress(self, run: Run, progress: Progress) -> None:
        if progress.phase in NOTED:
            super().progress(run, progress)
        if self.bars and run.label in self.tasks:
            self.bars.update(
                self.tasks[run.label],
                description=f"{self.lines[run.label].place}: {doing(progress)}",
                completed=progress.step,
                total=progress.steps or None,
                figures=figures(progress),
            )

    def stop(self) -> None:
        if self.bars:
            self.bars.stop()
        self.bars, self.tasks = None, {}
