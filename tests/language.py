"""Language models for tests: opened, with prompts and references of the invented sentences, and a training session."""

from __future__ import annotations

from typing import Any

import torch

from afina import Backbone
from afina.data.answer_tokens import encode_references
from afina.data.batch import Loader
from afina.data.template import Template
from afina.data.tokenize import encode
from afina.methods.attachment import attach
from afina.methods.method import Method
from afina.models.language_model import LanguageModel, open_model
from afina.models.objectives import Texts
from afina.training.fit import Fit
from fakes import BATCH, recipe, sentences

TEMPLATE = Template("Asked: {text}\nAnswer:")
OBJECTIVE = Texts(("answer",))


def opened(backbone: Backbone, method: Method | None = None, seed: int = 0) -> LanguageModel:
    """A language model, with the method attached if there is one."""
    model = open_model(backbone, OBJECTIVE.label_names, seed, OBJECTIVE.opening)
    assert isinstance(model, LanguageModel)
    if method is not None:
        torch.manual_seed(seed)
        attach(model, method)
    return model


def answer(text: str) -> str:
    """A target of one to six words, which can be learnt."""
    words = text.split()
    return " ".join(words[::-1][: 1 + len(text) % 6])


def loader(backbone: Backbone, count: int, *, taken: int = 0, batch_size: int = BATCH, seed: int = 0) -> Loader:
    """Training batches of `count` sentences with an answer each; `taken`, of a method, are not left to a text."""
    texts = [text for text, _ in sentences(count)]
    prompts = encode(backbone.tokenizer, texts, max_length=backbone.longest - taken - 32, template=TEMPLATE)
    targets = [(answer(text),) for text in texts]
    references = encode_references(backbone.tokenizer, texts, None, targets, TEMPLATE)
    return Loader(*references.sequences(prompts), batch_size, seed)


def fit_of(
    model: LanguageModel, method: Method, batches: Loader, *, dtype: torch.dtype = torch.float32, **changes: Any
) -> Fit:
    """A training session at its start."""
    return Fit(model, method, OBJECTIVE, batches, recipe(**changes), dtype)
