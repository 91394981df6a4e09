"""Floor: what needs no language model, for any adapted one to beat. By scikit-learn; knows texts and labels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from afina.data.split import Split
from afina.models.bag_of_words import LONGEST, WORD, BagOfWords, joined
from afina.seeds import derive

MAJORITY, TFIDF = "majority class", "TF-IDF + logistic regression"
CHOICES = (0.1, 1.0, 10.0, 100.0)
"""Of `C`, the inverse strength of regularisation."""

FOLDS = 3
MOST = 20_000
"""Training texts that TF-IDF learns from, at most: more take minutes and hardly change it."""

NEVER = -1e4
"""The bias of a label that no training text has: its probability is 0 in float64."""


@dataclass(frozen=True)
class Floor:
    """A fitted model.

    setting  what cross-validation on the training split chose, in words;  hyperparameters  the same by name
    model    what can be handed over; None where the answer is always the same label
    """

    name: str
    predict: Callable[[Split], np.ndarray]
    setting: str = ""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    model: BagOfWords | None = None


def majority(train: Split) -> Floor:
    """Always the most frequent label of the training split; of equally frequent ones the first."""
    label = int(np.bincount(train.labels).argmax())
    return Floor(MAJORITY, lambda split: np.full(len(split), label))


def tfidf(train: Split, labels: int | None = None) -> Floor:
    """Words and pairs of words, weighted by TF-IDF, under a logistic regression; C by cross-validation on `train`.

    labels  how many there are; None: as many as `train` has
    Where no text has a word in it, it answers as `majority` does, and there is nothing to hand over.
    """
    if len(train) > MOST:
        chosen = np.random.Generator(np.random.PCG64(derive(0, "floor"))).permutation(len(train))[:MOST]
        train = train.take(np.sort(chosen))
    if len(np.unique(train.labels)) < 2:
        return Floor(TFIDF, majority(train).predict, "one label in the texts")
    fitted = fit(train)
    if fitted is None:
        return Floor(TFIDF, majority(train).predict, "no words in the texts")
    model = _model(fitted, labels or int(train.labels.max()) + 1)
    strength = float(fitted[-1].C)

    def predict(split: Split) -> np.ndarray:
        answers: np.ndarray = model.outputs(joined(split.texts, split.pairs)).argmax(axis=1)
        return answers

    return Floor(TFIDF, predict, f"C {strength:g}", {"C": strength}, model)


def fit(train: Split) -> Any:
    """scikit-learn's fitted pipeline; None where no text has a word in it."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(ngram_range=(1, LONGEST), sublinear_tf=True, token_pattern=WORD)
    model = make_pipeline(words, LogisticRegression(C=CHOICES[1], max_iter=1000))
    texts = joined(train.texts, train.pairs)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        try:
            if np.sort(np.bincount(train.labels))[-2] < FOLDS:
                return model.fit(texts, train.labels)
            folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
            search = GridSearchCV(model, {"logisticregression__C": CHOICES}, cv=folds)
            return search.fit(texts, train.labels).best_estimator_
        except ValueError as error:
            if "empty vocabulary" not in str(error) and "fits failed" not in str(error):
                raise
            return None


def _model(fitted: Any, labels: int) -> BagOfWords:
    """Of a fitted pipeline, with a row for each label: for two, scikit-learn has one row, of the second against the
    first, whose output is 0 then."""
    words, regression = fitted
    terms = sorted(words.vocabulary_, key=words.vocabulary_.get)
    rows, bias = regression.coef_, regression.intercept_
    if len(regression.classes_) == 2:
        rows, bias = np.concatenate([np.zeros_like(rows), rows]), np.concatenate([np.zeros_like(bias), bias])
    weights, biases = np.zeros((labels, len(terms))), np.full(labels, NEVER)
    weights[regression.classes_], biases[regression.classes_] = rows, bias
    return BagOfWords(tuple(terms), np.asarray(words.idf_, np.float64), weights, biases)
