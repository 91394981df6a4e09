"""Every type of peft that is installed: trained, with each text's logits its own, or refused for a reason.

docs/reference/peft-types.md is the table below.
"""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils.peft_types import PeftType as Known
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from afina import Adapter, Backbone, Predictor, Study
from afina.errors import InvalidStudy, UnknownName
from afina.methods import make
from afina.methods.method import Method
from afina.methods.peft_settings import COMMON, NOT_TRAINED, TRAINED
from afina.methods.peft_types import PeftType
from afina.models.architectures import is_head
from afina.models.classifier import Classifier
from afina.models.kernels.linear import held_tensors
from afina.training.mixed_precision import WorkingWeights
from by_text import assert_by_text, gradients
from fakes import TEXTS, Backbones, Runs, encoded, fit_of, logits_of, opened, sentences
from raises import raises

# peft warns of settings that it corrects itself, and of what it draws again.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore:.*is_gradient_checkpointing.*:FutureWarning")

TOLERANCE = 1e-5

SMALL: dict[str, dict[str, Any]] = {
    "C3A": {"block_size": 16, "init_weights": True},
    "FOURIERFT": {"n_frequency": 20, "init_weights": True},
    "HRA": {"r": 4},
    "MISS": {"r": 4},
    "PSOFT": {"r": 4},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 4},
    "WAVEFT": {"n_frequency": 20},
}
"""What layers 32 wide need otherwise, and what makes two types start without effect."""

CONV = "is not supported|not supported, currently|does not support"
NOTHING = "nothing but the head of this model would train"

FAILS = {
    **{
        (kind, "gpt2"): CONV
        for kind in (
            *("ADAMSS", "BEFT", "BOFT", "C3A", "DELORA", "GLORA", "HRA", "LOHA", "LOKR", "MISS", "OFT", "PEANUT"),
            *("PSOFT", "ROAD", "SHIRA", "SUPERTUNING"),
        )
    },
    ("OSF", "gpt2"): NOTHING,
}
"""Of the types that are not refused outright, those that do not attach to a family, and what the error says."""

FAST = ("HIRA", "LN_TUNING", "MISS", "RANDLORA")
"""Those that are tried in every run of the tests."""

WORKS = [
    pytest.param(kind, family, marks=() if kind in FAST else pytest.mark.slow)
    for kind in TRAINED
    for family in ("gpt2", "llama")
    if (kind, family) not in FAILS
]


def method_of(kind: str) -> Method:
    return make("peft", {"type": kind, "settings": SMALL.get(kind, {})})


@pytest.fixture
def backbone(request: pytest.FixtureRequest, gpt2: Backbone, llama: Backbone) -> Backbone:
    return {"gpt2": gpt2, "llama": llama}[request.param]


def perturbed(classifier: Classifier) -> Classifier:
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in classifier.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return classifier


@torch.inference_mode()
def by_peft(backbone: Backbone, path: Path) -> torch.Tensor:
    """Each text alone, by peft and transformers, of an adapter's files."""
    plain = AutoModelForSequenceClassification.from_pretrained(backbone.path, num_labels=2, attn_implementation="sdpa")
    model = PeftModel.from_pretrained(plain, str(path)).eval()
    tokenizer = AutoTokenizer.from_pretrained(backbone.path)
    return torch.cat([model(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).logits for text in TEXTS])


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("kind", "backbone"), WORKS, indirect=["backbone"], ids=str)
def test_what_it_trains_gives_each_text_the_logits_that_peft_gives_it_alone_and_is_all_saved(
    kind: str, backbone: Backbone, tmp_path: Path
) -> None:
    method = method_of(kind)
    classifier = opened(backbone, method)
    before = logits_of(classifier, backbone)
    found = logits_of(perturbed(classifier), backbone)
    assert apart(found, before) > 1e-3
    alone = torch.cat([logits_of(classifier, backbone, [text]) for text in TEXTS[:3]])
    assert apart(found[:3], alone) <= TOLERANCE
    assert apart(logits_of(classifier, backbone, TEXTS[::-1]).flip(0), found) <= TOLERANCE

    state = {name: tensor.detach().clone() for name, tensor in method.state(classifier.model).items()}
    fresh = opened(backbone, method, seed=9)
    method.restore(fresh.model, state)
    assert apart(logits_of(fresh, backbone), found) <= TOLERANCE / 10

    classifier.model.save_pretrained(tmp_path)
    assert apart(by_peft(backbone, tmp_path), found) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "given"), [("peft", {"type": "MISS", "settings": {"r": 4}}), ("ia3", {}), ("vera", {"r": 8})]
)
def test_a_run_saves_what_afina_and_peft_open(
    runs: Runs, llama: Backbone, tmp_path: Path, name: str, given: dict[str, Any]
) -> None:
    run = runs.run("llama", name, hyperparameters=given)
    adapter = Adapter.load(tmp_path / run.execute(tmp_path).adapter)
    assert adapter.manifest.method == name
    found = torch.tensor(Predictor.of(adapter, llama).outputs(TEXTS))
    assert apart(by_peft(llama, Path(adapter.where)), found) <= TOLERANCE
    again = tmp_path / "again"
    model = AutoModelForSequenceClassification.from_pretrained(llama.path, num_labels=2)
    PeftModel.from_pretrained(model, adapter.where).save_pretrained(again)
    assert apart(torch.tensor(Predictor.of(Adapter.load(again), llama).outputs(TEXTS)), found) <= TOLERANCE


def test_a_study_names_the_type_in_a_table_of_its_own(llama: Backbone, toy: str) -> None:
    content = {"name": "a", "backbone": llama.address, "task": toy}
    table = {"method": "peft", "type": "MISS", "settings": {"r": 4}, "learning_rate": 1e-2}
    (run,) = Study.parse(content | {"methods": {"miss": table}}, "study.toml").runs()
    assert (run.title, run.method, run.training.learning_rate) == ("miss", "peft", 1e-2)
    assert run.hyperparameters == {"type": "MISS", "settings": {"r": 4}}
    with raises(
        InvalidStudy, code="method.setting-invalid", setting="type", method="peft", where="study.toml, methods.peft"
    ):
        Study.parse(content | {"methods": {"peft": {}}}, "study.toml")


@pytest.mark.parametrize(("kind", "backbone"), WORKS, indirect=["backbone"], ids=str)
def test_it_trains_in_bfloat16_as_well(kind: str, backbone: Backbone) -> None:
    method = method_of(kind)
    classifier = opened(backbone, method)
    fit = fit_of(classifier, method, encoded(backbone, sentences(16)), steps=2, dtype=torch.bfloat16)
    start = {name: weight.detach().clone() for name, weight in fit.weights.trained.items()}
    fit.advance()
    moved = {name for name, weight in fit.weights.trained.items() if not torch.equal(weight, start[name])}
    assert any(not is_head(name) for name in moved)


@pytest.mark.parametrize(("kind", "backbone"), FAILS, indirect=["backbone"], ids=str)
def test_what_does_not_attach_is_refused_with_what_is_wrong(kind: str, backbone: Backbone) -> None:
    with pytest.raises(InvalidStudy, match=rf"method peft: .*({FAILS[kind, backbone.family]})"):
        opened(backbone, method_of(kind))


@pytest.mark.parametrize("kind", sorted(NOT_TRAINED))
def test_what_has_no_meaning_here_is_refused_with_the_reason(kind: str) -> None:
    with raises(InvalidStudy, code="peft.type-unsupported"):
        method_of(kind)


def test_every_type_of_the_installed_peft_is_trained_or_refused() -> None:
    assert sorted(each.value for each in Known) == sorted([*TRAINED, *NOT_TRAINED])


def test_a_start_that_changes_the_backbone_is_refused(llama: Backbone) -> None:
    class Rewriting(PeftType):
        def settings(self, model: Any) -> Any:
            from peft import LoraConfig

            return LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"], init_lora_weights="pissa")

    classifier = Classifier.open(llama, ("bad", "good"), 0)
    with raises(InvalidStudy, code="method.changes-backbone", type="MISS"):
        classifier.wrap(Rewriting("MISS").attach)


@pytest.mark.parametrize(
    ("given", "error", "fields"),
    [
        ({}, InvalidStudy, {"code": "method.setting-invalid", "setting": "type", "where": "study.toml"}),
        ({"type": "MIS"}, UnknownName, {"code": "name.unknown", "name": "MIS", "kind": "peft type"}),
        ({"type": "MISS", "r": 4}, UnknownName, {"code": "name.unknown", "name": "r", "where": "study.toml"}),
        ({"type": "MISS", "settings": 4}, InvalidStudy, {"code": "method.setting-invalid", "setting": "settings"}),
        (
            {"type": "PVERA", "settings": {"sample_at_inference": True}},
            InvalidStudy,
            {"code": "peft.settings-unusable", "setting": "sample_at_inference"},
        ),
    ],
)
def test_a_table_that_cannot_be_is_an_error_before_anything_is_loaded(
    given: dict[str, Any], error: type[Exception], fields: dict[str, Any]
) -> None:
    with raises(error, **fields):
        make("peft", given, "study.toml")


@pytest.mark.parametrize(
    ("settings", "error", "fields"),
    [
        ({"rank": 4}, UnknownName, {"code": "name.unknown", "name": "rank", "kind": "setting of MISS"}),
        ({"task_type": "CAUSAL_LM"}, UnknownName, {"code": "name.unknown", "name": "task_type"}),
        ({"r": "x"}, InvalidStudy, {"code": "peft.settings-unusable", "type": "MISS"}),
        ({"r": True}, InvalidStudy, {"code": "peft.settings-unusable", "setting": "r"}),
        ({"r": 64}, InvalidStudy, {"code": "peft.settings-unusable", "method": "peft"}),
        ({"target_modules": ["nothing"]}, InvalidStudy, {"code": "peft.settings-unusable", "method": "peft"}),
    ],
)
def test_a_setting_that_peft_does_not_take_is_an_error(
    llama: Backbone, settings: dict[str, Any], error: type[Exception], fields: dict[str, Any]
) -> None:
    with raises(error, **fields):
        opened(llama, make("peft", {"type": "MISS", "settings": settings}))


def test_a_common_setting_that_a_type_lacks_is_unknown_and_those_that_it_has_are_listed(llama: Backbone) -> None:
    model = Classifier.open(llama, ("bad", "good"), 0).model
    for kind, own in TRAINED.items():
        there = {each.name for each in fields(PEFT_TYPE_TO_CONFIG_MAPPING[Known(kind)])}
        known = sorted({*COMMON, *own} & there)
        for name in {*COMMON} - there:
            method = make("peft", {"type": kind, "settings": {name: 4}})
            with raises(UnknownName, code="name.unknown", name=name, kind=f"setting of {kind}", known=known):
                method.settings(model)


def test_hyperparameters_make_the_same_method_again_and_those_of_peft_its_own() -> None:
    method = method_of("MISS")
    assert make("peft", method.hyperparameters) == method
    assert (method.title, method.hyperparameters) == ("MISS (peft)", {"type": "MISS", "settings": {"r": 4}})
    assert make("peft", {"peft_type": "LORA", "r": 3}).hyperparameters == {"peft_type": "LORA", "r": 3}


def test_what_a_type_adds_stays_float32_where_the_body_does_not(llama: Backbone) -> None:
    method = method_of("PVERA")
    model = opened(llama, method).model
    weights = WorkingWeights.of(method, model, torch.bfloat16)
    assert {p.dtype for p in weights.parameters.values()} == {torch.float32}
    assert not held_tensors(model)
    assert {p.dtype for name, p in model.named_parameters() if "base_layer" in name} == {torch.bfloat16}


def rows() -> list[str]:
    """Of docs/reference/peft-types.md."""
    told = {CONV: "does not attach to its Conv1D", NOTHING: "adds nothing"}
    found = []
    for kind in sorted([*TRAINED, *NOT_TRAINED]):
        if kind in NOT_TRAINED:
            cells = ["refused", "refused", NOT_TRAINED[kind]]
        else:
            why = {family: FAILS.get((kind, family)) for family in ("gpt2", "llama")}
            cells = [told[why[family]] if why[family] else "trains" for family in why]
            cells.append(
                ", ".join(
                    f"`{key} = {str(value).lower()}`"
                    for key, value in SMALL.get(kind, {}).items()
                    if key == "init_weights"
                )
            )
        found.append(f"| {kind} | {' | '.join(cells)} |".replace("  ", " "))
    return found


def test_the_document_says_of_each_type_what_happens() -> None:
    text = (Path(__file__).parents[2] / "docs" / "reference" / "peft-types.md").read_text()
    said = [line for line in text.splitlines() if re.match(r"\| [A-Z0-9_]+ \|", line)]
    assert said == rows()


def dropouts(kind: str) -> dict[str, float]:
    """The settings of a peft type that turn all its dropout on."""
    names = {each.name for each in fields(PEFT_TYPE_TO_CONFIG_MAPPING[Known(kind)])}
    return {name: 0.4 for name in sorted(names) if name.endswith("dropout")}


OTHERWISE = {"BOFT", "LOHA", "LOKR", "PVERA"}
"""peft types that draw other random numbers than masks for the inputs of their layers; OFT's dropout has no effect."""

DROPPING = [kind for kind in TRAINED if dropouts(kind) and (kind, "llama") not in FAILS]


@pytest.mark.slow
@pytest.mark.parametrize("kind", DROPPING)
def test_every_peft_type_with_dropout_keeps_its_masks_or_is_refused(backbones: Backbones, kind: str) -> None:
    backbone = Backbone.load(str(backbones.path("llama")))
    method = make("peft", {"type": kind, "settings": SMALL.get(kind, {}) | dropouts(kind)}).for_backbone(backbone)
    fit = fit_of(opened(backbone, method), method, encoded(backbone, sentences(9)))
    if kind in OTHERWISE:
        with raises(InvalidStudy, code="ranks.draws-not-by-text"):
            gradients(fit)
    else:
        assert_by_text(fit)
