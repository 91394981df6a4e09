"""Watcher: who is told what a study or a recommendation does. The one way to be told.

Knows no display; several runs may go on at once, of which all is told in the thread that asked for the study.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from afina import repr_html

if TYPE_CHECKING:
    from afina.events import Progress
    from afina.studies.results import Results
    from afina.studies.runs.record import Record
    from afina.studies.runs.run import Run
    from afina.studies.trials import Trial


class Watcher:
    """Does nothing; override what is of interest. Whatever is told of a run names the run."""

    def says(self, words: str) -> None:
        """Something begins that is no run."""

    def started(self, run: Run, number: int, total: int) -> None:
        """A run begins."""

    def waits(self, run: Run, needed: int, available: int) -> None:
        """A run needs more bytes of memory than are available beside those under way; told once of a run."""

    def progress(self, run: Run, progress: Progress) -> None:
        """A run or a trial goes on."""

    def finished(self, run: Run, record: Record, *, now: bool) -> None:
        """A run is recorded; `now` is false where it was recorded already."""

    def failed(self, run: Run, message: str) -> None:
        """A run could not be carried out; the others go on."""

    def trying(self, run: Run, number: int, spent: float) -> None:
        """The trial of a candidate for a run's settings begins, which is a run of the same name; `spent` is the share
        of the budget that is gone.
        """

    def tried(self, run: Run, number: int, trial: Trial, length: int) -> None:
        """A trial took its steps, all of `length` unless it was stopped early."""

    def changed(self, results: Results) -> None:
        """There is more to show: what there is so far. The last call has all."""

    def stop(self) -> None:
        """The work is interrupted."""


@contextmanager
def watching(given: Watcher | None) -> Iterator[Watcher]:
    """The watcher for the block: `given`, or a notebook's display where this process is one's kernel.

    Whatever ends the block early stops it.
    """
    watcher: Watcher = given or repr_html.make_watcher() or Watcher()
    try:
        yield watcher
    except BaseException:
        watcher.stop()
        raise
