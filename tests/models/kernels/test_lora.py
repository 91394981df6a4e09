"""The LoRA layer against peft's own and against its formula, values and gradients."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

import gradients
from afina.models.kernels.elementwise import Dropout, scaled_mask
from afina.models.kernels.lora import lora_adapter, lora_layer


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


@pytest.mark.parametrize("trains", [None, "bias", "weight"])
@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("plain", [nn.Linear(6, 10), Conv1D(10, 6)])
def test_the_lora_layers_gradients_are_those_of_its_formula(plain: nn.Module, rate: float, trains: str | None) -> None:
    settings = LoraConfig(
        r=2, lora_alpha=5, lora_dropout=rate, target_modules=["0"], fan_in_fan_out=isinstance(plain, Conv1D)
    )
    layer = inject_adapter_in_model(settings, nn.Sequential(plain))[0]
    if rate:
        layer.lora_dropout["default"] = Dropout(rate)
    for name, parameter in layer.base_layer.named_parameters():
        parameter.requires_grad_(name == trains)
    nn.init.normal_(layer.lora_B["default"].weight)
    down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight

    def formula(given: Tensor) -> Tensor:
        mask = scaled_mask(given.shape, rate, given.dtype, given.device) if rate else 1.0
        result: Tensor = layer.base_layer(given) + layer.scaling["default"] * ((given * mask) @ down.t()) @ up.t()
        return result

    gradients.compare(partial(lora_layer, layer, "default"), formula, layer, 2 + (trains is not None))


@pytest.mark.parametrize(
    ("settings", "serves"),
    [({}, True), ({"use_rslora": True}, True), ({"use_dora": True}, False), ({"lora_bias": True}, False)],
    ids=str,
)
def test_a_layer_that_computes_more_than_the_formula_is_left_to_peft(settings: dict[str, bool], serves: bool) -> None:
    layer = inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"], **settings), nn.Sequential(nn.Linear(6, 10)))[
        0
    ]
    assert lora_adapter(layer) == ("default" if serves else None)
    assert lora_adapter(layer.base_layer) is None
    layer.merge()
    assert lora_adapter(layer) is None
