"""On a GPU: which device is chosen, what the meter measures, and what is said if the GPU's memory runs out."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from afina import device as devices
from afina.allocator import memory_errors
from afina.errors import InvalidStudy, OutOfMemory
from afina.meter import Meter, gpu_memory
from afina.ranks import Ranks
from afina.studies.executors import fork_server

SIZE = 32 << 20
"""Bytes of a tensor, many times what CUDA's libraries allocate for themselves beside it."""


def tensor(size: int = SIZE) -> torch.Tensor:
    return torch.zeros(size, dtype=torch.uint8, device="cuda")


@pytest.mark.gpu("device.choose", "device.describe", "device.computes_bfloat16", "device.why_no_int8")
def test_the_gpu_is_chosen_and_described(gpu: torch.device) -> None:
    assert devices.choose() == gpu
    assert devices.describe(gpu) == f"cuda ({torch.cuda.get_device_name(gpu)})"
    native = torch.cuda.get_device_capability(gpu) >= (8, 0)
    assert devices.precision("auto", gpu) is (torch.bfloat16 if native else torch.float32)
    with pytest.raises(InvalidStudy, match="on a processor only"):
        devices.compute_type("int8", gpu)


@pytest.mark.gpu("meter.Meter.phase", "meter.Meter.allocated", "meter.gpu_memory")
def test_the_peaks_are_those_of_the_training(gpu: torch.device) -> None:
    meter, kept = Meter(gpu), tensor()
    before = meter.allocated()
    assert before is not None
    assert before >= SIZE
    larger = tensor(5 * SIZE)
    del larger  # a peak before the training
    with meter.phase("train"):
        for _ in range(2):
            more = tensor(2 * SIZE)
            del more
    with meter.phase("evaluate"):
        more = tensor(4 * SIZE)
        del more
    assert meter.allocated() == before
    assert meter.allocated_peak == before + 2 * SIZE
    assert meter.reserved_peak is not None
    assert meter.allocated_peak <= meter.reserved_peak <= (gpu_memory(gpu) or 0)
    assert gpu_memory(gpu) == torch.cuda.get_device_properties(gpu).total_memory
    assert kept.device.type == gpu.type


@pytest.mark.gpu("meter.Meter.phase")
def test_a_phase_lasts_until_the_gpu_has_finished(gpu: torch.device) -> None:
    meter = Meter(gpu)
    matrix = torch.ones(2048, 2048, device=gpu)
    matrix @ matrix  # opens the library
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with meter.phase("train"):
        first.record()
        for _ in range(20):
            matrix @ matrix
        last.record()
    assert meter.seconds["train"] >= 0.99 * first.elapsed_time(last) / 1000 > 0


@pytest.mark.gpu("allocator.memory_errors")
def test_a_gpu_without_room_is_told_from_main_memory(gpu: torch.device) -> None:
    with pytest.raises(OutOfMemory, match="the GPU has too little memory"), memory_errors("a run"):
        tensor(1 << 50)


@pytest.mark.gpu("studies.executors.fork_server.can_fork")
def test_a_process_that_uses_the_gpu_is_not_forked(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of threads alone forbids it too, so the open files are what is asked."""
    assert tensor().sum() == 0
    monkeypatch.setattr(fork_server, "threads", lambda: ["python"])
    assert not fork_server.can_fork()
    files = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    assert any(file.startswith(fork_server._GPUS) for file in files)


@pytest.mark.gpu("ranks.Ranks.joined")
def test_the_sum_of_ranks_is_computed_by_the_gpu(gpu: torch.device, tmp_path: Path) -> None:
    """Of a group of one process, because a second one would need a second GPU."""
    joined = Ranks.joined(0, 1, f"file://{tmp_path / 'ranks'}")
    ranks = replace(joined, count=2)
    try:
        assert dist.get_backend_config() == "cpu:gloo,cuda:nccl"
        tensors = [torch.ones(3, device=gpu), torch.full((2, 2), 2.0, device=gpu).t(), torch.ones(2).bfloat16().to(gpu)]
        before = [each.clone() for each in tensors]
        ranks.sum_(tensors)
        assert all(torch.equal(one, other) for one, other in zip(tensors, before, strict=True))
        assert ranks.from_first({"a": 1}) == {"a": 1}
    finally:
        ranks.close()
