"""A common beginning of several texts, computed once, gives the outputs of the whole texts, in every causal family."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from afina import Backbone
from afina.data.tokenize import Encoded
from afina.methods import make
from afina.models import shared_beginning
from afina.models.classifier import Classifier
from afina.models.kernels import attention, beginnings
from afina.models.shared_beginning import LEAST, SharedBeginning, common_tokens
from afina.predicting.predictor import logits
from fakes import CAUSAL, RESIZED, UNUSUAL, VOCABULARY, WINDOW, Backbones, configuration, difference, opened, save
from grid import thinned

RESTS = (1, 30, 2, 17, 5, 2)
"""Lengths of texts behind the beginning, in another order than batches have; some share a line of the grid."""


def texts(count: int = LEAST, rests: tuple[int, ...] = RESTS) -> Encoded:
    """Texts that begin with the same `count` tokens and then differ."""
    generator = np.random.default_rng(0)
    first = generator.integers(4, VOCABULARY, count)
    ends = [generator.integers(4, VOCABULARY, size) for size in rests]
    for number, end in enumerate(ends):
        end[0] = 4 + number
    return Encoded.of([np.concatenate([first, end]) for end in ends])


def whole(classifier: Classifier, encoded: Encoded) -> np.ndarray:
    """The outputs of each text alone, which has no beginning in common with another."""
    return np.concatenate([logits(classifier, Encoded.of([encoded[index]])) for index in range(len(encoded))])


@pytest.mark.parametrize("short", [256, 0], ids=["short", "long"])
@pytest.mark.parametrize("family", CAUSAL)
def test_a_common_beginning_computed_once_gives_the_outputs_of_whole_texts(
    family: str, short: int, backbones: Backbones, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mistral's sliding window is shorter than the beginning. With `short` 0, the keys stand in the row."""
    monkeypatch.setattr(attention, "SHORT", short)
    monkeypatch.setattr(beginnings, "TILE", 50)
    classifier = Classifier.open(Backbone.load(str(backbones.path(family))), ("a", "b", "c"), 0).eval()
    given = texts()
    with torch.inference_mode():
        found = SharedBeginning.of(classifier, given)
    assert found is not None
    assert found.count == LEAST > WINDOW
    assert difference(logits(classifier, given), whole(classifier, given)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("family", "kind"), thinned(CAUSAL, ("unusual", "resized"), share=2))
def test_also_with_settings_that_models_of_the_family_seldom_have(
    family: str, kind: str, backbones: Backbones, tmp_path: Path
) -> None:
    settings = {"unusual": UNUSUAL, "resized": RESIZED}[kind]
    path = save(configuration(family, **settings[family]), backbones.tokenizer(family), tmp_path / family)
    classifier = Classifier.open(Backbone.load(str(path)), ("a", "b", "c"), 0).eval()
    assert difference(logits(classifier, texts(80)), whole(classifier, texts(80))) < 1e-5


def test_a_shorter_beginning_changes_no_bit(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, given = Classifier.open(llama, ("a", "b"), 0), texts(LEAST - 1)
    found = logits(classifier, given)
    monkeypatch.setattr(shared_beginning, "LEAST", 10**9)
    assert found.tobytes() == logits(classifier, given).tobytes()


def test_what_is_common_leaves_each_text_a_token() -> None:
    assert common_tokens(texts(20)) == 20
    same = Encoded.of([np.arange(10), np.arange(7), np.arange(9)])
    assert common_tokens(same) == 6


@pytest.mark.parametrize("name", ["prompt", "prefix"])
def test_a_method_with_virtual_tokens_computes_whole_texts(name: str, llama: Backbone) -> None:
    classifier = opened(llama, make(name).for_backbone(llama))
    assert SharedBeginning.of(classifier, texts()) is None


def test_lora_and_bfloat16_read_the_beginning_too(llama: Backbone) -> None:
    classifier = opened(llama, make("lora").for_backbone(llama))
    with torch.no_grad():
        for name, parameter in classifier.named_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1 * ("lora_B" in name))
    expected = whole(classifier, texts())
    assert difference(logits(classifier, texts()), expected) < 1e-5
    classifier.lower(torch.bfloat16)
    assert difference(logits(classifier, texts()), expected) < 0.05


def test_one_text_and_an_encoder_have_no_common_beginning(llama: Backbone, backbones: Backbones) -> None:
    assert SharedBeginning.of(Classifier.open(llama, ("a", "b"), 0), texts(rests=(3,))) is None
    encoder = Classifier.open(Backbone.load(str(backbones.path("bert"))), ("a", "b"), 0)
    assert SharedBeginning.of(encoder, texts()) is None
