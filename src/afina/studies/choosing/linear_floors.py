"""Baselines of classes, numbers and labels: frequencies or the mean, and a linear model on TF-IDF by scikit-learn."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from afina.data.split import Split
from afina.digest import derive_seed
from afina.models.bag_of_words import LONGEST, WORD, BagOfWords, joined
from afina.models.objectives import Objective
from afina.stats.linear_models import LINEAR_KINDS, NEVER, LinearKind, best_setting, expected_warnings_ignored
from afina.studies.choosing.floor import Floor, FloorKind

CHOICES = (0.1, 1.0, 10.0, 100.0)
"""Values of `C`, the inverse strength of regularization. For ridge regression, `alpha` is 1 / (2 C)."""

MOST = 20_000
"""The largest number of training texts for TF-IDF: more texts take minutes and hardly change the result."""


class LinearFloors(FloorKind):
    """The baselines of a kind whose outputs are numbers.

    Attributes:
        linear: The linear model of the kind.
    """

    linear: ClassVar[LinearKind]

    @abstractmethod
    def same(self, objective: Objective, targets: np.ndarray) -> np.ndarray:
        """Return the outputs of the constant baseline, the same for every text, [width]."""

    def fit_constant(self, train: Split, objective: Objective) -> Floor:
        """Return the baseline that ignores the text: label frequencies in the training split; for numbers the mean."""
        row = self.same(objective, train.labels)
        return Floor(self.constant, objective, lambda split: np.tile(row, (len(split), 1)), min(len(train), MOST))

    def fit_tfidf(self, train: Split, objective: Objective) -> Floor:
        """Return a linear model on TF-IDF of words and pairs of words, regularized by cross-validation on `train`.

        If no text has a word in it, the answers are those of `fit_constant`, and `model` is None.
        """
        if len(train) > MOST:
            chosen = np.random.Generator(np.random.PCG64(derive_seed(0, "floor"))).permutation(len(train))[:MOST]
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
        """Return scikit-learn's fitted pipeline; None if no text has a word in it."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.metrics import get_scorer
        from sklearn.pipeline import make_pipeline

        words = TfidfVectorizer(ngram_range=(1, LONGEST), sublinear_tf=True, token_pattern=WORD)
        last, grid = self.linear.model(), self.linear.grid(CHOICES)
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
        """Return the saved form of a fitted pipeline, with a row for each output."""
        words, last = fitted
        terms = sorted(words.vocabulary_, key=words.vocabulary_.get)
        weights, biases = self.linear.rows(last, objective.width, len(terms))
        return BagOfWords(tuple(terms), np.asarray(words.idf_, np.float64), weights, biases)


class ClassFloors(LinearFloors):
    """Class frequencies; logistic regression."""

    constant = "majority class"
    tfidf = "TF-IDF + logistic regression"
    linear = LINEAR_KINDS["classes"]

    def same(self, objective: Objective, targets: np.ndarray) -> np.ndarray:
        """Return the logarithms of the class frequencies."""
        counts = np.bincount(targets, minlength=objective.width)
        return np.where(counts > 0, np.log(np.maximum(counts, 1) / len(targets)), NEVER)


class NumberFloors(LinearFloors):
    """The mean; ridge regression."""

    constant = "the mean"
    tfidf = "TF-IDF + ridge regression"
    linear = LINEAR_KINDS["number"]

    def same(self, objective: Objective, targets: np.ndarray) -> np.ndarray:
        """Return 0, the mean of the standardized targets."""
        return np.zeros(1)


class LabelFloors(LinearFloors):
    """Label frequencies; a logistic regression for each label."""

    constant = "the most frequent labels"
    tfidf = "TF-IDF + logistic regression"
    linear = LINEAR_KINDS["labels"]

    def same(self, objective: Objective, targets: np.ndarray) -> np.ndarray:
        """Return the log-odds of the label frequencies."""
        share = targets.mean(axis=0)
        odds = np.log(np.maximum(share, 1e-300)) - np.log(np.maximum(1 - share, 1e-300))
        row: np.ndarray = np.clip(odds, NEVER, -NEVER)
        return row


def _fold_features(words: Any, texts: Sequence[str], learnt: np.ndarray, seen: np.ndarray) -> tuple[Any, Any] | None:
    """Return TF-IDF of the texts to learn and to score, by the words of the first; None if these have no word."""
    from sklearn import clone

    weighed = clone(words)
    try:
        inputs = weighed.fit_transform([texts[place] for place in learnt])
    except ValueError:
        return None
    return inputs, weighed.transform([texts[place] for place in seen])
