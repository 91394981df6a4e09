"""`NearestText`: a search for known texts that are most similar to a text, by TF-IDF of words and pairs of words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from afina.data.terms import LONGEST, WORD

FEATURES = 2**20
"""The number of columns to which words are hashed, so that memory does not grow with the vocabulary."""

BLOCK = 2_000
"""The number of known texts, and of texts to search for, whose similarities are computed at a time."""


class NearestText:
    """A search for the known texts with the highest cosine similarity of TF-IDF of words and pairs of words.

    Only the known texts are kept in memory. Their features are computed again, in blocks, for each call of `places`.
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
        self.idf = (np.log((1 + len(self._texts)) / (1 + counts)) + 1).astype(np.float32)

    def places(self, texts: Sequence[str], count: int) -> np.ndarray:
        """Return for each text the indices of the `count` nearest known texts, nearest first, int64 [N, count].

        Of equal known texts, only the first is found; of equally near texts, the first is nearer. The index is -1 where
        no further known text shares a word with the text.
        """
        asked = [self._weighed(block) for block in _blocks(texts)]
        found = [_Found.none(rows.shape[0], count) for rows in asked]
        start = 0
        for block in _blocks(self._texts):
            known = self._weighed(block).T.tocsr()
            firsts = self._firsts[start : start + len(block)]
            found = [before.merged((rows @ known).toarray(), firsts) for rows, before in zip(asked, found, strict=True)]
            start += len(block)
        return np.concatenate([np.zeros((0, count), dtype=np.int64), *(one.places for one in found)])

    def features(self) -> tuple[Any, np.ndarray]:
        """Return the features of the distinct known texts, as rows of length 1, and the index of each such text."""
        from scipy.sparse import vstack

        return vstack([self._weighed(block) for block in _blocks(self._texts)]).tocsr(), self._firsts

    def _weighed(self, texts: Sequence[str]) -> Any:
        """Return the TF-IDF features of texts as rows of length 1, a sparse matrix, float32 [N, FEATURES]."""
        from sklearn.preprocessing import normalize

        rows = self._words.transform(texts)
        rows.data = (1 + np.log(rows.data)) * self.idf[rows.indices]
        return normalize(rows, copy=False)


class _Found:
    """The nearest known texts so far: their similarities, float32 [N, K], and indices, int64 [N, K], nearest first."""

    def __init__(self, scores: np.ndarray, places: np.ndarray) -> None:
        self.scores, self.places = scores, places

    @classmethod
    def none(cls, texts: int, count: int) -> _Found:
        return cls(np.zeros((texts, count), np.float32), np.full((texts, count), -1, np.int64))

    def merged(self, cosines: np.ndarray, firsts: np.ndarray) -> _Found:
        """Return the nearest of these and of B further texts: `cosines` [N, B], overwritten, and `firsts` int64 [B]."""
        rows, scores, places = np.arange(len(cosines)), [self.scores], [self.places]
        for _ in range(min(self.scores.shape[1], cosines.shape[1])):
            nearest = cosines.argmax(axis=1)
            highest = cosines[rows, nearest]
            if not (highest > 0).any():
                break
            scores.append(highest[:, None])
            places.append(np.where(highest > 0, firsts[nearest], -1)[:, None])
            cosines[rows, nearest] = 0
        every, whose = np.concatenate(scores, 1), np.concatenate(places, 1)
        order = np.argsort(-every, axis=1, kind="stable")[:, : self.scores.shape[1]]
        return _Found(np.take_along_axis(every, order, 1), np.take_along_axis(whose, order, 1))


def _blocks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(texts), BLOCK):
        yield texts[start : start + BLOCK]


NEAR = 0.8
"""The cosine similarity from which two texts are near-duplicates.

Of texts of movies, products and tweets, 68 to 96 % have this similarity to themselves with one word changed, left out
or added. "One of the best movies of the year" has 0.62 with the worst."""

_PAIRS_BLOCK = 500
"""The number of texts whose similarities to all other texts are computed at a time."""


def near_duplicates(texts: Sequence[str], least: float = NEAR) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield all pairs of distinct texts whose cosine similarity of TF-IDF is at least `least`, in blocks.

    A text is compared only with texts that share one of its rarest features: those without which its norm is below
    `least`, so that no other text can be so similar (Bayardo et al. 2007, "Scaling Up All Pairs Similarity Search").
    Of equal texts, only the first is compared.

    Yields:
        The indices of the first and of the second text of each pair, int64 [P], and their similarities, float32 [P].
    """
    search = NearestText(texts)
    rows, firsts = search.features()
    prefixes, known = _rarest(rows, search.idf, least), rows.T.tocsr()
    for start in range(0, rows.shape[0], _PAIRS_BLOCK):
        shared = (prefixes[start : start + _PAIRS_BLOCK] @ known).tocoo()
        both = np.stack([shared.row.astype(np.int64) + start, shared.col.astype(np.int64)])
        both = both[:, both[0] < both[1]]
        cosines = np.asarray(rows[both[0]].multiply(rows[both[1]]).sum(axis=1)).ravel()
        near = cosines >= least
        yield firsts[both[0, near]], firsts[both[1, near]], cosines[near]


def _rarest(rows: Any, idf: np.ndarray, least: float) -> Any:
    """Return the rows with only their rarest features, so that the norm of the features left out is below `least`."""
    owners = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    order = np.lexsort((rows.indices, -idf[rows.indices], owners))
    squares = rows.data[order].astype(np.float64) ** 2
    ends = rows.indptr[1:][owners]
    total = np.concatenate([[0.0], np.cumsum(squares)])
    kept = order[total[ends] - total[:-1] >= least**2 - 1e-6]
    chosen = rows.copy()
    chosen.data = np.zeros_like(rows.data)
    chosen.data[kept] = rows.data[kept]
    chosen.eliminate_zeros()
    return chosen
