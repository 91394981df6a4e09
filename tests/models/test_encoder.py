"""An encoder is one entry: RoBERTa, which afina does not support yet, computes as in transformers by its entry."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_architecture_law import complete
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

from afina import Backbone
from afina.data.batch import pack
from afina.errors import InvalidStudy
from afina.methods import make
from afina.methods.attachment import attach
from afina.models.architectures import ARCHITECTURES, Architecture, Block, Sizes, is_head, is_output
from afina.models.classifier import Classifier
from afina.models.kernels.attention import NAME
from afina.models.kernels.layout import Layout, pool
from afina.models.kernels.patches import Patch, patches_of
from afina.models.pretrained import meta_from_config
from fakes import LONGEST, VOCABULARY, difference, tokenizer
from raises import raises

PAD, LABELS = 1, ("no", "perhaps", "yes")

ENTRY = Architecture(
    "roberta",
    Block(
        "encoder.layer",
        "attention.self",
        linear={
            **{f"attention.self.{name}": ("hidden", "hidden") for name in ("query", "key", "value")},
            "attention.output.dense": ("hidden", "hidden"),
            "intermediate.dense": ("hidden", "inner"),
            "output.dense": ("inner", "hidden"),
        },
        norms={"attention.output.LayerNorm": "hidden", "output.LayerNorm": "hidden"},
        final_norm=None,
        pre_norm=None,
        mlp="output",
    ),
    Sizes(50265, 768, 12, 12, 3072, 512),
    embeddings=tuple(f"embeddings.{kind}_embeddings" for kind in ("word", "position", "token_type")),
    embedding_norm="embeddings.LayerNorm",
    lora_targets=("query", "key", "value"),
    head=("classifier.dense", "classifier.out_proj"),
    logits=lambda model, pooled: model.classifier(pooled[:, None]),
    pooling="first",
    mask="bidirectional",
    position_offset=PAD + 1,
    language_model="AutoModelForMaskedLM",
    output_embedding="lm_head.decoder",
    takes_virtual_tokens=False,
)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Backbone:
    monkeypatch.setitem(ARCHITECTURES, ENTRY.family, ENTRY)
    config = AutoConfig.for_model(
        ENTRY.family,
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LONGEST + PAD + 1,
        pad_token_id=PAD,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
    tokenizer(begin=True).save_pretrained(tmp_path)
    return Backbone.load(str(tmp_path))


def sequences(count: int = 9) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(2, VOCABULARY, size) for size in random.integers(1, 40, count)]


@torch.inference_mode()
def padded(backbone: Backbone, classifier: Classifier, rows: list[np.ndarray]) -> torch.Tensor:
    """transformers' own logits of a right-padded batch."""
    model = AutoModelForSequenceClassification.from_pretrained(
        backbone.path, num_labels=len(LABELS), dtype=torch.float32, attn_implementation="sdpa"
    )
    model.load_state_dict(classifier.model.state_dict())
    ids = torch.full((len(rows), max(map(len, rows))), PAD)
    for row, one in zip(ids, rows, strict=True):
        row[: len(one)] = torch.from_numpy(one)
    return model.eval()(input_ids=ids, attention_mask=(ids != PAD).long()).logits


def test_packed_logits_of_an_encoder_are_transformers_own(encoder: Backbone) -> None:
    classifier = Classifier.open(encoder, LABELS, seed=0).eval()
    assert classifier.model.config._attn_implementation == NAME
    with torch.inference_mode():
        found = classifier(pack(sequences()))
    assert difference(found, padded(encoder, classifier, sequences())) <= 1e-5
    assert encoder.longest == LONGEST


def test_the_digest_of_an_encoder_is_of_what_the_classifier_reads(encoder: Backbone) -> None:
    state = torch.get_rng_state()
    classifier = Classifier.open(encoder, LABELS, seed=0)
    again = Backbone.load(str(encoder.path))
    assert encoder.weights_digest == Backbone.load(str(encoder.path)).weights_digest
    assert again.digest_of(classifier.body) == encoder.digest
    torch.set_rng_state(state)


def test_a_digest_draws_nothing_where_no_weight_is_missing(gpt2: Backbone) -> None:
    state = torch.get_rng_state()
    assert Backbone.load(gpt2.address).weights_digest.startswith("sha256:")
    assert torch.equal(torch.get_rng_state(), state)


def test_its_entry_is_complete(encoder: Backbone) -> None:
    complete(ENTRY, meta_from_config(type(encoder.config).from_dict(encoder.config.to_dict()), 3))


def test_its_blocks_are_computed_whole_and_its_head_has_two_layers(encoder: Backbone) -> None:
    model = Classifier.open(encoder, LABELS, seed=0).model
    assert all(Patch.LAST_BLOCK not in patches_of(module) for module in model.modules())
    head = {name for name, _ in model.named_parameters() if is_head(name)}
    layers = {f"classifier.{layer}" for layer in ("dense", "out_proj")}
    assert head == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert {name for name in head if is_output(name)} == {f"classifier.out_proj.{kind}" for kind in ("weight", "bias")}
    assert ENTRY.block.index("roberta.encoder.layer.1.output.dense.weight") == 1
    with raises(InvalidStudy, code="backbone.unsupported", family="roberta"):
        encoder.open(LABELS, 0, [[5], [6], [7]])


@pytest.mark.parametrize("name", ["full", "last", "head", "bitfit", "layernorm", "lora", "adapter", "prelayer"])
def test_methods_attach_to_an_encoder_and_train(encoder: Backbone, name: str) -> None:
    method = make(name, {"blocks": 1} if name == "last" else {}).for_family(encoder.family)
    classifier = Classifier.open(encoder, LABELS, seed=0)
    attach(classifier, method)
    classifier.train()
    torch.nn.functional.cross_entropy(classifier(pack(sequences())), torch.arange(9) % 3).backward()
    trained = method.trainable(classifier.model)
    assert {name for name, parameter in trained.items() if parameter.grad is None} == set()
    assert all(parameter.grad.any() for name, parameter in trained.items() if is_head(name))
    meta = method.attach(meta_from_config(type(encoder.config).from_dict(encoder.config.to_dict()), len(LABELS)))
    shapes = {name: parameter.shape for name, parameter in method.trainable(meta).items()}
    assert shapes == {name: parameter.shape for name, parameter in trained.items()}


def test_a_method_of_virtual_tokens_is_refused(encoder: Backbone) -> None:
    for name in ("prompt", "prefix"):
        with raises(InvalidStudy, code="method.family-unsupported", family="roberta"):
            make(name).for_family(encoder.family)


@pytest.mark.parametrize("before", [0, 2])
def test_every_kind_of_pooling_is_of_each_text_alone(before: int) -> None:
    lengths = [3, 1, 5]
    ends = np.cumsum([0, *(length + before for length in lengths)])
    layout = Layout(torch.from_numpy(ends.astype(np.int32)), before)
    hidden = torch.randn(int(ends[-1]), 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    texts = [hidden[start + before : end] for start, end in pairwise(ends)]
    torch.testing.assert_close(pool(hidden, layout, "first"), torch.stack([text[0] for text in texts]))
    torch.testing.assert_close(pool(hidden, layout, "last"), torch.stack([text[-1] for text in texts]))
    mean = pool(hidden, layout, "mean")
    torch.testing.assert_close(mean, torch.stack([text.mean(0) for text in texts]))
    (gradient,) = torch.autograd.grad(mean.sum(), hidden)
    (expected,) = torch.autograd.grad(torch.stack([text.mean(0) for text in texts]).sum(), hidden)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_the_classifier_asks_its_architecture_for_the_pooling(
    gpt2: Backbone, monkeypatch: pytest.MonkeyPatch, pooling: Any
) -> None:
    monkeypatch.setitem(ARCHITECTURES, gpt2.family, replace(ARCHITECTURES[gpt2.family], pooling=pooling))
    classifier = Classifier.open(gpt2, LABELS, seed=0).eval()
    with torch.inference_mode():
        found = classifier.features(pack(sequences()))
        model = AutoModel.from_pretrained(gpt2.path, dtype=torch.float32, attn_implementation="sdpa").eval()
        plain = [model(torch.from_numpy(one)[None]).last_hidden_state[0] for one in sequences()]
    expected = torch.stack([one[0] if pooling == "first" else one.mean(0) for one in plain])
    assert difference(found, expected) <= 1e-5
