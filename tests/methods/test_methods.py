"""The laws every method keeps: attached it changes nothing, it trains what it declares, its state is all of it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from afina import METHODS, Backbone
from afina.errors import CorruptAdapter, InvalidStudy, UnknownName
from afina.methods import make
from afina.methods.method import Method
from afina.methods.parameters import count
from afina.methods.selective import Selective
from afina.models.classifier import Classifier, is_head
from afina.models.families import FAMILIES
from fakes import Backbones, encoded, fit_of, logits_of, opened, sentences

COUNTS = {
    "baseline": (0, 0),
    "zero-shot": (0, 0),
    "full": (124_439_808, 1_536),
    "lora": (147_456, 1_536),
    "prelayer": (39_383_808, 0),
    "prelayer-46080": (46_080, 0),
    "ia3": (64_512, 1_536),
    "vera": (30_720, 1_536),
}
"""GPT-2's, body and head, as published and by hand: 12 blocks of width 768, 50,257 tokens, 1,024 positions, rank 4."""

CASES = [(family, name) for family in FAMILIES for name in METHODS if family == "gpt2" or name != "prelayer-46080"]


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest, backbones: Backbones) -> tuple[Backbone, Method]:
    family, name = request.param
    return Backbone.load(str(backbones.path(family))), make(name).for_family(family)


def snapshot(classifier: Classifier) -> dict[str, torch.Tensor]:
    """Every parameter and buffer."""
    tensors = [*classifier.named_parameters(), *classifier.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in tensors}


def trained(backbone: Backbone, method: Method, seed: int = 0, rows: int = 40) -> Classifier:
    classifier = opened(backbone, method, seed)
    if method.trainable(classifier.model):
        fit_of(classifier, method, encoded(backbone, sentences(rows))).advance()
    return classifier


def test_attaching_a_method_leaves_the_logits_as_they_were(case: tuple[Backbone, Method]) -> None:
    backbone, method = case
    classifier = Classifier.open(backbone, ("bad", "good"), seed=0)
    before = logits_of(classifier, backbone)
    classifier.wrap(method.attach)
    assert torch.equal(logits_of(classifier, backbone), before)


def test_only_declared_parameters_get_gradients_and_all_others_keep_every_bit(case: tuple[Backbone, Method]) -> None:
    backbone, method = case
    classifier = opened(backbone, method)
    declared = {f"model.{name}" for name in method.trainable(classifier.model)}
    before = snapshot(classifier)
    if declared:
        fit_of(classifier, method, encoded(backbone, sentences(40))).advance()
    assert {name for name, p in classifier.named_parameters() if p.grad is not None} == declared
    changed = {name for name, tensor in snapshot(classifier).items() if not torch.equal(tensor, before[name])}
    assert changed == declared


def test_what_a_method_declares_is_what_it_says_it_trains(case: tuple[Backbone, Method]) -> None:
    backbone, method = case
    model = opened(backbone, method).model
    names = {name for name, _ in model.named_parameters()}
    if isinstance(method, Selective):
        expected = {name for name in names if method.trains(name)}
    else:
        added = (".lora_", ".ia3_l.", ".vera_lambda_", ".score.modules_to_save.")
        expected = {name for name in names if any(part in name for part in added)}
        assert len(expected) > 1
    declared = set(method.trainable(model))
    assert declared == expected
    assert any(is_head(name) for name in declared) == method.trains_head
    assert any(not is_head(name) for name in declared) == method.trains_body


def test_a_method_asks_for_one_learning_rate_and_spares_biases_and_norms_unless_it_says_otherwise(
    case: tuple[Backbone, Method],
) -> None:
    backbone, method = case
    model = opened(backbone, method).model
    assert method.multipliers(model) == {}
    assert method.packs
    decayed, names = method.decays(model), {name for name, _ in model.named_parameters()}
    assert {name for name in decayed if is_head(name)} == {name for name in names if is_head(name)}
    spared = names - decayed
    assert spared
    assert all("bias" in name or "ln_" in name or "norm" in name or "ia3_l" in name for name in spared)


def test_restoring_a_state_into_a_fresh_model_gives_identical_logits(case: tuple[Backbone, Method]) -> None:
    backbone, method = case
    classifier = trained(backbone, method)
    expected = logits_of(classifier, backbone)
    state = {name: tensor.detach().clone() for name, tensor in method.state(classifier.model).items()}
    fresh = opened(backbone, method, seed=1)
    assert not torch.equal(logits_of(fresh, backbone), expected)  # another head, at least
    method.restore(fresh.model, state)
    assert torch.equal(logits_of(fresh, backbone), expected)
    again = method.state(fresh.model)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_a_state_always_holds_the_head(case: tuple[Backbone, Method]) -> None:
    backbone, method = case
    classifier = opened(backbone, method)
    heads = [tensor for name, tensor in method.state(classifier.model).items() if "score" in name.split(".")]
    assert [list(head.shape) for head in heads] == [[2, 32]]


@pytest.mark.parametrize("name", METHODS)
def test_a_state_with_a_tensor_missing_surplus_or_of_another_shape_is_refused_and_nothing_changes(
    gpt2: Backbone, name: str
) -> None:
    method = make(name).for_family("gpt2")
    model = opened(gpt2, method).model
    state = {key: torch.zeros_like(tensor) for key, tensor in method.state(model).items()}
    before = {key: tensor.detach().clone() for key, tensor in method.state(model).items()}
    first = sorted(state)[0]
    without = {key: tensor for key, tensor in state.items() if key != first}
    for broken, message in (
        (without, f"lacks {first} \\(1 missing, 0 unknown"),
        (state | {"invented": torch.zeros(1)}, "has invented, which this model does not"),
        (state | {first: torch.zeros(3, 5, 7)}, f"{first} has shape \\[3, 5, 7\\], this model's has"),
    ):
        with pytest.raises(CorruptAdapter, match=message):
            method.restore(model, broken)
        after = method.state(model)
        assert all(torch.equal(after[key], tensor) for key, tensor in before.items())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_prelayer_trains_the_embeddings_alone_where_its_head_is_frozen(backbones: Backbones, family: str) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    head = {"score.weight"}
    embeddings = {
        "gpt2": {"transformer.wte.weight", "transformer.wpe.weight"},
        "llama": {"model.embed_tokens.weight"},
    }
    for train_head, expected in ((True, embeddings[family] | head), (False, embeddings[family])):
        method = make("prelayer", {"train_head": train_head})
        assert set(method.trainable(opened(backbone, method).model)) == expected


def test_parameters_of_gpt2_are_counted_as_published() -> None:
    counted = count("gpt2")
    assert counted.total == 124_441_344
    assert {name: (one.trainable, one.body, one.head) for name, one in counted.methods.items()} == {
        name: (body + head, body, head) for name, (body, head) in COUNTS.items()
    }


def test_counts_of_a_directory_are_those_of_its_opened_model_and_leave_out_what_has_no_meaning(
    llama: Backbone,
) -> None:
    counted = count(llama.address)
    assert set(counted.methods) == set(METHODS) - {"prelayer-46080"}
    for name, found in counted.methods.items():
        method = make(name).as_published().for_family("llama")
        classifier = opened(llama, method)
        assert found.trainable == sum(p.numel() for p in method.trainable(classifier.model).values())
    assert counted.total == sum(p.numel() for p in Classifier.open(llama, ("bad", "good"), 0).parameters())


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gpt2"])
def test_the_set_of_46080_has_no_meaning_outside_gpt2(family: str) -> None:
    with pytest.raises(InvalidStudy, match=f"prelayer-46080: defined for gpt2 only, this backbone is of type {family}"):
        make("prelayer-46080").for_family(family)


def test_lora_adapts_exactly_the_named_targets(gpt2: Backbone) -> None:
    method = make("lora", {"targets": ["mlp.c_fc", "c_attn"], "r": 2}).for_family("gpt2")
    adapted = {name.split(".lora_")[0] for name in method.trainable(opened(gpt2, method).model) if ".lora_" in name}
    blocks = [f"base_model.model.transformer.h.{block}" for block in (0, 1)]
    assert adapted == {f"{block}.{part}" for block in blocks for part in ("attn.c_attn", "mlp.c_fc")}


@pytest.mark.parametrize("targets", [["q_proj"], ["c_attn", "q_proj"]])
def test_lora_targets_that_do_not_exist_are_an_error_that_names_them(gpt2: Backbone, targets: list[str]) -> None:
    method = make("lora", {"targets": targets}).for_family("gpt2")
    message = "method lora: targets: this model has no module named 'q_proj'. The default for gpt2 is c_attn."
    with pytest.raises(InvalidStudy, match=re.escape(message)):
        opened(gpt2, method)


@pytest.mark.parametrize(
    ("name", "hyperparameters", "error", "message"),
    [
        ("lroa", {}, UnknownName, r"study\.toml: unknown method 'lroa'\. Did you mean 'lora'\?"),
        (
            "lora",
            {"aplha": 16},
            UnknownName,
            r"study\.toml: unknown hyperparameter of lora 'aplha'\. Did you mean 'alpha'",
        ),
        ("full", {"r": 4}, UnknownName, r"unknown hyperparameter of full 'r'"),
        ("lora", {"r": "four"}, InvalidStudy, r"study\.toml: lora\.r = 'four': .*valid integer"),
        ("lora", {"r": 4.5}, InvalidStudy, r"lora\.r = 4\.5"),
        ("lora", {"targets": [1]}, InvalidStudy, r"lora\.targets\.0 = 1: .*valid string"),
        ("lora", {"targets": "c_attn"}, InvalidStudy, r"lora\.targets = 'c_attn': .*valid tuple"),
        ("prelayer", {"train_head": "perhaps"}, InvalidStudy, r"prelayer\.train_head = 'perhaps': .*valid boolean"),
        ("lora", {"r": 0}, InvalidStudy, r"method lora: r=0.*expected r >= 1"),
        ("lora", {"alpha": 0}, InvalidStudy, r"expected r >= 1, 0 < alpha <= 1,000,000"),
        ("lora", {"alpha": float("nan")}, InvalidStudy, r"alpha=nan.*expected r >= 1, 0 < alpha <= 1,000,000"),
        ("lora", {"alpha": float("inf")}, InvalidStudy, r"alpha=inf.*expected r >= 1, 0 < alpha <= 1,000,000"),
        ("lora", {"dropout": float("nan")}, InvalidStudy, r"dropout=nan.*0 <= dropout < 1"),
        ("lora", {"dropout": 1}, InvalidStudy, r"0 <= dropout < 1"),
    ],
)
def test_an_unknown_or_impossible_setting_is_an_error_that_says_where_and_what_instead(
    name: str, hyperparameters: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make(name, hyperparameters, where="study.toml")


@pytest.mark.parametrize("name", METHODS)
def test_hyperparameters_make_the_same_method_again(name: str) -> None:
    method = make(name).for_family("gpt2")
    assert make(name, method.hyperparameters) == method
