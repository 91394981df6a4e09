"""The baselines of each kind of task, which use no language model and which a useful adapted model has to beat.

The baselines of classes, labels and numbers are frequencies or the mean, and scikit-learn's linear models on TF-IDF.
The baselines of target texts are the most frequent target, the target of the nearest training text by TF-IDF, and the
first sentences of the text. The baselines of entities are taggers of words (`taggers.py`).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from typing import Any, ClassVar

import numpy as np

from afina.data.entities import tags_of
from afina.data.kinds import CLASSES, ENTITIES, LABELS, NUMBER, TEXT, Kind
from afina.data.nearest_text import NearestText
from afina.data.split import Split
from afina.data.terms import LONGEST, WORD, joined
from afina.data.words import words_of
from afina.digest import derive_seed
from afina.models.bag_of_words import BagOfWords
from afina.models.objective import Objective
from afina.models.objectives import Classes, Labels, Number
from afina.models.predictions import Predictions
from afina.stats.linear_models import HELD, NEVER, LinearKind, best_setting, expected_warnings_ignored
from afina.studies.choosing import taggers
from afina.studies.choosing.taggers import Crf, Gazetteer, WordTagger


@dataclass(frozen=True)
class Floor:
    """A fitted baseline that uses no language model.

    `outputs` and `extras` return those of `Predictions` for a split. `setting` is the hyperparameter that
    cross-validation chose, in words, such as `C 10`. None as `model`: the baseline cannot be saved as an adapter.
    """

    name: str
    objective: Objective
    outputs: Callable[[Split], np.ndarray]
    examples: int
    setting: str = ""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    model: BagOfWords | None = None
    extras: Callable[[Split], Mapping[str, np.ndarray]] = field(default=lambda split: {})

    def predictions(self, split: Split) -> Predictions:
        return Predictions(self.outputs(split), split.labels, self.extras(split))

    def predict(self, split: Split) -> np.ndarray:
        """Return the predictions in the form of the split's targets."""
        return self.objective.decode(self.predictions(split))


class FloorKind(ABC):
    """The baselines of one kind of task.

    `constant` predicts the same for every text ("" if there is none); a recommendation compares `learned` with methods;
    those of `slow` take minutes, and a study fits them only if it names them.
    """

    constant: str
    learned: str
    slow: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def fit(self, train: Split, objective: Objective) -> list[Floor]:
        """Return the baselines that are fitted in seconds, fitted on the training split, the constant one first."""

    def fit_slow(self, name: str, train: Split, objective: Objective) -> Floor:
        """Return a baseline of `slow`. Raises NotFound if its extra is missing."""
        raise KeyError(name)

    @abstractmethod
    def unsaved(self, name: str) -> str:
        """Return the reason why the baseline `name` cannot be saved as an adapter, as a clause after "because"."""


SAME_ANSWER = "it always gives the same answer"
"""The reason why a constant baseline cannot be saved."""

# Classes, numbers, labels

STRENGTHS = (0.1, 1.0, 10.0, 100.0)
"""The values of `C`, the inverse strength of regularization, that cross-validation tries.

For ridge regression, `alpha` is 1 / (2 C).
"""

MOST_TEXTS = 20_000
"""The largest number of training texts for TF-IDF, because more texts take minutes and hardly change the result."""


@dataclass(frozen=True)
class LinearFloors(FloorKind):
    """The baselines of a kind of task with numeric outputs: classes, labels or a number.

    `same` returns the outputs of the constant baseline, [width], given the targets of the training split and the width.
    """

    constant: str
    learned: str
    linear: LinearKind
    same: Callable[[np.ndarray, int], np.ndarray]

    def fit(self, train: Split, objective: Objective) -> list[Floor]:
        return [self._constant(train, objective), self._tfidf(train, objective)]

    def unsaved(self, name: str) -> str:
        return SAME_ANSWER

    def _constant(self, train: Split, objective: Objective) -> Floor:
        """Return the baseline of the frequencies of classes or labels, or of the mean of numbers."""
        row = self.same(train.labels, objective.width)
        return Floor(self.constant, objective, lambda split: np.tile(row, (len(split), 1)), min(len(train), MOST_TEXTS))

    def _tfidf(self, train: Split, objective: Objective) -> Floor:
        """Return a linear model on TF-IDF of words and pairs of words, with regularization from cross-validation.

        If no training text contains a word, or all have one label, the predictions are those of `_constant`, and
        `model` is None.
        """
        if len(train) > MOST_TEXTS:
            chosen = np.random.Generator(np.random.PCG64(derive_seed(0, "floor"))).permutation(len(train))[:MOST_TEXTS]
            train = train.take(np.sort(chosen))
        same = self._constant(train, objective).outputs
        if not self.linear.can_fit(train.labels):
            return Floor(self.learned, objective, same, len(train), "one label in the texts")
        fitted = self.pipeline(train, objective)
        if fitted is None:
            return Floor(self.learned, objective, same, len(train), "no words in the texts")
        model, strength = self._model(fitted, objective), self.linear.strength(fitted[-1])

        def outputs(split: Split) -> np.ndarray:
            return model.outputs(joined(split.texts, split.pairs))

        parameter = self.linear.parameter
        setting = f"{parameter} {strength:g}"
        return Floor(self.learned, objective, outputs, len(train), setting, {parameter: strength}, model)

    def pipeline(self, train: Split, objective: Objective) -> Any:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.metrics import get_scorer
        from sklearn.pipeline import make_pipeline

        words = TfidfVectorizer(ngram_range=(1, LONGEST), sublinear_tf=True, token_pattern=WORD)
        last, grid = self.linear.model(), self.linear.grid(STRENGTHS)
        texts, targets = joined(train.texts, train.pairs), objective.loss_targets(train.labels)
        if not _has_words(words, texts):
            return None
        splitter = self.linear.folds(train.labels)
        with expected_warnings_ignored():
            if splitter is not None:
                folds = list(splitter.split(texts, targets))
                features = partial(_fold_features, words, texts)
                score = get_scorer(self.linear.scoring)
                last.set_params(**best_setting(last, grid, folds, targets, features, score))
            return make_pipeline(words, last).fit(texts, targets)

    def cross_fitted(self, texts: Sequence[str], targets: np.ndarray, width: int, folds: np.ndarray) -> np.ndarray:
        """Return the outputs for each text of a linear model on TF-IDF that was fitted to the other folds.

        `targets` are those of `Objective.loss_targets`, [N, ...], and `folds` int64 [N]; no model learns from texts of
        the fold HELD. Returns float64 [N, width]; equal outputs if the texts of the other folds contain no word.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer

        outputs = np.zeros((len(texts), width))
        words = TfidfVectorizer(ngram_range=(1, LONGEST), sublinear_tf=True, token_pattern=WORD)
        for fold in np.unique(folds):
            learnt, seen = np.flatnonzero((folds != fold) & (folds != HELD)), np.flatnonzero(folds == fold)
            features = _fold_features(words, texts, learnt, seen)
            if features is None:  # the outputs stay equal
                continue
            with expected_warnings_ignored():
                model = self.linear.model().fit(features[0], targets[learnt])
            rows, biases = self.linear.rows(model, width, features[0].shape[1])
            outputs[seen] = features[1] @ rows.T + biases
        return outputs

    def _model(self, fitted: Any, objective: Objective) -> BagOfWords:
        words, last = fitted
        terms = sorted(words.vocabulary_, key=words.vocabulary_.get)
        weights, biases = self.linear.rows(last, objective.width, len(terms))
        return BagOfWords(tuple(terms), np.asarray(words.idf_, np.float64), weights, biases)


def _log_frequencies(targets: np.ndarray, classes: int) -> np.ndarray:
    counts = np.bincount(targets, minlength=classes)
    return np.where(counts > 0, np.log(np.maximum(counts, 1) / len(targets)), NEVER)


def _zero(targets: np.ndarray, width: int) -> np.ndarray:
    """Return the mean of the targets, which are standardized."""
    return np.zeros(1)


def _log_odds(targets: np.ndarray, labels: int) -> np.ndarray:
    share = targets.mean(axis=0)
    odds = np.log(np.maximum(share, 1e-300)) - np.log(np.maximum(1 - share, 1e-300))
    row: np.ndarray = np.clip(odds, NEVER, -NEVER)
    return row


def _fold_features(words: Any, texts: Sequence[str], learnt: np.ndarray, seen: np.ndarray) -> tuple[Any, Any] | None:
    """Return the TF-IDF features of a fold's training and validation texts; None if the training texts have no word."""
    from sklearn import clone

    training = [texts[place] for place in learnt]
    if not _has_words(words, training):
        return None
    weighed = clone(words)
    return weighed.fit_transform(training), weighed.transform([texts[place] for place in seen])


def _has_words(vectorizer: Any, texts: Iterable[str]) -> bool:
    analyze = vectorizer.build_analyzer()
    return any(analyze(text) for text in texts)


# Texts

LEAD = "first sentences"

END_OF_SENTENCE = re.compile(r"(?<=[.!?])[\"'”’)\]]*\s+(?=[^a-z\s])|(?<=[。！？])|\n+")
"""The pattern of the end of a sentence; a full stop before a small letter, as in `e.g. this`, is no end."""


class TextFloors(FloorKind):
    """The most frequent target, the target of the nearest training text, and the first sentences of the text."""

    constant = "most frequent answer"
    learned = "TF-IDF + nearest training text"

    def fit(self, train: Split, objective: Objective) -> list[Floor]:
        """Return the baselines; the first sentences only if texts have more sentences than targets, in the median.

        A text that no training text is near to has the most frequent target.
        """
        (usual, _), *_ = Counter[str](chain.from_iterable(train.labels)).most_common(1)
        nearest, targets = NearestText(joined(train.texts, train.pairs)), [several[0] for several in train.labels]
        count = _median_sentences(chain.from_iterable(train.labels))

        def of_nearest(split: Split) -> np.ndarray:
            places = nearest.places(joined(split.texts, split.pairs), 1)[:, 0]
            return _as_outputs([usual if place < 0 else targets[place] for place in places])

        def leads(split: Split) -> np.ndarray:
            return _as_outputs([first_sentences(text, count) for text in split.texts])

        fitted = [
            Floor(self.constant, objective, lambda split: _as_outputs([usual] * len(split)), len(train)),
            Floor(self.learned, objective, of_nearest, len(train)),
        ]
        if train.pairs is None and _median_sentences(train.texts) > count:
            setting = f"{count} of each text"
            fitted.append(Floor(LEAD, objective, leads, len(train), setting, {"sentences": count}))
        return fitted

    def unsaved(self, name: str) -> str:
        reasons = {self.learned: "it needs the training texts themselves", LEAD: "it has no trained numbers"}
        return reasons.get(name, SAME_ANSWER)


def first_sentences(text: str, count: int) -> str:
    """Return the first `count` sentences of a text."""
    return text[: next(islice(_ends(text), count - 1, None), len(text))].strip()


def _ends(text: str) -> Iterator[int]:
    """Yield the end position of each sentence of a text."""
    start = 0
    for end in chain((cut.end() for cut in END_OF_SENTENCE.finditer(text)), [len(text)]):
        if text[start:end].strip():
            yield end
            start = end


def _median_sentences(texts: Iterable[str]) -> int:
    """Return the median number of sentences of the texts, at least 1."""
    return max(1, int(np.median([sum(1 for _ in _ends(text)) for text in texts])))


def _as_outputs(answers: Sequence[str]) -> np.ndarray:
    return np.array(answers, dtype=object)


# Entities

WORD_TAGS, GAZETTEER, CRF = "most frequent tag of each word", "training entities", "CRF"


class EntityFloors(FloorKind):
    """The most frequent tags of each word, the training entities, or for `crf`, a conditional random field."""

    constant = ""
    learned = WORD_TAGS
    slow = ("crf",)

    def fit(self, train: Split, objective: Objective) -> list[Floor]:
        """Return the tagger of words and the list of entities; words that no training text has are in no entity."""
        given = _tagged(train, objective)
        words, entities = WordTagger.fit(*given), Gazetteer.fit(*given)
        fitted = {WORD_TAGS: words.outputs, GAZETTEER: entities.outputs}
        return [_of_tagger(name, tag, train, objective) for name, tag in fitted.items()]

    def fit_slow(self, name: str, train: Split, objective: Objective) -> Floor:
        if name not in self.slow:
            raise KeyError(name)
        parameters = {"c1": taggers.L1, "c2": taggers.L2}
        setting = ", ".join(f"{parameter} {value:g}" for parameter, value in parameters.items())
        fitted = Crf.fit(*_tagged(train, objective))
        return replace(_of_tagger(CRF, fitted.outputs, train, objective), setting=setting, hyperparameters=parameters)

    def unsaved(self, name: str) -> str:
        return "baselines of entities cannot be saved"


def _words(split: Split) -> list[np.ndarray]:
    return [words_of(text, split.spaced) for text in split.texts]


def _cut(split: Split, words: Sequence[np.ndarray]) -> list[list[str]]:
    return [
        [text[start:end] for start, end in places.tolist()] for text, places in zip(split.texts, words, strict=True)
    ]


def _tagged(train: Split, objective: Objective) -> tuple[list[list[str]], list[np.ndarray], int]:
    """Return the words of the training texts, their tags, and the number of tags."""
    words, numbers = _words(train), objective.loss_targets(train.labels)
    tags = [tags_of(places, entities) for places, entities in zip(words, numbers, strict=True)]
    return _cut(train, words), tags, objective.width


def _of_tagger(
    name: str, tag: Callable[[Sequence[Sequence[str]]], list[np.ndarray]], train: Split, objective: Objective
) -> Floor:

    def outputs(split: Split) -> np.ndarray:
        return np.fromiter(tag(_cut(split, _words(split))), dtype=object, count=len(split))

    def extras(split: Split) -> Mapping[str, np.ndarray]:
        words = np.fromiter(_words(split), dtype=object, count=len(split))
        documents = split.group_numbers
        return {"words": words} if documents is None else {"words": words, "document": documents}

    return Floor(name, objective, outputs, len(train), extras=extras)


# By kind

MAJORITY, TFIDF = "majority class", "TF-IDF + logistic regression"

FLOORS: Mapping[Kind, FloorKind] = {
    CLASSES: LinearFloors(MAJORITY, TFIDF, Classes.linear, _log_frequencies),
    NUMBER: LinearFloors("the mean", "TF-IDF + ridge regression", Number.linear, _zero),
    LABELS: LinearFloors("the most frequent labels", TFIDF, Labels.linear, _log_odds),
    TEXT: TextFloors(),
    ENTITIES: EntityFloors(),
}
CONSTANTS = frozenset(one.constant for one in FLOORS.values() if one.constant)
"""The names of the baselines that predict the same for every text."""


def fit(train: Split, objective: Objective) -> list[Floor]:
    """Return the baselines that are fitted in seconds, the constant prediction first."""
    return FLOORS[objective.kind].fit(train, objective)


def fit_slow(name: str, train: Split, objective: Objective) -> Floor:
    """Return one of `FloorKind.slow`. Raises NotFound if its extra is missing."""
    return FLOORS[objective.kind].fit_slow(name, train, objective)
