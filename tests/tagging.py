"""Token classifiers for tests: opened, with the words of invented sentences and their entities, and a session."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from afina import Backbone
from afina.data.batch import Loader
from afina.data.entities import Entity, as_entities
from afina.data.word_tokens import WordTokens, encode_words
from afina.methods.attachment import attach
from afina.methods.method import Method
from afina.models.classifier import Classifier
from afina.models.language_model import open_model
from afina.models.token_classification import Entities
from afina.training import probe_fit
from afina.training.fit import Fit
from fakes import BAD, BATCH, GOOD, THINGS, recipe, sentences

OBJECTIVE = Entities(("bad", "good", "thing"))
_LABELS = {word: name for name, words in zip(OBJECTIVE.label_names, (BAD, GOOD, THINGS), strict=True) for word in words}


def entities_in(text: str) -> tuple[Entity, ...]:
    """The adjectives and things of a sentence; a thing has its article, so that tags I- occur."""
    found, at = [], 0
    for word in text.split(" "):
        bare = word.strip(".,!?;")
        if bare in _LABELS:
            label = _LABELS[bare]
            start = at - 4 if label == "thing" and text[max(0, at - 4) : at].lower() == "the " else at
            found.append(Entity(start, at + len(bare), label))
        at += len(word) + 1
    return tuple(found)


def words_of_sentences(backbone: Backbone, count: int, *, max_length: int | None = None, seed: int = 0) -> WordTokens:
    texts = [text for text, _ in sentences(count, seed=seed)]
    return encode_words(backbone.tokenizer, texts, max_length=max_length or backbone.longest)


def loader(
    backbone: Backbone, count: int, *, taken: int = 0, batch_size: int = BATCH, seed: int = 0, longest: int = 0
) -> Loader:
    """Training batches of `count` sentences; `taken`, of a method, are not left to a text."""
    encoded = words_of_sentences(backbone, count, max_length=longest or backbone.longest - taken)
    targets = as_entities(entities_in(text) for text, _ in sentences(count))
    tags = encoded.tagged(OBJECTIVE.loss_targets(targets))
    return Loader(encoded, tags, batch_size, seed, owners=encoded.owners)


def opened(backbone: Backbone, method: Method | None = None, seed: int = 0, precision: str = "float") -> Classifier:
    """A token classifier, with the method attached if there is one."""
    model = open_model(backbone, OBJECTIVE.output_names, seed, OBJECTIVE.opening, precision=precision)
    if method is not None:
        torch.manual_seed(seed)
        attach(model, method)
    return model


def fit_of(
    model: Classifier, method: Method, batches: Loader, *, dtype: torch.dtype = torch.float32, **changes: Any
) -> Fit:
    """A training session at its start."""
    return probe_fit.fit_of(method)(model, method, OBJECTIVE, batches, recipe(**changes), dtype)


@torch.inference_mode()
def logits_of(model: Classifier, batches: Loader) -> np.ndarray:
    """The logits of the words of the first batch, without dropout."""
    (packed,) = batches.batches(0, 1)
    return model.eval().outputs(packed)
