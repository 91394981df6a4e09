"""Methods added up: each part trains what it trains alone, nothing else does, and what cannot be added is refused."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from afina import Backbone, Predictor
from afina.errors import CorruptAdapter, InvalidStudy, UnknownName
from afina.methods import make
from afina.methods.method import Method, plain_name
from afina.methods.sum import Sum
from afina.models.adapter import Adapter
from afina.models.architectures import is_head
from afina.models.classifier import Classifier
from fakes import Backbones, Runs, encoded, fit_of, logits_of, opened, padded_logits, sentences
from raises import raises

# peft asks transformers for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

PAIRS = [
    ("gpt2", "lora+bitfit"),
    ("gpt2", "adapter+layernorm+prelayer"),
    ("llama", "last+adapter"),
    ("qwen3", "lora+layernorm+adapter"),
    ("bert", "bitfit+adapter"),
    ("bert", "prelayer+last+adapter"),
]
"""A sample of what is legal, of several families."""

HYPERPARAMETERS = {"last": {"blocks": 1}, "adapter": {"reduction": 4}}


def added(name: str) -> dict[str, Any]:
    return {part: HYPERPARAMETERS[part] for part in name.split("+") if part in HYPERPARAMETERS}


def trained_alone(backbone: Backbone, part: Method) -> set[str]:
    """Names as they are where peft wraps nothing."""
    return {plain_name(name) for name in part.trainable(opened(backbone, part).model)}


@pytest.mark.parametrize(("family", "name"), PAIRS)
def test_a_sum_starts_as_the_model_is_trains_what_its_parts_train_and_its_state_is_all_of_it(
    backbones: Backbones, family: str, name: str
) -> None:
    backbone, method = Backbone.load(str(backbones.path(family))), make(name, added(name)).for_family(family)
    assert isinstance(method, Sum)
    classifier = Classifier.open(backbone, ("bad", "good"), seed=0)
    plain = logits_of(classifier, backbone)
    classifier.wrap(method.attach)
    assert torch.equal(logits_of(classifier, backbone), plain)
    declared = set(method.trainable(classifier.model))
    apart = [trained_alone(backbone, part) for part in method.parts.values()]
    if "adapter" in method.parts and "bitfit" in method.parts:  # alone, it knows no adapter
        assert not any("bottleneck" in name for name in apart[0])
    assert {plain_name(name) for name in declared} == set().union(*apart)
    assert all(one - other for one, other in permutations(apart, 2))
    before = {name: each.detach().clone() for name, each in classifier.model.named_parameters()}
    fit_of(classifier, method, encoded(backbone, sentences(24)), steps=3).advance()
    after = dict(classifier.model.named_parameters())
    assert {name for name, each in after.items() if not torch.equal(each, before[name])} == declared
    expected = logits_of(classifier, backbone)
    state = {name: tensor.detach().clone() for name, tensor in method.state(classifier.model).items()}
    fresh = opened(backbone, method, seed=1)
    method.restore(fresh.model, state)
    assert torch.equal(logits_of(fresh, backbone), expected)
    with raises(CorruptAdapter, code="adapter.tensors-mismatch", missing=1, unknown=0):
        method.restore(fresh.model, {name: tensor for name, tensor in state.items() if name != min(state)})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora+bitfit", "bitfit+adapter"])
def test_in_bfloat16_a_sum_trains_as_in_float32_but_for_rounding(gpt2: Backbone, name: str) -> None:
    """Frozen weights are packed, with the biases that train beside them, and LoRA adds to both."""
    method = make(name).for_family("gpt2")
    low, high = (
        fit_of(opened(gpt2, method), method, encoded(gpt2, sentences(40)), dtype=dtype, steps=12, learning_rate=1e-3)
        for dtype in (torch.bfloat16, torch.float32)
    )
    low.advance()
    high.advance()
    assert low.account.losses == pytest.approx(high.account.losses, rel=0.05)
    for key, weight in high.weights.trained.items():
        assert torch.allclose(low.weights.trained[key], weight, atol=12 * 1e-3), key


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ({}, {"lora": 1.0, "layernorm": 1.0}),
        ({"layernorm": {"multiplier": 0.5}}, {"lora": 1.0, "layernorm": 0.5}),
        ({"lora": {"multiplier": 3}, "layernorm": {"multiplier": 2}}, {"lora": 3.0, "layernorm": 2.0}),
    ],
)
def test_each_part_has_its_own_rate(gpt2: Backbone, tables: dict[str, Any], expected: dict[str, float]) -> None:
    method = make("lora+layernorm", tables).for_family("gpt2")
    fit = fit_of(opened(gpt2, method), method, encoded(gpt2, sentences(16)), steps=2)
    fit.advance(1)
    rates = {id(each): group["lr"] for group in fit.optimizer.param_groups for each in group["params"]}
    for name, parameter in fit.parameters.items():
        part = "layernorm" if ".ln_" in name else "lora"  # the head has the first part's
        assert rates[id(parameter)] == pytest.approx(expected[part] * fit.recipe.learning_rate), name


def test_a_parts_rate_is_its_own_default_at_the_sums_and_its_own_multipliers_are_kept(gpt2: Backbone) -> None:
    method = make("adapter+prelayer").for_family("gpt2")
    model = opened(gpt2, method).model
    assert method.learning_rate == make("adapter").learning_rate == 1e-3
    assert method.multipliers(model) == {f"transformer.{name}.weight": 2.0 for name in ("wte", "wpe")}
    method = make("full+adapter", {"full": {"layer_decay": 0.5}}).for_family("gpt2")
    found = method.multipliers(opened(gpt2, method).model)
    assert found["transformer.h.1.mlp.c_fc.weight"] == 0.5
    assert found["transformer.h.1.mlp.bottleneck.up.weight"] == 10
    assert "score.weight" not in found


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("bitfit+layernorm", {"parts": ["bitfit", "layernorm"]}),
        ("lora+full", {"part": "full"}),
        ("last+lora", {"part": "last"}),
        ("full+prelayer", {"parts": ["full", "prelayer"]}),
    ],
)
def test_parts_that_train_the_same_are_refused_by_the_parameter(
    gpt2: Backbone, name: str, fields: dict[str, Any]
) -> None:
    with raises(InvalidStudy, code="method.sum-contradiction", method=name, **fields):
        opened(gpt2, make(name).for_family("gpt2"))


@pytest.mark.parametrize(
    ("name", "tables", "error", "fields"),
    [
        ("lora+head", {}, InvalidStudy, {"code": "method.sum-contradiction", "part": "head"}),
        ("lora+baseline", {}, InvalidStudy, {"code": "method.sum-contradiction", "part": "baseline"}),
        ("setfit+adapter", {}, InvalidStudy, {"code": "method.sum-contradiction", "part": "setfit"}),
        ("lora+lora", {}, InvalidStudy, {"code": "method.sum-contradiction", "part": "lora"}),
        ("lora+vera", {}, InvalidStudy, {"code": "method.sum-contradiction", "parts": ["lora", "vera"]}),
        ("lora+lorra", {}, UnknownName, {"code": "name.unknown", "name": "lorra", "kind": "method", "nearest": "lora"}),
        ("lora+bitfit", {"r": 4}, UnknownName, {"code": "name.unknown", "name": "r"}),
        ("lora+bitfit", {"lora": 4}, InvalidStudy, {"code": "method.setting-invalid", "setting": "lora"}),
        ("lora+bitfit", {"lora": {"r": 0}}, InvalidStudy, {"code": "method.setting-invalid", "method": "lora", "r": 0}),
        (
            "lora+bitfit",
            {"bitfit": {"multiplier": 0}},
            InvalidStudy,
            {"code": "method.setting-invalid", "setting": "multiplier", "where": "lora+bitfit.bitfit", "found": 0},
        ),
    ],
)
def test_what_cannot_be_added_up_is_an_error_that_says_what_to_do(
    name: str, tables: dict[str, Any], error: type[Exception], fields: dict[str, Any]
) -> None:
    with raises(error, **fields):
        make(name, tables)


def test_a_part_without_meaning_for_the_model_is_refused_in_a_sum_too(llama: Backbone) -> None:
    for name in ("lora+bitfit", "adapter+bitfit"):  # an adapter's biases are its own
        with raises(InvalidStudy, code="method.family-unsupported", method="bitfit", family="llama"):
            opened(llama, make(name).for_family("llama"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("gpt2", "lora+bitfit"),
        ("gpt_neox", "bitfit+lora"),
        ("gpt2", "lora+prelayer"),
        ("llama", "prelayer+lora+layernorm"),
    ],
)
def test_peft_opens_a_sum_that_its_settings_can_say_with_the_same_logits(
    runs: Runs, family: str, name: str, tmp_path: Path
) -> None:
    path, backbone = runs.adapter(family, name), Backbone.load(str(runs.backbones.path(family)))
    torch.manual_seed(7)  # another head
    plain = AutoModelForSequenceClassification.from_pretrained(backbone.path, num_labels=2)
    untouched = padded_logits(plain, backbone)
    expected = padded_logits(PeftModel.from_pretrained(plain, path), backbone)
    ours = logits_of(Predictor.of(Adapter.load(path), backbone).classifier, backbone)
    assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (untouched - expected).abs().max() > 1e-2 * expected.abs().max()
    for file in ("adapter_config.json", "adapter_model.safetensors"):  # without afina's manifest
        (tmp_path / file).write_bytes((path / file).read_bytes())
    again = logits_of(Predictor.of(Adapter.load(tmp_path), backbone).classifier, backbone)
    assert (again - ours).abs().max() <= 1e-5 * ours.abs().max()


def test_a_sum_that_peft_cannot_say_has_afinas_own_file_alone(runs: Runs) -> None:
    path = runs.adapter("gpt2", "lora+adapter")
    assert {file.name for file in path.iterdir() if file.suffix == ".safetensors"} == {"delta.safetensors"}
    assert not (path / "adapter_config.json").exists()
    backbone = Backbone.load(str(runs.backbones.path("gpt2")))
    assert logits_of(Predictor.of(Adapter.load(path), backbone).classifier, backbone).isfinite().all()
    assert any(is_head(name) for name in Adapter.load(path).tensors)
