"""Clocks and memory, against figures by hand."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from afina import METHODS, Backbone
from afina.meter import PHASES, Meter, activation_bytes, machine_memory, memory_available, rss, rss_peak, state_bytes
from afina.methods import is_fitted, make
from fakes import OFTEN, Runs, encoded, family_of, fit_of, opened, sentences
from grid import some_slow

FLOAT = 4
MIB = 2**20


class Two(nn.Module):
    """3 -> 4 -> relu -> 2, float32: weights 12 + 8, biases 4 + 2."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)
        self.register_buffer("scale", torch.ones(4))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(inputs)) * self.scale)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.ones(5, 3)).sum().backward()
    optimizer.step()


def test_state_is_parameters_then_gradients_then_both_moments_and_the_step_counters() -> None:
    model, count = Two(), 26
    optimizer = torch.optim.AdamW(model.parameters())
    assert state_bytes(model.parameters(), optimizer) == FLOAT * count
    assert state_bytes(model.parameters()) == FLOAT * count
    model(torch.ones(5, 3)).sum().backward()
    assert state_bytes(model.parameters(), optimizer) == FLOAT * 2 * count
    optimizer.step()
    assert state_bytes(model.parameters(), optimizer) == FLOAT * (4 * count + 4)  # one counter a tensor
    optimizer.zero_grad(set_to_none=True)
    assert state_bytes(model.parameters(), optimizer) == FLOAT * (3 * count + 4)


def test_frozen_parameters_count_once() -> None:
    model = Two()
    model.first.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.second.parameters())
    step(model, optimizer)
    assert state_bytes(model.parameters(), optimizer) == FLOAT * (26 + 3 * 10 + 2)


def test_a_shared_storage_counts_once() -> None:
    model = Two()
    assert state_bytes([*model.parameters(), *model.parameters()]) == FLOAT * 26
    whole = torch.zeros(10)
    assert state_bytes([nn.Parameter(whole[:5]), nn.Parameter(whole[5:])]) == FLOAT * 10


@pytest.mark.parametrize("rows", [5, 7])
def test_activations_are_what_the_forward_pass_saves_without_parameters_and_buffers(rows: int) -> None:
    """Saved per row: 3 inputs; 4 after relu, for it and for the product by the buffer; 4 products."""
    model, inputs = Two(), torch.ones(rows, 3)
    assert activation_bytes(model, lambda: model(inputs).sum()) == FLOAT * rows * (3 + 4 + 4)


def test_what_needs_no_gradient_saves_nothing() -> None:
    model, inputs = Two(), torch.ones(5, 3)
    model.first.requires_grad_(False)
    assert activation_bytes(model, lambda: model(inputs).sum()) == FLOAT * 5 * 4
    model.requires_grad_(False)
    assert activation_bytes(model, lambda: model(inputs).sum()) == 0


def test_what_is_measured_is_let_go_of(gpt2: Backbone) -> None:
    """A graph that its own hook holds is a circle that Python cannot see."""
    method = make("full").for_family("gpt2")
    fit = fit_of(opened(gpt2, method), method, encoded(gpt2, sentences(8)))
    fit.begin()
    packed = next(fit.loader.batches(0, 1))
    results: list[weakref.ref[torch.Tensor]] = []

    def forward() -> torch.Tensor:
        hidden = fit.classifier(packed).exp()  # whose derivative is itself
        results.append(weakref.ref(hidden))
        return hidden.sum()

    assert activation_bytes(fit.classifier, forward) > 0
    gc.collect()
    assert [one() for one in results] == [None]


def test_activations_of_a_training_step_grow_with_its_tokens_and_shrink_with_what_is_frozen(gpt2: Backbone) -> None:
    found = {}
    for name in ("full", "lora"):
        method = make(name).for_family("gpt2")
        fit = fit_of(opened(gpt2, method), method, encoded(gpt2, sentences(16)))
        fit.classifier.train()
        for stop in (1, 2):
            packed = next(fit.loader.batches(stop - 1, stop))
            size = activation_bytes(fit.classifier, lambda fit=fit, packed=packed: fit.classifier(packed).sum())
            found[name, len(packed.tokens)] = size
    (fewer, more) = sorted({tokens for _, tokens in found})
    assert fewer < more
    for name in ("full", "lora"):
        assert found[name, fewer] < found[name, more]
    assert found["lora", more] < found["full", more]


@pytest.mark.parametrize("method", some_slow(METHODS, OFTEN))
def test_the_state_of_a_run_is_its_tensors_counted_by_hand(runs: Runs, method: str) -> None:
    family = family_of(method)
    record = runs.record(family, method)
    model = opened(Backbone.load(str(runs.backbones.path(family))), make(method).for_family(family)).model
    everything = sum(parameter.numel() for parameter in model.parameters())
    stepped = make(method).by_gradient(model)
    features = 6 * 8 * 32 if method == "head" else 0  # of the texts of six steps
    optimized = 3 * sum(parameter.numel() for parameter in stepped.values()) + len(stepped)
    if is_fitted(method):  # without an optimizer, on the features of all texts
        features, optimized = record.train_examples * 32, 0
    assert record.memory.state_bytes == FLOAT * (everything + optimized + features)
    added = dict.fromkeys(("adapter", "prompt", "prefix"), record.body) | dict.fromkeys(
        ("lora", "ia3", "vera"), record.trainable
    )  # and peft copies the head
    assert everything == record.total + added.get(method, 0)


@pytest.mark.parametrize("method", some_slow(METHODS, OFTEN))
def test_a_record_holds_the_memory_and_the_seconds_that_this_machine_can_measure(runs: Runs, method: str) -> None:
    record = runs.record(family_of(method), method)
    seconds = record.seconds.model_dump(exclude_none=True)  # no teacher
    trains = not make(method).trains_nothing
    assert {name for name, value in seconds.items() if value > 0} == {*PHASES} - (set() if trains else {"train"})
    assert all(value < 60 for value in seconds.values())
    assert (record.tokens_per_second is not None and record.tokens_per_second > 0) == trains
    for figure in (record.memory.activation_bytes, record.memory.activation_tokens):
        # a fit without gradients keeps no activations
        assert (figure is not None and figure > 0) == (trains and not is_fitted(method))
    assert record.memory.rss_peak > 100 * MIB  # torch alone is more
    if not torch.cuda.is_available():
        assert record.memory.allocated_end is record.memory.allocated_peak is record.memory.reserved_peak is None


def test_phases_add_up_their_own_seconds_and_those_of_an_earlier_part(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 10.0, 14.0, 20.0, 22.0, 30.0, 38.0, 50.0])
    monkeypatch.setattr("afina.meter.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    meter = Meter(torch.device("cpu"))
    with meter.phase("load"):
        pass
    with meter.phase("encode"):
        pass
    with meter.phase("load"):
        pass
    with pytest.raises(ValueError, match="inside"), meter.phase("save"):
        raise ValueError("inside")
    with meter.phase("train", count=False):
        pass
    assert meter.seconds == {"load": 3.0, "encode": 4.0, "train": 0.0, "evaluate": 0.0, "save": 8.0}
    meter.earlier({"load": 0.5, "train": 100.0})
    assert meter.seconds == {"load": 3.5, "encode": 4.0, "train": 100.0, "evaluate": 0.0, "save": 8.0}


def test_no_figure_is_given_for_a_gpu_where_there_is_none() -> None:
    meter = Meter(torch.device("cpu"))
    with meter.phase("train"):
        pass
    assert (meter.allocated(), meter.allocated_peak, meter.reserved_peak) == (None, None, None)


def test_the_peak_of_resident_memory_rises_by_what_a_process_touches_and_does_not_fall() -> None:
    script = (
        "from afina.meter import forget_peak, rss_peak\n"
        "before = rss_peak()\n"
        "block = bytearray(b'1' * (100 << 20))\n"
        "touched = rss_peak()\n"
        "del block\n"
        "freed = rss_peak()\n"
        "forget_peak()\n"
        "print(before, touched, freed, rss_peak())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, touched, freed, forgotten = map(int, done.stdout.split())
    if Path("/proc/self/clear_refs").exists():
        assert forgotten - before < 20 * MIB
    assert 5 * MIB < before < 100 * MIB
    assert 95 * MIB < touched - before < 300 * MIB
    assert freed >= touched


def in_proc(source: str, field: str) -> int:
    """A figure of the kernel's, in bytes."""
    (line,) = [line for line in Path(source).read_text().splitlines() if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024


linux = pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="the kernel's own figures are in /proc on Linux")


@linux
@pytest.mark.parametrize(
    ("read", "source", "field"),
    [(rss, "/proc/self/status", "VmRSS"), (memory_available, "/proc/meminfo", "MemAvailable")],
)
def test_memory_is_what_the_kernel_says(read: Callable[[], int], source: str, field: str) -> None:
    assert read() == pytest.approx(in_proc(source, field), rel=0.25)  # other processes come and go in between


@linux
def test_the_memory_of_a_machine_is_all_of_it_or_what_its_container_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    there, read = Path.exists, Path.read_text
    total = in_proc("/proc/meminfo", "MemTotal")
    limit = Path("/sys/fs/cgroup/memory.max")
    for stated, expected in ((None, total), ("max\n", total), (f"{64 * MIB}\n", 64 * MIB), (f"{2 * total}\n", total)):
        with monkeypatch.context() as patched:
            patched.setattr(Path, "exists", lambda path, s=stated: s is not None if path == limit else there(path))
            patched.setattr(
                Path, "read_text", lambda path, *a, s=stated, **k: s if path == limit else read(path, *a, **k)
            )
            assert machine_memory() == expected


def test_without_proc_the_peak_is_the_systems_and_the_rest_is_still_known(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: not str(path).startswith(("/proc", "/sys")) and there(path))
    held, peak = rss(), rss_peak()  # in this order: reading them takes memory too
    assert held is not None
    assert peak is not None
    assert peak >= held > 10 * MIB
    assert machine_memory() > memory_available() > 10 * MIB
