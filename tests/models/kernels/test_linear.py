"""Products by oneDNN against torch's own, values and gradients, packed and not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from afina.models.kernels.linear import can_pack, frozen_weight, multiply
from afina.models.kernels.patches import accelerate, pack

LAYERS = [nn.Linear(24, 40), nn.Linear(24, 40, bias=False), Conv1D(40, 24), nn.Linear(24, 24), Conv1D(24, 24)]


def run(layer: nn.Module, inputs: Tensor, upstream: Tensor) -> list[Tensor | None]:
    inputs = inputs.clone().requires_grad_()
    layer.zero_grad()
    result = layer(inputs)
    result.backward(upstream)
    return [result.detach(), inputs.grad, *(parameter.grad for parameter in layer.parameters())]


@pytest.fixture
def made() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(1, 17, 24), torch.randn(1, 17, 40)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_layer_gives_torchs_values_and_gradients(layer: nn.Module, made: tuple[Tensor, Tensor]) -> None:
    inputs, upstream = made
    plain, fast = copy.deepcopy(layer), copy.deepcopy(layer)
    upstream = upstream[..., : plain(inputs).shape[-1]]
    accelerate(fast)
    assert "forward" in fast.__dict__
    for expected, found in zip(run(plain, inputs, upstream), run(fast, inputs, upstream), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(fast(inputs), plain(inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_a_packed_layer_gives_the_same_bits_and_holds_its_weight_once_for_each_direction(
    layer: nn.Module, made: tuple[Tensor, Tensor]
) -> None:
    inputs, upstream = (each.bfloat16() for each in made)
    plain = copy.deepcopy(layer).bfloat16().requires_grad_(False)
    fast = copy.deepcopy(plain)
    upstream = upstream[..., : plain(inputs).shape[-1]]
    accelerate(fast)
    if not can_pack(fast, torch.bfloat16):
        pytest.skip("no oneDNN for bfloat16 here")
    size = plain.weight.nbytes  # type: ignore[operator, union-attr]
    packed = pack(fast)
    assert [each.nbytes for each in packed.tensors] == [size, size]
    assert not hasattr(fast, "weight")
    assert torch.equal(packed.dequantize(), frozen_weight(plain).dequantize())
    expected, found = run(plain, inputs, upstream), run(fast, inputs, upstream)
    for one, other in zip(expected[:2], found[:2], strict=True):
        torch.testing.assert_close(other, one, rtol=1e-2, atol=1e-2)
    assert found[2:] == [None] * len(list(fast.parameters()))


@pytest.mark.parametrize("layer", [layer for layer in LAYERS if layer.bias is not None], ids=str)
def test_a_packed_layers_bias_trains_and_is_read_anew_at_every_call(
    layer: nn.Module, made: tuple[Tensor, Tensor]
) -> None:
    inputs, upstream = (each.bfloat16() for each in made)
    plain: Any = copy.deepcopy(layer).bfloat16()
    plain.weight.requires_grad_(False)
    fast = copy.deepcopy(plain)
    upstream = upstream[..., : plain(inputs).shape[-1]]
    if not can_pack(fast, torch.bfloat16):
        pytest.skip("no oneDNN for bfloat16 here")
    pack(fast)
    for _ in range(2):
        expected, found = run(plain, inputs, upstream), run(fast, inputs, upstream)
        for one, other in zip([*expected[:2], plain.bias.grad], [*found[:2], fast.bias.grad], strict=True):
            torch.testing.assert_close(other, one, rtol=1e-2, atol=1e-2)
        with torch.no_grad():
            plain.bias += 1
            fast.bias += 1
    assert (found[0] - run(fast, inputs, upstream)[0]).abs().mean() > 0.9  # type: ignore[operator, union-attr]


def test_only_bfloat16_layers_on_a_cpu_are_packed() -> None:
    assert not can_pack(nn.Linear(4, 4), torch.float32)
    assert not can_pack(nn.Linear(4, 4, device="meta"), torch.bfloat16)
    assert not can_pack(nn.LayerNorm(4), torch.bfloat16)


def test_a_transposed_operand_is_multiplied_as_it_is() -> None:
    torch.manual_seed(2)
    left, right = torch.randn(16, 5), torch.randn(16, 7)
    torch.testing.assert_close(multiply(left.t(), right.t()), left.t() @ right, rtol=1e-5, atol=1e-5)
