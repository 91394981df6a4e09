"""Prompt and prefix tuning, packed, are transformers' own models with the virtual tokens before each text alone."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, LlamaModel

from afina import Backbone
from afina.data.batch import pack
from afina.data.loader import Loader
from afina.errors import CorruptAdapter, InvalidStudy
from afina.methods import make
from afina.models.classifier import Classifier
from afina.models.families import FAMILIES
from afina.models.virtual_tokens import attentions, prefix_of, prompt_of
from fakes import TEXTS, WINDOW, Backbones, encoded, fit_of, opened, reference, sentences

TOLERANCE = 1e-5
TOKENS = 5
"""So many virtual ones; some texts of TEXTS have fewer, and one is longer than Mistral's window without them."""

CACHE = "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"
"""What transformers calls it: the former since 5.24."""

BOTH = ("prompt", "prefix")
CASES = [(family, name) for family in FAMILIES for name in BOTH]


class Alone:
    """transformers' own classifier, in which virtual tokens stand before one text at a time."""

    def __init__(self, backbone: Backbone, seed: int = 0) -> None:
        plain = Classifier.open(backbone, ("bad", "good"), seed)
        self.model = reference(backbone.path, plain, 2, backbone.tokenizer.pad_token_id).requires_grad_(False)
        self.window = getattr(backbone.config, "sliding_window", None)

    def logits(self, tokens: np.ndarray, table: Tensor | None, columns: list[tuple[Tensor, Tensor]]) -> Tensor:
        """[1, 2]. table [K, width] of a prompt; columns: key and value of each layer, [P, G, D], of a prefix."""
        rows = self.model.get_input_embeddings()(torch.from_numpy(tokens.astype(np.int64)))
        rows = rows if table is None else torch.cat([table, rows])
        given: dict[str, Any] = {}
        if columns:
            given[CACHE] = DynamicCache([tuple(each.transpose(0, 1)[None] for each in layer) for layer in columns])
            if self.window is not None:
                given["attention_mask"] = self._mask(len(rows), len(columns[0][0]))
        return self.model(inputs_embeds=rows[None], **given).logits

    def _mask(self, length: int, before: int) -> Tensor:
        """A token sees the prefix whatever the window is, and in the window what transformers lets it see."""
        apart = torch.arange(length)[:, None] - torch.arange(length)
        seen = (apart >= 0) & (apart < self.window)
        return torch.cat([torch.ones(length, before, dtype=torch.bool), seen], 1)[None, None]


def virtual(classifier: Classifier) -> tuple[Tensor | None, list[tuple[Tensor, Tensor]]]:
    """What a classifier has, as `Alone` takes it."""
    prompt = prompt_of(classifier.body)
    prefixes = [prefix_of(attention) for attention in attentions(classifier.body)]
    return None if prompt is None else prompt.weight, [(one.key, one.value) for one in prefixes if one]


def disturbed(backbone: Backbone, name: str, seed: int = 0) -> Classifier:
    """With virtual tokens that are nothing that the model makes itself."""
    parts = {part: {"tokens": TOKENS} for part in name.split("+") if part in BOTH}
    method = make(name, parts if "+" in name else parts[name]).for_family(backbone.family)
    classifier = opened(backbone, method, seed)
    with torch.no_grad():
        for parameter in method.trainable(classifier.model).values():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return classifier


def texts(backbone: Backbone) -> list[np.ndarray]:
    tokens, _ = encoded(backbone, [(text, 0) for text in TEXTS])
    return [tokens[index] for index in range(len(tokens))]


def together(classifier: Classifier, sequences: list[np.ndarray]) -> Tensor:
    with torch.inference_mode():
        return classifier.eval()(pack(sequences))


def difference(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def alone(backbone: Backbone, classifier: Classifier, sequences: list[np.ndarray]) -> Tensor:
    """What transformers gives, under the classifier's head."""
    by_itself = Alone(backbone)
    heads = [p for name, p in classifier.model.named_parameters() if "score" in name and "original" not in name]
    by_itself.model.score.weight.data.copy_(heads[0])
    with torch.no_grad():
        return torch.cat([by_itself.logits(tokens, *virtual(classifier)) for tokens in sequences])


@pytest.mark.parametrize(("family", "name"), [*CASES, ("gpt2", "prompt+prefix"), ("llama", "prefix+prompt")])
def test_packed_logits_are_those_of_transformers_one_text_at_a_time(
    backbones: Backbones, family: str, name: str
) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    classifier, sequences = disturbed(backbone, name), texts(backbone)
    assert min(map(len, sequences)) < TOKENS < WINDOW < max(map(len, sequences)) - TOKENS
    found, expected = together(classifier, sequences), alone(backbone, classifier, sequences)
    assert difference(found, expected) <= TOLERANCE
    without = together(Classifier.open(backbone, ("bad", "good"), 0), sequences)
    assert difference(without, expected) > 1000 * TOLERANCE
