"""Run: an intention that can carry itself out. Starts without torch."""

from __future__ import annotations

import traceback
from functools import partial
from pathlib import Path

from afina import allocator, front
from afina.events import Listener, ignore
from afina.studies.directory import Directory
from afina.studies.record import Record
from afina.studies.spec import RunSpec


class Run(RunSpec):
    """One training and evaluation; its fields are those of `RunSpec`."""

    def execute(self, out: str | Path, listen: Listener | None = None) -> Record:
        """Carry the run out in this process; its adapter and its predictions appear under `out`.

        Continues from a checkpoint that an interrupted execution left under `out`. Memory figures count this whole
        process; a `Study` gives each run a process of its own. Without `listen`, a notebook shows how far it is.
        """
        from afina.studies.execute import execute

        shown = front.make_watcher() if listen is None else None
        try:
            if shown is None:
                record = execute(self, Path(out), listen=listen or ignore)
            else:
                shown.started(self, 1, 1)
                record = execute(self, Path(out), listen=partial(shown.progress, self))
                shown.finished(self, record, now=True)
        except BaseException as error:
            if shown is not None:
                shown.stop()
            _let_go(error)
            raise
        finally:
            allocator.give_back()
        Directory(Path(out)).checkpoint(self.label).unlink(missing_ok=True)
        return record

    def adapter(self, out: str | Path) -> Path:
        """Where `execute(out)` puts the adapter, as `Predictor.load` opens it."""
        return Directory(Path(out)).adapter(self.label)


def _let_go(error: BaseException | None) -> None:
    """Forget what the frames of an error hold, a model among it: a notebook keeps its last error."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
