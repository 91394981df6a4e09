"""On a GPU: attention, GELU, dropout and products of frozen weights, against what float64 or a CPU computes."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import pytest
import torch
from test_attention import bounds, one_by_one, states
from torch import Tensor, nn
from transformers.activations import NewGELUActivation

from afina.models.kernels import attention, linear
from afina.models.kernels.attention import packed_attention
from afina.models.kernels.elementwise import Dropout, TanhGELU
from afina.models.kernels.int8 import FEW_ROWS, Int8Weight
from afina.models.kernels.layout import Layout
from afina.models.kernels.linear import HeldWeight, can_pack, multiply, multiply_fused
from afina.models.kernels.patches import accelerate, hold

HALF = torch.finfo(torch.bfloat16).eps * 3
"""Relative and absolute error of a result in bfloat16, whose inputs, sums and outputs are rounded."""

CASES = [([7, 2, 3, 1, 6, 2], None, True), ([7, 2, 3, 1, 6, 2], 3, True), ([40, 3, 1, 17], 3, False)]
CASES += [([40, 3, 1, 17], None, False), ([5], None, True)]
"""Lengths of texts, the window, and whether attention is causal."""


def close(found: Tensor | None, expected: Tensor | None, tolerance: float) -> None:
    assert found is not None
    assert expected is not None
    torch.testing.assert_close(found.cpu().double(), expected.detach().double(), rtol=tolerance, atol=tolerance)


@pytest.mark.gpu(
    "models.kernels.attention._attend", "models.kernels.attention._by_torch", "models.kernels.attention.serves_varlen"
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("lengths", "window", "causal"), CASES, ids=str)
def test_attention_and_its_gradients_are_plain(
    gpu: torch.device, lengths: list[int], window: int | None, causal: bool, dtype: torch.dtype
) -> None:
    given = [each.detach().to(dtype) for each in states(lengths, 4, 2)]
    exact = [each.double().requires_grad_() for each in given]
    inputs = [each.to(gpu).requires_grad_() for each in given]
    layout = Layout(bounds(lengths).to(gpu))
    varlen = attention.serves_varlen(inputs[0], 0.0)
    assert varlen == (dtype == torch.bfloat16 and torch.cuda.get_device_capability(gpu) >= (8, 0))
    options: dict[str, Any] = {"layout": layout, "sliding_window": window, "causal": causal}
    found, _ = packed_attention(nn.Identity(), *inputs, None, **options)
    expected = one_by_one(*exact, lengths, window, causal=causal)
    tolerance = HALF if dtype == torch.bfloat16 else 1e-5
    close(found, expected, tolerance)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(8))
    found.backward(upstream.to(gpu, dtype))
    expected.backward(upstream.to(dtype).double())
    for one, other in zip(inputs, exact, strict=True):
        close(one.grad, other.grad, 2 * tolerance)


@pytest.mark.gpu("models.kernels.attention._varlen")
def test_the_kernel_of_flash_attention_computes_half_precision(gpu: torch.device) -> None:
    inputs = [each.detach().to(gpu, torch.bfloat16) for each in states([4, 3], 4, 2)]
    if not attention.serves_varlen(inputs[0], 0.0):
        pytest.skip("needs a CUDA device of capability 8.0 or later, and torch 2.10")
    found, _ = packed_attention(nn.Identity(), *inputs, None, layout=Layout(bounds([4, 3]).to(gpu)))
    close(found, one_by_one(*(each.cpu().float() for each in inputs), [4, 3], None), HALF)


@pytest.mark.gpu("models.kernels.attention._attend", "models.kernels.attention._by_torch")
def test_dropout_in_attention_keeps_its_expectation(gpu: torch.device) -> None:
    """Values of one: the output is the sum of the weights, whose mean over many heads stays one."""
    lengths, heads = [9, 6], 256
    query, key = (torch.zeros(1, heads, 15, 8, device=gpu) for _ in range(2))
    torch.manual_seed(0)
    options: dict[str, Any] = {"layout": Layout(bounds(lengths).to(gpu)), "dropout": 0.25, "causal": False}
    found, _ = packed_attention(nn.Identity(), query, key, torch.ones_like(query), None, **options)
    assert found.std() > 0.05
    assert abs(found.mean().item() - 1) < 0.05


@pytest.mark.gpu("models.kernels.elementwise.TanhGELU.forward")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, HALF)], ids=str)
def test_gelu_and_its_slope_are_transformers_own(gpu: torch.device, dtype: torch.dtype, tolerance: float) -> None:
    values = torch.linspace(-6, 6, 501).to(dtype)
    inputs, exact = values.to(gpu).requires_grad_(), values.double().requires_grad_()
    found, expected = TanhGELU()(inputs), NewGELUActivation()(exact)
    found.sum().backward()
    expected.sum().backward()
    close(found, expected, tolerance)
    close(inputs.grad, exact.grad, tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dropout_draws_the_same_masks_from_the_same_seed(gpu: torch.device, dtype: torch.dtype) -> None:
    layer, inputs = Dropout(0.25).train(), torch.ones(1000, 100, device=gpu, dtype=dtype)
    made = []
    for _ in range(2):
        torch.manual_seed(5)
        made.append(layer(inputs))
    assert torch.equal(*made)
    assert not torch.equal(made[0], layer(inputs))
    assert abs((made[0] == 0).double().mean().item() - 0.25) < 0.01
    close(made[0][made[0] != 0].unique(), torch.tensor([4 / 3]), HALF)


@pytest.mark.gpu(
    *("models.kernels.linear.multiply_fused", "models.kernels.linear.by_onednn", "models.kernels.linear.can_pack"),
    "models.kernels.linear.can_multiply_in_int8",
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, HALF)], ids=str)
def test_products_take_no_way_of_a_processor(gpu: torch.device, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(64, 48).to(dtype)
    layer = copy.deepcopy(plain).to(gpu).requires_grad_(False)
    inputs = torch.randn(5, 64).to(dtype)
    assert not can_pack(layer, torch.bfloat16)
    assert not linear.can_multiply_in_int8(layer)
    exact = nn.functional.linear(inputs.double(), plain.weight.double(), plain.bias.double())
    given = inputs.to(gpu), layer.weight, layer.bias
    for found in (multiply(*given), multiply_fused(*given)):
        close(found, exact, tolerance)
    accelerate(layer)
    close(layer(inputs.to(gpu)), exact, tolerance)


def held(name: str, weight: Tensor) -> HeldWeight:
    if name == "int8":
        return Int8Weight(weight)
    if importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    from afina.models.kernels.nf4 import Nf4Weight

    return Nf4Weight(weight)


@pytest.mark.gpu("models.kernels.int8._decodes")
@pytest.mark.parametrize("rows", [1, FEW_ROWS + 30])
def test_products_with_int8_weights_are_those_of_the_dequantized_weight(gpu: torch.device, rows: int) -> None:
    check_held("int8", rows, gpu)


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, FEW_ROWS + 30])
def test_products_with_nf4_weights_are_those_of_the_dequantized_weight(gpu: torch.device, rows: int) -> None:
    check_held("nf4", rows, gpu)


def check_held(name: str, rows: int, gpu: torch.device) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(64, 128).requires_grad_(False)
    quantized = held(name, plain.weight.detach().clone())
    matrix = quantized.dequantize().double()
    assert (matrix - plain.weight.double()).abs().max() > 0
    layer = copy.deepcopy(plain)
    hold(layer, quantized)
    layer = layer.to(gpu)
    layer.to(torch.bfloat16)
    inputs = torch.randn(rows, 64).bfloat16()
    given = inputs.to(gpu).requires_grad_()
    found = layer(given)
    close(found, inputs.double() @ matrix.t() + plain.bias.double(), 2 * HALF)
    upstream = torch.randn(rows, 128).bfloat16()
    found.backward(upstream.to(gpu))
    close(given.grad, upstream.double() @ matrix, 4 * HALF)
