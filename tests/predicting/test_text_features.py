"""The features of texts are what transformers' own model gives, and do not depend on other texts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from afina import Backbone
from afina.errors import InvalidStudy
from afina.events import Progress
from afina.predicting.text_features import FeatureModel
from fakes import sentences
from raises import raises
from tagging import OBJECTIVE


def test_a_feature_is_the_hidden_state_that_transformers_head_reads(gpt2: Backbone) -> None:
    texts = [text for text, _ in sentences(9)]
    told: list[Progress] = []
    found = FeatureModel(gpt2).of_texts(texts, listen=told.append)
    model = AutoModelForSequenceClassification.from_pretrained(gpt2.path).eval()
    for text, row in zip(texts, found, strict=True):
        with torch.inference_mode():
            states = model.transformer(**gpt2.tokenizer(text, return_tensors="pt")).last_hidden_state
        np.testing.assert_allclose(row, states[0, -1].numpy(), atol=1e-5)
    assert told[-1].step == told[-1].steps == len(texts)
    np.testing.assert_allclose(FeatureModel(gpt2).of_texts(texts[::-1])[::-1], found, atol=1e-5)


def test_words_of_a_decoder_have_features_whatever_pooling_of_texts_its_files_say(
    gpt2: Backbone, tmp_path: Path
) -> None:
    place = tmp_path / "model"
    shutil.copytree(gpt2.path, place)
    (place / "1_Pooling").mkdir()
    (place / "modules.json").write_text(json.dumps([{"path": "1_Pooling", "type": "st.Pooling"}]))
    (place / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "cls"}))
    texts = [text for text, _ in sentences(3)]
    found = FeatureModel(Backbone.load(str(place)), OBJECTIVE).of_words(texts)
    np.testing.assert_array_equal(found.rows, FeatureModel(gpt2, OBJECTIVE).of_words(texts).rows)
    with raises(InvalidStudy, code="method.setting-invalid", pooling="first"):
        FeatureModel(Backbone.load(str(place)))
