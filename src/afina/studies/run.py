"""Run: an intention that can carry itself out. Starts without torch."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError, model_validator

from afina import allocator, repr_html
from afina.errors import InvalidStudy
from afina.events import Listener, Progress, ignore
from afina.methods import make
from afina.studies import directory
from afina.studies.directory import Directory
from afina.studies.record import Record
from afina.studies.spec import RunSpec
from afina.studies.study_file import explain

if TYPE_CHECKING:
    from afina.data.task import Task
    from afina.studies.inputs import RunInputs

MOST_SEED = 2**63


class Run(RunSpec):
    """One training and evaluation; its fields are those of `RunSpec`.

    Raises UnknownName and InvalidStudy for what cannot be carried out.
    """

    def __init__(self, /, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise explain(error, type(self), "run") from None

    @model_validator(mode="after")
    def _can_be_carried_out(self) -> Self:
        make(self.method, self.hyperparameters, "run")
        if self.name:
            directory.check_name(self.name, "run")
        if not 0 <= self.seed < MOST_SEED:
            raise InvalidStudy(
                f"run {self.title}: `seed` {self.seed}. Expected 0 or more, below 2**63.",
                code="study.value-invalid",
                run=self.title,
                seed=self.seed,
            )
        return self

    def execute(self, out: str | Path, listen: Listener | None = None, task: Task | None = None) -> Record:
        """Carry the run out in this process; its adapter and its predictions appear under `out`.

        Trains whatever is there already, but continues from a checkpoint that an interrupted execution on the same data
        left under `out`; Ctrl-C leaves one. Memory figures count this whole process; a `Study` gives each run a process
        of its own. Without `listen`, a notebook shows how far it is. `task` is the run's where it is in memory: nothing
        is read at its address then. Raises NotFound, InvalidData, CannotWrite, Diverged, OutOfMemory.
        """
        from afina.studies.execute import execute

        directory.make(Path(out))
        shown = repr_html.make_watcher() if listen is None else None
        try:
            with _ctrl_c_after_a_step() as ctrl_c:
                if shown is None:
                    heard = ctrl_c.told(listen or ignore)
                    record = execute(self, Path(out), listen=heard, stopped=ctrl_c.was_heard, task=task)
                else:
                    shown.started(self, 1, 1)
                    listen = ctrl_c.told(partial(shown.progress, self))
                    record = execute(self, Path(out), listen=listen, stopped=ctrl_c.was_heard, task=task)
                    shown.finished(self, record, now=True)
        except BaseException as error:
            if shown is not None:
                shown.stop()
            _let_go(error)
            raise
        finally:
            allocator.give_back()
        Directory(Path(out)).checkpoint(Path(record.adapter).name).unlink(missing_ok=True)
        return record

    def inputs(self) -> RunInputs:
        """The run's inputs, named for a machine without this one's files. Raises what finding them does."""
        from afina.studies.inputs import RunInputs

        return RunInputs.of(self)

    def adapter(self, out: str | Path) -> Path:
        """Where `execute(out)` puts the adapter, as `Predictor.load` opens it.

        Of a task in files it depends on what is in them now. Raises what reading them does.
        """
        from afina.data.task import reads_files
        from afina.studies.task_facts import facts_of

        run = self
        if self.data_digest is None and reads_files(self.task, self.data.evaluation):
            run = self.on(facts_of(self).data_digest)
        return Directory(Path(out)).adapter(run.label)


@dataclass
class _CtrlC:
    """Ctrl-C while a run is carried out: at once where nothing is trained, else after the step that is under way."""

    training: bool = False
    heard: bool = False

    def was_heard(self) -> bool:
        """Whether to stop."""
        return self.heard

    def told(self, listen: Listener) -> Listener:
        """The listener, through which it knows whether training goes on."""

        def hear(progress: Progress) -> None:
            self.training = progress.phase == "train"
            listen(progress)

        return hear

    def hear(self, *_: object) -> None:
        """As a handler of the signal; the second is obeyed at once."""
        if self.heard or not self.training:
            raise KeyboardInterrupt
        self.heard = True


@contextmanager
def _ctrl_c_after_a_step() -> Iterator[_CtrlC]:
    """Let Ctrl-C wait for a state that a checkpoint can hold, unless this process handles it in a way of its own."""
    ctrl_c = _CtrlC()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield ctrl_c
        return
    signal.signal(signal.SIGINT, ctrl_c.hear)
    try:
        yield ctrl_c
    finally:
        signal.signal(signal.SIGINT, before)


def _let_go(error: BaseException | None) -> None:
    """Forget what the frames of an error hold, a model among it: a notebook keeps its last error."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
