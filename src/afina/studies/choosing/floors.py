"""Floor: what needs no language model, for any adapted one to beat. By scikit-learn; knows texts and labels."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from afina.data.kinds import CLASSES, LABELS, NUMBER, Kind
from afina.data.split import Split
from afina.digest import derive_seed
from afina.models import objectives
from afina.models.bag_of_words import LONGEST, WORD, BagOfWords, joined
from afina.models.objective import Objective, Predictions

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

    def predictions(self, split: Split) -> Predictions:
        """Its predictions of texts, with their targets."""
        return Predictions(self.outputs(split), split.labels)

    def predict(self, split: Split) -> np.ndarray:
        """What it answers, in the form of targets."""
        return self.objective.decode(self.predictions(split))


class FloorKind(ABC):
    """The floors of a kind of task.

    constant, linear  names of the two floors
    scoring           what cross-validation chooses by, as scikit-learn calls it
    parameter         what the strength of regularisation is called
    """

    constant: ClassVar[str]
    linear: ClassVar[str]
    scoring: ClassVar[str]
    parameter: ClassVar[str] = "C"

    @abstractmethod
    def same(self, objective: Objective, targets: np.ndarray) -> np.ndarray:
        """The outputs that `constant` has for every text, [width]."""

    def can_fit(self, targets: np.ndarray) -> bool:
        """Whether a linear model can be fitted to these."""
        return True

    @abstractmethod
    def last(self) -> tuple[Any, dict[str, Any]]:
        """The linear model that the words are weighted for, and what is tried of it."""

    @abstractmethod
    def strength(self, last: Any) -> float:
        """How regular a fitted one is."""

    def folds(self, targets: np.ndarray) -> Any:
        """How to cross-validate; None where there are too few texts."""
        from sklearn.model_selection import KFold

        return None if len(targets) < 2 * FOLDS else KFold(FOLDS, shuffle=True, random_state=0)

    @abstractmethod
    def rows(self, last: Any, width: int, terms: int) -> tuple[np.ndarray, np.ndarray]:
        """Weights, float64 [width, terms], and biases, [width], of a fitted one."""


class ClassFloors(FloorKind):
    """How frequent each class is; logistic regression."""

    constant = "majority class"
    linear = "TF-IDF + logistic regression"
    scoring = "accuracy"

    def same(self, objective: Objective, targets: np.ndarray) -> np.ndarray:
        """Logarithms of the shares."""
        counts = np.bincount(targets, minlength=objective.width)
        return np.where(counts > 0, np.log(np.maximum(counts, 1) / len(targets)), NEVER)

    def can_fit(self, targets: np.ndarray) -> bool:
        """There have to be two classes."""
        return len(np.unique(targets)) > 1

    def last(self) -> tuple[Any, dict[str, Any]]:
        """Logistic regression."""
        return _logistic(), {"C": CHOICES}

    def strength(self, last: Any) -> float:
        """Its `C`."""
        return float(last.C)

    def folds(self, targets: np.ndarray) -> Any:
        """Stratified; two classes have to have a text in each fold."""
        from sklearn.model_selection import StratifiedKFold

        few = np.sort(np.bincount(targets))[-2] < FOLDS
        return None if few else StratifiedKFold(FOLDS, shuffle=True, random_state=0)

    def rows(self, last: Any, width: int, terms: int) -> tuple[np.ndarray, np.ndarray]:
        """A row a class; one that does not occur is never answered."""
        weights, biases = np.zeros((width, terms)), np.full(width, NEVER)
        rows, bias = last.coef_, last.intercept_
        if len(last.classes_) == 2:  # scikit-learn has one row, of the second against the first, whose output is 0 then
            rows, bias = np.concatenate([np.zeros_like(rows), rows]), np.concatenate([np.zeros_like(bias), bias])
        weights[last.classes_], biases[last.classes_] = rows, bias
        return weights, biases


class NumberFloors(FloorKind):
    """Their mean; ridge regression."""

    constant = "the mean"
    linear = "TF-IDF + ridge regression"
    scoring = "neg_mean_squared_error"
    parameter = "alpha"

    def same(self, objective: Objective, targets: np.ndarray) -> np.ndarray:
        """The mean of what is standardised."""
        return np.zeros(1)

    def last(self) -> tuple[Any, dict[str, Any]]:
        """Ridge regression."""
        from sklearn.linear_model import Ridge

        return Ridge(alpha=1 / (2 * CHOICES[1])), {"alpha": [1 / (2 * strength) for strength in CHOICES]}

    def strength(self, last: Any) -> float:
        """Its `alpha`."""
        return float(last.alpha)

    def rows(self, last: Any, width: int, terms: int) -> tuple[np.ndarray, np.ndarray]:
        """One row."""
        return np.asarray(last.coef_, np.float64).reshape(1, terms), np.array([float(last.intercept_)])


class LabelFloors(FloorKind):
    """How frequent each label is; a logistic regression a label."""

    constant = "the most frequent labels"
    linear = "TF-IDF + logistic regression"
    scoring = "f1_micro"

    def same(self, objective: Objective, targets: np.ndarray) -> np.ndarray:
        """Log-odds of the shares."""
        share = targets.mean(axis=0)
        odds = np.log(np.maximum(share, 1e-300)) - np.log(np.maximum(1 - share, 1e-300))
        row: np.ndarray = np.clip(odds, NEVER, -NEVER)
        return row

    def last(self) -> tuple[Any, dict[str, Any]]:
        """A logistic regression a label."""
        from sklearn.multiclass import OneVsRestClassifier

        return OneVsRestClassifier(_logistic()), {"estimator__C": CHOICES}

    def strength(self, last: Any) -> float:
        """The `C` of each."""
        return float(last.estimator.C)

    def rows(self, last: Any, width: int, terms: int) -> tuple[np.ndarray, np.ndarray]:
        """A row a label; one that no text or every text has is answered so."""
        weights, biases = np.zeros((width, terms)), np.full(width, NEVER)
        for label, one in enumerate(last.estimators_):
            if hasattr(one, "coef_"):
                weights[label], biases[label] = one.coef_[0], one.intercept_[0]
            elif one.y_[0]:  # every training text has it
                biases[label] = -NEVER
        return weights, biases


FLOORS: Mapping[Kind, FloorKind] = {CLASSES: ClassFloors(), NUMBER: NumberFloors(), LABELS: LabelFloors()}
CONSTANTS = frozenset(one.constant for one in FLOORS.values())
"""Names of the floors whose answer is always the same."""

MAJORITY, TFIDF = FLOORS[CLASSES].constant, FLOORS[CLASSES].linear


def _logistic() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=CHOICES[1], max_iter=1000)


def classes(train: Split) -> Objective:
    """What is asked where nothing is said: as many classes as the training split has."""
    return objectives.make(tuple(map(str, range(int(train.labels.max()) + 1))))


def constant(train: Split, objective: Objective | None = None) -> Floor:
    """Always the same, whatever the text: how frequent each label of the training split is; of numbers their mean."""
    objective = objective or classes(train)
    kind = FLOORS[objective.kind]
    row = kind.same(objective, train.labels)
    return Floor(kind.constant, objective, lambda split: np.tile(row, (len(split), 1)))


def tfidf(train: Split, objective: Objective | None = None) -> Floor:
    """Words and pairs of words, weighted by TF-IDF, under a linear model; how regular it is by cross-validation on
    `train`.

    Where no text has a word in it, it answers as `constant` does, and there is nothing to hand over.
    """
    objective = objective or classes(train)
    if len(train) > MOST:
        chosen = np.random.Generator(np.random.PCG64(derive_seed(0, "floor"))).permutation(len(train))[:MOST]
        train = train.take(np.sort(chosen))
    kind, same = FLOORS[objective.kind], constant(train, objective).outputs
    if not kind.can_fit(train.labels):
        return Floor(kind.linear, objective, same, "one label in the texts")
    fitted = fit(train, objective)
    if fitted is None:
        return Floor(kind.linear, objective, same, "no words in the texts")
    model, strength = _model(fitted, objective), kind.strength(fitted[-1])

    def outputs(split: Split) -> np.ndarray:
        return model.outputs(joined(split.texts, split.pairs))

    setting = f"{kind.parameter} {strength:g}"
    return Floor(kind.linear, objective, outputs, setting, {kind.parameter: strength}, model)


def fit(train: Split, objective: Objective | None = None) -> Any:
    """scikit-learn's fitted pipeline; None where no text has a word in it."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    objective = objective or classes(train)
    kind = FLOORS[objective.kind]
    words = TfidfVectorizer(ngram_range=(1, LONGEST), sublinear_tf=True, token_pattern=WORD)
    last, grid = kind.last()
    texts, targets = joined(train.texts, train.pairs), objective.loss_targets(train.labels)
    folds = kind.folds(train.labels)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        warnings.filterwarnings("ignore", message="Label .* is present in all training examples", category=UserWarning)
        try:
            if folds is not None:
                last.set_params(**_best(words, last, grid, folds, texts, targets, kind.scoring))
            return make_pipeline(words, last).fit(texts, targets)
        except ValueError as error:
            if "empty vocabulary" not in str(error):
                raise
            return None


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


def _model(fitted: Any, objective: Objective) -> BagOfWords:
    """Of a fitted pipeline, with a row for each output."""
    words, last = fitted
    terms = sorted(words.vocabulary_, key=words.vocabulary_.get)
    weights, biases = FLOORS[objective.kind].rows(last, objective.width, len(terms))
    return BagOfWords(tuple(terms), np.asarray(words.idf_, np.float64), weights, biases)
