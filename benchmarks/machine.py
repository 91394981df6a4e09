"""The machine that a benchmark runs on: its description, and how fast it multiplies matrices. No host name."""

from __future__ import annotations

import os

import torch

from afina import device, meter, openmp, processor
from afina import device as devices

SIDE = 2048
PATIENCE = 2.0
"""Seconds after which no further product is taken; bfloat16 may be emulated."""


def peak(dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of five products of two square matrices, after one that is not counted."""
    left, right = (torch.randn(SIDE, SIDE, dtype=torch.float32).to(dtype) for _ in range(2))
    began = meter.now()
    left @ right
    best = meter.now() - began
    for _ in range(5):
        if meter.now() - began > PATIENCE:
            break
        start = meter.now()
        left @ right
        best = min(best, meter.now() - start)
    return 2 * SIDE**3 / best


def describe() -> list[str]:
    """Lines of Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in device.versions().items())
    commit, dirty = device.git_state()
    bfloat16 = "native" if devices.computes_bfloat16(torch.device("cpu")) else "not native"
    return [
        f"- processor: {processor.name()}; {os.cpu_count()} cores, {torch.get_num_threads()} threads used; "
        f"bfloat16 {bfloat16}; waiting of OpenMP's threads: {openmp.in_force()}",
        f"- versions: {versions}, accelerate {device.version('accelerate')}",
        f"- commit: {commit or 'unknown'}{' and uncommitted changes' if dirty else ''}",
    ]
