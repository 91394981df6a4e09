"""Token classifiers in other precisions and with virtual tokens: the words' logits are those of each text alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from afina import Backbone
from afina.data.batch import pack_some
from afina.methods import make
from afina.models.kernels.linear import held_tensors
from afina.models.pretrained import meta_model
from fakes import Backbones, difference
from openings import same
from tagging import OBJECTIVE, loader, logits_of, opened

TOLERANCE = 1e-5


def test_a_token_classifier_opened_in_int8_is_the_one_that_was_held_after_opening(backbones: Backbones) -> None:
    path = str(backbones.path("bert"))
    plain, backbone = Backbone.load(path), Backbone.load(path)
    expected, found = opened(plain), opened(backbone, precision="int8")
    digest = plain.digest_of(expected.body)
    exact = logits_of(expected, loader(plain, 8))
    expected.hold("int8")
    assert held_tensors(found)
    assert same(found, expected)
    assert backbone.digest_of(found.body) == digest == Backbone.load(path).digest
    assert 1e-6 < difference(logits_of(found, loader(plain, 8)), exact) < 0.1


@pytest.mark.parametrize(("family", "name"), [("llama", "prompt"), ("mistral", "prefix")])
@torch.inference_mode()
def test_words_behind_virtual_tokens_have_the_logits_of_their_text_alone(
    backbones: Backbones, family: str, name: str
) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    model = opened(backbone, make(name, {"tokens": 3}).for_family(family)).eval()
    encoded = loader(backbone, 6).encoded
    alone = np.concatenate([model.outputs(pack_some(encoded, [index])) for index in range(6)])
    assert difference(model.outputs(pack_some(encoded, range(6))), alone) <= TOLERANCE
    assert difference(opened(backbone).eval().outputs(pack_some(encoded, range(6))), alone) > 1000 * TOLERANCE


@torch.inference_mode()
def test_words_in_bfloat16_have_nearly_the_logits_of_float32(gpt2: Backbone) -> None:
    encoded = loader(gpt2, 6).encoded
    model = opened(gpt2).eval()
    expected = model.outputs(pack_some(encoded, range(6)))
    model.lower(torch.bfloat16)
    found = model.outputs(pack_some(encoded, range(6)))
    assert found.dtype == np.float32
    assert 1e-5 < difference(found, expected) < 0.1
    assert model.output_layer.weight.dtype == torch.float32


def test_a_batch_in_which_no_word_is_read_has_no_logits(backbones: Backbones) -> None:
    for family in ("gpt2", "bert", "llama"):
        backbone = Backbone.load(str(backbones.path(family)))
        encoded = loader(backbone, 2).encoded
        encoded.reads[:] = -100  # type: ignore[index]
        packed = pack_some(encoded, range(2))
        assert packed.learnt == 0
        with torch.inference_mode():
            assert opened(backbone).eval().outputs(packed).shape == (0, OBJECTIVE.width)


def test_a_meta_model_of_a_token_classifier_has_the_names_and_shapes_of_the_open_one(backbones: Backbones) -> None:
    path = Path(backbones.path("bert"))
    empty = meta_model(str(path), OBJECTIVE.width, OBJECTIVE.opening)
    model = opened(Backbone.load(str(path))).model
    assert {name: one.shape for name, one in empty.named_parameters()} == {
        name: one.shape for name, one in model.named_parameters()
    }
    assert not any("pooler" in name for name, _ in empty.named_parameters())
