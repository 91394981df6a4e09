"""Baselines of texts: the most frequent answer, the answer to the nearest training text, the first sentences."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np

from afina.data.split import Split
from afina.models.bag_of_words import LONGEST, WORD, joined
from afina.models.objectives import Objective
from afina.studies.choosing.floor import Floor, FloorKind

LEAD = "first sentences"

END_OF_SENTENCE = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[^a-z\s])|(?<=[。！？])|\n+")
"""Where a text is cut into sentences. A full stop before a small letter, as in `e.g. this`, ends no sentence."""

FEATURES = 2**20
"""Columns to which words are hashed, so that memory does not grow with the vocabulary."""

BLOCK = 2_000
"""Training texts that are compared at a time, with as many texts to answer."""


class TextFloors(FloorKind):
    """The most frequent target; the target of the nearest training text; the first sentences of a long text."""

    constant = "most frequent answer"
    tfidf = "TF-IDF + nearest training text"

    def fit_constant(self, train: Split, objective: Objective) -> Floor:
        """Return the most frequent target of the training split, of several the first."""
        answer = _most_frequent(train)
        return Floor(self.constant, objective, lambda split: _as_outputs([answer] * len(split)), len(train))

    def fit_tfidf(self, train: Split, objective: Objective) -> Floor:
        """Return the target of the training text with the highest cosine of TF-IDF, of equal ones the first.

        A text without a word of the training texts gets the most frequent target.
        """
        nearest = NearestText(joined(train.texts, train.pairs))
        targets, otherwise = [one[0] for one in train.labels], _most_frequent(train)

        def outputs(split: Split) -> np.ndarray:
            places = nearest.places(joined(split.texts, split.pairs))
            return _as_outputs([otherwise if place < 0 else targets[place] for place in places])

        return Floor(self.tfidf, objective, outputs, len(train))

    def fit(self, train: Split, objective: Objective) -> list[Floor]:
        """Return the baselines; the first sentences only if most texts have more sentences than the targets."""
        count = _median_sentences(chain.from_iterable(train.labels))
        found = super().fit(train, objective)
        if train.pairs is not None or _median_sentences(train.texts) <= count:
            return found

        def outputs(split: Split) -> np.ndarray:
            return _as_outputs([first_sentences(text, count) for text in split.texts])

        return [*found, Floor(LEAD, objective, outputs, len(train), f"{count} of each text", {"sentences": count})]

    def unsaved(self, name: str) -> str:
        """Return why a baseline has no adapter."""
        reasons = {self.tfidf: "it needs the training texts themselves", LEAD: "it has no trained numbers"}
        return reasons.get(name, super().unsaved(name))


class NearestText:
    """Training texts, to find the one with the highest cosine of TF-IDF of words and pairs of words.

    Memory does not grow with the number of training texts, beyond the texts themselves: their TF-IDF is computed anew
    in blocks.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer

        first: dict[str, int] = {}
        for place, text in enumerate(texts):
            first.setdefault(text, place)
        self._texts, self._firsts = list(first), np.fromiter(first.values(), np.int64, len(first))
        self._words = HashingVectorizer(
            n_features=FEATURES, ngram_range=(1, LONGEST), token_pattern=WORD, norm=None, alternate_sign=False,
            dtype=np.float32,
        )  # fmt: skip
        counts = np.zeros(FEATURES, dtype=np.int64)
        for block in _blocks(self._texts):
            counts += np.bincount(self._words.transform(block).indices, minlength=FEATURES)
        self._idf = (np.log((1 + len(self._texts)) / (1 + counts)) + 1).astype(np.float32)

    def places(self, texts: Sequence[str]) -> np.ndarray:
        """Return the place of the nearest training text to each text, of equal ones the first, int64 [N].

        -1: the text shares no word with any training text.
        """
        asked = [self._weighed(block) for block in _blocks(texts)]
        best = [np.zeros(rows.shape[0], dtype=np.float32) for rows in asked]
        places = [np.full(len(scores), -1, dtype=np.int64) for scores in best]
        start = 0
        for block in _blocks(self._texts):
            known = self._weighed(block).T.tocsr()
            for rows, scores, found in zip(asked, best, places, strict=True):
                cosines = (rows @ known).toarray()
                nearest = cosines.argmax(axis=1)
                highest = cosines[np.arange(len(nearest)), nearest]
                better = highest > scores
                scores[better], found[better] = highest[better], self._firsts[start + nearest[better]]
            start += len(block)
        return np.concatenate([np.zeros(0, dtype=np.int64), *places])

    def _weighed(self, texts: Sequence[str]) -> Any:
        """Return TF-IDF rows of length 1, a sparse matrix, float32 [N, FEATURES]."""
        from sklearn.preprocessing import normalize

        rows = self._words.transform(texts)
        rows.data = (1 + np.log(rows.data)) * self._idf[rows.indices]
        return normalize(rows, copy=False)


def first_sentences(text: str, count: int) -> str:
    """Return the first `count` sentences of a text, or all of it if it has fewer."""
    return text[: next(islice(_ends(text), count - 1, None), len(text))].strip()


def _ends(text: str) -> Iterator[int]:
    """Yield where each sentence of a text ends."""
    start = 0
    for end in chain((cut.end() for cut in END_OF_SENTENCE.finditer(text)), [len(text)]):
        if text[start:end].strip():
            yield end
            start = end


def _median_sentences(texts: Iterable[str]) -> int:
    """Return the median number of sentences, at least 1."""
    return max(1, int(np.median([sum(1 for _ in _ends(text)) for text in texts])))


def _most_frequent(train: Split) -> str:
    (answer, _), *_ = Counter[str](chain.from_iterable(train.labels)).most_common(1)
    return answer


def _as_outputs(answers: Sequence[str]) -> np.ndarray:
    return np.array(answers, dtype=object)


def _blocks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(texts), BLOCK):
        yield texts[start : start + BLOCK]
