"""The C library's allocator, told that a training step will want the same memory again.

glibc hands large blocks back to the system when they are freed, and the next step pays for every page of
them anew. Knows no tensor; does nothing where the C library is another.
"""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_MMAP_THRESHOLD = 32 << 20


def keep_freed_memory() -> None:
    """Keep freed blocks of up to 32 MiB in this process. Changes no result."""
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
