"""What a process keeps: memory that it freed, and kernels of oneDNN's. Knows nothing of what is computed."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""glibc's `malloc.h`."""


def keep_freed() -> None:
    """Let this process keep the memory that it frees, for its next use. Does nothing without glibc.

    A training step frees and takes again some hundred MiB. By default each large block goes back to the system, which
    clears every page anew: some 5,000 page faults a step, 3 to 5 % of its time, and a sixth of the time of prediction.
    """
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 32 << 20)  # the most that glibc allows
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def give_back() -> None:
    """Give the memory that was freed and kept back to the system. For the end of a run, in a process that goes on."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


FEW, SOME, MANY = 16, 64, 8192
"""Kernels: for texts that never end; for a process that may do anything, which are those of a few batches of training;
for one that carries out a single run."""

_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""oneDNN's own, and torch's before it."""

_chosen_here: dict[str, str] = {}
"""Of these variables, those that `keep_kernels` has set, and the user has not."""


def keep_kernels(most: int, *, anew: bool = True) -> None:
    """Let oneDNN and torch keep so many kernels. For the start of a process: it counts until the first of them is made.

    They make one for each number of tokens of a batch and each shape of a weight, and a kernel takes a third of a MiB.
    Training on the same texts comes back to it, which saves the millisecond of making it; of other texts, and of the
    next run, it is no use, and thousands of them are gigabytes. What the user has set stays.

    anew  false: only where nobody has chosen yet
    """
    for name in _CACHES:
        if name not in os.environ or (anew and os.environ[name] == _chosen_here.get(name)):
            os.environ[name] = _chosen_here[name] = str(most)


def environment_of_one_run() -> dict[str, str]:
    """The environment for a process that carries out a single run, and so may keep its kernels to its end."""
    given = {name: value for name, value in os.environ.items() if _chosen_here.get(name) != value}
    return {_CACHES[0]: str(MANY)} | given
