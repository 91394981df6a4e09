"""How long OpenMP's threads wait for work at the end of a parallel part. Set before torch is imported.

By default, a thread of GCC's libgomp (torch on Linux) spins for some milliseconds and sleeps only then. Beside another
program, the spinning threads take the time that the computing thread needs. The number of spins changes no result. This
module does not import torch. docs/background/benchmarks.md has measurements.
"""

from __future__ import annotations

import os

SPINS = {"GOMP_SPINCOUNT": "2000"}
"""Number of spins before a thread sleeps; libgomp's default is 300,000."""

_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
"""Variables of libgomp, OpenMP and LLVM that say how threads wait."""


def variables() -> dict[str, str]:
    """Return the variables of a process that computes: those that are set in this process, else `SPINS`."""
    return {name: os.environ[name] for name in _WAITING if name in os.environ} or SPINS


def wait_briefly() -> None:
    """Set `variables` in this process. libgomp reads them when torch is imported, so call this before."""
    os.environ.update(variables())


def in_force() -> str:
    """Return the variables that are set, in words."""
    stated = [f"{name}={os.environ[name]}" for name in _WAITING if name in os.environ]
    return ", ".join(stated) or "the library's default"
