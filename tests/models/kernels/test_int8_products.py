"""Products in int8: equal to exact integer arithmetic, the same in every batch, and smoothed before rounding."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from afina import device
from afina.models.kernels import int8_products
from afina.models.kernels.int8 import quantize
from afina.models.kernels.int8_calibration import smoothing
from afina.models.kernels.int8_products import DynamicInt8Weight, quantize_tokens
from afina.models.kernels.linear import PlainWeight
from afina.models.kernels.patches import hold

SHAPES = [(1, 8, 1), (2, 1, 3), (3, 31, 40), (17, 130, 48), (5, 64, 96), (64, 96, 130), (33, 33, 7)]
"""Tokens, inputs and outputs, most of them no multiples of a vector's length."""

UNITS = 8 * 2.0**-24
"""Eight roundings in float32; a product of codes has four: of the sum, of two scales, and of a bias."""


Counted = list[int]
"""Numbers of tokens that `quantize_tokens` was called with."""


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    counts: Counted = []

    def counting(inputs: Tensor, *given: Any) -> Any:
        counts.append(len(inputs))
        return quantize_tokens(inputs, *given)

    monkeypatch.setattr(int8_products, "quantize_tokens", counting)
    return counts


@pytest.fixture(autouse=True)
def _int8() -> None:
    if not has_int8():
        pytest.skip("the processor has no instructions for int8")


def has_int8() -> bool:
    try:
        device.check_int8(torch.device("cpu"))
    except device.InvalidStudy:
        return False
    return True


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(weight: Tensor, factors: Tensor | None = None) -> DynamicInt8Weight:
    return DynamicInt8Weight(weight, torch.ones(weight.shape[1]) if factors is None else factors, weight)


def expected(inputs: Tensor, weight: Tensor, factors: Tensor) -> Tensor:
    """The product of the codes in int64, times the scales in float64."""
    codes, scales = quantize(weight * factors)
    wide = inputs * (1 / factors)
    shifted, tokens = quantize_tokens(wide, wide.dtype, wide.clone(), torch.empty_like(wide, dtype=torch.int8))
    sums = (shifted.long() - int8_products.SHIFT) @ codes.long().t()
    return sums.double() * scales.double() * tokens.double()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_product_is_that_of_exact_integers(shape: tuple[int, int, int]) -> None:
    count, columns, rows = shape
    inputs, weight, bias = 3 * drawn(count, columns), drawn(rows, columns, seed=1), drawn(rows, seed=2)
    factors = smoothing(inputs, weight)
    held, exact = made(weight, factors), expected(inputs, weight, factors)
    assert bool(((held.product(inputs).double() - exact).abs() <= UNITS * exact.abs()).all())
    added = held.product(inputs, bias).double() - (exact + bias)
    assert bool((added.abs() <= UNITS * (exact.abs() + bias.abs())).all())


def test_the_largest_codes_do_not_overflow() -> None:
    inputs, weight = torch.ones(4, 4096), torch.ones(16, 4096)
    inputs[1], weight[::2] = -1, -1
    found = made(weight).product(inputs)
    assert bool(((found.abs() - 4096).abs() <= 4096 * 2.0**-8).all()), "a scale is a bfloat16 number"
    assert torch.equal(found.sign(), (inputs[:, :1] * weight[:, :1].t()).sign())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_has_the_same_result_in_every_batch(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, bias, held = drawn(40, 96).to(dtype), drawn(50).to(dtype), made(drawn(50, 96, seed=1))
    inputs[7] *= 100
    together = held.product(inputs, bias)
    assert together.dtype == dtype
    assert all(torch.equal(held.product(inputs[one : one + 1], bias)[0], together[one]) for one in range(40))
    monkeypatch.setattr(int8_products, "ROWS", 16)
    assert torch.equal(held.product(inputs, bias), together), "in blocks of rows"
    assert held.product(inputs[:0], bias).shape == (0, 50)


def test_nan_infinity_and_zeros_stay_in_their_own_token() -> None:
    inputs, bias, held = drawn(5, 64), drawn(32), made(drawn(32, 64, seed=1))
    plain = held.product(inputs, bias)
    inputs[1, 3], inputs[2, 4], inputs[3] = torch.nan, torch.inf, 0
    found = held.product(inputs, bias)
    assert torch.equal(found[[0, 4]], plain[[0, 4]])
    assert not bool(found[1:3].isfinite().any())
    assert torch.equal(found[3], bias)


def test_the_weight_comes_back_and_a_dtype_changes_neither_codes_nor_scales() -> None:
    weight = drawn(48, 40)
    held = made(weight, smoothing(drawn(9, 40, seed=1), weight))
    back = held.dequantize()
    assert (held.shape, held.dtype, back.shape) == ((48, 40), torch.float32, (48, 40))
    assert float((back - weight).norm() / weight.norm()) < 0.01
    grads = drawn(3, 48, seed=2)
    assert torch.allclose(held.transposed_product(grads), grads @ back, atol=1e-4)
    inputs = drawn(3, 40, seed=3)
    before = held.product(inputs)
    held.to(torch.bfloat16)
    assert (held.dtype, held.dequantize().dtype) == (torch.bfloat16, torch.bfloat16)
    assert torch.equal(held.product(inputs), before)


def siblings(readers: int = 2) -> list[DynamicInt8Weight]:
    factors = smoothing(drawn(9, 64), *(weights := [drawn(16 + one, 64, seed=one) for one in range(readers)]))
    return [DynamicInt8Weight(weight, factors, weight, readers) for weight in weights]


def alone(weight: DynamicInt8Weight, inputs: Tensor) -> Tensor:
    other = copy(weight)
    other._readers = 1
    return other.product(inputs)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_siblings_quantise_their_inputs_once(mode: Any, counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8_products, "ROWS", 16)
    held = siblings(3)
    with mode():
        for seed in range(2):
            inputs = drawn(40, 64, seed=seed)
            expected = [alone(each, inputs) for each in held]
            counted.clear()
            found = [each.product(inputs.view(40, 64)) for each in held]
            assert counted == [16, 16, 8]
            assert all(map(torch.equal, found, expected))
    assert int8_products._last.found is None, "codes are gone after the last sibling"


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_siblings_never_get_the_codes_of_other_inputs(mode: Any) -> None:
    (one, other), (third, fourth) = siblings(), siblings()
    with mode():
        inputs = drawn(8, 64)
        one.product(inputs)
        for given in (inputs[:4], inputs[4:], inputs[:, :64].clone(), inputs.to(torch.bfloat16), inputs.flip(0)):
            assert torch.equal(other.product(given), alone(other, given))
            one.product(inputs)
        assert torch.equal(third.product(inputs), alone(third, inputs)), "with other factors"
        fourth.product(inputs)
        one.product(inputs)
        inputs.mul_(2)
        assert torch.equal(one.product(inputs), alone(one, inputs)), "in the memory of the old ones, for a new pass"
        other.product(inputs)
        for seed in range(20):  # memory that is free is used again
            one.product(drawn(8, 64, seed=seed))
            given = drawn(8, 64, seed=seed + 1)
            assert torch.equal(other.product(given), alone(other, given))


def test_a_change_in_place_between_siblings_is_seen() -> None:
    one, other = siblings()
    inputs = drawn(8, 64)
    one.product(inputs)
    inputs.mul_(2)
    assert torch.equal(other.product(inputs), alone(other, inputs))


def test_codes_keep_no_inputs_alive_and_stay_in_their_thread() -> None:
    one, other = siblings()
    inputs = drawn(8, 64)
    expected, storage = alone(other, inputs), StorageWeakRef(inputs.untyped_storage())
    one.product(inputs)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(one.product, drawn(8, 64, seed=1)).result()
        assert torch.equal(pool.submit(other.product, inputs).result(), expected)
        assert int8_products._last.found is not None, "each thread has codes of its own"
        assert torch.equal(other.product(inputs), expected)
        one.product(inputs)
    del inputs
    assert storage.expired()


def test_a_held_layer_can_be_held_in_int8() -> None:
    layer, inputs = nn.Linear(64, 32), drawn(5, 64)
    exact = layer(inputs).detach()
    for _ in range(2):  # the second time, the layer has no parameter any more
        own = PlainWeight(layer.weight.detach()) if "weight" in layer._parameters else layer._modules["frozen"]
        hold(layer, DynamicInt8Weight.of(own, torch.ones(64)))
    with torch.no_grad():
        assert float((layer(inputs) - exact).norm() / exact.norm()) < 0.02
    assert dict(layer.named_parameters()).keys() == {"bias"}


_PROGRAM = """
import torch
from afina.models.kernels import int8_products as made
from test_int8_products import UNITS, drawn, expected
inputs, weight, ones = drawn(33, 200), drawn(70, 200, seed=1), torch.ones(200)
exact = expected(inputs, weight, ones)
found = made.DynamicInt8Weight(weight, ones, weight).product(inputs)
assert bool(((found.double() - exact).abs() <= UNITS * exact.abs()).all())
"""


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["AVX2_VNNI", "AVX512_CORE_VNNI"])
def test_other_processors_instructions_give_exact_integers_too(isa: str) -> None:
    needed = {"AVX2_VNNI": "avx_vnni", "AVX512_CORE_VNNI": "avx512_vnni"}[isa]
    if not torch.cpu.get_capabilities().get(needed):
        pytest.skip(f"the processor has no {needed}")
    paths = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa, "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", _PROGRAM], env=environment, check=True)


@pytest.mark.slow
def test_int8_is_refused_if_onednn_may_not_use_the_processors_instructions() -> None:
    said = "import torch; from afina import device; print(device.why_no_int8(torch.device('cpu')))"
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", said], env=environment, check=True, capture_output=True, text=True)
    assert "ONEDNN_MAX_CPU_ISA" in done.stdout
