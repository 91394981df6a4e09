"""`Run`: the description of a run, with a method `execute`."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

from pydantic import ValidationError, model_validator

from afina import allocator, repr_html
from afina.data.addresses import reads_files
from afina.data.task import Task
from afina.events import Listener, Progress, ignore
from afina.methods import asks_endpoint, make, why_without_adapter
from afina.methods.method import Method
from afina.models import backbone_spec
from afina.models.backbone_spec import FLOAT
from afina.studies import problems
from afina.studies.runs import output_directory
from afina.studies.runs.inputs import RunInputs, digests_beside, facts_of, usual_method, usual_training
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.record import Record
from afina.studies.runs.spec import RunSpec, with_address
from afina.studies.study_file import explain
from afina.training.settings import DISTILLATION, Training

if TYPE_CHECKING:
    from afina.ranks import Ranks

MOST_SEED = 2**63


class Run(RunSpec):
    """One training and evaluation.

    The fields are those of `RunSpec`, and `task` may also be a `Task` object. Raises UnknownName or InvalidStudy for
    fields with which no run is possible.
    """

    def __init__(self, /, **fields: Any) -> None:
        try:
            super().__init__(**_with_backbone(with_address(fields)))
        except ValidationError as error:
            raise explain(error, type(self), "run") from None

    @model_validator(mode="after")
    def _can_be_carried_out(self) -> Self:
        method = make(self.method, self.hyperparameters, "run")
        object.__setattr__(self, "training", usual_training(self.training, method, self.backbone))
        if (usual := usual_method(method, self.backbone)) != method:
            object.__setattr__(self, "hyperparameters", self.hyperparameters | usual.non_defaults)
            method = usual
        self._check_ignored(method)
        self._check_teacher(method)
        if method.own_backbone not in (None, self.backbone):
            raise problems.BACKBONE_OF_ENDPOINT(
                run=self.title, method=method.name, expected=method.own_backbone, found=self.backbone
            )
        if self.training.products != FLOAT and not method.multiplies_frozen:
            raise problems.PRODUCTS_OF_METHOD(
                run=self.title,
                products=self.training.products,
                method=method.name,
                _why="trains every weight of the backbone" if method.trains_all else "reads the backbone's weights",
            )
        if self.name:
            output_directory.check_name(self.name, "run")
        if not 0 <= self.seed < MOST_SEED:
            raise problems.SEED_OF_RUN(run=self.title, seed=self.seed)
        return self

    def _check_teacher(self, method: Method) -> None:
        """Raise InvalidStudy for settings of distillation without a teacher, and for a teacher that has no effect."""
        if self.teacher is not None:
            if not method.learns_from_teacher:
                raise problems.METHOD_WITHOUT_TEACHER(run=self.title, method=method.name, option="teacher")
            return
        usual = Training()
        given = [name for name in DISTILLATION if getattr(self.training, name) != getattr(usual, name)]
        given += ["unlabelled"] if self.data.unlabelled is not None else []
        if given:
            raise problems.NO_TEACHER(run=self.title, option=given[0])

    def _check_ignored(self, method: Method) -> None:
        given = [
            name
            for part in (self.training, self.ask)
            for name, field in type(part).model_fields.items()
            if name in method.ignores
            and getattr(part, name) != field.default
            and not (name == "words" and method.label_examples)
        ]
        given += ["head"] if method.is_fitted and self.ask.head == "words" else []
        if given:
            raise problems.FITTED_HEAD(run=self.title, option=given[0], method=method.name)

    def execute(
        self,
        out: str | Path,
        listen: Listener | None = None,
        task: Task | None = None,
        *,
        send_texts: bool = False,
        ranks: Ranks | None = None,
    ) -> Record:
        """Execute the run in this process, and write the adapter and the predictions into `out`.

        The run is trained even if `out` has its results already. If an interrupted execution on the same data left a
        checkpoint in `out`, training continues from the checkpoint; Ctrl-C leaves a checkpoint. The recorded memory
        is that of the whole process; a `Study` executes each run in a new process.

        Args:
            out: The output directory.
            listen: A function that receives the progress. None: a notebook shows a progress display.
            task: The run's task, if it is in memory; nothing is then read from the task's address.
            send_texts: Whether the run may send texts to the endpoint that its method asks.
            ranks: The processes that compute the run together, such as `Ranks.of_environment()` in a script that
                torchrun has started; each calls `execute` with the same arguments. The first writes into `out` and
                reports the progress. None: this process is alone.

        Raises:
            Refused: The run would send texts, and `send_texts` is not set; the endpoint refuses; its budget is spent.
            NotFound: The task or the backbone does not exist.
            InvalidData: The task cannot be read.
            CannotWrite: `out` cannot be written to.
            Diverged: Training diverged.
            OutOfMemory: The GPU memory or the main memory is too small for the run.
            RunFailed: Another process was lost, or has other data, packages or another kind of device.
        """
        from afina.ranks import ALONE

        ranks = ranks or ALONE
        run = self.model_copy(update={"send_texts": send_texts})
        if not ranks.is_first:
            return run._execute(Path(out), ignore, task, ranks)
        output_directory.make_output(Path(out))
        shown = repr_html.make_watcher() if listen is None else None
        if shown is None:
            record = run._execute(Path(out), listen or ignore, task, ranks)
        else:
            try:
                shown.started(self, 1, 1)
                record = run._execute(Path(out), partial(shown.progress, self), task, ranks)
                shown.finished(self, record, now=True)
            except BaseException:
                shown.stop()
                raise
        OutputDirectory(Path(out)).checkpoint(record.label).unlink(missing_ok=True)
        return record

    def _execute(self, out: Path, listen: Listener, task: Task | None, ranks: Ranks) -> Record:
        from afina.studies.runs.execute import execute

        try:
            with stopped_after_a_step(signal.SIGINT) as signals:
                hear = signals.told(listen)
                return execute(self, out, listen=hear, stopped=signals.is_heard, task=task, ranks=ranks)
        except BaseException as error:
            _let_go(error)
            raise
        finally:
            allocator.give_back()

    def inputs(self) -> RunInputs:
        """Return the files of the run's task and backbone with their digests, for a machine that lacks these files."""
        return RunInputs.of(self)

    def adapter(self, out: str | Path) -> Path:
        """Return the directory into which `execute(out)` writes the adapter, for `Predictor.load`.

        If the task or the backbone is read from files, the directory's name depends on the files' present content.
        Raises the same errors as reading the task, and NotFound if the method gives no adapter.
        """
        if not make(self.method, self.hyperparameters).has_adapter:
            because = why_without_adapter(self.method)
            raise problems.RUN_WITHOUT_ADAPTER(
                known=[], path=out, method=self.title, _which="", _because=because, _instead=""
            )
        run = self.with_digests(backbone_files=backbone_spec.files_digest(self.backbone), **digests_beside(self.data))
        if self.data_digest is None and reads_files(self.task, self.data.evaluation):
            run = run.with_digests(data_digest=facts_of(self).data_digest)
        return OutputDirectory(Path(out)).adapter(run.label)


def _with_backbone(fields: dict[str, Any]) -> dict[str, Any]:
    method = fields.get("method")
    if "backbone" in fields or not (isinstance(method, str) and asks_endpoint(method)):
        return fields
    return {**fields, "backbone": make(method, fields.get("hyperparameters"), "run").own_backbone}


@dataclass
class StopSignals:
    """Handles signals during a run: a training run stops after the current step, any other phase at once.

    `heard` is the number of the signal that stops the training, or 0. `before`: the handlers outside of the run.
    """

    heard: int = 0
    training: bool = False
    before: dict[int, Any] = field(default_factory=dict)

    def is_heard(self) -> bool:
        return self.heard > 0

    def told(self, listen: Listener) -> Listener:
        """Pass progress on to `listen`, and note whether the run is training."""

        def hear(progress: Progress) -> None:
            self.training = progress.phase == "train"
            listen(progress)

        return hear

    def hear(self, number: int, *_: object) -> None:
        """Handle a signal: the first stops a run that trains after its step, and a second interrupts it at once."""
        if self.heard or not self.training:
            self.interrupt(number)
        self.heard = number

    def interrupt(self, number: int) -> NoReturn:
        """Do what the signal does outside of the run, and raise KeyboardInterrupt if that is nothing."""
        if callable(before := self.before.get(number)):
            before(number, None)
        raise KeyboardInterrupt


@contextmanager
def stopped_after_a_step(*numbers: int) -> Iterator[StopSignals]:
    """Delay signals in the `with` block until a checkpoint can be written.

    SIGINT is delayed unless this process handles SIGINT itself, or ignores it.
    """
    signals = StopSignals()
    if threading.current_thread() is threading.main_thread():
        found = {number: signal.getsignal(number) for number in numbers}
        own = found.get(signal.SIGINT, signal.default_int_handler) is not signal.default_int_handler
        signals.before = {
            number: one for number, one in found.items() if one is not None and (number != signal.SIGINT or not own)
        }
    for number in signals.before:
        signal.signal(number, signals.hear)
    try:
        yield signals
    finally:
        for number, before in signals.before.items():
            signal.signal(number, before)


def _let_go(error: BaseException | None) -> None:
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
