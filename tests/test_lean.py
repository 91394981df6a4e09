"""Each cheaper equivalent against the plain one. The last block is held by tests/test_parity.py, logits and all."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from afina.dropout import Dropout, scaled_mask
from afina.lean import TanhGELU, lora_layer


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
