"""Run: an intention that can carry itself out. Forecast: what it is expected to cost, before anything is trained.

Knows figures of a forecast, not how they are found (`forecast.py`). Starts without torch.
"""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator

from afina import allocator, repr_html
from afina.data.addresses import reads_files
from afina.data.task import Task
from afina.errors import InvalidStudy
from afina.events import Listener, Progress, ignore
from afina.methods import make
from afina.models.backbone_spec import FLOAT
from afina.studies.runs import output_directory
from afina.studies.runs.inputs import RunInputs, facts_of
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.record import Record
from afina.studies.runs.spec import RunSpec
from afina.studies.study_file import explain

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
            output_directory.check_name(self.name, "run")
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
        from afina.studies.runs.execute import execute

        output_directory.make_output(Path(out))
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
        OutputDirectory(Path(out)).checkpoint(Path(record.adapter).name).unlink(missing_ok=True)
        return record

    def inputs(self) -> RunInputs:
        """The run's inputs, named for a machine without this one's files. Raises what finding them does."""
        return RunInputs.of(self)

    def adapter(self, out: str | Path) -> Path:
        """Where `execute(out)` puts the adapter, as `Predictor.load` opens it.

        Of a task in files it depends on what is in them now. Raises what reading them does.
        """
        run = self
        if self.data_digest is None and reads_files(self.task, self.data.evaluation):
            run = self.on(facts_of(self).data_digest)
        return OutputDirectory(Path(out)).adapter(run.label)


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


@dataclass(frozen=True)
class Terms:
    """What a forecast is for.

    dtype    "float32" or "bfloat16", in which training computes
    texts, tokens, longest  of the largest training batch; the longest text's tokens
    epochs   of the training whose time is foreseen
    memory   bytes that are to suffice
    process  bytes that Python and the libraries take, without any tensor
    gpu      bytes of a GPU that are to suffice: those given, or this machine's; None where neither is
    precision  what the backbone's frozen weights are held in
    """

    backbone: str
    task: str | None
    dtype: str
    texts: int
    tokens: int
    longest: int
    epochs: int
    memory: int
    process: int
    gpu: int | None = None
    precision: str = FLOAT

    @property
    def summary(self) -> dict[str, Any]:
        """As JSON values; a neutral precision is left out."""
        return {key: value for key, value in asdict(self).items() if key != "precision" or value != FLOAT}


@dataclass(frozen=True)
class Forecast:
    """One method's costs, in bytes and seconds.

    activation_bytes, activation_tokens  None where nothing is trained, and under activation checkpointing
    peak           of the process of a run on the CPU;  gpu_peak  of a GPU's memory
    disk_bytes     the adapter's tensor file
    train_seconds  None where it is not known
    """

    method: str
    title: str
    trainable: int
    body: int
    head: int
    state_bytes: int
    allocated_end: int
    activation_bytes: int | None
    activation_tokens: int | None
    peak: int
    gpu_peak: int
    disk_bytes: int
    train_seconds: float | None
    terms: Terms

    @property
    def fits(self) -> bool:
        """Whether a run on the CPU stays within the memory of the terms."""
        return self.peak <= self.terms.memory

    @property
    def fits_gpu(self) -> bool | None:
        """Whether the GPU of the terms would do; None where they have none."""
        return None if self.terms.gpu is None else self.gpu_peak <= self.terms.gpu

    @property
    def summary(self) -> dict[str, Any]:
        """As JSON values, without the terms, which all methods share."""
        figures = {key: value for key, value in asdict(self).items() if key not in ("method", "title", "terms")}
        return figures | {"fits": self.fits, "fits_gpu": self.fits_gpu}
