"""Forecast: what a method is expected to cost, before anything is trained. Knows figures, not how they are found.

Starts without torch. What each figure means: docs/figures.md.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from afina.models.precision import FLOAT


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
