"""Weights in int8: products of a layer against those with the dequantized weight, and what a weight takes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.pytorch_utils import Conv1D

from afina.models.kernels import int8
from afina.models.kernels.int8 import FEW_ROWS, LEVELS, Int8Weight, quantize
from afina.models.kernels.linear import frozen_weight
from afina.models.kernels.patches import hold
from afina.training.dry_run import Alive

LAYERS = [nn.Linear(32, 40), nn.Linear(24, 40, bias=False), Conv1D(40, 24), Conv1D(24, 32)]
ROWS = [1, FEW_ROWS, FEW_ROWS + 1, 50]


@pytest.fixture
def weight() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(40, 32) * torch.logspace(-6, 3, 40)[:, None]


def held(plain: Any, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return a layer with a weight in int8, and a plain float32 layer with the weight that it stands for."""
    torch.manual_seed(2)
    plain = copy.deepcopy(plain).requires_grad_(False)
    if plain.bias is not None:
        plain.bias.copy_(torch.randn_like(plain.bias).bfloat16()).requires_grad_(True)
    quantized = Int8Weight(frozen_weight(plain).dequantize())
    layer = copy.deepcopy(plain)
    hold(layer, quantized)
    matrix = quantized.dequantize()
    plain.weight.copy_(matrix.t() if isinstance(plain, Conv1D) else matrix)
    return layer.to(dtype), plain


def run(layer: Any, inputs: Tensor, upstream: Tensor) -> list[Tensor]:
    inputs = inputs.clone().requires_grad_()
    result = layer(inputs)
    result.backward(upstream)
    found = [result.detach(), inputs.grad, *(bias.grad for bias in layer.parameters() if bias.requires_grad)]
    return [one.float() for one in found]


@pytest.mark.parametrize("block", [int8.BLOCK, 100])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-6), (torch.bfloat16, 1e-2)], ids=str)
def test_values_and_gradients_are_those_of_the_dequantized_weight(
    layer: Any, rows: int, block: int, dtype: torch.dtype, bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "BLOCK", block)
    quantized, plain = held(layer, dtype)
    outputs, inputs = frozen_weight(plain).shape
    given, upstream = torch.randn(1, rows, inputs).to(dtype), torch.randn(1, rows, outputs).to(dtype)
    for found, expected in zip(
        run(quantized, given, upstream), run(plain, given.float(), upstream.float()), strict=True
    ):
        assert (found - expected).abs().max() <= bound * expected.abs().max()
    with torch.inference_mode():
        assert (quantized(given).float() - plain(given.float())).abs().max() <= bound * plain(given.float()).abs().max()


@pytest.mark.parametrize("block", [int8.BLOCK, 100, 33 * 32, 20 * 32], ids=["whole", "many", "a short second", "two"])
def test_a_product_without_values_takes_the_memory_of_a_product(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "BLOCK", block)

    def peak(weight: Int8Weight, inputs: Tensor, grads: Tensor) -> list[int]:
        found = []
        for product, given in ((weight.product, inputs), (weight.transposed_product, grads)):
            with Alive() as alive:
                product(given)
            found.append(alive.peak)
        return found

    with FakeTensorMode():
        foreseen = peak(Int8Weight(torch.empty(40, 32)), torch.empty(50, 32), torch.empty(50, 40))
    assert foreseen == peak(Int8Weight(torch.randn(40, 32)), torch.randn(50, 32), torch.randn(50, 40))


def test_no_weight_is_further_off_than_half_a_scale(weight: Tensor) -> None:
    codes, scales = quantize(weight)
    assert (codes.dtype, scales.dtype) == (torch.int8, torch.float32)
    assert codes.abs().amax(1).eq(LEVELS).all()
    error = (codes * scales[:, None] - weight).abs()
    assert (error <= 0.5001 * scales[:, None]).all()
    assert torch.equal(scales.bfloat16().float(), scales)


def test_zeros_stay_zeros_and_a_bias_beside_them_stays_exact() -> None:
    quantized = Int8Weight(torch.zeros(3, 32))
    assert quantized.dequantize().count_nonzero() == 0
    bias = torch.tensor([1.5, -2.0, 0.0])
    for dtype in (torch.float32, torch.bfloat16):
        for rows in ROWS:
            found = quantized.product(torch.randn(rows, 32).to(dtype), bias.to(dtype))
            assert torch.equal(found.float(), bias.expand(rows, 3))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_not_hidden(weight: Tensor, wrong: float) -> None:
    weight[3, 5] = wrong
    found = Int8Weight(weight).product(torch.ones(2, 32))
    assert found.isfinite().all(0).nonzero().flatten().tolist() == [row for row in range(40) if row != 3]


def test_a_conversion_changes_the_dtype_of_products_and_no_number(weight: Tensor) -> None:
    layer: Any = nn.Linear(32, 40)
    with torch.no_grad():
        layer.weight.copy_(weight)
    hold(layer, Int8Weight(weight))
    before, scales = layer.frozen.dequantize(), layer.frozen.scales.clone()
    model = nn.Sequential(layer).to(torch.bfloat16)
    assert (layer.frozen.dtype, layer.frozen.shape) == (torch.bfloat16, (40, 32))
    assert torch.equal(layer.frozen.dequantize(), before.bfloat16())
    model.to(torch.float32)
    assert torch.equal(layer.frozen.scales, scales)
    assert torch.equal(layer.frozen.dequantize(), before)
    assert layer.frozen.device == torch.device("cpu")
    assert not model.state_dict().keys() - {"0.bias"}


def test_a_weight_takes_a_byte_and_a_scale_for_each_output_and_a_dry_run_sees_as_much(weight: Tensor) -> None:
    quantized = Int8Weight(weight)
    assert sum(tensor.nbytes for tensor in quantized.tensors) == 40 * 32 + 4 * 40
    expected = [(one.shape, one.dtype) for one in quantized.to(torch.bfloat16).tensors]
    with FakeTensorMode():
        fake = Int8Weight(torch.empty(40, 32)).to(torch.bfloat16)
        assert [(one.shape, one.dtype) for one in fake.tensors] == expected
        for rows in ROWS:
            inputs = torch.empty(rows, 32, dtype=torch.bfloat16)
            grads = fake.product(inputs, torch.empty(40, dtype=torch.bfloat16))
            assert (grads.shape, grads.dtype) == ((rows, 40), torch.bfloat16)
            assert fake.transposed_product(grads).shape == inputs.shape
