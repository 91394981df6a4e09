"""What differs between two adapters: fields of their manifests, and what their layers compute."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from afina import Adapter, Backbone, digest
from afina.data.reading_options import ReadingOptions
from afina.errors import CorruptAdapter
from afina.methods.lora import Lora
from afina.models.manifest import Manifest
from afina.store.diff import Difference, Layer, difference
from afina.store.diff.weights import ALPHA, PEFT_ALPHA
from fakes import Runs

# peft asks transformers for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

C_ATTN = "transformer.h.{}.attn.c_attn"


def invented(tensors: Mapping[str, Tensor], method: str = "lora", **changes: Any) -> Adapter:
    given: dict[str, Any] = {"hyperparameters": {}, "label_names": ("bad", "good"), "backbone_digest": "sha256:one"}
    manifest = Manifest(
        method=method, backbone="here", tokenizer_digest=None, family="gpt2", tensor_file="t", max_length=8,
        tensors_digest=digest.of_tensors(tensors), **(given | changes),
    )  # fmt: skip
    return Adapter(manifest, tensors)


def factors(rank: int, seed: int = 0, layer: str = "h.0.attn") -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(seed)
    before = f"base_model.model.{layer}"
    return {
        f"{before}.lora_A.weight": torch.randn(rank, 6, generator=source),
        f"{before}.lora_B.weight": torch.randn(9, rank, generator=source),
    }


def product(tensors: Mapping[str, Tensor]) -> Tensor:
    right, left = (tensor.double() for _, tensor in sorted(tensors.items()))
    return left @ right


def only(found: Difference) -> Layer:
    assert len(found.layers) == 1
    return found.layers[0]


def by_name(found: Difference) -> dict[str, Layer]:
    return {layer.name: layer for layer in found.layers}


def changed(adapter: Adapter, tensors: Mapping[str, Tensor] | None = None, **manifest: Any) -> Adapter:
    tensors = adapter.tensors if tensors is None else tensors
    update = {"tensors_digest": digest.of_tensors(tensors)} | manifest
    return replace(adapter, tensors=tensors, manifest=adapter.manifest.model_copy(update=update))


# Scales


def foreign(tensors: Mapping[str, Tensor], **settings: Any) -> Adapter:
    return invented(tensors, "peft", hyperparameters={"peft_type": "LORA", **settings})


@pytest.mark.parametrize(
    ("method", "hyperparameters", "scale"),
    [
        ("lora", {"alpha": 16, "r": 4}, 4.0),
        ("lora", {"alpha": 16, "rslora": True}, 8.0),
        ("lora", {}, ALPHA / 4),
        ("lora+bitfit", {"lora": {"alpha": 2, "multiplier": 3.0}, "bitfit": {}}, 0.5),
        ("bitfit+lora", {}, ALPHA / 4),
        ("peft", {"peft_type": "LORA", "lora_alpha": 6}, 1.5),
        ("peft", {"peft_type": "LORA", "lora_alpha": 6, "use_rslora": True}, 3.0),
        ("peft", {"peft_type": "LORA"}, PEFT_ALPHA / 4),
        ("peft", {"peft_type": "LORA", "lora_alpha": 6, "alpha_pattern": {"attn": 8}}, 2.0),
        ("peft", {"peft_type": "LORA", "lora_alpha": 6, "alpha_pattern": {"tn": 8, r"h\.\d\..*": 12}}, 3.0),
        ("peft", {"peft_type": "LORA", "lora_alpha": 6, "alpha_pattern": None, "rank_pattern": {"attn": 4}}, 1.5),
    ],
)
def test_the_scale_is_what_the_method_or_peft_multiplies_by(
    method: str, hyperparameters: dict[str, Any], scale: float
) -> None:
    tensors = factors(4)
    made = invented(tensors, method, hyperparameters=hyperparameters)
    assert only(difference(made, made)).first == pytest.approx(scale * float(product(tensors).norm()), rel=1e-12)


def test_alphas_of_a_lora_that_does_not_say_are_the_defaults() -> None:
    assert Lora().alpha == ALPHA
    assert {field.name: field.default for field in fields(LoraConfig)}["lora_alpha"] == PEFT_ALPHA


SETTINGS: list[dict[str, Any]] = [
    {"r": 3, "lora_alpha": 5},
    {"r": 3, "lora_alpha": 5, "use_rslora": True, "lora_bias": True},
    {"r": 3, "rank_pattern": {"h.1.attn.c_attn": 2}, "alpha_pattern": {"h.0.attn.c_attn": 7, "c_proj": 9}},
    {"r": 2, "target_modules": ["c_attn", "wte"]},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_norms_are_those_of_what_peft_adds_to_the_weights(
    settings: dict[str, Any], gpt2: Backbone, tmp_path: Path
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(gpt2.path, num_labels=2)
    usual = {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "init_lora_weights": False}
    wrapped = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", **(usual | settings)))
    for name, parameter in wrapped.named_parameters():
        if "lora_B.default.bias" in name:
            torch.nn.init.normal_(parameter)
    wrapped.save_pretrained(tmp_path, save_embedding_layers=False)
    loaded = Adapter.load(tmp_path)
    found = by_name(difference(loaded, loaded))
    layers = {name: module for name, module in wrapped.get_base_model().named_modules() if hasattr(module, "lora_A")}
    assert {name for name, layer in found.items() if layer.kind == "product"} == layers.keys()
    for name, module in layers.items():
        added = module.get_delta_weight("default")
        assert found[name].first == pytest.approx(float(added.norm()), rel=1e-5)
        assert found[name].ranks == (torch.linalg.matrix_rank(added.double(), rtol=1e-5).item(),) * 2
        if settings.get("lora_bias"):
            bias = module.scaling["default"] * module.lora_B["default"].bias
            assert found[f"{name}.lora_B.bias"].first == pytest.approx(float(bias.norm()), rel=1e-6)


# Products


def test_neither_other_factors_of_a_product_nor_another_rank_of_it_count() -> None:
    tensors = factors(3)
    right, left = (tensors[name].double() for name in sorted(tensors))
    turn = torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).double()
    turned = dict(zip(sorted(tensors), (turn.inverse() @ right, left @ turn), strict=True))
    padded = {
        name: torch.cat([tensor, torch.zeros_like(tensor)], dim=int("lora_B" in name))
        for name, tensor in tensors.items()
    }
    first = invented(tensors, hyperparameters={"alpha": 6})
    for again in (
        invented(turned, hyperparameters={"alpha": 6}),
        invented(padded, hyperparameters={"alpha": 12, "r": 6}),
        foreign(tensors, lora_alpha=6),
    ):
        layer = only(difference(first, again))
        assert layer.relative is not None
        assert layer.relative < 1e-6
        assert layer.ranks == (3, 3)
        assert max(*layer.outputs, *layer.inputs) < 1e-6
        assert (len(layer.outputs), len(layer.inputs)) == (3, 3)


def test_products_of_different_ranks_are_subtracted_and_have_the_angles_of_the_lesser() -> None:
    one, other = factors(4), factors(2, seed=1)
    layer = only(difference(invented(one), invented(other)))
    expected = float((ALPHA / 2 * product(other) - ALPHA / 4 * product(one)).norm())
    assert layer.change == pytest.approx(expected, rel=1e-12)
    assert layer.relative == pytest.approx(expected / (ALPHA / 4 * float(product(one).norm())), rel=1e-12)
    assert (layer.ranks, len(layer.outputs), len(layer.inputs)) == ((4, 2), 2, 2)
    told = layer.as_json()["outputs"]
    assert told["largest"] == max(layer.outputs)
    assert told["mean"] == pytest.approx(np.mean(layer.outputs))


def test_an_untrained_b_has_rank_0_and_no_angles() -> None:
    tensors = factors(4)
    fresh = {name: tensor * ("lora_A" in name) for name, tensor in tensors.items()}
    layer = only(difference(invented(fresh), invented(tensors)))
    assert (layer.first, layer.relative, layer.ranks) == (0.0, None, (0, 4))
    assert layer.change == pytest.approx(layer.second, rel=1e-12)
    assert (layer.outputs, layer.as_json()["inputs"]) == ((), None)
    assert only(difference(invented(fresh), invented(fresh))).relative == 0.0


def test_doras_lengths_are_compared_apart_and_that_is_said() -> None:
    tensors = {**factors(2), "base_model.model.h.0.attn.lora_magnitude_vector": torch.ones(9)}
    longer = {name: tensor * (2 if "magnitude" in name else 1) for name, tensor in tensors.items()}
    first, second = (invented(each, hyperparameters={"dora": True}) for each in (tensors, longer))
    found = by_name(difference(first, second))
    assert found["h.0.attn"].change == 0
    assert found["h.0.attn.lora_magnitude_vector"].change == 3.0
    assert any("DoRA" in note for note in difference(first, second).notes)


@pytest.mark.parametrize("setting", ["use_qalora", "use_bdlora", "target_parameters"])
def test_factors_that_stand_for_something_else_are_compared_as_they_are_stored(setting: str) -> None:
    made = foreign(factors(2), lora_alpha=4, **{setting: [1]})
    assert {layer.kind for layer in difference(made, made).layers} == {"tensor"}
    assert len(difference(made, made).layers) == 2


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (foreign(factors(2), lora_alpha="x"), "lora_alpha is 'x', expected a number"),
        (foreign(factors(2), lora_alpha=4, alpha_pattern={"attn": None}), "alpha_pattern.attn is 'None'"),
        (foreign(factors(2), lora_alpha=4, alpha_pattern={"(": 3}), "alpha_pattern is .*, expected patterns of layers"),
        (foreign(factors(2), lora_alpha=4, alpha_pattern=[1]), "alpha_pattern is '\\[1\\]', expected a table"),
        (foreign(factors(2), lora_alpha=float("inf")), "lora_alpha is 'inf'"),
        (invented(factors(2), hyperparameters={"alpha": True}), "alpha is 'True'"),
        (invented(factors(2), "lora+bitfit", hyperparameters={"lora": 3}), "lora is '3', expected a table"),
        (invented(factors(2) | {"base_model.model.h.0.attn.lora_A.weight": torch.ones(3, 6)}), r"\[9, 2\] and \[3, 6"),
        (invented({name: tensor * torch.nan for name, tensor in factors(2).items()}), "h.0.attn has NaN, infinite"),
        (invented({"score.weight": torch.tensor([[1.0], [torch.inf]])}), "score.weight has NaN, infinite or too large"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_adapter_is_told(made: Adapter, message: str) -> None:
    with pytest.raises(CorruptAdapter, match=message):
        difference(made, made)


# Heads and other tensors


def test_a_head_is_compared_by_label() -> None:
    weight = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    first = invented({"score.weight": weight}, label_names=("a", "b", "c"))
    turned = invented({"base_model.model.score.weight": weight[[2, 0, 1]]}, label_names=("c", "a", "b"))
    found = difference(first, turned)
    assert (only(found).change, only(found).head) == (0.0, True)
    assert found.fields["labels"] == {"reordered": [["a", "b", "c"], ["c", "a", "b"]]}
    assert "have different orders" in found.notes[-1]

    fewer = invented({"score.weight": weight[[2, 0]] * 2}, label_names=("c", "d"))
    found = difference(first, fewer)
    assert only(found).change == pytest.approx(float(weight[2].norm()), rel=1e-6)
    assert found.fields["labels"] == {"added": ["d"], "removed": ["a", "b"]}
    assert "Labels of only one adapter are left out: a, b, d" in found.notes[-1]

    others = invented({"score.weight": weight}, label_names=("x", "y", "z"))
    assert only(difference(first, others)).change is None
    assert "no label in common" in difference(first, others).notes[-1]


def test_a_head_without_names_of_labels_is_compared_in_order_and_so_is_a_numbers() -> None:
    weight = torch.ones(2, 5)
    named = invented({"score.weight": weight})
    nameless = invented({"score.weight": weight * 3}, "peft", label_names=("LABEL_0", "LABEL_1"))
    found = difference(named, nameless)
    assert only(found).relative == pytest.approx(2.0)
    assert any("has no label names" in note for note in found.notes)
    one, other = (
        invented({"score.weight": weight[:1]}, label_names=(name,), objective={"kind": "number"}) for name in "ab"
    )
    assert only(difference(one, other)).change == 0


def test_tensors_of_other_shapes_and_of_one_alone_have_norms_and_no_change() -> None:
    first = invented({"prompt": torch.ones(4, 3), "gone": torch.ones(4), "score.weight": torch.ones(2, 3)}, "prompt")
    second = invented({"prompt": torch.ones(2, 2), "h.0.new": torch.ones(9), "h.10.x": torch.ones(1)}, "prompt")
    found = difference(first, second)
    assert [layer.name for layer in found.layers] == ["gone", "h.0.new", "h.10.x", "prompt", "score.weight"]
    layers = by_name(found)
    assert (layers["gone"].first, layers["gone"].second, layers["gone"].change) == (2.0, None, None)
    assert (layers["h.0.new"].first, layers["h.0.new"].second) == (None, 3.0)
    assert (layers["prompt"].second, layers["prompt"].change) == (2.0, None)
    assert "prompt (from [4, 3] to [2, 2])" in found.notes[-1]


def test_a_large_tensor_is_compared_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    source = torch.Generator().manual_seed(0)
    one, other = (torch.randn(31, 7, generator=source) for _ in range(2))
    monkeypatch.setattr("afina.store.diff.PIECE", 10)
    layer = only(difference(invented({"w": one}, "full"), invented({"w": other.bfloat16()}, "full")))
    assert layer.change == pytest.approx(float((one.double() - other.bfloat16().double()).norm()), rel=1e-12)
    assert layer.first == pytest.approx(float(one.double().norm()), rel=1e-12)


def words(terms: list[str], labels: tuple[str, ...], start: float = 1.0) -> Adapter:
    count = len(terms)
    tensors = {
        "idf": torch.ones(count, dtype=torch.float64),
        "weights": torch.arange(count * len(labels)).reshape(len(labels), -1).double() + start,
        "bias": torch.arange(len(labels)).double(),
    }
    made = invented(
        tensors, "tfidf", label_names=labels, backbone_digest=None, vocabulary_digest=digest.of_strings(terms)
    )
    return replace(made, vocabulary=tuple(terms))


def test_a_bag_of_words_is_compared_by_term_and_label() -> None:
    first = words(["a", "b"], ("bad", "good"))
    turned = changed(
        replace(words(["b", "a"], ("good", "bad")), vocabulary=("b", "a")),
        {
            "idf": torch.ones(2).double(),
            "weights": first.tensors["weights"].flip(0, 1),
            "bias": first.tensors["bias"].flip(0),
        },
    )
    assert {layer.name: layer.change for layer in difference(first, turned).layers} == {
        "idf": 0,
        "weights": 0,
        "bias": 0,
    }
    grown = words(["a", "c"], ("bad", "good"))
    found = difference(first, grown)
    layers = by_name(found)
    assert layers["idf"].change == pytest.approx(2**0.5)
    expected = torch.tensor([[0, -2, 2], [0, -4, 4]]).double()  # of a, b, c
    assert layers["weights"].change == pytest.approx(float(expected.norm()))
    assert "has 1 new terms and lacks 1 terms" in found.notes[-1]


def test_methods_and_backbones_that_differ_are_told() -> None:
    lora = invented({**factors(2), "base_model.model.score.weight": torch.ones(2, 5)})
    full = invented(
        {"h.0.attn.weight": torch.ones(4), "score.weight": torch.zeros(2, 5)}, "full", backbone_digest="other"
    )
    found = difference(lora, full)
    layers = by_name(found)
    assert list(layers) == ["h.0.attn", "h.0.attn.weight", "score.weight"]
    assert (layers["h.0.attn"].second, layers["h.0.attn.weight"].first) == (None, None)
    assert layers["score.weight"].relative == 1.0
    assert found.fields["others"] == {"method": ["lora", "full"]}
    assert found.fields["backbone"] == {"backbone_digest": ["sha256:one", "other"]}
    assert [note.partition(":")[0] for note in found.notes] == [
        "The methods differ (lora and full)",
        "The backbones differ (here and here)",
    ]
    assert all(note.endswith(".") for note in found.notes)


# Fields


def test_every_field_that_says_what_an_adapter_is_and_differs_is_told_in_its_group() -> None:
    first = invented(
        {}, seed=0, task="t", data=ReadingOptions(text="a"), metrics={"accuracy": 0.5, "f1": 1.0}, versions={"x": "1"}
    )
    second = changed(
        first,
        seed=1, task="u", data=ReadingOptions(label="b"), metrics={"accuracy": 0.6, "f1": 1.0}, versions={"x": "2"},
        hyperparameters={"lora": {"r": 4}, "bitfit": {}}, training={"steps": 3}, max_length=9, template="{text}?",
        words={"bad": ("no",)}, offset=(0.0, 1.0), objective={"kind": "classes", "temperature": 2.0},
        train_digest="sha256:t", tokenizer_digest="sha256:k",
    )  # fmt: skip
    assert difference(first, second).fields == {
        "metrics": {"accuracy": [0.5, 0.6]},
        "hyperparameters": {"lora.r": [None, 4], "bitfit": [None, {}]},
        "training": {"steps": [None, 3]},
        "data": {
            "task": ["t", "u"],
            "data.text": ["a", None],
            "data.label": [None, "b"],
            "train_digest": [None, "sha256:t"],
            "seed": [0, 1],
        },
        "backbone": {"tokenizer_digest": [None, "sha256:k"]},
        "others": {
            "template": [None, "{text}?"],
            "words": [None, {"bad": ["no"]}],
            "offset": [None, [0.0, 1.0]],
            "objective": [None, {"kind": "classes", "temperature": 2.0}],
            "max_length": [8, 9],
        },
        "versions": {"x": ["1", "2"]},
    }
    assert difference(first, first).fields == {}


def test_what_is_no_number_is_told_in_json() -> None:
    first = invented({}, metrics={"loss": float("nan")})
    assert difference(first, first).fields == {}
    second = changed(first, metrics={"loss": 1.0}, training={"rates": [0.0, float("inf")]})
    assert difference(first, second).fields["metrics"] == {"loss": [None, 1.0]}
    assert difference(first, second).fields["training"] == {"rates": [None, [0.0, None]]}


# Real adapters

TRAINED = ("lora", "ia3", "full", "prefix", "lora+bitfit")


@pytest.fixture(scope="module")
def again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("again")


@pytest.mark.parametrize("method", TRAINED)
def test_a_trained_adapter_differs_from_another_seeds_and_not_from_itself(method: str, runs: Runs, again: Path) -> None:
    first = Adapter.load(runs.adapter("gpt2", method))
    run = runs.run("gpt2", method, max_steps=2)
    record = type(run)(**(run.model_dump() | {"seed": 1})).execute(again)
    second = Adapter.load(again / record.adapter)
    itself, other = difference(first, first), difference(first, second)
    assert (itself.fields, {layer.change for layer in itself.layers}) == ({}, {0.0})
    assert all(max((*layer.outputs, *layer.inputs, 0)) < 1e-6 for layer in itself.layers)
    assert other.fields["data"]["seed"] == [0, 1]
    assert all(layer.change for layer in other.layers)
    assert [layer.name for layer in other.layers if layer.head] == ["score.weight"]
    if "lora" in method:
        assert {C_ATTN.format(0), C_ATTN.format(1)} == {x.name for x in other.layers if x.kind == "product"}
    for found in (itself, other):
        assert json.loads(json.dumps(found.as_json(), allow_nan=False)) == found.as_json()
