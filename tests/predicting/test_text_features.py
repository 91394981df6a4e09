"""The features of texts are what transformers' own model gives, and do not depend on other texts."""

from __future__ import annotations

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from afina import Backbone
from afina.events import Progress
from afina.predicting.text_features import text_features
from fakes import sentences


def test_a_feature_is_the_hidden_state_that_transformers_head_reads(gpt2: Backbone) -> None:
    texts = [text for text, _ in sentences(9)]
    told: list[Progress] = []
    found = text_features(gpt2, texts, listen=told.append)
    model = AutoModelForSequenceClassification.from_pretrained(gpt2.path).eval()
    for text, row in zip(texts, found, strict=True):
        with torch.inference_mode():
            states = model.transformer(**gpt2.tokenizer(text, return_tensors="pt")).last_hidden_state
        np.testing.assert_allclose(row, states[0, -1].numpy(), atol=1e-5)
    assert told[-1].step == told[-1].steps == len(texts)
    np.testing.assert_allclose(text_features(gpt2, texts[::-1])[::-1], found, atol=1e-5)
