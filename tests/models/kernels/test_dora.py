"""The DoRA layer against peft's own: values, and the gradients of everything that may have one."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers.pytorch_utils import Conv1D

import gradients
from afina.models.kernels.dora import dora_adapter, dora_layer, prepare_dora
from afina.models.kernels.elementwise import Dropout
from afina.models.kernels.linear import can_pack
from afina.models.kernels.patches import pack

PLAIN = [nn.Linear(6, 10), nn.Linear(6, 10, bias=False), Conv1D(10, 6)]


def wrapped(plain: nn.Module, rate: float = 0.0, **settings: Any) -> Any:
    """peft's layer, away from its start in everything that trains."""
    torch.manual_seed(3)
    config = LoraConfig(
        **({"r": 2, "lora_alpha": 5, "lora_dropout": rate, "use_dora": True} | settings),
        target_modules=["0"],
        fan_in_fan_out=isinstance(plain, Conv1D),
    )
    layer: Any = inject_adapter_in_model(config, nn.Sequential(plain))[0]
    layer.requires_grad_(True)
    layer.base_layer.weight.requires_grad_(False)
    if rate:
        layer.lora_dropout["default"] = Dropout(rate)
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
        layer.lora_magnitude_vector["default"].weight.mul_(1.7).add_(torch.rand(layer.out_features))
    return layer


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("plain", PLAIN, ids=str)
def test_values_and_all_gradients_are_pefts(plain: nn.Module, rate: float) -> None:
    torch.manual_seed(3)
    for parameter in plain.parameters():  # made before any seed; rows with a small norm enlarge rounding
        nn.init.normal_(parameter, std=0.4)
    layer = wrapped(plain, rate)
    prepare_dora(layer)
    gradients.compare(partial(dora_layer, layer, "default"), layer, layer, 3 + (plain.bias is not None))


def test_without_gradients_and_dropout_it_is_pefts_too() -> None:
    layer = wrapped(nn.Linear(6, 10), 0.3).eval()
    prepare_dora(layer)
    inputs = torch.randn(7, 6)
    with torch.inference_mode():
        torch.testing.assert_close(dora_layer(layer, "default", inputs), layer(inputs), rtol=1e-5, atol=1e-5)


def test_where_the_weight_itself_trains_peft_computes() -> None:
    layer = wrapped(nn.Linear(6, 10))
    prepare_dora(layer)
    layer.base_layer.weight.requires_grad_(True)
    dora_layer(layer, "default", torch.randn(7, 6)).sum().backward()
    assert layer.base_layer.weight.grad is not None


def test_a_packed_weight_in_bfloat16_gives_what_float32_gives_but_for_its_digits() -> None:
    plain = nn.Linear(64, 96)
    if not can_pack(plain, torch.bfloat16):
        pytest.skip("this processor does not compute bfloat16 natively")
    layer = wrapped(plain, r=4)
    with torch.no_grad():
        layer.lora_B["default"].weight.mul_(0.1)
    prepare_dora(layer)
    torch.manual_seed(5)
    inputs = torch.randn(32, 64)
    expected = layer(inputs)
    for module in (layer.base_layer, layer.lora_A["default"], layer.lora_B["default"]):
        module.to(torch.bfloat16)
    pack(layer.base_layer)
    assert not hasattr(layer.base_layer, "weight")
    given = inputs.bfloat16().requires_grad_()
    result = dora_layer(layer, "default", given)
    assert result.dtype == torch.bfloat16
    assert (result.float() - expected).abs().max() < 0.03 * expected.abs().max()
    result.float().sum().backward()
    assert given.grad is not None
    assert layer.lora_magnitude_vector["default"].weight.grad.dtype == torch.float32


@pytest.mark.parametrize(
    ("settings", "serves"), [({}, True), ({"use_rslora": True}, True), ({"use_dora": False}, False)], ids=str
)
def test_only_a_layer_that_computes_this_formula_is_served(settings: dict[str, bool], serves: bool) -> None:
    config = LoraConfig(**({"r": 2, "target_modules": ["0"], "use_dora": True} | settings))
    layer = inject_adapter_in_model(config, nn.Sequential(nn.Linear(6, 10)))[0]
    assert dora_adapter(layer) == ("default" if serves else None)
    assert dora_adapter(layer.base_layer) is None
