"""Measure time and memory; no other module reads clocks and memory counters.

The page docs/reference/figures.md defines each measured figure.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

PHASES = ("load", "encode", "train", "evaluate", "save")


class Meter:
    """The measurements of a run: the seconds of each phase, and the peaks of a GPU's memory during training."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.allocated_peak: int | None = None
        self.reserved_peak: int | None = None

    def earlier(self, seconds: dict[str, float]) -> None:
        """Add the seconds of each phase that were measured before the run was interrupted."""
        for name, value in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value

    @contextmanager
    def phase(self, name: str, *, count: bool = True) -> Iterator[None]:
        """Add the time of the `with` block to the phase `name`, unless the block adds it itself (`count`).

        Before the block, the peak memory of a CUDA device is reset. The peaks of the phase "train" are kept.
        """
        import torch

        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        start = time.perf_counter()
        try:
            yield
        finally:
            if cuda:
                torch.cuda.synchronize(self.device)
                if name == "train":
                    self.allocated_peak = torch.cuda.max_memory_allocated(self.device)
                    self.reserved_peak = torch.cuda.max_memory_reserved(self.device)
            if count:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def allocated(self) -> int | None:
        """Return the number of bytes that are allocated on a CUDA device now; None on other devices."""
        import torch

        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else None


def now() -> float:
    """Return the time of a monotonic clock in seconds."""
    return time.perf_counter()


def posix_time() -> float:
    """Return the seconds since 1970 (UTC)."""
    return time.time()


def processor_seconds() -> float:
    """Return the processor time of this thread in seconds."""
    return time.thread_time()


def rss_peak() -> int | None:
    """Return the peak resident memory of this process in bytes; None if the operating system does not report it."""
    # On Linux VmHWM, because `ru_maxrss` begins at the peak of the parent process.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak() -> None:
    """Reset the peak that `rss_peak` returns, after work that is not to be measured; this works on Linux only."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def rss() -> int:
    """Return the current resident memory of this process in bytes."""
    return int(psutil.Process().memory_info().rss)


def rss_of(pid: int) -> int:
    """Return the resident memory of a process and of its descendants now, in bytes; 0 if the process has ended."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += int(each.memory_info().rss)
    return total


def memory_available() -> int:
    """Return the number of bytes of main memory that a new process could use without swapping."""
    return int(psutil.virtual_memory().available)


def machine_memory() -> int:
    """Return the size in bytes of the main memory of this machine, or of the container in which this process runs."""
    total = int(psutil.virtual_memory().total)
    limit = Path("/sys/fs/cgroup/memory.max")
    stated = limit.read_text().strip() if limit.exists() else ""
    return min(total, int(stated)) if stated.isdecimal() else total


def processors() -> int:
    """Return the number of processors that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def gpu_memory(device: torch.device) -> int | None:
    """Return the total memory of a CUDA device in bytes; None for another device."""
    import torch

    return int(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else None


def state_bytes(parameters: Iterable[Tensor], optimizer: torch.optim.Optimizer | None = None) -> int:
    """Return the bytes of parameters, their gradients and the optimiser's state; a shared storage counts once."""
    import torch

    tensors: list[Tensor] = []
    for parameter in parameters:
        tensors.append(parameter)
        if parameter.grad is not None:
            tensors.append(parameter.grad)
    for state in optimizer.state.values() if optimizer else []:
        tensors.extend(value for value in state.values() if isinstance(value, torch.Tensor))
    return _distinct(tensors)


def _distinct(tensors: Iterable[Tensor]) -> int:
    return sum(dict(map(_storage, tensors)).values())


def _storage(tensor: Tensor) -> tuple[object, int]:
    """Return a key that identifies a tensor's storage while the storage exists, and the storage's size in bytes."""
    tensor = getattr(tensor, "_local_tensor", tensor)
    tensor = getattr(tensor, "_local_tensor", tensor)  # of a tensor that processes share, this process's part
    if tensor.is_mkldnn:  # such a tensor has no storage
        return ("packed", id(tensor)), tensor.nbytes
    # The address of the data is no key: tensors without values (`afina.training.dry_run`) have no data.
    storage = tensor.untyped_storage()
    return int(storage._cdata), storage.nbytes()


def activation_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Return the bytes that `forward()` saves for a backward pass, without parameters and buffers."""
    import torch

    owned = {_storage(tensor)[0] for tensor in [*model.parameters(), *model.buffers()]}
    saved: dict[object, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        detached = tensor.detach()  # the tensor itself would refer to the graph, which refers to the tensor
        identity, _ = _storage(tensor)
        if identity not in owned:
            saved[identity] = detached
        return detached

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = forward()
    total = sum(_storage(tensor)[1] for tensor in saved.values())  # gathered weights are freed by now
    del result
    return total
