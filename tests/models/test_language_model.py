"""A language model over a packed row gives the losses that transformers' own model gives for each text alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from afina import Backbone
from afina.data.answer_tokens import encode_references
from afina.data.batch import IGNORED, pack
from afina.data.template import Template
from afina.data.tokenize import encode
from afina.errors import InvalidStudy
from afina.generating.answers import likelihoods
from afina.methods import METHODS, make
from afina.methods.attachment import attach
from afina.models.language_model import LanguageModel, open_model
from afina.models.objective import Opening
from fakes import CAUSAL, TEXTS, Backbones, difference, serves
from raises import raises

TOLERANCE = 1e-5
OPENING = Opening("", "language_model")
TEMPLATE = Template("Asked: {text}\nAnswer:")
TARGETS = [("The soup was warm.", "A warm soup"), ("Nobody asked.",), ("clever", "honest", "a lovely ferry")]


def opened(backbone: Backbone) -> LanguageModel:
    made = open_model(backbone, ("answer",), 0, OPENING)
    assert isinstance(made, LanguageModel)
    return made.eval()


@torch.inference_mode()
def plain(backbone: Backbone, prompt: np.ndarray, answer: np.ndarray) -> float:
    """The sum of the losses of an answer's tokens, by transformers on this text alone."""
    model = AutoModelForCausalLM.from_pretrained(backbone.path, dtype=torch.float32, attn_implementation="sdpa").eval()
    ids = torch.tensor([[*prompt.tolist(), *answer.tolist()]])
    labels = ids.clone()
    labels[:, : len(prompt)] = IGNORED
    return float(model(ids, labels=labels).loss) * len(answer)


@pytest.mark.parametrize("family", CAUSAL)
def test_the_likelihood_of_each_reference_is_that_of_transformers_alone(family: str, backbones: Backbones) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    texts = TEXTS[: len(TARGETS)]
    prompts = encode(backbone.tokenizer, texts, max_length=80, template=TEMPLATE)
    references = encode_references(backbone.tokenizer, texts, None, TARGETS, TEMPLATE)
    found = likelihoods(opened(backbone), prompts, references)
    expected = [0.0] * len(texts)
    for number, owner in enumerate(references.owners.tolist()):
        expected[owner] += plain(backbone, prompts[owner], references.tokens[number])
    assert difference(torch.tensor(found["nll"]), torch.tensor(expected)) < TOLERANCE
    counts = np.bincount(references.owners, references.tokens.lengths)
    assert found["reference_tokens"].tolist() == counts.tolist()


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_adapts_a_language_model_or_says_why_not(method: str, backbones: Backbones) -> None:
    if not serves("gpt2", method):
        with raises(InvalidStudy, code="method.family-unsupported", method=method):
            make(method).for_family("gpt2")
        return
    backbone = Backbone.load(str(backbones.path("gpt2")))
    model = opened(backbone)
    chosen = make(method).for_family("gpt2")
    if method in ("baseline", "head", "linear_probe"):
        with raises(InvalidStudy, code="method.head-missing", method=method):
            attach(model, chosen)
        return
    attach(model, chosen)
    trained = chosen.trainable(model.model)
    assert bool(trained) == (method != "zero-shot")
    if not trained:
        return
    tokens = [np.array([5, 6, 7, 8]), np.array([9, 10, 11])]
    targets = [np.array([IGNORED, 7, 8, 0]), np.array([IGNORED, IGNORED, 3])]
    losses: Any = model(pack(tokens, targets, per_token=True))
    assert losses.shape == (4,)
    losses.mean().backward()
    learnt = [name for name, parameter in trained.items() if parameter.grad is not None and parameter.grad.any()]
    assert learnt, f"{method}: no trained parameter has a gradient"


def test_tied_embeddings_stay_one_tensor_with_the_gradient_of_both_uses(backbones: Backbones) -> None:
    backbone = Backbone.load(str(backbones.path("gpt2", dropout=0.0)))
    model = opened(backbone)
    attach(model, make("full"))
    embedding = model.body.get_input_embeddings()
    assert model.output_embedding.weight is embedding.weight
    model(pack([np.array([5, 6, 7])], [np.array([IGNORED, 7, 0])], per_token=True)).mean().backward()
    alone = AutoModelForCausalLM.from_pretrained(backbone.path, dtype=torch.float32)
    alone(torch.tensor([[5, 6, 7, 0]]), labels=torch.tensor([[IGNORED, IGNORED, 7, 0]])).loss.backward()
    assert difference(embedding.weight.grad, alone.get_input_embeddings().weight.grad) < TOLERANCE
