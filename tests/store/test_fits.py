"""What every method saves fits the backbone that it was made on, and no smaller or larger one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from afina import METHODS, Backbone
from afina.errors import AfinaError, CorruptAdapter, InvalidStudy, WrongBackbone
from afina.methods import make
from afina.models.architectures import ARCHITECTURES
from afina.store.intake.admission import SMALL, fits
from afina.store.intake.inspection import Header, TensorEntry
from fakes import SLOW, Backbones, Runs, opened, serves
from grid import by_family, thinned

SPECIAL: dict[str, tuple[str, dict[str, Any]]] = {
    "dora": ("lora", {"dora": True}),
    "all-linear": ("lora", {"targets": "all-linear"}),
    "houlsby": ("adapter", {"kind": "houlsby"}),
    "lora+bitfit": ("lora+bitfit", {}),
    "ia3+prompt": ("ia3+prompt", {}),
}


def header_of(shapes: Mapping[str, tuple[int, ...]]) -> Header:
    return Header({name: TensorEntry("F32", shape, 0, 0) for name, shape in shapes.items()}, {}, 0, 0)


def configuration_of(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((path / "config.json").read_text())
    return content


KEYS = {family: [key for one, key in thinned(ARCHITECTURES, (*METHODS, *SPECIAL), whole=["gpt2"]) if one == family]
        for family in ARCHITECTURES}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("family", by_family(ARCHITECTURES, SLOW))
def test_what_every_method_saves_fits_its_backbone(family: str, backbones: Backbones) -> None:
    path = backbones.path(family)
    backbone = Backbone.load(str(path))
    wider = {**configuration_of(path), "n_embd": 48, "hidden_size": 48, "dim": 48}
    for key in KEYS[family]:
        name, settings = SPECIAL.get(key, (key, {}))
        if not all(serves(family, part) for part in name.split("+")):
            continue
        method = make(name, settings).for_family(family)
        classifier = opened(backbone, method)
        state = method.state(classifier.model)
        header = header_of({name: tuple(tensor.shape) for name, tensor in state.items()})
        fits(header, configuration_of(path), 2)
        with pytest.raises(AfinaError):
            fits(header, wider, 2)
        with pytest.raises(
            CorruptAdapter,
            match=r"'.*(score|classifier.*)\.\w+' has shape \[2.*\], but the adapter has 3 labels",
        ):
            fits(header, configuration_of(path), 3)


@pytest.fixture(scope="module")
def gpt2_configuration(backbones: Backbones) -> dict[str, Any]:
    return configuration_of(backbones.path("gpt2"))


GOOD: dict[str, tuple[int, ...]] = {
    "base_model.model.score.weight": (2, 32),
    "base_model.model.transformer.h.1.attn.c_attn.lora_A.weight": (4, 32),
    "base_model.model.transformer.h.1.attn.c_attn.lora_B.weight": (96, 4),
    "transformer.h.0.attn.c_proj.base_layer.bias": (32,),
    "transformer.h.0.mlp.c_fc.lora_magnitude_vector": (128,),
    "transformer.h.0.mlp.c_fc.hada_w1_a": (128, 8),
    "transformer.wte.lora_embedding_A": (8, 320),
    "score.lora_A.weight": (8, 32),
    "base_model.vera_A": (256, 128),
}
P = "base_model.model.transformer.h."


@pytest.mark.parametrize(
    ("shapes", "kind", "said"),
    [
        ({f"{P}2.attn.c_attn.lora_A.weight": (4, 32)}, WrongBackbone, "to layer 2, but the backbone has layers 0 to 1"),
        ({f"{P}9999999999.x": (4,)}, WrongBackbone, "belongs to layer 999999999"),
        ({f"{P}1.attn.c_attn.lora_A.weight": (4, 33)}, WrongBackbone, r"\[4, 33\], expected .*, 32\].* for this"),
        ({f"{P}1.attn.c_attn.lora_A.weight": (0, 32)}, WrongBackbone, "for this backbone"),
        ({f"{P}1.attn.c_attn.lora_A.weight": (4, 32, 1)}, WrongBackbone, "for this backbone"),
        ({f"{P}1.attn.c_attn.lora_B.weight": (32, 4)}, WrongBackbone, r"expected \[96, 'any'\] for this backbone"),
        ({f"{P}1.attn.c_attn.lora_B.weight": (96, 5)}, CorruptAdapter, "the ranks differ"),
        ({f"{P}1.attn.c_attn.weight": (96, 32)}, WrongBackbone, r"expected \[32, 96\] for this backbone"),
        ({f"{P}1.mlp.c_proj.bias": (128,)}, WrongBackbone, r"expected \[32\] for this backbone"),
        ({f"{P}1.ln_1.weight": (31,)}, WrongBackbone, r"expected \[32\] for this backbone"),
        ({f"{P}1.mlp.c_fc.ia3_l": (32, 1)}, WrongBackbone, r"expected \[128, 1\] or \[1, 32\]"),
        ({f"{P}1.attn.prefix.key": (16, 8, 4)}, WrongBackbone, r"expected \['any', 4, 8\]"),
        ({f"{P}1.mlp.bottleneck.up.weight": (33, 2)}, WrongBackbone, r"expected \[32, 'any'\]"),
        ({"transformer.wte.weight": (321, 32)}, WrongBackbone, r"expected \[320, 32\]"),
        ({"transformer.wpe.weight": (255, 32)}, WrongBackbone, r"expected \[256, 32\]"),
        ({"transformer.prompt.weight": (16, 31)}, WrongBackbone, r"expected \['any', 32\]"),
        ({"score.weight": (2, 31)}, WrongBackbone, r"expected \[2, 32\]"),
        ({"score.weight": (3, 32)}, CorruptAdapter, "the adapter has 2 labels"),
        ({"score.bias": (3,)}, CorruptAdapter, "the adapter has 2 labels"),
        ({f"{P}1.mlp.c_fc.hada_w1_a": (SMALL + 1, 8)}, WrongBackbone, "the backbone has no dimension of 4,097"),
    ],
)  # fmt: skip
def test_what_does_not_fit_says_which_tensor_and_what_would(
    shapes: dict[str, tuple[int, ...]], kind: type[AfinaError], said: str, gpt2_configuration: dict[str, Any]
) -> None:
    fits(header_of(GOOD), gpt2_configuration, 2)
    with pytest.raises(kind, match=said) as raised:
        fits(header_of(GOOD | shapes), gpt2_configuration, 2, "acme/reviews@3")
    assert str(raised.value).startswith("acme/reviews@3: ")


def test_a_configuration_of_another_kind_of_model_is_refused() -> None:
    with pytest.raises(InvalidStudy, match="models of type 'bart' are not supported"):
        fits(header_of(GOOD), {"model_type": "bart"}, 2)


def test_an_adapter_of_one_backbone_does_not_fit_another(runs: Runs, backbones: Backbones) -> None:
    from afina.store.intake.inspection import inspect

    header = inspect(runs.adapter("gpt2", "lora")).header
    fits(header, configuration_of(backbones.path("gpt2")), 2)
    with pytest.raises(WrongBackbone):
        fits(header, configuration_of(backbones.path("gpt2")) | {"n_layer": 1}, 2)
