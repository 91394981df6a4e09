"""Features of texts or of words: the hidden states of a frozen backbone, which a linear probe reads.

The module `text_features` trains nothing, and does not know labels or tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from afina import device as devices
from afina.allocator import keep_freed
from afina.data.batch import by_length
from afina.data.split import Split
from afina.data.tokenize import encode
from afina.data.word_tokens import WordTokens, encode_words
from afina.events import Listener, Progress, ignore
from afina.methods import make
from afina.methods.attachment import attach
from afina.models.backbone import Backbone
from afina.models.classifier import Classifier
from afina.models.feature_rows import FeatureRows
from afina.models.objective import Objective

METHOD = "linear_probe"
"""The method whose pooling the features have: that of sentence-transformers' files, else that of the model family."""

LONGEST = 512
"""The largest number of tokens of a text; longer texts are truncated."""


def text_features(
    backbone: Backbone,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    listen: Listener = ignore,
    *,
    where: str = "text",
) -> np.ndarray:
    """Return the features of N texts, float32 [N, width], in the order of the texts.

    The features are those to which scikit-learn fits the head of a linear probe on `backbone`.

    Args:
        pairs: The second text of each pair. None: single texts.
        listen: Called with the progress, in texts.
        where: A name for the texts in error messages.

    Raises InvalidData for a text without tokens, and InvalidStudy if the backbone has no pooling for a linear probe.
    """
    method = make(METHOD).for_backbone(backbone)
    classifier = Classifier.open(backbone, ("0", "1"), seed=0)
    attach(classifier, method)
    device = devices.choose()
    classifier.to(device)
    keep_freed()
    encoded = encode(backbone.tokenizer, texts, pairs, max_length=min(LONGEST, backbone.longest), where=where)
    made = np.zeros((len(encoded), int(classifier.output_layer.in_features)), np.float32)
    done = 0
    with torch.inference_mode():
        for indices, packed in by_length(encoded):
            made[indices] = classifier.head_input(packed.to(device)).cpu().numpy()
            done += len(indices)
            listen(Progress("evaluate", done, len(encoded)))
    return made


def features_of(backbone: Backbone, split: Split, objective: Objective, listen: Listener = ignore) -> FeatureRows:
    """Return the features of the texts of a split, or of their words if the kind of task reads words."""
    if objective.reads_words:
        return word_features(backbone, split.texts, objective, spaced=split.spaced, listen=listen)
    return FeatureRows(text_features(backbone, split.texts, split.pairs, listen))


def word_features(
    backbone: Backbone,
    texts: Sequence[str],
    objective: Objective,
    *,
    spaced: bool = False,
    listen: Listener = ignore,
    where: str = "text",
) -> FeatureRows:
    """Return the features of the words of N texts: the hidden states of their first tokens, in windows of LONGEST.

    Args:
        objective: The kind of task, which says how transformers opens the backbone.
        spaced: Whether the texts were given as words, between which there are single spaces.
        listen: Called with the progress, in windows.
        where: A name for the texts in error messages.

    Raises InvalidData for a text without tokens.
    """
    classifier = Classifier.open(backbone, objective.output_names, seed=0, opening=objective.opening)
    attach(classifier, make(METHOD).for_opening(objective.opening).for_backbone(backbone))
    device = devices.choose()
    classifier.to(device)
    keep_freed()
    most = min(LONGEST, backbone.longest)
    encoded = encode_words(backbone.tokenizer, texts, max_length=most, spaced=spaced, where=where)
    width = int(classifier.output_layer.in_features)
    windows: list[np.ndarray] = [np.zeros((0, width), np.float32)] * len(encoded)
    done = 0
    with torch.inference_mode():
        for indices, packed in by_length(encoded):
            made = classifier.head_input(packed.to(device)).cpu().numpy()
            ends = np.cumsum([len(encoded.read_in(index)) for index in indices.tolist()])
            for index, rows in zip(indices.tolist(), np.split(made, ends[:-1]), strict=True):
                windows[index] = rows
            done += len(indices)
            listen(Progress("evaluate", done, len(encoded)))
    return FeatureRows(np.concatenate([*_of_words(encoded, windows, width)]), encoded.words)


def _of_words(encoded: WordTokens, windows: Sequence[np.ndarray], width: int) -> Iterator[np.ndarray]:
    """Yield the features of each text's words, given those of the words that are read in each window.

    A word without a token of its own has the features of the word before, or 0 if it is the first.
    """
    for text, words in enumerate(encoded.words):
        rows, known = np.zeros((len(words), width), np.float32), np.zeros(len(words), np.int64)
        for window in encoded.windows_of(text):
            read = encoded.read_in(window)
            rows[read], known[read] = windows[window], read
        yield rows[np.maximum.accumulate(known)] if len(words) else rows
