"""Products in int8 divide the inputs of each frozen layer by factors that are measured on the first batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from afina import Backbone
from afina import device as devices
from afina.methods import make
from afina.models.kernels.int8_training import Int8ProductsWeight
from afina.training.fit import Fit
from fakes import Backbones, encoded, fit_of, opened, sentences


def session(backbones: Backbones, family: str, method: str, given: dict[str, Any]) -> Fit:
    backbone = Backbone.load(str(backbones.path(family)))
    made = make(method, given).for_family(backbone.family)
    return fit_of(opened(backbone, made), made, encoded(backbone, sentences(20)), steps=3, products=devices.INT8)


@pytest.mark.parametrize(
    ("family", "method", "given"),
    [("gpt2", "lora", {"targets": "all-linear"}), ("llama", "ia3", {}), ("bert", "adapter", {})],
)
def test_every_frozen_layer_of_the_body_has_measured_factors(
    backbones: Backbones, family: str, method: str, given: dict[str, Any]
) -> None:
    if devices.why_no_int8(torch.device("cpu")) is not None:
        pytest.skip("the processor has no instructions for int8")
    fit = session(backbones, family, method, given)
    held = {name: one for name, one in fit.classifier.named_modules() if isinstance(one, Int8ProductsWeight)}
    assert len(held) == len(fit.classifier.own_linear)
    assert all(one.inverse.std() > 0 for one in held.values()), "a layer without measured inputs has the factor 1"
    assert all((one.inverse.log().mean()).abs() < 1e-4 for one in held.values())
    groups = {id(one._factors) for one in held.values()}
    assert (len(groups) < len(held)) == (family != "gpt2"), "layers that read one tensor share their factors"
    fit.advance()
    assert all(torch.tensor(fit.account.losses).isfinite())
