"""What peft implements beside plain LoRA: the laws that it keeps, and that runs from before keep their keys."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from afina import Backbone, Run, digest
from afina.errors import InvalidStudy
from afina.methods import make
from afina.models.architectures import is_head
from afina.models.classifier import Classifier
from afina.models.kernels.linear import held_by, held_tensors
from afina.models.kernels.patches import Patch, patches_of
from afina.training.mixed_precision import WorkingWeights
from fakes import TEXTS, encoded, fit_of, logits_of, opened, sentences
from grid import thinned
from raises import raises

# peft asks transformers for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

VARIANTS: list[dict[str, Any]] = [
    {"rslora": True},
    {"dora": True},
    {"init": "gaussian"},
    {"init": "orthogonal"},
    {"targets": "all-linear"},
    {"plus": 16.0},
    {"dora": True, "rslora": True, "targets": ["all-linear"], "init": "orthogonal", "plus": 4.0},
]


def test_settings_of_lora_that_are_not_stated_count_where_they_differ_from_their_defaults() -> None:
    method = make("lora", {"targets": ["c_attn"]})
    assert method.hyperparameters == {"r": 4, "alpha": 16.0, "dropout": 0.05, "targets": ["c_attn"]}
    run = Run(backbone="gpt2", task="sst2", method="lora")
    assert run.key == Run(backbone="gpt2", task="sst2", method="lora", hyperparameters={"dora": False}).key
    assert run.key != Run(backbone="gpt2", task="sst2", method="lora", hyperparameters={"dora": True}).key


@pytest.mark.parametrize(("family", "given"), thinned(("gpt2", "llama"), VARIANTS, share=2), ids=str)
def test_each_starts_without_effect_packs_and_is_restored(
    gpt2: Backbone, llama: Backbone, family: str, given: dict[str, Any]
) -> None:
    backbone = {"gpt2": gpt2, "llama": llama}[family]
    method = make("lora", given).for_family(family)
    assert make("lora", method.hyperparameters) == method
    classifier = opened(backbone, method)  # which measures that no logit changes
    fit_of(classifier, method, encoded(backbone, sentences(24)), steps=3).advance()
    found = logits_of(classifier, backbone)
    alone = torch.cat([logits_of(classifier, backbone, [text]) for text in TEXTS])
    assert (found - alone).abs().max() <= 1e-5 * found.abs().max()
    state = {name: tensor.detach().clone() for name, tensor in method.state(classifier.model).items()}
    fresh = opened(backbone, method, seed=1)
    method.restore(fresh.model, state)
    assert torch.equal(logits_of(fresh, backbone), found)


@pytest.mark.parametrize(("family", "layers"), [("gpt2", 8), ("llama", 14)])
def test_all_linear_adapts_every_linear_layer_but_the_head(
    gpt2: Backbone, llama: Backbone, family: str, layers: int
) -> None:
    backbone = {"gpt2": gpt2, "llama": llama}[family]
    method = make("lora", {"targets": "all-linear"}).for_family(family)
    assert method.hyperparameters["targets"] == ["all-linear"]
    trained = method.trainable(opened(backbone, method).model)
    adapted = {name.split(".lora_")[0] for name in trained if ".lora_" in name}
    assert len(adapted) == layers
    assert not any(is_head(name) for name in adapted)


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_16", "olora", "corda", "loftq"])
def test_a_start_that_rewrites_the_backbone_is_refused_with_that_reason(init: str) -> None:
    with raises(InvalidStudy, code="method.changes-backbone", method="lora"):
        make("lora", {"init": init}, "study.toml")


@pytest.mark.parametrize(
    ("given", "fields"),
    [
        ({"init": "random"}, {"init": "random"}),
        ({"init": "orthogonal", "r": 3}, {"init": "orthogonal", "r": 3}),
        ({"plus": float("nan")}, {"plus": "nan"}),
        ({"dora": "perhaps"}, {"setting": "dora", "found": "perhaps"}),
        ({"r": 1000, "targets": "all-linear"}, {"r": 1000, "widest": 128}),
    ],
)
def test_what_cannot_be_is_an_error(gpt2: Backbone, given: dict[str, Any], fields: dict[str, Any]) -> None:
    with raises(InvalidStudy, code="method.setting-invalid", method="lora", **fields):
        opened(gpt2, make("lora", given).for_family("gpt2"))


def test_doras_lengths_stay_float32_and_its_frozen_weights_are_packed(gpt2: Backbone) -> None:
    method = make("lora", {"dora": True}).for_family("gpt2")
    classifier = opened(gpt2, method)
    weights = WorkingWeights.of(method, classifier.model, torch.bfloat16)
    kinds = {name.rsplit(".", 3)[-3]: parameter.dtype for name, parameter in weights.parameters.items()}
    assert kinds["lora_magnitude_vector"] == torch.float32
    assert kinds["lora_A"] == torch.bfloat16
    layers = [module for module in classifier.model.modules() if Patch.DORA in patches_of(module)]
    assert len(layers) == 2
    if held_tensors(classifier):
        assert all(held_by(layer.base_layer) for layer in layers)
    assert all(layer.squares.dtype == torch.float32 for layer in layers)


@pytest.mark.parametrize(("given", "dtype"), [({"dora": True}, torch.bfloat16), ({}, torch.float32)], ids=str)
def test_beside_a_method_that_trains_biases_both_train(
    gpt2: Backbone, given: dict[str, Any], dtype: torch.dtype
) -> None:
    both = make("lora+bitfit", {"lora": given}).for_family("gpt2")
    classifier = opened(gpt2, both)
    before = {name: p.detach().clone() for name, p in both.trainable(classifier.model).items()}
    fit = fit_of(classifier, both, encoded(gpt2, sentences(24)), steps=3, dtype=dtype)
    fit.advance()
    same = [name for name, p in fit.weights.trained.items() if torch.equal(p, before[name])]
    assert not same
    assert any("base_layer.bias" in name for name in before)
    assert bool(given) == any("magnitude" in name for name in before)


def test_vera_draws_its_matrices_from_the_key_alone_and_saves_none(llama: Backbone) -> None:
    def matrices(key: int, seed: int) -> tuple[str, set[str]]:
        method = make("vera", {"r": 8, "key": key}).for_family("llama")
        model = opened(llama, method, seed).model
        drawn = {name: buffer for name, buffer in model.named_buffers() if "vera_" in name}
        assert drawn
        return digest.of_tensors(drawn), set(method.state(model))

    (first, state), (again, _), (other, _) = matrices(0, 0), matrices(0, 1), matrices(1, 0)
    assert first == again != other
    assert not any("vera_A" in name or "vera_B" in name for name in state)


@pytest.mark.parametrize("name", ["ia3", "vera"])
def test_ia3_and_vera_keep_their_frozen_weights_packed_in_bfloat16(llama: Backbone, name: str) -> None:
    method = make(name).for_family("llama")
    classifier = opened(llama, method)
    fit = fit_of(classifier, method, encoded(llama, sentences(24)), steps=2, dtype=torch.bfloat16)
    fit.advance()
    if held_tensors(classifier):
        kept = [module for module in classifier.model.modules() if hasattr(module, "base_layer")]
        assert kept
        assert all(held_by(module.base_layer) for module in kept)


@pytest.mark.parametrize(
    ("name", "given", "code", "fields"),
    [
        ("ia3", {"targets": ["c_attn"], "feedforward": ["c_fc"]}, "method.setting-invalid", {"feedforward": "c_fc"}),
        ("ia3", {"targets": ["q_proj"]}, "method.target-missing", {"usual": ["c_attn", "mlp.c_proj"]}),
        ("vera", {"targets": ["q_proj"]}, "method.target-missing", {"usual": ["c_attn"]}),
        ("vera", {"r": 10**9}, "method.setting-invalid", {"r": 10**9}),
        ("vera", {"key": -1}, "method.setting-invalid", {"key": -1}),
    ],
)
def test_settings_of_ia3_and_vera_that_cannot_be_are_errors(
    gpt2: Backbone, name: str, given: dict[str, Any], code: str, fields: dict[str, Any]
) -> None:
    with raises(InvalidStudy, code=code, method=name, **fields):
        Classifier.open(gpt2, ("bad", "good"), 0).wrap(make(name, given).for_family("gpt2").attach)
