"""`Run`: the description of a run, with a method `execute`. `Forecast`: the memory, disk space and time of a run.

`forecast.py` computes the values of a `Forecast`. The module can be imported without torch.
"""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
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
from afina.studies.runs.inputs import RunInputs, digests_beside, facts_of
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
            if name in method.ignores and getattr(part, name) != field.default
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
        from afina.studies.runs.execute import execute

        ranks = ranks or ALONE
        if ranks.is_first:
            output_directory.make_output(Path(out))
        shown = repr_html.make_watcher() if listen is None and ranks.is_first else None
        try:
            with stopped_after_a_step(signal.SIGINT) as signals:
                if shown is not None:
                    shown.started(self, 1, 1)
                    listen = partial(shown.progress, self)
                heard = signals.told(listen if listen and ranks.is_first else ignore)
                run = self.model_copy(update={"send_texts": send_texts})
                record = execute(run, Path(out), listen=heard, stopped=signals.is_heard, task=task, ranks=ranks)
                if shown is not None:
                    shown.finished(self, record, now=True)
        except BaseException as error:
            if shown is not None:
                shown.stop()
            _let_go(error)
            raise
        finally:
            allocator.give_back()
        if ranks.is_first:
            OutputDirectory(Path(out)).checkpoint(record.label).unlink(missing_ok=True)
        return record

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
            raise problems.RUN_WITHOUT_ADAPTER(known=[], path=out, method=self.title, _because=because, _instead="")
        run = self.on_files(backbone_spec.files_digest(self.backbone))
        run = run.on_beside(digests_beside(run.data))
        if self.data_digest is None and reads_files(self.task, self.data.evaluation):
            run = run.on(facts_of(self).data_digest)
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


@dataclass(frozen=True)
class Terms:
    """The assumptions of a forecast: dtype, batch size, epochs and available memory.

    `texts`, `tokens` and `longest` are of the largest training batch. `memory` and `gpu` (None: there is none) are the
    bytes that the run may use, and `process` those that Python and the libraries take without any tensor. With several
    `devices`, the figures are those of the device that needs most, and of the largest part of a batch on a device.
    """

    backbone: str
    task: str | None
    dtype: str
    usual_dtype: str
    texts: int
    tokens: int
    longest: int
    epochs: int
    memory: int
    process: int
    gpu: int | None = None
    precision: str = FLOAT
    products: str = FLOAT
    devices: int = 1
    sharded: bool = False

    @property
    def computing(self) -> str:
        """The dtype in which training computes, and `precision` and `products` unless they are "float"."""
        stored = "" if self.precision == FLOAT else f" on weights in {self.precision}"
        return self.dtype + stored + ("" if self.products == FLOAT else f" with products in {self.products}")

    @property
    def summary(self) -> dict[str, Any]:
        """The assumptions of the forecast as JSON values; those that `afina plan` has by default are left out."""
        return {key: value for key, value in asdict(self).items() if _USUAL.get(key, ...) != value}

    @property
    def way(self) -> str:
        """The number of devices and how they share the work, such as "2 devices, sharded"."""
        if self.devices == 1:
            return "1 device"
        return f"{self.devices} devices, {'sharded' if self.sharded else 'data parallel'}"


@dataclass(frozen=True)
class PromptsForecast:
    """What evaluating prompts with examples costs: numbers of texts and tokens, and seconds, if they are known."""

    texts: int
    tokens: int
    longest: int
    seconds: float | None = None


@dataclass(frozen=True)
class Forecast:
    """The forecast costs of a run with one method, in bytes and seconds.

    Attributes:
        activation_bytes: The bytes that the largest batch, of `activation_tokens`, keeps for the backward pass. None if
            nothing is trained, and with activation checkpointing.
        peak: The peak memory of the process of a run on the CPU.
        gpu_evaluation: The bytes of the tensors of the evaluation, which follows the training, in float32.
        gpu_peak: That of training or evaluation, and a tenth for CUDA's context and fragmentation.
        disk_bytes: The size of the adapter's tensor file.
        train_seconds: None: the time is unknown.
        serving_bytes: The bytes of all weights when the adapter predicts in `terms.dtype`. None: not computed.
        alternatives: If a run does not fit in memory, the forecasts of other ways to train that fit: frozen weights in
            int8 or nf4 on one device, or several devices.
        on_devices: The forecasts of the run on the number of devices that was asked for: data parallel, and sharded.
        on_pairs: Whether a batch has two texts for each pair; every drawn pair is used once.
        prompts: The costs of the evaluation, if the prompts have training examples.
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
    gpu_evaluation: int
    gpu_peak: int
    disk_bytes: int
    train_seconds: float | None
    terms: Terms
    serving_bytes: int | None = None
    alternatives: tuple[Forecast, ...] = ()
    on_devices: tuple[Forecast, ...] = ()
    on_pairs: bool = False
    prompts: PromptsForecast | None = None

    @property
    def fits(self) -> bool:
        return self.peak <= self.terms.memory

    @property
    def fits_gpu(self) -> bool | None:
        """None if the terms have no GPU, or the run needs a CPU."""
        return None if self.terms.gpu is None or not self.runs_on_gpu else self.gpu_peak <= self.terms.gpu

    @property
    def fits_everywhere(self) -> bool:
        return self.fits and self.fits_gpu is not False

    def helps(self, other: Forecast) -> bool:
        return (self.fits and not other.fits) or (bool(self.fits_gpu) and other.fits_gpu is False)

    @property
    def runs_on_gpu(self) -> bool:
        """Only a CPU computes products in int8."""
        return self.terms.products == FLOAT

    @property
    def summary(self) -> dict[str, Any]:
        """The forecast as JSON values without `terms`, and without figures of a GPU that cannot execute the run."""
        apart = _APART if self.runs_on_gpu else (*_APART, *_OF_GPU)
        figures = {key: value for key, value in asdict(self).items() if key not in apart}
        figures |= {"fits": self.fits, "fits_gpu": self.fits_gpu}
        if self.serving_bytes is not None:
            figures["serving_bytes"] = self.serving_bytes
        if self.prompts is not None:
            figures["prompts"] = asdict(self.prompts)
        if self.alternatives:
            figures["alternatives"] = [one._summary_of(*_OF_ALTERNATIVES) for one in self.alternatives]
        if self.on_devices:
            figures["on_devices"] = [one._summary_of(*_OF_DEVICES) for one in self.on_devices]
        return figures

    def _summary_of(self, *names: str) -> dict[str, Any]:
        figures = {name: value for name, value in self.summary.items() if name in names}
        terms = self.terms
        return {"precision": terms.precision, "devices": terms.devices, "sharded": terms.sharded} | figures


def shared_terms(forecasts: Sequence[Forecast]) -> Terms:
    """Return the assumptions, with the largest batch of a method that trains on single texts, if there is one."""
    return next((one.terms for one in forecasts if not one.on_pairs), forecasts[0].terms)


_USUAL: dict[str, Any] = {"precision": FLOAT, "products": FLOAT, "devices": 1, "sharded": False}
"""The fields of `Terms` that `summary` leaves out at these values."""

_OF_GPU = ("allocated_end", "gpu_evaluation", "gpu_peak")
"""The fields of `Forecast` that hold only for a run on a GPU."""

_APART = (
    *("method", "title", "terms", "serving_bytes", "alternatives", "on_devices"),
    *("on_pairs", "prompts"),
)
"""The fields of `Forecast` that `summary` leaves out, or adds only if they have a value."""

_OF_ALTERNATIVES = ("peak", "gpu_peak", "fits", "fits_gpu")
"""The figures of each of the `alternatives` in `summary`."""

_OF_DEVICES = ("state_bytes", "allocated_end", "activation_bytes", "activation_tokens", *_OF_ALTERNATIVES)
"""The figures of each of the forecasts `on_devices` in `summary`."""
