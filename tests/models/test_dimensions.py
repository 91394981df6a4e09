"""The shapes of a backbone's weights follow from its configuration: what transformers makes of it has the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from afina.errors import InvalidStudy
from afina.models.architectures import ARCHITECTURES
from afina.models.backbone_spec import Dimensions, dimensions
from fakes import RESIZED, Backbones, configuration


def shapes_of(config: Any) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def expected(name: str, found: Dimensions) -> tuple[int, ...]:
    inside = found.architecture.block.find(name)
    if inside is None:
        return next(shape for end, shape in found.outside.items() if name.endswith(f".{end}") or name == end)
    index, inner = inside
    assert index < found.layers
    module, _, kind = inner.rpartition(".")
    return found.linear[module].shapes()[kind] if module in found.linear else (found.norms[module],)


@pytest.mark.parametrize("changed", [False, True], ids=["as is", "changed"])
@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_weight_of_every_family_has_the_shape_that_is_foreseen(
    family: str, changed: bool, tmp_path: Path
) -> None:
    config = configuration(family, num_labels=3, **(RESIZED[family] if changed else {}))
    config.save_pretrained(tmp_path)
    found = dimensions(json.loads((tmp_path / "config.json").read_text()), 3)
    shapes = shapes_of(config)
    assert {name: expected(name, found) for name in shapes} == shapes
    assert found.layers == 2
    assert {size for shape in shapes.values() for size in shape} <= found.known


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_what_a_configuration_leaves_out_is_as_transformers_takes_it(family: str) -> None:
    config = AutoConfig.for_model(family)
    found = dimensions({"model_type": family}, 2)
    assert found.layers == config.num_hidden_layers
    one_layer = AutoConfig.for_model(family, num_hidden_layers=1)
    shapes = shapes_of(one_layer)
    assert {name: expected(name, found) for name in shapes} == shapes


def test_names_that_only_look_like_a_block_are_in_none(backbones: Backbones) -> None:
    found = dimensions(json.loads((backbones.path("gpt2") / "config.json").read_text()), 2)
    assert found.architecture.block.find("transformer.h.1.ln_1.weight") == (1, "ln_1.weight")
    assert found.architecture.block.find("transformer.h.07.x") == (7, "x")
    assert found.architecture.block.find("transformer.h.99999999999999999999.x") == (999999999, "x")
    for name in (
        "transformer.h.x.ln_1.weight",
        "h",
        "",
        "transformer.h.-1.x",
        "transformer.h.²",
        "transformer.wte.weight",
    ):
        assert found.architecture.block.find(name) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "bart"}, "models of type 'bart' are not supported. Supported: gpt2, "),
        ({"model_type": ["gpt2"]}, "are not supported"),
        ({"n_embd": "32"}, "n_embd is '32', expected an integer of at least 1"),
        ({"n_layer": 0}, "n_layer is 0"),
        ({"vocab_size": True}, "vocab_size is True"),
        ({"n_positions": 2**40}, "n_positions is 1099511627776"),
        ({"n_head": -4}, "n_head is -4"),
    ],
)
def test_a_configuration_that_is_none_says_where(changes: dict[str, Any], said: str, backbones: Backbones) -> None:
    content = json.loads((backbones.path("gpt2") / "config.json").read_text())
    with pytest.raises(InvalidStudy, match=f"^config.json: .*{said}"):
        dimensions(content | changes, 2)
