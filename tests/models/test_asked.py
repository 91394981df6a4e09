"""Asked in words, an untrained model answers as the language model does, and what is trained opens anywhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from afina import Adapter, Backbone, Predictor
from afina.data.batch import pack
from afina.data.template import Template
from afina.data.tokenize import encode
from afina.errors import NotFound
from afina.models.architectures import ARCHITECTURES, head_of
from afina.models.classifier import Classifier
from afina.models.label_prompts import GENERAL
from afina.models.manifest import read_manifest
from afina.models.verbalizer import Verbalizer
from afina.predicting.prompting import shift_of
from afina.predicting.reading import SENTENCES
from afina.stats.classification import probabilities
from afina.studies.runs.spec import Ask
from fakes import TEXTS, Backbones, Runs, configuration, difference, save
from raises import raises

TOLERANCE = 1e-5
ASKED = [family for family, entry in ARCHITECTURES.items() if entry.head.logits is None]
"""Families whose head can be made of words."""
LABELS = ("bad", "good")
TEMPLATE = "Review: {text}\nSentiment:"
WORDS = {"bad": (" dull", " cold"), "good": (" warm",)}
ASK = Ask(head="words", template=TEMPLATE, words=WORDS)


def question(backbone: Backbone, **changes: Any) -> Verbalizer:
    asked = {"head": "words", "template": TEMPLATE, "words": WORDS} | changes
    return Verbalizer.of(LABELS, backbone.tokenizer, pairs=False, **asked)


@torch.inference_mode()
def language_model(path: Path, texts: Sequence[str], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
    """transformers' own logits after each text, one at a time; of each label, the mean over its tokens."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa").eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    rows = []
    for text in texts:
        logits = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits[0, -1]
        rows.append(torch.stack([logits[list(each)].mean() for each in tokens]))
    return torch.stack(rows)


@torch.inference_mode()
def packed(classifier: Classifier, backbone: Backbone, order: Sequence[int]) -> torch.Tensor:
    """Logits of TEXTS in the template, in one batch, in that order."""
    tokens = encode(backbone.tokenizer, TEXTS, max_length=backbone.longest, template=Template(TEMPLATE))
    return classifier.eval()(pack([tokens[index] for index in order]))


# What is not trained


@pytest.mark.parametrize("family", ASKED)
def test_untrained_it_answers_what_the_language_model_does_in_any_company(backbones: Backbones, family: str) -> None:
    path = backbones.path(family)
    backbone = Backbone.load(str(path))
    tokens = question(backbone).tokens
    assert tokens is not None
    classifier = Classifier.open(backbone, LABELS, 0, tokens, exact=True)
    expected = language_model(path, [Template(TEMPLATE).render(text) for text in TEXTS], tokens)
    forward, backward = range(len(TEXTS)), range(len(TEXTS) - 1, -1, -1)
    assert difference(packed(classifier, backbone, forward), expected) <= TOLERANCE
    assert difference(packed(classifier, backbone, backward).flip(0), expected) <= TOLERANCE
    alone = torch.cat([packed(classifier, backbone, [place]) for place in forward])
    assert difference(alone, expected) <= TOLERANCE
    assert (expected[:, 0] - expected[:, 1]).abs().min() > 100 * TOLERANCE


@pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
def test_the_adapter_of_zero_shot_answers_so_too(runs: Runs, family: str) -> None:
    """Asked of nothing, it takes the names of the labels, and a template that suits them."""
    path = runs.backbones.path(family)
    predictor = Predictor.load(runs.adapter(family, "zero-shot"))
    words = {"bad": [" bad"], "good": [" good"]}
    tokens = question(predictor.backbone, template=None, words=words).tokens
    assert tokens is not None
    expected = language_model(path, [GENERAL.replace("{text}", text) for text in TEXTS], tokens)
    assert difference(torch.from_numpy(predictor.outputs(TEXTS)), expected) <= TOLERANCE
    assert predictor.manifest.template == GENERAL
    assert predictor.manifest.words == {"bad": (" bad",), "good": (" good",)}


def test_nothing_of_it_is_drawn(runs: Runs, tmp_path: Path) -> None:
    run = runs.run("llama", "zero-shot").model_copy(update={"seed": 7})
    assert run.execute(tmp_path).digest == runs.record("llama", "zero-shot").digest


# What training begins with


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_training_begins_with_the_same_answers_in_a_head_as_large_as_a_drawn_one(
    backbones: Backbones, family: str
) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    tokens = question(backbone).tokens
    exact = Classifier.open(backbone, LABELS, 0, tokens, exact=True)
    first = Classifier.open(backbone, LABELS, 0, tokens)
    drawn = Classifier.open(backbone, LABELS, 0)
    found, expected = (packed(one, backbone, range(len(TEXTS))) for one in (first, exact))
    found, expected = (each - each.mean(1, keepdim=True) for each in (found, expected))
    ratio = found / expected
    assert ratio.min() > 0
    assert difference(ratio, ratio.mean().expand_as(ratio)) < 1e-3
    size = backbone.config.initializer_range
    rows = head_of(first.model)[-1].weight
    assert rows.square().mean().sqrt().item() == pytest.approx(size, rel=1e-4)
    assert head_of(drawn.model)[-1].weight.std().item() == pytest.approx(size, rel=0.3)
    assert rows.mean(0).abs().max() < 1e-6
    assert first.offset is None


# Where the rows are read from


@pytest.mark.parametrize("how", ["shards", "torch", "torch shards"])
def test_the_rows_are_found_in_whatever_files_hold_the_weights(backbones: Backbones, tmp_path: Path, how: str) -> None:
    whole = backbones.path("gptj")
    path = Path(shutil.copytree(whole, tmp_path / "model"))
    if how == "shards":
        (path / "model.safetensors").unlink()
        AutoModelForCausalLM.from_pretrained(whole).save_pretrained(path, max_shard_size="40KB")
        assert (path / "model.safetensors.index.json").is_file()
    else:
        (path / "model.safetensors").unlink()
        state = AutoModelForCausalLM.from_pretrained(whole).state_dict()
        parts = [state]
        if how == "torch shards":
            parts = [{key: state[key] for key in state if (key == "lm_head.bias") == last} for last in (False, True)]
        names = ["pytorch_model.bin"] if len(parts) == 1 else ["pytorch_model-1.bin", "pytorch_model-2.bin"]
        for name, part in zip(names, parts, strict=True):
            torch.save(part, path / name)
        if len(parts) > 1:
            places = {key: name for name, part in zip(names, parts, strict=True) for key in part}
            (path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    found, expected = (
        packed(Classifier.open(one, LABELS, 0, question(one).tokens, exact=True), one, range(len(TEXTS)))
        for one in (Backbone.load(str(path)), Backbone.load(str(whole)))
    )
    assert torch.equal(found, expected)


def test_weights_without_a_language_models_output_are_refused(backbones: Backbones, tmp_path: Path) -> None:
    path = tmp_path / "classifier"
    whole = backbones.path("llama")
    AutoModelForSequenceClassification.from_pretrained(whole, num_labels=2).save_pretrained(path)
    AutoTokenizer.from_pretrained(whole).save_pretrained(path)
    backbone = Backbone.load(str(path))
    with raises(NotFound, code="backbone.unreadable", tensor="lm_head.weight", path="classifier"):
        Classifier.open(backbone, LABELS, 0, question(backbone).tokens)


def test_a_tied_output_is_that_of_the_input(tmp_path: Path, backbones: Backbones) -> None:
    path = save(configuration("qwen2", tie_word_embeddings=True), backbones.tokenizer("qwen2"), tmp_path)
    backbone = Backbone.load(str(path))
    tokens = question(backbone).tokens
    assert tokens is not None
    classifier = Classifier.open(backbone, LABELS, 0, tokens, exact=True)
    expected = language_model(path, [Template(TEMPLATE).render(text) for text in TEXTS], tokens)
    assert difference(packed(classifier, backbone, range(len(TEXTS))), expected) <= TOLERANCE


# What is trained


@pytest.fixture(scope="module")
def asked(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters that began in words, by method."""
    out = tmp_path_factory.mktemp("asked")
    found = {}
    for family, method in (("llama", "lora"), ("gpt2", "full")):
        run = runs.run(family, method).model_copy(update={"ask": ASK})
        found[method] = out / run.execute(out).adapter
    return found


@torch.inference_mode()
def theirs(model: Any, path: Path) -> torch.Tensor:
    """Logits by the model's own forward of the texts in the template, padded by the tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    texts = [Template(TEMPLATE).render(text) for text in TEXTS]
    batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    return model.eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


# peft asks transformers for a property that transformers has renamed.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_peft_opens_a_lora_that_began_in_words_with_the_same_logits(
    asked: dict[str, Path], backbones: Backbones
) -> None:
    base = AutoModelForSequenceClassification.from_pretrained(backbones.path("llama"), num_labels=2)
    expected = theirs(PeftModel.from_pretrained(base, asked["lora"]), backbones.path("llama"))
    found = torch.from_numpy(Predictor.load(asked["lora"]).outputs(TEXTS))
    assert difference(found, expected) <= TOLERANCE
    assert Adapter.load(asked["lora"]).tensors["base_model.model.score.weight"].shape == (2, 32)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.slow
def test_the_manifest_says_how_texts_are_asked_about_and_its_digest_holds_that(
    asked: dict[str, Path], method: str
) -> None:
    manifest = read_manifest(asked[method])
    assert (manifest.template, manifest.words, manifest.offset) == (TEMPLATE, WORDS, None)
    changed = [
        {"template": "{text} It was"},
        {"template": None},
        {"words": {"bad": (" dull",), "good": (" warm",)}},
        {"offset": (0.0, 0.5)},
    ]
    digests = {manifest.model_copy(update=change).digest for change in changed}
    assert len(digests | {manifest.digest}) == 1 + len(changed)


def test_training_from_words_repeats_itself(asked: dict[str, Path], runs: Runs, tmp_path: Path) -> None:
    again = runs.run("llama", "lora").model_copy(update={"ask": ASK}).execute(tmp_path)
    assert again.digest == read_manifest(asked["lora"]).digest
    assert (again.ask.template, again.ask.words) == (TEMPLATE, WORDS)


# Offsets


def test_the_shift_gives_each_label_the_mean_probability_of_the_others() -> None:
    outputs = np.tile(np.log(np.array([[0.7, 0.2, 0.1]], np.float32)), (5, 1))
    shifted = probabilities(outputs + shift_of(outputs))
    assert np.allclose(shifted, 1 / 3)
    assert np.isfinite(shift_of(np.array([[1000.0, 0.0]], np.float32))).all()


@pytest.mark.parametrize(("method", "dtype"), [("zero-shot", "float32"), ("lora", "bfloat16")])
@pytest.mark.slow
def test_an_offset_is_found_without_labels_kept_and_added_after_the_head(
    runs: Runs, tmp_path: Path, method: str, dtype: str
) -> None:
    def adapter(offset: bool, out: str) -> Path:
        run = runs.run("llama", method, dtype=dtype).model_copy(
            update={"ask": ASK.model_copy(update={"offset": offset})}
        )
        return tmp_path / out / run.execute(tmp_path / out).adapter

    path = adapter(offset=True, out="with")
    shifted, plain = Predictor.load(path), Predictor.load(adapter(offset=False, out="without"))
    offset = read_manifest(path).offset
    assert offset is not None
    assert max(map(abs, offset)) > 1e-3
    assert plain.manifest.offset is None
    if method == "zero-shot":
        difference = shifted.outputs(TEXTS) - plain.outputs(TEXTS)
        assert np.allclose(difference, np.array(offset), atol=1e-4)
    assert np.allclose(shifted.manifest.probe[0], shifted.outputs(SENTENCES[:1])[0], atol=1e-4)
