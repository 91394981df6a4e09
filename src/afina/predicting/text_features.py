"""Features of texts or of words: the hidden states of a frozen backbone, which a linear probe reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from afina import device as devices
from afina.allocator import keep_freed
from afina.data.batch import by_length
from afina.data.split import Split
from afina.data.tokenize import Encoded, encode
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


class FeatureModel:
    """A frozen backbone, opened once, that computes the features to which scikit-learn fits a linear probe's head.

    Features of words are the hidden states of their first tokens. The head of `classifier` is not used.
    """

    def __init__(self, backbone: Backbone, objective: Objective | None = None) -> None:
        """Open the backbone for a kind of task; None: for texts.

        Raises InvalidStudy if it has no pooling for a linear probe.
        """
        self.backbone, self.reads_words = backbone, objective is not None and objective.reads_words
        method = make(METHOD)
        if objective is not None and objective.reads_words:
            names, opening = objective.output_names, objective.opening
            method = method.for_opening(opening)
            self.classifier = Classifier.open(backbone, names, seed=0, opening=opening)
        else:
            self.classifier = Classifier.open(backbone, ("0", "1"), seed=0)
        attach(self.classifier, method.for_backbone(backbone))
        self.device = devices.choose()
        self.classifier.to(self.device)

    @property
    def longest(self) -> int:
        return min(LONGEST, self.backbone.longest)

    @property
    def width(self) -> int:
        return int(self.classifier.output_layer.in_features)

    def of(self, split: Split, listen: Listener = ignore) -> FeatureRows:
        if self.reads_words:
            return self.of_words(split.texts, spaced=split.spaced, listen=listen)
        return FeatureRows(self.of_texts(split.texts, split.pairs, listen))

    def of_texts(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, listen: Listener = ignore
    ) -> np.ndarray:
        """Return the features of N texts, float32 [N, width]. Raises InvalidData for a text without tokens."""
        encoded = encode(self.backbone.tokenizer, texts, pairs, max_length=self.longest)
        made = np.zeros((len(encoded), self.width), np.float32)
        for indices, rows in self._computed(encoded, listen):
            made[indices] = rows
        return made

    def of_words(self, texts: Sequence[str], *, spaced: bool = False, listen: Listener = ignore) -> FeatureRows:
        """Return the features of the words of N texts, in windows of at most LONGEST tokens.

        `spaced` is as in `Predictor.predict`. Raises InvalidData for a text without tokens.
        """
        encoded = encode_words(self.backbone.tokenizer, texts, max_length=self.longest, spaced=spaced)
        windows: list[np.ndarray] = [np.zeros((0, self.width), np.float32)] * len(encoded)
        for indices, made in self._computed(encoded, listen):
            ends = np.cumsum([len(encoded.read_in(index)) for index in indices.tolist()])
            for index, rows in zip(indices.tolist(), np.split(made, ends[:-1]), strict=True):
                windows[index] = rows
        return FeatureRows(np.concatenate([*_of_words(encoded, windows, self.width)]), encoded.words)

    def _computed(self, encoded: Encoded, listen: Listener) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the indices of the sequences of each batch, and their features."""
        keep_freed()
        computed = np.zeros(len(encoded), bool)
        with torch.inference_mode():
            for indices, packed in by_length(encoded):
                yield indices, self.classifier.head_input(packed.to(self.device)).cpu().numpy()
                computed[indices] = True
                listen(Progress("evaluate", encoded.whole_texts(computed), encoded.texts))


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
