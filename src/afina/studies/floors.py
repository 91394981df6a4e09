"""Floor: what needs no language model, for any adapted one to beat. By scikit-learn; knows texts and labels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from afina.data.kinds import CLASSES, LABELS, NUMBER, Kind
from afina.data.split import Split
from afina.models.bag_of_words import LONGEST, WORD, BagOfWords, joined
from afina.models.objective import Objective
from afina.models.objectives import Classes
from afina.seeds import derive

CONSTANT: Mapping[Kind, str] = {CLASSES: "majority class", NUMBER: "the mean", LABELS: "the most frequent labels"}
LINEAR: Mapping[Kind, str] = {
    CLASSES: "TF-IDF + logistic regression",
    NUMBER: "TF-IDF + ridge regression",
    LABELS: "TF-IDF + logistic regression",
}
MAJORITY, TFIDF = CONSTANT[CLASSES], LINEAR[CLASSES]

CHOICES = (0.1, 1.0, 10.0, 100.0)
"""Of `C`, the inverse strength of regularisation; of ridge regression `alpha`, its strength, is 1 / (2 C)."""

FOLDS = 3
MOST = 20_000
"""Training texts that TF-IDF learns from, at most: more take minutes and hardly change it."""

NEVER = -1e4
"""The bias of a label that no training text has: its probability is 0 in float64."""


@dataclass(frozen=True)
class Floor:
    """A fitted model.

    outputs  of texts, in the form of the objective's;  setting  what cross-validation on the training split chose, in
    words;  hyperparameters  the same by name
    model    what can be handed over; None where the answer is always the same
    """

    name: str
    objective: Objective
    outputs: Callable[[Split], np.ndarray]
    setting: str = ""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    model: BagOfWords | None = None

    def predict(self, split: Split) -> np.ndarray:
        """What it answers, in the form of targets."""
        return self.objective.decode(self.outputs(split))


def classes(train: Split) -> Objective:
    """What is asked where nothing is said: as many classes as the training split has."""
    return Classes(tuple(map(str, range(int(train.labels.max()) + 1))))


def constant(train: Split, objective: Objective | None = None) -> Floor:
    """Always the same, whatever the text: how frequent each label of the training split is; of numbers their mean."""
    objective = objective or classes(train)
    if objective.kind == NUMBER:
        row = np.zeros(1)
    elif objective.kind == LABELS:
        share = train.labels.mean(axis=0)
        row = np.clip(np.log(np.maximum(share, 1e-300)) - np.log(np.maximum(1 - share, 1e-300)), NEVER, -NEVER)
    else:
        counts = np.bincount(train.labels, minlength=objective.width)
        row = np.where(counts > 0, np.log(np.maximum(counts, 1) / len(train)), NEVER)
    return Floor(CONSTANT[objective.kind], objective, lambda split: np.tile(row, (len(split), 1)))


def tfidf(train: Split, objective: Objective | None = None) -> Floor:
    """Words and pairs of words, weighted by TF-IDF, under a linear model; how regular it is by cross-validation on
    `train`.

    Where no text has a word in it, it answers as `constant` does, and there is nothing to hand over.
    """
    objective = objective or classes(train)
    if len(train) > MOST:
        chosen = np.random.Generator(np.random.PCG64(derive(0, "floor"))).permutation(len(train))[:MOST]
        train = train.take(np.sort(chosen))
    name, same = LINEAR[objective.kind], constant(train, objective).outputs
    if objective.kind == CLASSES and len(np.unique(train.labels)) < 2:
        return Floor(name, objective, same, "one label in the texts")
    fitted = fit(train, objective)
    if fitted is None:
        return Floor(name, objective, same, "no words in the texts")
    model = _model(fitted, objective)
    last = fitted[-1]
    key, strength = ("alpha", float(last.alpha)) if objective.kind == NUMBER else ("C", _strength(last))

    def outputs(split: Split) -> np.ndarray:
        return model.outputs(joined(split.texts, split.pairs))

    return Floor(name, objective, outputs, f"{key} {strength:g}", {key: strength}, model)


def _strength(last: Any) -> float:
    return float(getattr(last, "estimator", last).C)


def fit(train: Split, objective: Objective | None = None) -> Any:
    """scikit-learn's fitted pipeline; None where no text has a word in it."""
    objective = objective or classes(train)
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(ngram_range=(1, LONGEST), sublinear_tf=True, token_pattern=WORD)
    last, grid = _last(objective.kind)
    texts, targets = joined(train.texts, train.pairs), objective.learnt(train.labels)
    folds = _folds(train, objective)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        warnings.filterwarnings("ignore", message="Label .* is present in all training examples", category=UserWarning)
        try:
            if folds is not None:
                last.set_params(**_best(words, last, grid, folds, texts, targets, SCORING[objective.kind]))
            return make_pipeline(words, last).fit(texts, targets)
        except ValueError as error:
            if "empty vocabulary" not in str(error):
                raise
            return None


SCORING: Mapping[Kind, str] = {CLASSES: "accuracy", NUMBER: "neg_mean_squared_error", LABELS: "f1_micro"}
"""What cross-validation chooses by, as scikit-learn calls it."""


def _best(
    words: Any, last: Any, grid: Mapping[str, Any], folds: Any, texts: Sequence[str], targets: np.ndarray, scoring: str
) -> dict[str, Any]:
    """The settings of `grid` that GridSearchCV would choose of a pipeline of `words` and `last`.

    GridSearchCV weighs the words of each fold anew for every setting, which is most of its time.
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


def _last(kind: Kind) -> tuple[Any, dict[str, Any]]:
    """The linear model that the words are weighted for, and what is tried of it."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier

    one = LogisticRegression(C=CHOICES[1], max_iter=1000)
    if kind == NUMBER:
        return Ridge(alpha=1 / (2 * CHOICES[1])), {"alpha": [1 / (2 * strength) for strength in CHOICES]}
    if kind == LABELS:
        return OneVsRestClassifier(one), {"estimator__C": CHOICES}
    return one, {"C": CHOICES}


def _folds(train: Split, objective: Objective) -> Any:
    """How to cross-validate; None where there are too few texts."""
    from sklearn.model_selection import KFold, StratifiedKFold

    if objective.kind == CLASSES:
        few = np.sort(np.bincount(train.labels))[-2] < FOLDS
        return None if few else StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    return None if len(train) < 2 * FOLDS else KFold(FOLDS, shuffle=True, random_state=0)


def _model(fitted: Any, objective: Objective) -> BagOfWords:
    """Of a fitted pipeline, with a row for each output."""
    words, last = fitted
    terms = sorted(words.vocabulary_, key=words.vocabulary_.get)
    weights, biases = _rows(last, objective, len(terms))
    return BagOfWords(tuple(terms), np.asarray(words.idf_, np.float64), weights, biases)


def _rows(last: Any, objective: Objective, terms: int) -> tuple[np.ndarray, np.ndarray]:
    if objective.kind == NUMBER:
        return np.asarray(last.coef_, np.float64).reshape(1, terms), np.array([float(last.intercept_)])
    weights, biases = np.zeros((objective.width, terms)), np.full(objective.width, NEVER)
    if objective.kind == LABELS:
        for label, one in enumerate(last.estimators_):
            if hasattr(one, "coef_"):
                weights[label], biases[label] = one.coef_[0], one.intercept_[0]
            elif one.y_[0]:  # every training text has it
                biases[label] = -NEVER
        return weights, biases
    rows, bias = last.coef_, last.intercept_
    if len(last.classes_) == 2:  # scikit-learn has one row, of the second against the first, whose output is 0 then
        rows, bias = np.concatenate([np.zeros_like(rows), rows]), np.concatenate([np.zeros_like(bias), bias])
    weights[last.classes_], biases[last.classes_] = rows, bias
    return weights, biases
