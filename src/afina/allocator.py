"""Tune the memory of a process: freed memory, oneDNN's kernels and Python's garbage collector; report lack of memory.

Workers, servers and the command line call the functions of this module.
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
"""The numbers of two options of glibc's function `mallopt`, from `malloc.h`."""


def keep_freed() -> None:
    """Make glibc, if there is one, keep freed memory for this process's next allocation.

    A training step frees and allocates some hundred MiB. By default, glibc returns each large block to the operating
    system, which clears every page again when the block is allocated the next time. The page faults, about 5,000 in a
    training step, take 3 to 5 % of the time of a training step and a sixth of the time of a prediction.
    """
    if not sys.platform.startswith("linux"):
        return
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 32 << 20)  # the most that glibc allows
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def give_back() -> None:
    """Return freed memory that this process has kept to the operating system, at the end of a run."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


_THRESHOLDS = gc.get_threshold()


def collect_seldom() -> None:
    """Make Python's garbage collector run seldom in this process, and not at the end of the process.

    Workers and the command line call this function, but no program that imports afina. Collections of the half a
    million objects of torch and transformers took 0.9 s of the 5.4 s that a worker needs to start, and 0.6 s at the end
    of the process. No run needs the garbage collector to free a tensor.
    """
    gc.set_threshold(100_000, 20, 20)
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)


def collect_as_usual() -> None:
    """Make Python's garbage collector run as often as usual, but exclude all current objects from its collections.

    A server calls this function after its start, because a collection of the million objects of libraries and the model
    blocks every thread: 0.8 s on a busy machine.
    """
    gc.set_threshold(*_THRESHOLDS)
    gc.collect()
    gc.freeze()


FEW, SOME, MANY = 16, 64, 8192
"""Numbers of oneDNN's kernels that a process keeps: a server (FEW), a process with unknown work (SOME), which is enough
for a few batches of training, or a process that executes a single run (MANY)."""

_CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""The environment variables with the number of kernels to keep: that of oneDNN, and an older one that torch reads."""

_chosen_here: dict[str, str] = {}
"""The environment variables that the function `keep_kernels` has set, not the user, with their values."""


def keep_kernels(most: int, *, anew: bool = True) -> None:
    """Set the number of compiled kernels that oneDNN and torch keep in this process.

    The number must be set before the first kernel is created; one that the user has set is kept, and one that an
    earlier call has set unless it is set `anew`. oneDNN creates a kernel for each number of tokens in a batch and each
    shape of a weight, a third of a MiB. Training on the same texts again reuses the kernels, which saves a millisecond
    for each. Other texts and later runs do not, and thousands of kernels take gigabytes.
    """
    for name in _CACHES:
        if name not in os.environ or (anew and os.environ[name] == _chosen_here.get(name)):
            os.environ[name] = _chosen_here[name] = str(most)


def environment_of_one_run() -> dict[str, str]:
    """Return the environment variables for a process that executes a single run, and so may keep all kernels.

    The returned variables are the same before and after this process has imported torch.
    """
    variables = {name: value for name, value in os.environ.items() if _chosen_here.get(name) != value}
    if variables.get(_OF_TORCH, "").startswith(os.path.join(tempfile.gettempdir(), "torchinductor_")):
        del variables[_OF_TORCH]
    return {_CACHES[0]: str(MANY)} | variables


_OF_TORCH = "TORCHINDUCTOR_CACHE_DIR"
"""An environment variable that the import of torch sets to a default (in `torch._inductor.runtime.cache_dir_utils`)."""


LEAST_ADDRESS_SPACE = 1200 << 20
"""The number of bytes of address space that Python, torch, transformers, peft and scikit-learn need before a model is
opened: 1,011,000 KiB, measured on Linux with torch for CPUs, and some more for threads.
"""

_SAID = (
    *("can't allocate memory", "not enough memory", "Cannot allocate memory", "cannot allocate memory"),
    *("can't start new thread", "bad_alloc", "failed to map segment"),
)
"""Parts of error messages that say that memory ran out: of torch, the C library, Python's threads, C++ and the dynamic
linker."""

_PRIMITIVE = "could not create a primitive"
"""oneDNN's error message for lack of memory; in a process without memory limit, it may have other causes."""


def _address_space() -> int | None:
    """Return the limit of this process's address space in bytes (`ulimit -v`); None if there is no limit."""
    try:
        import resource
    except ImportError:
        return None
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if most == resource.RLIM_INFINITY else most


def check_address_space() -> None:
    """Raise OutOfMemory below `LEAST_ADDRESS_SPACE`, where imports end the process or fail with misleading errors."""
    limit = _address_space()
    if limit is not None and limit < LEAST_ADDRESS_SPACE:
        raise OutOfMemory(limit=limit)


def end_at_once(code: int) -> NoReturn:
    """End this process without the exit functions of libraries (`atexit`).

    Those of torch take 0.2 s. After OutOfMemory, exit functions would fail and print a traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


@contextmanager
def memory_errors(run: str = "") -> Iterator[None]:
    """Turn the errors of Python and libraries for lack of memory into OutOfMemory, in which `run` is a title."""
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
