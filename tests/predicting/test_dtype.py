"""Prediction in bfloat16: the same answers, half the memory, and a probe that is still compared in float32."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from afina import Adapter, Backbone, Predictor
from afina import device as devices
from afina.errors import InvalidStudy, UnknownName
from afina.models.kernels.linear import PackedWeight, can_pack
from afina.predicting import golden_test
from command import Command
from fakes import TEXTS, Runs
from raises import raises

EIGHTH = 2.0**-8
"""What a bfloat16 can be off by, relative; outputs of the tiny models, which add up a hundred of them, by some more."""


@pytest.mark.parametrize(
    ("family", "method"),
    [
        *(("gpt2", method) for method in ("lora", "full")),
        *((family, "lora") for family in ("llama", "gpt_neox")),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("llama", "full"), ("gpt_neox", "prelayer"), ("gpt2", "baseline"), ("gpt2", "prompt"))
        ),
        ("llama", "prefix"),
    ],
)
def test_bfloat16_gives_nearly_the_outputs_of_float32(runs: Runs, family: str, method: str) -> None:
    path = runs.adapter(family, method)
    exact, lowered = Predictor.load(path), Predictor.load(path, dtype="bfloat16")
    assert (exact.dtype, lowered.dtype) == ("float32", "bfloat16")
    expected, found = exact.outputs(TEXTS), lowered.outputs(TEXTS)
    assert found.dtype == np.float32
    assert not np.array_equal(found, expected)
    assert np.abs(found - expected).max() < 16 * EIGHTH * np.abs(expected).max()


def test_lowered_weights_take_half_the_memory(runs: Runs) -> None:
    path = runs.adapter("gpt2", "lora")
    sizes = {}
    for dtype in ("float32", "bfloat16"):
        model = Predictor.load(path, dtype=dtype).classifier.model
        kept = [module for module in model.modules() if isinstance(module, PackedWeight)]
        assert bool(kept) == (dtype == "bfloat16" and can_pack(torch.nn.Linear(2, 2), torch.bfloat16))
        assert all(each.transposed.numel() == 0 for each in kept), "no backward pass is to come"
        held = [*model.parameters(), *(each.weight for each in kept)]
        sizes[dtype] = sum(tensor.numel() * tensor.element_size() for tensor in held)
    assert sizes["bfloat16"] < 0.55 * sizes["float32"]


def test_auto_is_bfloat16_where_the_device_computes_it(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    for native in (True, False):
        monkeypatch.setattr(devices, "computes_bfloat16", lambda device, native=native: native)
        found = Predictor.load(runs.adapter("gpt2", "lora"), dtype="auto").dtype
        assert found == ("bfloat16" if native else "float32")


def test_another_dtype_is_an_error_before_anything_is_opened(runs: Runs) -> None:
    with raises(UnknownName, code="name.unknown", name="float16", kind="dtype", nearest="bfloat16"):
        Predictor.load(runs.adapter("gpt2", "lora"), dtype="float16")


def test_the_command_line_takes_the_dtype_and_says_which_it_was(afina: Command, trained: Path, toy: str) -> None:
    lowered = afina("evaluate", trained, "--task", toy, "--json", "--dtype", "bfloat16", "--check-probe").object()
    assert lowered["dtype"] == "bfloat16"
    (one,) = afina("predict", trained, "a warm play", "--dtype", "bfloat16").lines()
    (other,) = afina("predict", trained, "a warm play").lines()
    assert one["probabilities"] != other["probabilities"]


def test_the_probe_is_compared_in_float32_whatever_is_computed_in_afterwards(runs: Runs, gpt2: Backbone) -> None:
    adapter = Adapter.load(runs.adapter("gpt2", "lora"))
    assert golden_test.opened(adapter, None, "bfloat16", checked=True).dtype == "bfloat16"
    with raises(InvalidStudy, code="dtype.unsuitable"):
        golden_test.check(Predictor.of(adapter, gpt2, "bfloat16"))


def resident(do: Callable[[], object], times: int) -> int:
    """By how many bytes this process grows while it does that."""
    gc.collect()
    before = psutil.Process().memory_info().rss
    for _ in range(times):
        do()
    return int(psutil.Process().memory_info().rss - before)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_two_hundred_calls_keep_the_memory_as_it_is(runs: Runs, dtype: str) -> None:
    predictor = Predictor.load(runs.adapter("gpt2", "lora"), dtype=dtype)
    resident(lambda: predictor(TEXTS), 20)
    assert resident(lambda: predictor(TEXTS), 200) < 4 * 2**20
