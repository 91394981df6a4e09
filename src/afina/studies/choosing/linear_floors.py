"""Baselines of classes, numbers and labels: frequencies or the mean, and a linear model on TF-IDF by scikit-learn."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from afina.data.split import Split
from afina.digest import derive_seed
from afina.models.bag_of_words import LONGEST, WORD, BagOfWords, joined
from afina.models.objective import Objective
from afina.studies.choosing.floor import Floor, FloorKind

CHOICES = (0.1, 1.0, 10.0, 100.0)
"""Values of `C`, the inverse strength of regularization. For ridge regression, `alpha` is 1 / (2 C)."""

FOLDS = 3
MOST = 20_000
"""The largest number of training texts for TF-IDF: more texts take minutes and hardly change the result."""

NEVER = -1e4
"""The bias of a label without training texts: its probability is 0 in float64."""


class LinearFloors(FloorKind):
    """The baselines of a kind whose outputs are numbers.

    Attributes:
        scoring: scikit-learn's name of the metric that cross-validation maximizes.
        parameter: The name of the regularization parameter.
    """

    scoring: ClassVar[str]
    parameter: ClassVar[str] = "C"

    @abstractmethod
    def same(self, objective: Objective, targets: np.ndarray) -> np.ndarray:
        """Return the outputs of the constant baseline, the same for every text, [width]."""

    def can_fit(self, targets: np.ndarray) -> bool:
        """Return whether a linear model can be fitted to these targets."""
        return True

    @abstractmethod
    def last(self) -> tuple[Any, dict[str, Any]]:
        """Return the linear model on top of TF-IDF, and the grid of its settings."""

    @abstractmethod
    def strength(self, last: Any) -> float:
        """Return the regularization parameter of a fitted linear model."""

    def folds(self, targets: np.ndarray) -> Any:
        """Return a cross-validation splitter; None if there are too few texts."""
        from sklearn.model_selection import KFold

        return None if len(targets) < 2 * FOLDS else KFold(FOLDS, shuffle=True, random_state=0)

    @abstractmethod
    def rows(self, last: Any, width: int, terms: int) -> tuple[np.ndarray, np.ndarray]:
        """Return weights, float64 [width, terms], and biases, [width], of a fitted linear model."""

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
        if not self.can_fit(train.labels):
            return Floor(self.tfidf, objective, same, len(train), "one label in the texts")
        fitted = self.pipeline(train, objective)
        if fitted is None:
            return Floor(self.tfidf, objective, same, len(train), "no words in the texts")
        model, strength = self._model(fitted, objective), self.strength(fitted[-1])

        def outputs(split: Split) -> np.ndarray:
            return model.outputs(joined(split.texts, split.pairs))

        setting = f"{self.parameter} {strength:g}"
        return Floor(self.tfidf, objective, outputs, len(train), setting, {self.parameter: strength}, model)

    def pipeline(self, train: Split, objective: Objective) -> Any:
        """Return scikit-learn's fitted pipeline; None if no text has a word in it."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_pipeline

        words = TfidfVectorizer(ngram_range=(1, LONGEST), sublinear_tf=True, token_pattern=WORD)
        last, grid = self.last()
        texts, targets = joined(train.texts, train.pairs), objective.loss_targets(train.labels)
        folds = self.folds(train.labels)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=ConvergenceWarning)
            for message in ("The least populated class", "Label .* is present in all training examples"):
                warnings.filterwarnings("ignore", message=message, category=UserWarning)
            try:
                if folds is not None:
                    last.set_params(**_best(words, last, grid, folds, texts, targets, self.scoring))
                return make_pipeline(words, last).fit(texts, targets)
            except ValueError as error:
                if "empty vocabulary" not in str(error):
                    raise
                return None

    def _model(self, fitted: Any, objective: Objective) -> BagOfWords:
        """Return the saved form of a fitted pipeline, with a row for each output."""
        words, last = fitted
        terms = sorted(words.vocabulary_, key=words.vocabulary_.get)
        weights, biases = self.rows(last, objective.width, len(terms))
        return BagOfWords(tuple(terms), np.asarray(words.idf_, np.float64), weights, biases)


class ClassFloors(LinearFloors):
    """Class frequencies; logistic regression."""

    constant = "majority class"
    tfidf = "TF-IDF + logistic regression"
    scoring = "accuracy"

    def same(self, objective: Objective, targets: np.ndarray) -> np.ndarray:
        """Return the logarithms of the class frequencies."""
        counts = np.bincount(targets, minlength=objective.width)
        return np.where(counts > 0, np.log(np.maximum(counts, 1) / len(targets)), NEVER)

    def can_fit(self, targets: np.ndarray) -> bool:
        """Return whether the targets have two classes or more."""
        return len(np.unique(targets)) > 1

    def last(self) -> tuple[Any, dict[str, Any]]:
        """Return logistic regression."""
        return _logistic(), {"C": CHOICES}

    def strength(self, last: Any) -> float:
        """Return `C`."""
        return float(last.C)

    def folds(self, targets: np.ndarray) -> Any:
        """Return a stratified splitter; None unless two classes have a text for each fold."""
        from sklearn.model_selection import StratifiedKFold

        few = np.sort(np.bincount(targets))[-2] < FOLDS
        return None if few else StratifiedKFold(FOLDS, shuffle=True, random_state=0)

    def rows(self, last: Any, width: int, terms: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a row for each class; a class without training texts is never answered."""
        weights, biases = np.zeros((width, terms)), np.full(width, NEVER)
        rows, bias = last.coef_, last.intercept_
        if len(last.classes_) == 2:  # scikit-learn has one row, second against first; the first gets outputs of 0
            rows, bias = np.concatenate([np.zeros_like(rows), rows]), np.concatenate([np.zeros_like(bias), bias])
        weights[last.classes_], biases[last.classes_] = rows, bias
        return weights, biases


class NumberFloors(LinearFloors):
    """The mean; ridge regression."""

    constant = "the mean"
    tfidf = "TF-IDF + ridge regression"
    scoring = "neg_mean_squared_error"
    parameter = "alpha"

    def same(self, objective: Objective, targets: np.ndarray) -> np.ndarray:
        """Return 0, the mean of the standardized targets."""
        return np.zeros(1)

    def last(self) -> tuple[Any, dict[str, Any]]:
        """Return ridge regression."""
        from sklearn.linear_model import Ridge

        return Ridge(alpha=1 / (2 * CHOICES[1])), {"alpha": [1 / (2 * strength) for strength in CHOICES]}

    def strength(self, last: Any) -> float:
        """Return `alpha`."""
        return float(last.alpha)

    def rows(self, last: Any, width: int, terms: int) -> tuple[np.ndarray, np.ndarray]:
        """Return one row."""
        return np.asarray(last.coef_, np.float64).reshape(1, terms), np.array([float(last.intercept_)])


class LabelFloors(LinearFloors):
    """Label frequencies; a logistic regression for each label."""

    constant = "the most frequent labels"
    tfidf = "TF-IDF + logistic regression"
    scoring = "f1_micro"

    def same(self, objective: Objective, targets: np.ndarray) -> np.ndarray:
        """Return the log-odds of the label frequencies."""
        share = targets.mean(axis=0)
        odds = np.log(np.maximum(share, 1e-300)) - np.log(np.maximum(1 - share, 1e-300))
        row: np.ndarray = np.clip(odds, NEVER, -NEVER)
        return row

    def last(self) -> tuple[Any, dict[str, Any]]:
        """Return a logistic regression for each label."""
        from sklearn.multiclass import OneVsRestClassifier

        return OneVsRestClassifier(_logistic()), {"estimator__C": CHOICES}

    def strength(self, last: Any) -> float:
        """Return the `C` that all labels share."""
        return float(last.estimator.C)

    def rows(self, last: Any, width: int, terms: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a row for each label; a label that no text or every text has is always answered accordingly."""
        weights, biases = np.zeros((width, terms)), np.full(width, NEVER)
        for label, one in enumerate(last.estimators_):
            if hasattr(one, "coef_"):
                weights[label], biases[label] = one.coef_[0], one.intercept_[0]
            elif one.y_[0]:  # every training text has it
                biases[label] = -NEVER
        return weights, biases


def _logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=CHOICES[1], max_iter=1000)


def _best(
    words: Any, last: Any, grid: Mapping[str, Any], folds: Any, texts: Sequence[str], targets: np.ndarray, scoring: str
) -> dict[str, Any]:
    """Return the settings of `grid` that GridSearchCV would choose for a pipeline of `words` and `last`.

    GridSearchCV computes TF-IDF anew for every setting, which is most of its time.
    """
    from sklearn import clone
    from sklearn.metrics import get_scorer
    from sklearn.model_selection import ParameterGrid

    settings, scorer = list(ParameterGrid(grid)), get_scorer(scoring)
    scores = []
    for learnt, seen in folds.split(texts, targets):
        weighed = clone(words)
        try:
            inputs = weighed.fit_transform([texts[place] for place in learnt])
        except ValueError:  # no text of the fold has a word
            return {}
        asked = weighed.transform([texts[place] for place in seen])
        fitted = [clone(last).set_params(**setting).fit(inputs, targets[learnt]) for setting in settings]
        scores.append([scorer(model, asked, targets[seen]) for model in fitted])
    return dict(settings[int(np.argmax(np.mean(scores, axis=0)))])
