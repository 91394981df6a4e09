"""The laws every method keeps: attached it changes nothing, it trains what it declares, its state is all of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pytest
import torch

from afina import METHODS, Backbone
from afina.errors import AfinaError, CorruptAdapter, InvalidStudy, UnknownName
from afina.methods import make
from afina.methods.attachment import attach, count
from afina.methods.method import Method, plain_name
from afina.methods.peft import PeftMethod
from afina.methods.selective import Selective
from afina.models.architectures import ARCHITECTURES, is_head
from afina.models.classifier import Classifier
from afina.report.tables import PUBLISHED_HYPERPARAMETERS
from afina.schema import is_number
from fakes import SLOW, Backbones, encoded, family_of, fit_of, logits_of, opened, sentences, serves
from grid import by_family, thinned
from raises import raises

COUNTS = {
    "baseline": (0, 0),
    "zero-shot": (0, 0),
    "linear_probe": (0, 1_536),
    "head": (0, 1_536),
    "full": (124_439_808, 1_536),
    "last": (2 * 7_087_872 + 1_536, 1_536),
    "bitfit": (102_144, 1_536),
    "layernorm": (38_400, 1_536),
    "lora": (147_456, 1_536),
    "adapter": (12 * (2 * 768 * 48 + 48 + 768), 1_536),
    "prelayer": (39_383_808, 0),
    "prelayer-46080": (46_080, 0),
    "prompt": (16 * 768, 1_536),
    "prefix": (12 * 2 * 16 * 768, 1_536),
    "ia3": (64_512, 1_536),
    "vera": (30_720, 1_536),
}
"""GPT-2's, body and head, as published and by hand: 12 blocks of width 768, 50,257 tokens, 1,024 positions, rank 4; 16
virtual tokens."""

ADDED = {
    "lora": (".lora_",),
    "ia3": (".ia3_l.",),
    "vera": (".vera_lambda_",),
    "prompt": (".prompt.",),
    "prefix": (".prefix.",),
}
"""What is in the names of the parameters that a method adds."""

FAMILIES = by_family(ARCHITECTURES, SLOW)
TURNS = [case for case in thinned(ARCHITECTURES, METHODS, whole=("gpt2",), share=4) if serves(*case)]
CASES = dict.fromkeys([*TURNS, *(("bert", name) for name in METHODS if not serves("gpt2", name))])
"""Every method on GPT-2, or on BERT if it has no meaning for GPT-2; the other families take turns."""


@dataclass(frozen=True)
class Fitted:
    """A method on a family, and what a few steps of training did.

    Attributes:
        plain, attached: Logits without the method, and with it before the first step.
        shapes: Of the parameters without the method.
        start: Every parameter and buffer before the first step.
    """

    backbone: Backbone
    method: Method
    classifier: Classifier
    plain: torch.Tensor
    attached: torch.Tensor
    shapes: dict[str, torch.Size]
    start: dict[str, torch.Tensor]

    @property
    def model(self) -> Any:
        return self.classifier.model

    @property
    def declared(self) -> set[str]:
        return {f"model.{name}" for name in self.method.trainable(self.model)}


@pytest.fixture(
    scope="module",
    params=[pytest.param(case, marks=pytest.mark.slow if case[0] in SLOW else ()) for case in CASES],
    ids="-".join,
)
def fitted(request: pytest.FixtureRequest, backbones: Backbones) -> Fitted:
    family, name = request.param
    given = {"reduction": 4} if name == "adapter" else {}  # enough units that not all are 0 for a few texts
    backbone, method = Backbone.load(str(backbones.path(family))), make(name, given).for_family(family)
    classifier = Classifier.open(backbone, ("bad", "good"), seed=0)
    plain, shapes = logits_of(classifier, backbone), {name: p.shape for name, p in classifier.model.named_parameters()}
    attach(classifier, method)
    made = Fitted(backbone, method, classifier, plain, logits_of(classifier, backbone), shapes, snapshot(classifier))
    if made.declared:
        fit_of(classifier, method, encoded(backbone, sentences(40))).advance()
    return made


def snapshot(classifier: Classifier) -> dict[str, torch.Tensor]:
    """Every parameter and buffer."""
    tensors = [*classifier.named_parameters(), *classifier.named_buffers()]
    return {name: tensor.detach().clone() for name, tensor in tensors}


def test_attaching_a_method_leaves_the_logits_as_they_were_unless_it_starts_apart(fitted: Fitted) -> None:
    assert torch.equal(fitted.attached, fitted.plain) != fitted.method.starts_apart


def test_only_declared_parameters_get_gradients_and_all_others_keep_every_bit(fitted: Fitted) -> None:
    stepped = {f"model.{name}" for name in fitted.method.by_gradient(fitted.model)}
    with_gradients = set() if fitted.method.is_fitted else stepped
    assert {name for name, p in fitted.classifier.named_parameters() if p.grad is not None} == with_gradients
    changed = {name for name, one in snapshot(fitted.classifier).items() if not torch.equal(one, fitted.start[name])}
    assert changed == fitted.declared


def test_what_a_method_declares_is_what_it_says_it_trains(fitted: Fitted) -> None:
    method, model = fitted.method, fitted.model
    names = {name for name, _ in model.named_parameters()}
    if isinstance(method, Selective):
        expected = method.chosen(model)
    elif method.name == "adapter":
        expected = {name for name in names if ".bottleneck." in name or is_head(name)}
        assert len([name for name in expected if not is_head(name)]) == 2 * 4
    else:
        wraps = isinstance(method, PeftMethod)  # which copies the head
        head = {name for name in names if is_head(name) and (not wraps or ".modules_to_save." in name)}
        added = {name for name in names if any(part in name for part in ADDED[method.name])}
        assert added
        expected = added | head
    declared = set(method.trainable(model))
    assert declared == expected
    assert any(is_head(name) for name in declared) == method.trains_head
    assert any(not is_head(name) for name in declared) == method.trains_body


def test_a_method_asks_for_one_learning_rate_and_spares_biases_and_norms_unless_it_says_otherwise(
    fitted: Fitted,
) -> None:
    assert fitted.method.multipliers(fitted.model) == {}
    assert fitted.method.packs
    decayed, names = fitted.method.decays(fitted.model), {name for name, _ in fitted.model.named_parameters()}
    spared = names - decayed
    assert spared
    marks = ("bias", "ln_", "norm", "ia3_l")
    assert all(any(mark in name.lower() for mark in marks) for name in spared)
    assert not any("bias" in name or "norm" in name for name in decayed if is_head(name))
    assert any(is_head(name) for name in decayed)


def test_restoring_a_state_into_a_fresh_model_gives_identical_logits(fitted: Fitted) -> None:
    backbone, method = fitted.backbone, fitted.method
    expected = logits_of(fitted.classifier, backbone)
    state = {name: tensor.detach().clone() for name, tensor in method.state(fitted.model).items()}
    fresh = opened(backbone, method, seed=1)
    assert not torch.equal(logits_of(fresh, backbone), expected)  # another head, at least
    method.restore(fresh.model, state)
    assert torch.equal(logits_of(fresh, backbone), expected)
    again = method.state(fresh.model)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_a_state_always_holds_the_head(fitted: Fitted) -> None:
    heads = {plain_name(name): each.shape for name, each in fitted.method.state(fitted.model).items()}
    expected = {name: shape for name, shape in fitted.shapes.items() if is_head(name)}
    assert {name: shape for name, shape in heads.items() if is_head(name)} == expected


@pytest.mark.parametrize("name", METHODS)
def test_a_state_with_a_tensor_missing_surplus_or_of_another_shape_is_refused_and_nothing_changes(
    backbones: Backbones, name: str
) -> None:
    family = family_of(name)
    method = make(name).for_family(family)
    model = opened(Backbone.load(str(backbones.path(family))), method).model
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
    embeddings = {"gpt2": {"transformer.wte.weight", "transformer.wpe.weight"}, "llama": {"model.embed_tokens.weight"}}
    for train_head, expected in ((True, embeddings[family] | head), (False, embeddings[family])):
        method = make("prelayer", {"train_head": train_head})
        assert set(method.trainable(opened(backbone, method).model)) == expected


def test_parameters_of_gpt2_are_counted_as_published() -> None:
    counted = count("gpt2", PUBLISHED_HYPERPARAMETERS)
    assert counted.total == 124_441_344
    assert {name: (one.trainable, one.body, one.head) for name, one in counted.methods.items()} == {
        name: (body + head, body, head) for name, (body, head) in COUNTS.items()
    }


def test_counts_of_a_directory_are_those_of_its_opened_model_and_leave_out_what_has_no_meaning(llama: Backbone) -> None:
    counted = count(llama.address, PUBLISHED_HYPERPARAMETERS)
    assert set(counted.methods) == {name for name in METHODS if serves("llama", name)} != set(METHODS)
    for name, found in counted.methods.items():
        method = make(name, PUBLISHED_HYPERPARAMETERS.get(name)).for_family("llama")
        classifier = opened(llama, method)
        assert found.trainable == sum(p.numel() for p in method.trainable(classifier.model).values())
    assert counted.total == sum(p.numel() for p in Classifier.open(llama, ("bad", "good"), 0).parameters())


@pytest.mark.parametrize("family", [family for family in ARCHITECTURES if family != "gpt2"])
def test_the_set_of_46080_has_no_meaning_outside_gpt2(family: str) -> None:
    with raises(InvalidStudy, code="method.family-unsupported", method="prelayer-46080"):
        make("prelayer-46080").for_family(family)


def test_lora_adapts_exactly_the_named_targets(gpt2: Backbone) -> None:
    method = make("lora", {"targets": ["mlp.c_fc", "c_attn"], "r": 2}).for_family("gpt2")
    adapted = {name.split(".lora_")[0] for name in method.trainable(opened(gpt2, method).model) if ".lora_" in name}
    blocks = [f"base_model.model.transformer.h.{block}" for block in (0, 1)]
    assert adapted == {f"{block}.{part}" for block in blocks for part in ("attn.c_attn", "mlp.c_fc")}


@pytest.mark.parametrize("targets", [["q_proj"], ["c_attn", "q_proj"]])
def test_lora_targets_that_do_not_exist_are_an_error_that_names_them(gpt2: Backbone, targets: list[str]) -> None:
    method = make("lora", {"targets": targets}).for_family("gpt2")
    with raises(InvalidStudy, code="method.target-missing", method="lora", target="q_proj", usual=["c_attn"]):
        opened(gpt2, method)


@pytest.mark.parametrize(
    ("name", "hyperparameters", "error", "fields"),
    [
        ("lroa", {}, UnknownName, {"name": "lroa", "kind": "method"}),
        ("lora", {"aplha": 16}, UnknownName, {"name": "aplha", "kind": "hyperparameter of lora"}),
        ("full", {"r": 4}, UnknownName, {"name": "r", "kind": "hyperparameter of full"}),
        ("lora", {"r": 4.5}, InvalidStudy, {"setting": "r"}),
        ("lora", {"targets": [1]}, InvalidStudy, {"setting": "targets.0"}),
        ("lora", {"targets": []}, InvalidStudy, {"setting": "targets"}),
        ("ia3", {"targets": []}, InvalidStudy, {"setting": "targets"}),
        ("vera", {"targets": []}, InvalidStudy, {"setting": "targets"}),
        ("lora", {"targets": "c_attn"}, InvalidStudy, {"setting": "targets"}),
        ("prelayer", {"train_head": "perhaps"}, InvalidStudy, {"setting": "train_head"}),
        ("lora", {"r": 0}, InvalidStudy, {"r": 0, "alpha": 16}),
        ("lora", {"alpha": 0}, InvalidStudy, {"r": 4}),
        ("lora", {"alpha": float("nan")}, InvalidStudy, {"r": 4, "alpha": "nan"}),
        ("lora", {"dropout": float("nan")}, InvalidStudy, {"r": 4, "alpha": 16}),
        ("lora", {"dropout": 1}, InvalidStudy, {"r": 4, "alpha": 16}),
    ],
)
def test_an_unknown_or_impossible_setting_is_an_error_that_says_where_and_what_instead(
    name: str, hyperparameters: dict[str, Any], error: type[AfinaError], fields: dict[str, Any]
) -> None:
    unknown = error is UnknownName
    code = "name.unknown" if unknown else "method.setting-invalid"
    fields = fields | ({"where": "study.toml"} if unknown or "setting" in fields else {})
    with raises(error, code=code, **fields):
        make(name, hyperparameters, where="study.toml")


@pytest.mark.parametrize("name", METHODS)
def test_true_and_false_are_no_numbers(name: str) -> None:
    numbers = [key for key, value in asdict(make(name)).items() if is_number(value)]
    for setting in numbers:
        for value in (True, False):
            with raises(InvalidStudy, code="method.setting-invalid", setting=setting, found=value):
                make(name, {setting: value}, where="study.toml")


@pytest.mark.parametrize("name", METHODS)
def test_hyperparameters_make_the_same_method_again(name: str) -> None:
    method = make(name).for_family(family_of(name))
    assert make(name, method.hyperparameters) == method


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_are_known_by_name_in_every_family(backbones: Backbones, family: str) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    method = make("layernorm").for_family(family)
    model = opened(backbone, method).model
    norms = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        for name, _ in module.named_parameters(recurse=False)
    }
    head = {name for name, _ in model.named_parameters() if is_head(name)}
    assert set(method.trainable(model)) == norms | head
    assert len(norms) >= 3


@pytest.mark.parametrize("family", FAMILIES)
def test_bitfit_trains_every_bias_and_says_where_there_is_none(backbones: Backbones, family: str) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    method = make("bitfit").for_family(family)
    biases = {name for name, _ in opened(backbone, make("full")).model.named_parameters() if name.endswith("bias")}
    assert any(not is_head(name) for name in biases) == serves(family, "bitfit")
    if serves(family, "bitfit"):
        model = opened(backbone, method).model
        head = {name for name, _ in model.named_parameters() if is_head(name)}
        assert set(method.trainable(model)) == biases | head
        return
    with raises(InvalidStudy, code="method.family-unsupported", method="bitfit"):
        opened(backbone, method)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_blocks_train_and_nothing_below_is_kept_for_gradients(backbones: Backbones, family: str) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    entry, names = ARCHITECTURES[family], ARCHITECTURES[family].block
    fits = {}
    for blocks in (1, 2):
        method = make("last", {"blocks": blocks}).for_family(family)
        fits[blocks] = fit_of(opened(backbone, method), method, encoded(backbone, sentences(16)))
    found = set(fits[1].parameters)
    assert {names.index(name) for name in found} == {None, 1}
    above = {name for name in found if names.index(name) is None}
    parameters = [name for name, _ in fits[1].classifier.model.named_parameters()]
    assert above == {name for name in parameters if is_head(name) or entry.is_above(name)}
    assert any(is_head(name) for name in above)
    added = set(fits[2].parameters) - found
    assert {names.index(name) for name in added} == {0}
    reached: list[bool] = []
    first = fits[1].classifier.body.get_submodule(names.layers)[0]
    first.register_forward_hook(lambda _, inputs, output: reached.append(output.requires_grad))
    (part,) = fits[1].inputs.parts(next(fits[1].loader.batches(0, 1)))
    fits[1].begin()
    fits[2].begin()
    one, both = (fit.activation_bytes(part) for fit in fits.values())
    assert reached == [False]
    assert one < 0.7 * both


@pytest.mark.parametrize("blocks", [0, 3])
def test_blocks_that_the_model_has_not_are_an_error(gpt2: Backbone, blocks: int) -> None:
    with raises(InvalidStudy, code="method.setting-invalid", method="last", blocks=blocks):
        opened(gpt2, make("last", {"blocks": blocks}))


@pytest.mark.parametrize(
    ("family", "embeddings"),
    [
        ("gpt2", ("wte", "wpe")),
        ("llama", ("embed_tokens",)),
        ("bert", ("word_embeddings", "position_embeddings", "token_type_embeddings", "LayerNorm")),
    ],
)
def test_a_rate_falls_with_depth_from_the_head_to_the_embeddings(
    backbones: Backbones, family: str, embeddings: tuple[str, ...]
) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    method = make("full", {"layer_decay": 0.5}).for_family(family)
    found = method.multipliers(opened(backbone, method).model)
    names = ARCHITECTURES[family].block
    expected = {0: 0.25, 1: 0.5}
    for name, _ in opened(backbone, method).model.named_parameters():
        index = names.index(name)
        if index is not None:
            assert found[name] == expected[index], name
        elif name.split(".")[-2] in embeddings:
            assert found[name] == 0.125, name
        else:
            assert name not in found, name
    assert make("full", {"layer_decay": 1.0}).hyperparameters == {} != method.hyperparameters
    for wrong in (0, 1.5, float("nan")):
        with raises(InvalidStudy, code="method.setting-invalid", method="full"):
            make("full", {"layer_decay": wrong})
