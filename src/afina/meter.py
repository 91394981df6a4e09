"""The only caller of clocks and memory counters. What each figure means: docs/reference/figures.md."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

PHASES = ("load", "encode", "train", "evaluate", "save")


class Meter:
    """Seconds by phase, and the device's peaks within the training phase."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.allocated_peak: int | None = None
        self.reserved_peak: int | None = None

    def earlier(self, seconds: dict[str, float]) -> None:
        """Add the seconds of an interrupted part of the same run."""
        for name, value in seconds.items():
            self.seconds[name] += value

    @contextmanager
    def phase(self, name: str, *, count: bool = True) -> Iterator[None]:
        """Count the block's time under `name` (unless it counts itself); a CUDA device's peaks start anew.

        Those of `train` are kept.
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
                self.seconds[name] += time.perf_counter() - start

    def allocated(self) -> int | None:
        """Bytes allocated on a CUDA device now; None elsewhere."""
        import torch

        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else None


def now() -> float:
    """Seconds on a monotonic clock."""
    return time.perf_counter()


def rss_peak() -> int | None:
    """The most resident memory this process has had, in bytes; None where the system does not tell.

    From VmHWM on Linux: `ru_maxrss` there starts at the parent's peak, since exec keeps it.
    """
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


def rss() -> int:
    """The resident memory of this process now, in bytes."""
    return int(psutil.Process().memory_info().rss)


def memory_available() -> int:
    """Bytes of main memory that a new process could have without swapping."""
    return int(psutil.virtual_memory().available)


def machine_memory() -> int:
    """Main memory of this machine or of its container, in bytes."""
    total = int(psutil.virtual_memory().total)
    limit = Path("/sys/fs/cgroup/memory.max")
    stated = limit.read_text().strip() if limit.exists() else ""
    return min(total, int(stated)) if stated.isdecimal() else total


def processors() -> int:
    """Processors that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def gpu_memory(device: torch.device) -> int | None:
    """All memory of a CUDA device, in bytes; None for another device."""
    import torch

    return int(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else None


def state_bytes(parameters: Iterable[Tensor], optimizer: torch.optim.Optimizer | None = None) -> int:
    """Parameters + gradients + optimiser state, summed over distinct storages."""
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
    """What identifies a tensor's storage while it lives, and its bytes."""
    if tensor.is_mkldnn:  # has no storage that torch could name
        return ("packed", id(tensor)), tensor.nbytes
    # Not the address of its data, which tensors without values (see `afina.training.dry_run`) do not have.
    storage = tensor.untyped_storage()
    return int(storage._cdata), storage.nbytes()


def activation_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """What `forward()` saves for a backward pass: distinct storages, without parameters and buffers, in bytes."""
    import torch

    owned = {_storage(tensor)[0] for tensor in [*model.parameters(), *model.buffers()]}
    sizes: dict[object, int] = {}

    def note(tensor: Tensor) -> Tensor:
        identity, size = _storage(tensor)
        if identity not in owned:
            sizes[identity] = size
        return tensor.detach()  # the tensor itself would hold the graph that holds it

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = forward()
    del result
    return sum(sizes.values())
