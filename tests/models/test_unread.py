"""A model opened with stand-ins for its weights: what a method may do to it, and what is refused."""

from __future__ import annotations

import pytest
import torch

from afina import Backbone
from afina.errors import NotFound
from afina.methods import make
from afina.methods.attachment import attach
from afina.models.classifier import Classifier
from afina.models.weights.unread import computed_from_stand_ins, is_stand_in
from fakes import Backbones
from raises import raises


def unread(backbone: Backbone, precision: str = "float") -> Classifier:
    return Classifier.open(backbone, ("bad", "good"), 0, precision=precision, unread=True)


@pytest.mark.parametrize("precision", ["float", "int8"])
def test_the_body_is_not_read_and_the_head_is_that_of_a_read_model(gpt2: Backbone, precision: str) -> None:
    made, read = unread(gpt2, precision), Classifier.open(gpt2, ("bad", "good"), 0, precision=precision)
    assert all(is_stand_in(each) for each in made.body.parameters())
    assert torch.equal(made.output_layer.weight, read.output_layer.weight)
    assert made.parameter_count == read.parameter_count


def test_the_digest_of_unread_weights_is_that_of_read_weights(backbones: Backbones) -> None:
    path = str(backbones.path("gpt2"))
    read, other = Backbone.load(path), Backbone.load(path)
    expected = read.digest_of(Classifier.open(read, ("bad", "good"), 0).body)
    assert other.digest_of(unread(other).body) == expected


def test_a_head_of_label_words_reads_tied_embeddings_from_the_file(gpt2: Backbone) -> None:
    words = [[5, 6], [9]]
    made, read = (Classifier.open(gpt2, ("bad", "good"), 0, words, unread=which) for which in (True, False))
    assert torch.equal(made.output_layer.weight, read.output_layer.weight)


def test_a_method_begins_with_the_same_random_weights(gpt2: Backbone) -> None:
    method = make("lora").for_family("gpt2")
    states = []
    for classifier in (unread(gpt2), Classifier.open(gpt2, ("bad", "good"), 0)):
        torch.manual_seed(3)
        attach(classifier, method)
        states.append(method.state(classifier.model))
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not any(tensor.isnan().any() for tensor in states[0].values())


def test_a_value_computed_from_unread_weights_is_found(gpt2: Backbone) -> None:
    classifier = unread(gpt2)
    attach(classifier, make("lora", {"dora": True}).for_family("gpt2"))
    found = [name for name in computed_from_stand_ins(classifier.model) if "magnitude" in name]
    assert len(found) == 2  # one for each block


def test_weights_outside_of_safetensors_files_are_refused(gpt2: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("afina.models.backbone.stored_tensors", lambda path: None)
    with raises(NotFound, code="backbone.unreadable"):
        unread(gpt2)
