"""Taggers that give a BIO tag to each word of a text without a language model: the baselines of token classification.

Texts are sequences of words, and tags are numbered as in `afina.data.entities`: 0 is O, 1 + 2 l is B-, and 2 + 2 l is
I- of label l.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np

from afina.data.entities import OUTSIDE
from afina.stats.linear_models import NEVER
from afina.studies import problems

Words = Sequence[str]


@dataclass(frozen=True)
class WordTagger:
    """The frequencies of tags of each training word; a word that is not in the training texts is in no entity.

    `logits`: the logarithms of the frequencies by word, float32 [width]; `unknown`: those of any other word.
    """

    logits: Mapping[str, np.ndarray]
    unknown: np.ndarray

    @classmethod
    def fit(cls, texts: Sequence[Words], tags: Sequence[np.ndarray], width: int) -> Self:
        counts: defaultdict[str, np.ndarray] = defaultdict(lambda: np.zeros(width))
        for words, given in zip(texts, tags, strict=True):
            for word, tag in zip(words, given.tolist(), strict=True):
                counts[word][tag] += 1
        logits = {word: _logarithms(one / one.sum()) for word, one in counts.items()}
        return cls(logits, _logarithms(np.eye(width)[OUTSIDE]))

    def outputs(self, texts: Sequence[Words]) -> list[np.ndarray]:
        """Return the logits of the tags of each text's words, float32 [W, width]."""
        rows = [[self.logits.get(word, self.unknown) for word in words] for words in texts]
        return [np.array(each, np.float32).reshape(len(each), len(self.unknown)) for each in rows]


def _logarithms(shares: np.ndarray) -> np.ndarray:
    made: np.ndarray = np.where(shares > 0, np.log(np.maximum(shares, 1e-300)), NEVER).astype(np.float32)
    return made


@dataclass(frozen=True)
class Gazetteer:
    """A list of the training entities, which are found in other texts word by word, upper and lower case as there.

    Of several entities that begin at a word, the longest is taken, and entities do not overlap (left to right).
    `labels` has the most frequent label of each entity, by its words; of several, the first.
    """

    labels: Mapping[tuple[str, ...], int]
    longest: int
    width: int

    @classmethod
    def fit(cls, texts: Sequence[Words], tags: Sequence[np.ndarray], width: int) -> Self:
        counts: defaultdict[tuple[str, ...], Counter[int]] = defaultdict(Counter)
        for words, given in zip(texts, tags, strict=True):
            for start, end, label in _entities(given):
                counts[tuple(words[start:end])][label] += 1
        labels = {words: min(found, key=lambda one: (-found[one], one)) for words, found in counts.items()}
        return cls(labels, max(map(len, labels), default=0), width)

    def outputs(self, texts: Sequence[Words]) -> list[np.ndarray]:
        """Return the logits of each text's words: 0 for the tag that is found, else NEVER, float32 [W, width]."""
        return [certain(self._tags(words), self.width) for words in texts]

    def _tags(self, words: Words) -> np.ndarray:
        tags = np.zeros(len(words), np.int64)
        place = 0
        while place < len(words):
            longest = min(self.longest, len(words) - place)
            for size in range(longest, 0, -1):
                label = self.labels.get(tuple(words[place : place + size]))
                if label is not None:
                    tags[place : place + size] = 2 + 2 * label
                    tags[place] = 1 + 2 * label
                    place += size
                    break
            else:
                place += 1
        return tags


def _entities(tags: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield the first word, the last word + 1 and the label of each entity of valid BIO tags."""
    begins = np.flatnonzero(tags % 2 == 1)
    for start in begins.tolist():
        inside, end = tags[start] + 1, start + 1
        while end < len(tags) and tags[end] == inside:
            end += 1
        yield start, end, int(tags[start] - 1) // 2


def certain(tags: np.ndarray, width: int) -> np.ndarray:
    """Return the logits of words whose tags [W] are certain: 0 for the tag, else NEVER, float32 [W, width]."""
    made = np.full((len(tags), width), NEVER, np.float32)
    made[np.arange(len(tags)), tags] = 0.0
    return made


# Conditional random field

L1, L2 = 0.0, 0.1
"""The strengths of the CRF's regularization.

In three-fold cross-validation on the training sentences of WNUT 17, entity F1 is 0.448 with these strengths, 0.441 with
L1 and L2 of 0.1, 0.442 with 0.05 and 0.001, and 0.401 with L2 of 1 alone.
"""

STEPS = 100
"""The largest number of steps of the CRF's optimizer (L-BFGS, orthant-wise for L1)."""

AFFIXES = 4
"""Prefixes and suffixes of up to this number of characters are features."""


@dataclass(frozen=True)
class Crf:
    """A linear-chain conditional random field (Lafferty, McCallum & Pereira, ICML 2001), by CRFsuite.

    The features of a word are the word, the word in lower case, its shape, its prefixes and suffixes, and whether it is
    a number, in upper case or capitalised; and the lower case, shape and capitals of the two words on either side.
    """

    model: bytes
    width: int

    @classmethod
    def fit(cls, texts: Sequence[Words], tags: Sequence[np.ndarray], width: int) -> Self:
        """Fit a CRF; the result does not depend on a seed. Raises NotFound without the extra `crf`."""
        trainer = _pycrfsuite().Trainer(verbose=False)
        trainer.set_params({"c1": L1, "c2": L2, "max_iterations": STEPS})
        for words, given in zip(texts, tags, strict=True):
            trainer.append(features(words), [str(tag) for tag in given.tolist()])
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model"
            trainer.train(str(path))
            return cls(path.read_bytes(), width)

    def outputs(self, texts: Sequence[Words]) -> list[np.ndarray]:
        """Return the logits of each text's words: 0 for the tag that is predicted, else NEVER, float32 [W, width]."""
        tagger = _pycrfsuite().Tagger()
        tagger.open_inmemory(self.model)
        found = [np.array([int(tag) for tag in tagger.tag(features(words))], np.int64) for words in texts]
        return [certain(tags, self.width) for tags in found]


def features(words: Words) -> list[list[str]]:
    lower, shapes = [word.lower() for word in words], [shape(word) for word in words]
    made = []
    for place, word in enumerate(words):
        found = ["bias", f"word={word}", f"lower={lower[place]}", f"shape={shapes[place]}"]
        for size in range(1, min(AFFIXES, len(word)) + 1):
            found += [f"prefix={lower[place][:size]}", f"suffix={lower[place][-size:]}"]
        found += [name for name, holds in (("digit", word.isdigit()), ("upper", word.isupper())) if holds]
        found += ["title"] if word.istitle() else []
        for distance in (-2, -1, 1, 2):
            other = place + distance
            if 0 <= other < len(words):
                found += [f"{distance}:lower={lower[other]}", f"{distance}:shape={shapes[other]}"]
            else:
                found.append(f"{distance}:outside")
        made.append(found)
    return made


def shape(word: str) -> str:
    """Return X for capitals, x for other letters, 0 for digits; repeated characters count once."""
    made: list[str] = []
    for character in word:
        kind = "X" if character.isupper() else "x" if character.isalpha() else "0" if character.isdigit() else character
        if not made or made[-1] != kind:
            made.append(kind)
    return "".join(made)


def _pycrfsuite() -> Any:
    """Return the module pycrfsuite. Raises NotFound without the extra `crf`."""
    try:
        import pycrfsuite
    except ImportError:
        raise problems.CRF_MISSING() from None
    return pycrfsuite
