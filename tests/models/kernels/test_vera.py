"""The VeRA layer against peft's own: values, and the gradients of everything that may have one."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from peft import VeraConfig
from peft.tuners.vera import VeraModel
from torch import nn
from transformers.pytorch_utils import Conv1D

import gradients
from afina.models.kernels.elementwise import Dropout
from afina.models.kernels.vera import vera_adapter, vera_layer


def wrapped(plain: nn.Module, rate: float) -> Any:
    """Beside a wider layer, so that the shared matrices are cut."""
    torch.manual_seed(3)
    config = VeraConfig(
        r=5, vera_dropout=rate, target_modules=["0", "1"], fan_in_fan_out=isinstance(plain, Conv1D), d_initial=0.7
    )
    wider = Conv1D(14, 10) if isinstance(plain, Conv1D) else nn.Linear(10, 14)
    layer: Any = VeraModel(nn.Sequential(plain, wider), config, "default").model[0]
    layer.base_layer.requires_grad_(False)
    if rate:
        layer.vera_dropout["default"] = Dropout(rate)
    nn.init.normal_(layer.vera_lambda_b["default"])
    nn.init.normal_(layer.vera_lambda_d["default"])
    return layer


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias trains"])
@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("plain", [nn.Linear(6, 10), Conv1D(10, 6)], ids=str)
def test_values_and_all_gradients_are_pefts(plain: nn.Module, rate: float, bias: bool) -> None:
    layer = wrapped(plain, rate)
    layer.base_layer.bias.requires_grad_(bias)
    assert vera_adapter(layer) == "default"
    assert layer.vera_A["default"].shape[1] > layer.in_features
    gradients.compare(partial(vera_layer, layer, "default"), layer, layer, 2 + bias)


def test_another_layer_is_left_to_peft() -> None:
    layer = wrapped(nn.Linear(6, 10), 0.0)
    assert vera_adapter(layer.base_layer) is None
    layer.merge()
    assert vera_adapter(layer) is None
