"""The baselines of each kind of task, which use no language model and which an adapted model has to beat.

Classes, labels and numbers: frequencies or the mean, and scikit-learn's linear models on TF-IDF. Target texts: the most
frequent target, the target of the nearest training text by TF-IDF, the first sentences of the text.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import Any, ClassVar

import numpy as np

from afina.data.kinds import CLASSES, LABELS, NUMBER, TEXT, Kind
from afina.data.split import Split
from afina.digest import derive_seed
from afina.models import objectives
from afina.models.bag_of_words import LONGEST, WORD, BagOfWords, joined
from afina.models.objectives import Objective, Predictions
from afina.stats.linear_models import LINEAR_KINDS, NEVER, LinearKind, best_setting, expected_warnings_ignored


@dataclass(frozen=True)
class Floor:
    """A fitted baseline that uses no language model.

    Attributes:
        outputs: A function that returns the baseline's outputs for a split, such as logits.
        examples: The number of training texts.
        setting: The setting that cross-validation on the training split chose, such as C, in words.
        hyperparameters: The chosen setting by its name in scikit-learn.
        model: The model that can be saved as an adapter. None: the baseline cannot be saved (`FloorKind.unsaved`).
    """

    name: str
    objective: Objective
    outputs: Callable[[Split], np.ndarray]
    examples: int
    setting: str = ""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    model: BagOfWords | None = None

    def predictions(self, split: Split) -> Predictions:
        return Predictions(self.outputs(split), split.labels)

    def predict(self, split: Split) -> np.ndarray:
        """Return the predictions for a split, in the form of its targets."""
        return self.objective.decode(self.predictions(split))


class FloorKind(ABC):
    """The baselines of a kind of task: a constant prediction, and a model of TF-IDF features.

    Attributes:
        constant: The name of the baseline with a constant prediction.
        tfidf: The name of the baseline on TF-IDF features.
    """

    constant: ClassVar[str]
    tfidf: ClassVar[str]

    @abstractmethod
    def fit_constant(self, train: Split, objective: Objective) -> Floor:
        """Return the baseline with a constant prediction."""

    @abstractmethod
    def fit_tfidf(self, train: Split, objective: Objective) -> Floor:
        """Return the baseline on TF-IDF features."""

    def fit(self, train: Split, objective: Objective) -> list[Floor]:
        """Return all baselines that suit the training split, the constant prediction first."""
        return [self.fit_constant(train, objective), self.fit_tfidf(train, objective)]

    def unsaved(self, name: str) -> str:
        """Return why the baseline `name` cannot be saved as an adapter, as a clause after "because"; else empty."""
        return "it always gives the same answer"


# Classes, numbers, labels

STRENGTHS = (0.1, 1.0, 10.0, 100.0)
"""Values of `C`, the inverse strength of regularization. For ridge regression, `alpha` is 1 / (2 C)."""

MOST_TEXTS = 20_000
"""The largest number of training texts for TF-IDF: more texts take minutes and hardly change the result."""


class LinearFloors(FloorKind):
    """The baselines of a kind of task with numeric outputs: classes, multi-label and regression.

    Attributes:
        linear: The linear model of the kind of task, such as logistic regression.
    """

    linear: ClassVar[LinearKind]

    @abstractmethod
    def same(self, objective: Objective, targets: np.ndarray) -> np.ndarray:
        """Return the outputs of the constant baseline, the same for every text, [width]."""

    def fit_constant(self, train: Split, objective: Objective) -> Floor:
        """Return the baseline that ignores the text: label frequencies in the training split; for numbers the mean."""
        row = self.same(objective, train.labels)
        return Floor(self.constant, objective, lambda split: np.tile(row, (len(split), 1)), min(len(train), MOST_TEXTS))

    def fit_tfidf(self, train: Split, objective: Objective) -> Floor:
        """Return a linear model on TF-IDF of words and pairs of words, regularized by cross-validation on `train`.

        If no training text contains a word, the predictions are those of `fit_constant`, and `model` is None.
        """
        if len(train) > MOST_TEXTS:
            chosen = np.random.Generator(np.random.PCG64(derive_seed(0, "floor"))).permutation(len(train))[:MOST_TEXTS]
            train = train.take(np.sort(chosen))
        same = self.fit_constant(train, objective).outputs
        if not self.linear.can_fit(train.labels):
            return Floor(self.tfidf, objective, same, len(train), "one label in the texts")
        fitted = self.pipeline(train, objective)
        if fitted is None:
            return Floor(self.tfidf, objective, same, len(train), "no words in the texts")
        model, strength = self._model(fitted, objective), self.linear.strength(fitted[-1])

        def outputs(split: Split) -> np.ndarray:
            return model.outputs(joined(split.texts, split.pairs))

        parameter = self.linear.parameter
        setting = f"{parameter} {strength:g}"
        return Floor(self.tfidf, objective, outputs, len(train), setting, {parameter: strength}, model)

    def pipeline(self, train: Split, objective: Objective) -> Any:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.metrics import get_scorer
        from sklearn.pipeline import make_pipeline

        words = TfidfVectorizer(ngram_range=(1, LONGEST), sublinear_tf=True, token_pattern=WORD)
        last, grid = self.linear.model(), self.linear.grid(STRENGTHS)
        texts, targets = joined(train.texts, train.pairs), objective.loss_targets(train.labels)
        splitter = self.linear.folds(train.labels)
        with expected_warnings_ignored():
            try:
                if splitter is not None:
                    folds = list(splitter.split(texts, targets))
                    made = partial(_fold_features, words, texts)
                    score = get_scorer(self.linear.scoring)
                    last.set_params(**best_setting(last, grid, folds, targets, made, score))
                return make_pipeline(words, last).fit(texts, targets)
            except ValueError as error:
                if "empty vocabulary" not in str(error):
                    raise
                return None

    def _model(self, fitted: Any, objective: Objective) -> BagOfWords:
        """Return a fitted scikit-learn pipeline in the form that can be saved, with a row of weights per output."""
        words, last = fitted
        terms = sorted(words.vocabulary_, key=words.vocabulary_.get)
        weights, biases = self.linear.rows(last, objective.width, len(terms))
        return BagOfWords(tuple(terms), np.asarray(words.idf_, np.float64), weights, biases)


class ClassFloors(LinearFloors):
    """Baselines of single-label classification: class frequencies; logistic regression on TF-IDF."""

    constant = "majority class"
    tfidf = "TF-IDF + logistic regression"
    linear = LINEAR_KINDS["classes"]

    def same(self, objective: Objective, targets: np.ndarray) -> np.ndarray:
        """Return the logarithms of the class frequencies."""
        counts = np.bincount(targets, minlength=objective.width)
        return np.where(counts > 0, np.log(np.maximum(counts, 1) / len(targets)), NEVER)


class NumberFloors(LinearFloors):
    """Baselines of regression: the mean of the targets; ridge regression on TF-IDF."""

    constant = "the mean"
    tfidf = "TF-IDF + ridge regression"
    linear = LINEAR_KINDS["number"]

    def same(self, objective: Objective, targets: np.ndarray) -> np.ndarray:
        """Return 0, since targets are standardized to the mean 0."""
        return np.zeros(1)


class LabelFloors(LinearFloors):
    """Baselines of multi-label classification: label frequencies; a logistic regression on TF-IDF for each label."""

    constant = "the most frequent labels"
    tfidf = "TF-IDF + logistic regression"
    linear = LINEAR_KINDS["labels"]

    def same(self, objective: Objective, targets: np.ndarray) -> np.ndarray:
        """Return the log-odds of each label's frequency."""
        share = targets.mean(axis=0)
        odds = np.log(np.maximum(share, 1e-300)) - np.log(np.maximum(1 - share, 1e-300))
        row: np.ndarray = np.clip(odds, NEVER, -NEVER)
        return row


def _fold_features(words: Any, texts: Sequence[str], learnt: np.ndarray, seen: np.ndarray) -> tuple[Any, Any] | None:
    """Return TF-IDF features of a fold's training and test texts, fitted on the former; None if these have no word."""
    from sklearn import clone

    weighed = clone(words)
    try:
        inputs = weighed.fit_transform([texts[place] for place in learnt])
    except ValueError:
        return None
    return inputs, weighed.transform([texts[place] for place in seen])


# Texts

LEAD = "first sentences"

END_OF_SENTENCE = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[^a-z\s])|(?<=[。！？])|\n+")
"""Where a text is cut into sentences. A full stop before a small letter, as in `e.g. this`, ends no sentence."""

FEATURES = 2**20
"""Columns to which words are hashed, so that memory does not grow with the vocabulary."""

BLOCK = 2_000
"""Training texts that are compared at a time, with as many texts to answer."""


class TextFloors(FloorKind):
    """Baselines of target texts: the most frequent; that of the nearest text; the first sentences of a long text."""

    constant = "most frequent answer"
    tfidf = "TF-IDF + nearest training text"

    def fit_constant(self, train: Split, objective: Objective) -> Floor:
        """Return a baseline that predicts the most frequent target of the training split; the first one in a tie."""
        answer = _most_frequent(train)
        return Floor(self.constant, objective, lambda split: _as_outputs([answer] * len(split)), len(train))

    def fit_tfidf(self, train: Split, objective: Objective) -> Floor:
        """Return a baseline that predicts the target of the training text with the highest TF-IDF cosine similarity.

        A text that shares no word with the training texts gets the most frequent target.
        """
        nearest = NearestText(joined(train.texts, train.pairs))
        targets, otherwise = [one[0] for one in train.labels], _most_frequent(train)

        def outputs(split: Split) -> np.ndarray:
            places = nearest.places(joined(split.texts, split.pairs))
            return _as_outputs([otherwise if place < 0 else targets[place] for place in places])

        return Floor(self.tfidf, objective, outputs, len(train))

    def fit(self, train: Split, objective: Objective) -> list[Floor]:
        """Return the baselines; first sentences are one only if most texts have more sentences than the targets."""
        count = _median_sentences(chain.from_iterable(train.labels))
        found = super().fit(train, objective)
        if train.pairs is not None or _median_sentences(train.texts) <= count:
            return found

        def outputs(split: Split) -> np.ndarray:
            return _as_outputs([first_sentences(text, count) for text in split.texts])

        return [*found, Floor(LEAD, objective, outputs, len(train), f"{count} of each text", {"sentences": count})]

    def unsaved(self, name: str) -> str:
        reasons = {self.tfidf: "it needs the training texts themselves", LEAD: "it has no trained numbers"}
        return reasons.get(name, super().unsaved(name))


class NearestText:
    """Finds the training text with the highest cosine similarity of TF-IDF of words and pairs of words.

    Only the training texts are kept in memory. Their TF-IDF features are computed again, in blocks, for each call of
    `places`.
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
        """Return the index of the nearest training text to each text, in a tie the first, int64 [N].

        The index is -1 if the text shares no word with any training text.
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
    """Yield the end position of each sentence of a text."""
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


# By kind

FLOORS: Mapping[Kind, FloorKind] = {
    CLASSES: ClassFloors(),
    NUMBER: NumberFloors(),
    LABELS: LabelFloors(),
    TEXT: TextFloors(),
}
CONSTANTS = frozenset(one.constant for one in FLOORS.values())
"""Names of the baselines whose answer is always the same."""

MAJORITY, TFIDF = ClassFloors.constant, ClassFloors.tfidf


def classes(train: Split) -> Objective:
    """Return a classification objective with as many classes as the training split has."""
    return objectives.make(tuple(map(str, range(int(train.labels.max()) + 1))))


def fit(train: Split, objective: Objective) -> list[Floor]:
    """Return all baselines that suit the training split, the constant prediction first."""
    return FLOORS[objective.kind].fit(train, objective)


def constant(train: Split, objective: Objective | None = None) -> Floor:
    """Return the baseline with a constant prediction; `objective` None: single-label classification."""
    objective = objective or classes(train)
    return FLOORS[objective.kind].fit_constant(train, objective)


def tfidf(train: Split, objective: Objective | None = None) -> Floor:
    """Return the baseline on TF-IDF features; `objective` None: single-label classification."""
    objective = objective or classes(train)
    return FLOORS[objective.kind].fit_tfidf(train, objective)
