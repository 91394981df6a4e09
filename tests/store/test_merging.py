"""Merging: transformers alone gives the logits of an adapter on its backbone, or it is refused, with a reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import HiraConfig, IA3Config, LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from afina import Adapter, Backbone, Predictor, digest, methods
from afina.errors import CannotWrite, InvalidStudy, Refused
from afina.models.classifier import Classifier
from afina.models.manifest import Manifest
from afina.predicting.predictor import WordsPredictor
from afina.store.exchange.merging import merge
from fakes import TEXTS, Backbones, Runs, difference, logits_of, opened
from raises import raises

# peft asks transformers for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

TOLERANCE = 1e-5
LABELS = ("bad", "fair", "good")


def invented(backbone: Backbone, name: str, settings: Mapping[str, Any] = {}, **changes: Any) -> Adapter:
    """An adapter as training could have left it: every parameter that trains is moved by a draw."""
    method = methods.make(name, settings).for_family(backbone.family)
    labels = changes.pop("label_names", LABELS)
    model = opened(backbone, method, labels=labels).model
    torch.manual_seed(11)
    with torch.no_grad():
        for parameter in method.trainable(model).values():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    state = {name: tensor.detach().clone() for name, tensor in method.state(model).items()}
    told: dict[str, Any] = {
        "method": name,
        "hyperparameters": method.hyperparameters,
        "label_names": labels,
        "backbone": backbone.address,
        "backbone_digest": backbone.digest,
        "tokenizer_digest": backbone.tokenizer_digest,
        "family": backbone.family,
        "tensor_file": method.tensor_file,
        "tensors_digest": digest.of_tensors(state),
        "max_length": backbone.longest - method.takes_positions,
    }
    return Adapter(Manifest(**(told | changes)), state, "invented")


@torch.inference_mode()
def by_transformers(directory: Path, texts: Sequence[str]) -> np.ndarray:
    """Logits of one text after the other, by transformers alone."""
    model, loading = AutoModelForSequenceClassification.from_pretrained(directory, output_loading_info=True)
    assert not any(loading[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    rows = [model.eval()(**tokenizer(text, truncation=True, return_tensors="pt")).logits for text in texts]
    found: np.ndarray = torch.cat(rows).numpy()
    return found


MADE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "lora": ("gpt2", "lora", {}),
    "rslora": ("gpt2", "lora", {"rslora": True, "r": 3}),
    "dora": ("llama", "lora", {"dora": True}),
    "all-linear": ("bert", "lora", {"targets": ["all-linear"]}),
    "ia3": ("gpt2", "ia3", {}),
    "vera": ("gpt2", "vera", {"r": 16}),
    "hira": ("gpt2", "peft", {"type": "HIRA", "settings": {"r": 4}}),
    "loha": ("llama", "peft", {"type": "LOHA"}),
    "full": ("llama", "full", {}),
    "head": ("gpt2", "head", {}),
    "last": ("llama", "last", {"blocks": 1}),
    "layernorm": ("llama", "layernorm", {}),
    "bitfit": ("gpt2", "bitfit", {}),
    "baseline": ("gpt2", "baseline", {}),
    "prelayer": ("gpt2", "prelayer", {}),
    "lora+bitfit": ("bert", "lora+bitfit", {}),
    "layernorm+lora": ("llama", "layernorm+lora", {}),
    "layernorm+prelayer": ("llama", "layernorm+prelayer", {}),
}
"""The family, the method, its hyperparameters."""


@pytest.mark.parametrize(("family", "method", "settings"), MADE.values(), ids=MADE)
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning")
def test_transformers_gives_the_logits_of_the_adapter_from_the_merged_model_alone(
    backbones: Backbones, family: str, method: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    predictor = Predictor.of(invented(backbone, method, settings), backbone)
    assert merge(predictor, tmp_path / "merged") == ()
    expected = predictor.outputs(TEXTS)
    assert difference(by_transformers(tmp_path / "merged", TEXTS), expected) <= TOLERANCE
    # What was merged is part of it: without, the backbone answers otherwise.
    if method != "baseline":
        bare = logits_of(Classifier.open(backbone, LABELS, seed=0), backbone).numpy()
        assert difference(bare, expected) > 100 * TOLERANCE


@pytest.mark.parametrize(
    "settings",
    [
        LoraConfig(task_type="SEQ_CLS", r=3, target_modules=["c_proj"], fan_in_fan_out=True, bias="lora_only"),
        IA3Config(task_type="SEQ_CLS", target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"]),
        HiraConfig(task_type="SEQ_CLS", r=4, target_modules=["c_attn"], fan_in_fan_out=True),
    ],
    ids=["lora with biases", "ia3", "hira"],
)
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning")
def test_an_adapter_that_peft_saved_is_merged(gpt2: Backbone, tmp_path: Path, settings: Any) -> None:
    model = get_peft_model(AutoModelForSequenceClassification.from_pretrained(gpt2.path, num_labels=3), settings)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(tmp_path / "adapter")
    predictor = Predictor.load(tmp_path / "adapter")
    merge(predictor, tmp_path / "merged")
    assert difference(by_transformers(tmp_path / "merged", TEXTS), predictor.outputs(TEXTS)) <= TOLERANCE


def test_the_merged_model_names_its_labels_pads_and_cuts_and_is_a_batch_away(gpt2: Backbone, tmp_path: Path) -> None:
    predictor = Predictor.of(invented(gpt2, "lora", max_length=20), gpt2)
    merge(predictor, tmp_path / "merged")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    config = model.config
    assert config.id2label == dict(enumerate(LABELS))
    assert config.label2id == {name: index for index, name in enumerate(LABELS)}
    assert config.problem_type == "single_label_classification"
    assert model.dtype == torch.float32
    assert tokenizer.model_max_length == 20
    assert config.pad_token_id == tokenizer.pad_token_id is not None
    batch = tokenizer(list(TEXTS), truncation=True, padding=True, padding_side="right", return_tensors="pt")
    assert batch["input_ids"].shape == (len(TEXTS), 20)
    with torch.inference_mode():
        found = model.eval()(**batch).logits.numpy()
    assert difference(found, predictor.outputs(TEXTS)) <= TOLERANCE
    assert "afina" not in (tmp_path / "merged" / "config.json").read_text()


def test_a_tokenizer_without_a_maximum_length_of_its_own_gets_the_adapters(gpt2: Backbone, tmp_path: Path) -> None:
    """As the embedded model's, for which transformers writes 1e30 as a whole number."""
    directory = shutil.copytree(gpt2.address, tmp_path / "backbone")
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    settings.pop("model_max_length", None)
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    backbone = Backbone.load(str(directory))
    AutoTokenizer.from_pretrained(directory).save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())["model_max_length"] > 2**63
    merge(Predictor.of(invented(backbone, "lora", max_length=20), backbone), tmp_path / "merged")
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").model_max_length == 20


def test_the_predictor_answers_as_before_and_the_merged_model_does_not_depend_on_it(
    runs: Runs, gpt2: Backbone, tmp_path: Path
) -> None:
    predictor = Predictor.load(runs.adapter("gpt2", "lora"))
    before = predictor.outputs(TEXTS)
    merge(predictor, tmp_path / "merged")
    assert np.array_equal(predictor.outputs(TEXTS), before)
    assert difference(by_transformers(tmp_path / "merged", TEXTS), before) <= TOLERANCE


@pytest.mark.parametrize(
    ("objective", "labels", "problem", "note"),
    [
        (
            {"kind": "number", "mean": 3.5, "scale": 2.0},
            ("stars",),
            "regression",
            "The model's output times 2.0 plus 3.5 is the number.",
        ),
        (
            {"kind": "labels", "thresholds": [0.25, 0.5, 0.75]},
            LABELS,
            "multi_label_classification",
            "A text has a label from this probability on: bad 0.25, fair 0.5, good 0.75.",
        ),
        (
            {"kind": "classes", "temperature": 1.5},
            LABELS,
            "single_label_classification",
            "Divide the logits by 1.5 before they become probabilities.",
        ),
        (
            {"kind": "labels", "temperature": 1.0, "abstain_below": 0.75},
            LABELS,
            "multi_label_classification",
            "Leave a text unanswered if its confidence is below 0.75. The confidence is the highest probability; for "
            "several labels, the product of the probabilities of all decisions.",
        ),
    ],
    ids=["number", "labels", "classes", "abstaining"],
)
def test_what_a_model_cannot_hold_is_told(
    llama: Backbone, tmp_path: Path, objective: dict[str, Any], labels: tuple[str, ...], problem: str, note: str
) -> None:
    adapter = invented(llama, "lora", label_names=labels, objective=objective, template="Review: {text} It was")
    predictor = Predictor.of(adapter, llama)
    notes = merge(predictor, tmp_path / "merged")
    assert notes == ("Put each text into the template 'Review: {text} It was' before it is tokenised.", note)
    texts = [text for text in TEXTS if len(text) < 100]
    found = by_transformers(tmp_path / "merged", [f"Review: {text} It was" for text in texts])
    assert difference(found, predictor.outputs(texts)) <= TOLERANCE
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["problem_type"] == problem


@pytest.mark.parametrize("name", ["adapter", "prompt", "prefix", "lora+adapter"])
def test_what_adds_modules_of_its_own_is_refused(gpt2: Backbone, tmp_path: Path, name: str) -> None:
    predictor = Predictor.of(invented(gpt2, name), gpt2)
    with raises(Refused, code="merge.impossible", where="invented"):
        merge(predictor, tmp_path / "merged")
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:Detected that the base layer has no bias term:UserWarning")
def test_a_type_of_peft_that_cannot_merge_is_refused_in_pefts_words(llama: Backbone, tmp_path: Path) -> None:
    predictor = Predictor.of(invented(llama, "peft", {"type": "BEFT"}), llama)
    with raises(Refused, code="merge.impossible", where="invented", cause="peft.cannot-merge"):
        merge(predictor, tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def test_a_merge_that_answers_otherwise_is_refused(
    gpt2: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor.of(invented(gpt2, "lora"), gpt2)
    monkeypatch.setattr("afina.methods.peft.PeftMethod.merged", lambda method, model: model.unload())
    with raises(Refused, code="merge.impossible", where="invented"):
        merge(predictor, tmp_path / "merged")


def test_an_offset_has_no_place_in_a_head_without_a_bias(gpt2: Backbone, tmp_path: Path) -> None:
    predictor = Predictor.of(invented(gpt2, "lora", offset=(0.5, 0.0, -0.5)), gpt2)
    with raises(Refused, code="merge.impossible", field="offset", where="invented"):
        merge(predictor, tmp_path / "merged")


def test_a_predictor_in_bfloat16_is_not_merged(gpt2: Backbone, tmp_path: Path) -> None:
    predictor = Predictor.of(invented(gpt2, "lora"), gpt2, dtype="bfloat16")
    with raises(InvalidStudy, code="dtype.unsuitable", where="invented", dtype="bfloat16"):
        merge(predictor, tmp_path / "merged")


def test_a_model_of_words_has_no_backbone(tmp_path: Path) -> None:
    manifest = Manifest(
        **dict.fromkeys(("backbone", "backbone_digest", "tokenizer_digest", "family")),
        method="tfidf",
        hyperparameters={},
        label_names=LABELS,
        tensor_file="delta.safetensors",
        tensors_digest="sha256:0",
        max_length=0,
    )
    with raises(Refused, code="merge.impossible", method="tfidf", where="words"):
        merge(WordsPredictor(manifest, "words", None), tmp_path / "merged")  # type: ignore[arg-type]


def test_nothing_is_written_over_and_nothing_is_written_in_part(
    gpt2: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor.of(invented(gpt2, "head"), gpt2)
    (tmp_path / "mine").mkdir()
    with raises(Refused, code="out.exists", path="mine"):
        merge(predictor, tmp_path / "mine")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("afina.tensorfile.write", full)
    with raises(CannotWrite, code="file.cannot-write", path="merged"):
        merge(predictor, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
