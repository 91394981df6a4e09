"""Importing: a classifier that transformers saved answers as an adapter of afina, or it is said what is wrong."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from afina import Adapter, Backbone, Predictor
from afina.errors import AfinaError, CorruptAdapter, InvalidStudy, NotFound, Refused, WrongBackbone
from afina.models.manifest import MANIFEST
from afina.predicting import golden_test
from afina.store.exchange.merging import merge
from afina.store.exchange.saved_classifiers import convert
from fakes import TEXTS, Backbones, Runs, difference
from raises import raises

TOLERANCE = 1e-5
NAMES = {0: "bad", 1: "fair", 2: "good"}


def fine_tuned(backbone: Backbone, path: Path, *, shards: bool = False, **settings: Any) -> Path:
    """A directory as transformers leaves it after a fine-tuning of its own."""
    settings = {"id2label": NAMES, "label2id": {name: key for key, name in NAMES.items()}} | settings
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(backbone.path, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(path, **({"max_shard_size": "30KB"} if shards else {}))
    AutoTokenizer.from_pretrained(backbone.path).save_pretrained(path)
    return path


@torch.inference_mode()
def by_transformers(directory: Path) -> np.ndarray:
    """Logits of one text after the other."""
    model = AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    found: np.ndarray = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in TEXTS]).numpy()
    return found


def imported(source: Path, backbone: str) -> Adapter:
    return convert(source, backbone, Path(tempfile.mkdtemp(dir=source.parent)) / "out")


def rewritten(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Its config.json, changed in place."""
    content = json.loads((directory / "config.json").read_text())
    change(content)
    (directory / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_a_directory_of_transformers_answers_as_it_does_there(
    backbones: Backbones, tmp_path: Path, family: str
) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    source = fine_tuned(backbone, tmp_path / "theirs")
    adapter = convert(source, backbone.address, tmp_path / "ours")
    predictor = Predictor.load(tmp_path / "ours")
    expected = by_transformers(source)
    assert difference(predictor.outputs(TEXTS), expected) <= TOLERANCE
    assert [answer["label"] for answer in predictor(TEXTS)] == [NAMES[index] for index in expected.argmax(1)]
    assert difference(Predictor.load(source).outputs(TEXTS), expected) <= TOLERANCE
    manifest = predictor.manifest
    assert (manifest.method, manifest.label_names, manifest.objective) == ("full", ("bad", "fair", "good"), None)
    assert (manifest.backbone, manifest.backbone_digest) == (backbone.address, backbone.digest)
    assert (manifest.max_length, manifest.family) == (backbone.longest, family)
    assert manifest.digest == adapter.digest
    golden_test.check(predictor)
    # The adapter's directory is one of transformers', too.
    assert difference(by_transformers(tmp_path / "ours"), expected) <= TOLERANCE
    assert {path.name for path in (tmp_path / "ours").iterdir()} >= {"manifest.json", "config.json", "tokenizer.json"}


def test_shards_are_read_as_one(gpt2: Backbone, tmp_path: Path) -> None:
    whole = imported(fine_tuned(gpt2, tmp_path / "whole"), gpt2.address)
    source = fine_tuned(gpt2, tmp_path / "shards", shards=True)
    assert len(list(source.glob("*.safetensors"))) > 1
    assert imported(source, gpt2.address).digest == whole.digest


def test_weights_in_bfloat16_answer_as_in_float32(llama: Backbone, tmp_path: Path) -> None:
    source = fine_tuned(llama, tmp_path / "theirs", dtype=torch.bfloat16)
    adapter = imported(source, llama.address)
    assert {tensor.dtype for tensor in adapter.tensors.values()} == {torch.float32}
    found = Predictor.of(adapter, llama).outputs(TEXTS)
    assert difference(found, by_transformers(source)) <= TOLERANCE


@pytest.mark.parametrize(
    ("settings", "objective"),
    [
        ({"id2label": {0: "stars"}, "label2id": {"stars": 0}}, {"kind": "number", "mean": 0.0, "scale": 1.0}),
        ({"problem_type": "multi_label_classification"}, {"kind": "labels"}),
        ({"problem_type": "single_label_classification"}, None),
    ],
    ids=["number", "labels", "classes"],
)
def test_the_kind_of_task_is_that_of_the_configuration(
    gpt2: Backbone, tmp_path: Path, settings: dict[str, Any], objective: dict[str, Any] | None
) -> None:
    adapter = imported(fine_tuned(gpt2, tmp_path / "theirs", **settings), gpt2.address)
    assert adapter.manifest.objective == objective
    assert adapter.manifest.label_names == tuple(settings.get("id2label", NAMES).values())


def test_what_was_merged_can_be_imported_again(gpt2: Backbone, tmp_path: Path) -> None:
    first = imported(fine_tuned(gpt2, tmp_path / "theirs"), gpt2.address)
    merge(Predictor.of(first, gpt2), tmp_path / "merged")
    assert imported(tmp_path / "merged", gpt2.address).digest == first.digest


def test_buffers_of_older_versions_are_passed_over(gpt2: Backbone, tmp_path: Path) -> None:
    source = fine_tuned(gpt2, tmp_path / "theirs")
    expected = imported(source, gpt2.address).digest
    tensors = load_file(source / "model.safetensors")
    tensors["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)
    tensors["transformer.h.0.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool).tril()
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    assert imported(source, gpt2.address).digest == expected
    save_file(tensors | {"transformer.extra": torch.zeros(1)}, source / "model.safetensors", {"format": "pt"})
    with raises(WrongBackbone, code="backbone.mismatch", path="theirs"):
        imported(source, gpt2.address)


def pickled(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def without_head(path: Path) -> None:
    tensors = load_file(path / "model.safetensors")
    del tensors["score.weight"]
    save_file(tensors, path / "model.safetensors")


def without_a_layer(path: Path) -> None:
    tensors = load_file(path / "model.safetensors")
    del tensors["transformer.h.1.ln_1.weight"]
    save_file(tensors, path / "model.safetensors")


def cut_short(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def without_tokenizer(path: Path) -> None:
    for file in path.glob("*token*"):
        file.unlink()


def other_tokens(path: Path) -> None:
    content = json.loads((path / "tokenizer.json").read_text())
    content["model"]["merges"].pop()
    (path / "tokenizer.json").write_text(json.dumps(content))


def elsewhere(path: Path) -> None:
    (path / "model.safetensors").unlink()
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../b.safetensors"}}))


WRONG: dict[str, tuple[Callable[[Path], object], type[AfinaError], str]] = {
    "pickled": (
        pickled,
        Refused,
        r"weights are in pytorch_model\.bin, a format that can run code .*Save the weights with",
    ),
    "nothing": (lambda path: (path / "config.json").unlink(), NotFound, r"no config\.json there, .* Give a directory"),
    "no weights": (
        lambda path: (path / "model.safetensors").unlink(),
        NotFound,
        r"no model\.safetensors there, expected model\.safetensors or",
    ),
    "no head": (without_head, CorruptAdapter, "there is no classification head"),
    "a layer is missing": (without_a_layer, WrongBackbone, r"the adapter lacks transformer\.h\.1\.ln_1\.weight"),
    "cut short": (cut_short, CorruptAdapter, "damaged, or not a safetensors file"),
    "no tokenizer": (without_tokenizer, NotFound, "no tokenizer there, expected tokenizer.json, "),
    "another tokenizer": (other_tokens, WrongBackbone, "tokenizer is .*, but .* in backbone .* with `backbone`"),
    "shards elsewhere": (elsewhere, CorruptAdapter, "expected a weight_map that names files in the same directory"),
    "other arithmetic": (
        lambda path: rewritten(path, lambda config: config.update(layer_norm_epsilon=0.1)),
        WrongBackbone,
        r"layer_norm_epsilon is 0\.1, but 1e-05 in backbone .*\. Give the model .* with `backbone`",
    ),
    "no classifier": (
        lambda path: rewritten(path, lambda config: config.update(architectures=["GPT2LMHeadModel"])),
        InvalidStudy,
        r"architectures is \['GPT2LMHeadModel'\], expected a \.\.\.ForSequenceClassification",
    ),
    "same names": (
        lambda path: rewritten(path, lambda config: config.update(id2label={"0": "a", "1": "a", "2": "b"})),
        InvalidStudy,
        "expected a different name for each",
    ),
    "other count": (
        lambda path: rewritten(path, lambda config: config.update(id2label={"0": "a", "1": "b"})),
        WrongBackbone,
        r"score\.weight has shape \[3, 32\], this model's has \[2, 32\]",
    ),
    "numbers": (
        lambda path: rewritten(path, lambda config: config.update(problem_type="regression")),
        InvalidStudy,
        "problem_type is regression with 3 labels; expected one output",
    ),
}


@pytest.mark.parametrize(("spoil", "kind", "told"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_told(
    gpt2: Backbone, tmp_path: Path, spoil: Callable[[Path], object], kind: type[AfinaError], told: str
) -> None:
    source = fine_tuned(gpt2, tmp_path / "theirs")
    spoil(source)
    with pytest.raises(kind, match=told) as raised:
        imported(source, gpt2.address)
    assert str(source) in str(raised.value)


def test_another_backbone_is_refused_before_its_weights_are_compared(
    gpt2: Backbone, llama: Backbone, tmp_path: Path
) -> None:
    source = fine_tuned(gpt2, tmp_path / "theirs")
    with raises(WrongBackbone, code="backbone.mismatch", field="activation_function", path="config.json"):
        imported(source, llama.address)


def test_a_full_fine_tuning_of_afina_without_its_manifest_is_not_imported_without_its_template(
    runs: Runs, gpt2: Backbone, tmp_path: Path
) -> None:
    shutil.copytree(runs.adapter("gpt2", "full"), tmp_path / "full")
    (tmp_path / "full" / MANIFEST).unlink()
    with raises(CorruptAdapter, code="adapter.file-missing", file=MANIFEST):
        imported(tmp_path / "full", str(gpt2.path))


def test_a_causal_language_model_is_no_classifier(gpt2: Backbone, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(gpt2.path).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(gpt2.path).save_pretrained(tmp_path)
    with raises(InvalidStudy, code="model.config-unusable", field="architectures", path="config.json"):
        imported(tmp_path, gpt2.address)
