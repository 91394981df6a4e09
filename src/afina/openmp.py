"""Set how long OpenMP's threads spin at the end of a parallel part before they sleep, before torch is imported.

By default, a thread of GCC's libgomp (which torch uses on Linux) spins for some milliseconds before it sleeps. If
another program runs on the machine, spinning threads take processor time from the computing thread. The number of spins
does not change results. The page docs/background/benchmarks.md has measurements. This module does not import torch.
"""

from __future__ import annotations

import os

SPINS = {"GOMP_SPINCOUNT": "2000"}
"""The environment variable with the number of spins before a thread of OpenMP sleeps; libgomp's default is 300,000."""

_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
"""The environment variables of libgomp, OpenMP and LLVM that say how threads wait for work."""


def variables() -> dict[str, str]:
    """Return the variables of this process that say how OpenMP's threads wait, else `SPINS`."""
    return {name: os.environ[name] for name in _WAITING if name in os.environ} or SPINS


def wait_briefly() -> None:
    """Set these environment variables, before torch is imported."""
    os.environ.update(variables())


def in_force() -> str:
    """Return the environment variables that say how OpenMP's threads wait, such as "GOMP_SPINCOUNT=2000"."""
    stated = [f"{name}={os.environ[name]}" for name in _WAITING if name in os.environ]
    return ", ".join(stated) or "the library's default"
