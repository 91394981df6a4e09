"""Each cheaper equivalent against the plain one. The last block is held by tests/test_parity.py, logits and all."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from afina.models.kernels import fast_paths as lean_module
from afina.models.kernels.dropout import Dropout, scaled_mask
from afina.models.kernels.fast_paths import TanhGELU, lora_layer


def test_the_one_kernel_gelu_is_transformers_own() -> None:
    inputs = torch.linspace(-6, 6, 1001)
    torch.testing.assert_close(TanhGELU()(inputs), NewGELUActivation()(inputs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("plain", [nn.Linear(6, 10), Conv1D(10, 6)])
def test_the_lora_layer_is_pefts_own(plain: nn.Module) -> None:
    torch.manual_seed(3)
    settings = LoraConfig(r=2, lora_alpha=5, target_modules=["0"], fan_in_fan_out=isinstance(plain, Conv1D))
    layer = inject_adapter_in_model(settings, nn.Sequential(plain))[0]
    nn.init.normal_(layer.lora_B["default"].weight)
    inputs = torch.randn(1, 7, 6)
    expected = layer(inputs)
    assert not torch.allclose(expected, layer.base_layer(inputs))
    torch.testing.assert_close(lora_layer(layer, "default", inputs), expected)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5])
def test_dropout_drops_at_its_rate_independently_and_keeps_the_expectation(rate: float) -> None:
    torch.manual_seed(11)
    count = 400_000
    mask = scaled_mask((count,), rate, torch.float32, torch.device("cpu"))
    dropped = (mask == 0).double()
    spread = (rate * (1 - rate) / count) ** 0.5
    assert abs(dropped.mean().item() - rate) < 5 * spread + 2**-16
    assert mask.unique().tolist() == pytest.approx([0, 1 / (1 - rate)], abs=1e-4)
    for lag in (1, 2, 3, 4, 5):
        correlation = torch.corrcoef(torch.stack([dropped[:-lag], dropped[lag:]]))[0, 1]
        assert abs(correlation.item()) < 5 / count**0.5


def test_dropout_multiplies_values_and_gradients_by_the_same_mask_and_does_nothing_in_evaluation() -> None:
    torch.manual_seed(5)
    inputs = torch.ones(1000, requires_grad=True)
    layer = Dropout(0.3)
    result = layer(inputs)
    result.sum().backward()
    assert inputs.grad is not None
    assert 0 < (result == 0).sum() < 1000
    torch.testing.assert_close(inputs.grad, result.detach())
    assert layer.eval()(inputs) is inputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gelus_slope_is_its_derivative(dtype: torch.dtype) -> None:
    inputs = torch.linspace(-8, 8, 3001, dtype=dtype, requires_grad=True)
    plain = inputs.detach().clone().requires_grad_()
    TanhGELU()(inputs).sum().backward()
    NewGELUActivation()(plain).sum().backward()
    assert inputs.grad is not None
    assert plain.grad is not None
    torch.testing.assert_close(inputs.grad, plain.grad, rtol=2e-6, atol=2e-6)


def test_gelu_of_more_than_one_piece_is_that_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = torch.randn(7, 13)
    expected = TanhGELU()(inputs)
    monkeypatch.setattr(lean_module, "_PIECE", 10)
    torch.testing.assert_close(TanhGELU()(inputs), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("plain", [nn.Linear(6, 10), Conv1D(10, 6)])
def test_the_lora_layers_gradients_are_those_of_its_formula(plain: nn.Module, rate: float) -> None:
    settings = LoraConfig(
        r=2, lora_alpha=5, lora_dropout=rate, target_modules=["0"], fan_in_fan_out=isinstance(plain, Conv1D)
    )
    layer = inject_adapter_in_model(settings, nn.Sequential(plain))[0]
    if rate:
        layer.lora_dropout["default"] = Dropout(rate)
    torch.manual_seed(4)
    nn.init.normal_(layer.lora_B["default"].weight)
    inputs, upstream = torch.randn(1, 7, 6), torch.randn(1, 7, 10)
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight

    def gradients(fast: bool) -> list[torch.Tensor | None]:
        torch.manual_seed(9)
        given = inputs.clone().requires_grad_()
        layer.zero_grad()
        if fast:
            result = lora_layer(layer, "default", given)
        else:
            mask = scaled_mask(given.shape, rate, given.dtype, given.device) if rate else 1.0
            result = layer.base_layer(given) + layer.scaling["default"] * ((given * mask) @ down.t()) @ up.t()
        result.backward(upstream)
        return [result.detach(), given.grad, down.grad, up.grad]

    expected = [None if each is None else each.clone() for each in gradients(False)]
    for one, other in zip(expected, gradients(True), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)
