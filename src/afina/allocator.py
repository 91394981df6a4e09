"""How the C library gives memory back, and how many kernels oneDNN keeps. Knows nothing of what is computed."""

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


def keep_few_kernels() -> None:
    """Let oneDNN and torch's own cache before it keep few kernels. For the start of a process, before torch is there.

    They make a kernel for each number of tokens of a batch and keep thousands, half a GiB after 100,000 texts: right
    for training, which comes back to them, and of no use where texts never end. What the user has set stays.
    """
    if "torch" not in sys.modules:
        for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
            os.environ.setdefault(name, "16")
