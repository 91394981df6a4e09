"""Bag of words: a linear model on TF-IDF features of words and word pairs, without a pretrained model.

It computes the same as scikit-learn's TfidfVectorizer and LogisticRegression from stored numbers alone: a saved model
is data and not code, and does not depend on a version of scikit-learn.
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
from afina.data.terms import LONGEST, WORD
from afina.data.text_hashes import TextHashes
from afina.models import problems
from afina.models.adapter import Adapter
from afina.models.manifest import Manifest

METHOD = "tfidf"
TENSOR_FILE = "weights.safetensors"


@dataclass(frozen=True, eq=False)
class BagOfWords:
    """A linear model on TF-IDF features with V terms and L labels.

    Attributes:
        vocabulary: The terms: lower-case words, or several words joined by spaces.
        idf: float64 [V], the inverse document frequency of each term.
        weights: float64 [L, V].
        bias: float64 [L].
    """

    vocabulary: tuple[str, ...]
    idf: np.ndarray
    weights: np.ndarray
    bias: np.ndarray

    @cached_property
    def _places(self) -> dict[str, int]:
        return {term: place for place, term in enumerate(self.vocabulary)}

    def outputs(self, texts: Sequence[str]) -> np.ndarray:
        """Return the texts' logits, float64 [N, L]. A text without any known term has the logits `bias`."""
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
        """Return the model as an adapter; `origin` are fields of the manifest that say where the model comes from."""
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
        ).sealed()
        return Adapter(manifest, tensors, vocabulary=self.vocabulary, trained_on=trained_on)

    @classmethod
    def of(cls, adapter: Adapter) -> Self:
        """Return the model in a saved adapter, or raise CorruptAdapter if parts do not fit or a value is not finite."""
        terms, labels = adapter.vocabulary or (), len(adapter.manifest.label_names)
        shapes = {"idf": [len(terms)], "weights": [labels, len(terms)], "bias": [labels]}
        found = {name: list(tensor.shape) for name, tensor in adapter.tensors.items()}
        if adapter.manifest.method != METHOD or found != shapes:
            raise problems.BAG_OF_WORDS_MISMATCH(
                method=adapter.manifest.method,
                terms=len(terms),
                labels=labels,
                found=found,
                expected=shapes,
                where=adapter.where,
            )
        arrays = {name: tensor.double().numpy() for name, tensor in adapter.tensors.items()}
        if len(set(terms)) < len(terms) or not all(np.isfinite(array).all() for array in arrays.values()):
            raise problems.BAG_OF_WORDS_INVALID(where=adapter.where)
        return cls(terms, **arrays)


def _terms(text: str) -> list[str]:
    words = re.findall(WORD, text.lower())
    return [
        " ".join(words[start : start + length])
        for length in range(1, LONGEST + 1)
        for start in range(len(words) - length + 1)
    ]
