"""Bag of words: a linear model of which words and pairs of words a text has, weighted by TF-IDF. Needs no backbone.

What scikit-learn's TfidfVectorizer and LogisticRegression compute, from their numbers alone, so that an adapter of it
is data and no program, and opens with any version of that library, or none. Knows no task, and not how it is fitted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

from afina import digest
from afina.data.leakage import TextHashes
from afina.errors import CorruptAdapter
from afina.models.adapter import Adapter
from afina.models.manifest import Manifest

METHOD = "tfidf"
TENSOR_FILE = "weights.safetensors"

WORD, LONGEST = r"\b\w+\b", 2
"""What a word is, and how many words in a row are a term, at most."""


def joined(texts: Sequence[str], pairs: Sequence[str] | None) -> list[str]:
    """The texts, each with the second text of its pair."""
    return list(texts) if pairs is None else [f"{text} {pair}" for text, pair in zip(texts, pairs, strict=True)]


@dataclass(frozen=True, eq=False)
class BagOfWords:
    """V terms and L labels.

    vocabulary  the terms: words in lower case, or several with a space between
    idf         float64 [V], the inverse document frequency of each
    weights     float64 [L, V];  bias  float64 [L]
    """

    vocabulary: tuple[str, ...]
    idf: np.ndarray
    weights: np.ndarray
    bias: np.ndarray

    @cached_property
    def _places(self) -> dict[str, int]:
        return {term: place for place, term in enumerate(self.vocabulary)}

    def outputs(self, texts: Sequence[str]) -> np.ndarray:
        """Logits, float64 [N, L]. A text without any of the terms has the bias."""
        made = np.tile(self.bias, (len(texts), 1))
        for row, text in enumerate(texts):
            counts = Counter(self._places[term] for term in _terms(text) if term in self._places)
            if counts:
                places = np.fromiter(counts, np.int64, len(counts))
                weighted = (1 + np.log(np.fromiter(counts.values(), np.float64, len(counts)))) * self.idf[places]
                made[row] += self.weights[:, places] @ (weighted / np.linalg.norm(weighted))
        return made

    def adapter(
        self,
        label_names: Sequence[str],
        hyperparameters: Mapping[str, Any],
        trained_on: TextHashes | None = None,
        **origin: Any,
    ) -> Adapter:
        """An adapter of it, for labels in the order of its rows; `origin`: fields of a manifest that say whence."""
        import torch

        arrays = {"idf": self.idf, "weights": self.weights, "bias": self.bias}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        manifest = Manifest(
            method=METHOD,
            hyperparameters=dict(hyperparameters),
            label_names=tuple(label_names),
            backbone=None,
            backbone_digest=None,
            tokenizer_digest=None,
            family=None,
            tensor_file=TENSOR_FILE,
            tensors_digest=digest.of_tensors(tensors),
            vocabulary_digest=digest.of_strings(self.vocabulary),
            max_length=0,
            **origin,
        )
        return Adapter(manifest, tensors, vocabulary=self.vocabulary, trained_on=trained_on)

    @classmethod
    def of(cls, adapter: Adapter) -> Self:
        """That of an adapter with a vocabulary. Raises CorruptAdapter where its parts do not fit."""
        terms, labels = adapter.vocabulary or (), len(adapter.manifest.label_names)
        shapes = {"idf": [len(terms)], "weights": [labels, len(terms)], "bias": [labels]}
        found = {name: list(tensor.shape) for name, tensor in adapter.tensors.items()}
        if adapter.manifest.method != METHOD or found != shapes:
            raise CorruptAdapter(
                f"{adapter.where}: a {adapter.manifest.method!r} adapter of {len(terms):,} terms and {labels} labels "
                f"has tensors {found}, expected {METHOD!r} and {shapes}. Copy the adapter again, or make it again.",
                code="adapter.tensors-mismatch",
                where=adapter.where,
            )
        arrays = {name: tensor.double().numpy() for name, tensor in adapter.tensors.items()}
        if len(set(terms)) < len(terms) or not all(np.isfinite(array).all() for array in arrays.values()):
            raise CorruptAdapter(
                f"{adapter.where}: a term occurs twice, or a weight is no number. Make it again.",
                code="adapter.values-invalid",
                where=adapter.where,
            )
        return cls(terms, **arrays)


def _terms(text: str) -> list[str]:
    words = re.findall(WORD, text.lower())
    return [
        " ".join(words[start : start + length])
        for length in range(1, LONGEST + 1)
        for start in range(len(words) - length + 1)
    ]
