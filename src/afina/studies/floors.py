"""Floor: what needs no language model, for any adapted one to beat. By scikit-learn; knows texts and labels."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from afina.data.split import Split
from afina.seeds import derive

MAJORITY, TFIDF = "majority class", "TF-IDF + logistic regression"
CHOICES = (0.1, 1.0, 10.0, 100.0)
"""Of `C`, the inverse strength of regularisation."""

FOLDS = 3
MOST = 20_000
"""Training texts that TF-IDF learns from, at most: more take minutes and hardly change it."""


@dataclass(frozen=True)
class Floor:
    """A fitted model. `setting` is what cross-validation on the training split chose, in words."""

    name: str
    predict: Callable[[Split], np.ndarray]
    setting: str = ""


def majority(train: Split) -> Floor:
    """Always the most frequent label of the training split; of equally frequent ones the first."""
    label = int(np.bincount(train.labels).argmax())
    return Floor(MAJORITY, lambda split: np.full(len(split), label))


def tfidf(train: Split) -> Floor:
    """Words and pairs of words, weighted by TF-IDF, under a logistic regression; C by cross-validation on `train`.

    Where no text has a word in it, it answers as `majority` does.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline

    if len(train) > MOST:
        chosen = np.random.Generator(np.random.PCG64(derive(0, "floor"))).permutation(len(train))[:MOST]
        train = train.take(np.sort(chosen))
    if len(np.unique(train.labels)) < 2:
        return Floor(TFIDF, majority(train).predict, "one label in the texts")
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\b\w+\b")
    model = make_pipeline(words, LogisticRegression(C=CHOICES[1], max_iter=1000))
    texts, setting = _texts(train), f"C {CHOICES[1]:g}"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        try:
            if np.bincount(train.labels).max() >= FOLDS and np.sort(np.bincount(train.labels))[-2] >= FOLDS:
                folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
                search = GridSearchCV(model, {"logisticregression__C": CHOICES}, cv=folds)
                search.fit(texts, train.labels)
                model, setting = search.best_estimator_, f"C {search.best_params_['logisticregression__C']:g}"
            else:
                model.fit(texts, train.labels)
        except ValueError as error:
            if "empty vocabulary" not in str(error) and "fits failed" not in str(error):
                raise
            return Floor(TFIDF, majority(train).predict, "no words in the texts")
    return Floor(TFIDF, lambda split: np.asarray(model.predict(_texts(split))), setting)


def _texts(split: Split) -> list[str]:
    return [text if pair is None else f"{text} {pair}" for text, pair in zip(split.texts, _pairs(split), strict=True)]


def _pairs(split: Split) -> list[str | None]:
    return [None] * len(split) if split.pairs is None else list(split.pairs)
