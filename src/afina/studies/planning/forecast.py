"""`Forecast`: the memory, disk space and time of a run, and the terms under which they are forecast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from afina.models.backbone_spec import FLOAT


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
