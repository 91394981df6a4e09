"""Memory that a process keeps after freeing it, oneDNN's kernels, Python's collector, and errors when memory runs out.

Workers, servers and the command line call these functions.
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import gc
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from afina.errors import OutOfMemory

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Option numbers of `mallopt`, from glibc's `malloc.h`."""


def keep_freed() -> None:
    """Let this process keep freed memory for its next allocation. Without glibc this does nothing.

    A training step frees and allocates some hundred MiB. By default glibc returns each large block to the system, which
    then clears every page again: about 5,000 page faults a step, which is 3 to 5 % of its time, and a sixth of the time
    of prediction.
    """
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 32 << 20)  # the most that glibc allows
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def give_back() -> None:
    """Return freed memory that this process kept to the system.

    Call this at the end of a run if the process continues.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


_THRESHOLDS = gc.get_threshold()


def collect_seldom() -> None:
    """Let Python's garbage collector run seldom in this process, and not at its end. For a process of afina's own.

    The imports of torch and transformers make half a million objects, which stay alive. To look through them again and
    again took 0.9 s of the 5.4 s that a worker needs to start, and 0.6 s at the end of the process. No run depends on
    the collector to free a tensor. Garbage that waits is at most 100,000 objects.
    """
    gc.set_threshold(100_000, 20, 20)
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)


def collect_as_usual() -> None:
    """Undo `collect_seldom`, and remove all current objects from the collections.

    For a process that serves: a collection of 100,000 objects blocks every thread, and so does one of the million
    objects of libraries and the model, which stay alive. The latter took 0.8 s on a busy machine. A flood of requests
    creates enough objects to trigger it.
    """
    gc.set_threshold(*_THRESHOLDS)
    gc.collect()
    gc.freeze()


FEW, SOME, MANY = 16, 64, 8192
"""Numbers of kernels to keep.

FEW: for an endless stream of texts (a server). SOME: for a process with unknown work; enough for a few batches of
training. MANY: for a process that carries out a single run.
"""

_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""The variable of oneDNN, and the older one of torch."""

_chosen_here: dict[str, str] = {}
"""The variables of `_CACHES` that `keep_kernels` has set, with their values. Variables set by the user are not here."""


def keep_kernels(most: int, *, anew: bool = True) -> None:
    """Set the number of kernels that oneDNN and torch keep.

    The setting takes effect only before the first kernel is made.

    oneDNN makes one kernel for each number of tokens in a batch and each shape of a weight. A kernel takes a third of a
    MiB. Training on the same texts uses a kernel again, which saves the millisecond of making it. Other texts and later
    runs do not use it, and thousands of kernels take gigabytes. Values that the user has set are kept.

    Args:
        most: number of kernels.
        anew: False: set the number only if it is not set yet, by the user or by an earlier call.
    """
    for name in _CACHES:
        if name not in os.environ or (anew and os.environ[name] == _chosen_here.get(name)):
            os.environ[name] = _chosen_here[name] = str(most)


def environment_of_one_run() -> dict[str, str]:
    """Return the environment for a process that carries out a single run, and so may keep all its kernels.

    It is the same before and after this process has imported torch.
    """
    given = {name: value for name, value in os.environ.items() if _chosen_here.get(name) != value}
    if given.get(_OF_TORCH, "").startswith(os.path.join(tempfile.gettempdir(), "torchinductor_")):
        del given[_OF_TORCH]
    return {_CACHES[0]: str(MANY)} | given


_OF_TORCH = "TORCHINDUCTOR_CACHE_DIR"
"""A variable that the import of torch sets to a default, as `torch._inductor.runtime.cache_dir_utils` does."""


LEAST_ADDRESS_SPACE = 1200 << 20
"""Bytes that Python, torch, transformers, peft and scikit-learn map before a model is opened: 1,011,000 KiB measured on
Linux with torch for processors, and a part for threads.
"""

_SAID = (
    *("can't allocate memory", "not enough memory", "Cannot allocate memory", "cannot allocate memory"),
    *("can't start new thread", "bad_alloc", "failed to map segment"),
)
"""Parts of messages when memory has run out: of torch, the C library, Python's threads, C++ and the dynamic linker."""

_PRIMITIVE = "could not create a primitive"
"""The whole message of oneDNN when it gets no memory. Other reasons are possible where memory has no limit."""


def _address_space() -> int | None:
    """Return the bytes that this process may map (`ulimit -v`); None without such a limit."""
    try:
        import resource
    except ImportError:
        return None
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if most == resource.RLIM_INFINITY else most


def check_address_space() -> None:
    """Raise OutOfMemory if this process may map less than `LEAST_ADDRESS_SPACE`.

    With less, the imports of libraries end the process, or fail with any error.
    """
    limit = _address_space()
    if limit is not None and limit < LEAST_ADDRESS_SPACE:
        raise OutOfMemory(limit=limit)


def end_at_once(code: int) -> NoReturn:
    """End this process without the functions that libraries registered for its end.

    These functions take 0.2 s after torch was imported. After OutOfMemory, they need memory, too, and print a traceback
    without it.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


@contextmanager
def memory_errors(run: str = "") -> Iterator[None]:
    """Raise OutOfMemory instead of the errors with which Python and libraries say that memory ran out.

    Args:
        run: title of the run that the block executes.
    """
    try:
        yield
    except (MemoryError, OSError, RuntimeError, ImportError) as error:
        gpu = type(error).__name__ == "OutOfMemoryError"  # torch's class; torch may not be imported
        if not gpu and not _ran_out(error):
            raise
        traceback.clear_frames(error.__traceback__)  # frees what the functions held
        raise OutOfMemory(run, gpu=gpu, limit=None if gpu else _address_space()) from None


def _ran_out(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if _address_space() is not None and str(error) == _PRIMITIVE:
        return True
    return isinstance(error, MemoryError) or any(part in str(error) for part in _SAID)
