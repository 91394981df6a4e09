"""TextClassifier, TextRegressor and TokenClassifier: scikit-learn estimators for texts.

`afina.Run` trains and `afina.Predictor` predicts; this module gives both the interface of scikit-learn. Importing this
module loads scikit-learn, but not torch.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self
from weakref import WeakKeyDictionary

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from afina.data.entities import Entity
from afina.data.kinds import CLASSES, ENTITIES, NUMBER, Kind
from afina.data.label_words import no_words_note, word_examples
from afina.data.split import Split
from afina.data.task import Cuts, Task, set_aside
from afina.estimators import problems
from afina.estimators.inputs import TextInputs, classes_of, entities_of, numbers_of
from afina.events import ignore
from afina.methods import make
from afina.models.adapter import Adapter
from afina.models.backbone_spec import BGE
from afina.models.manifest import MANIFEST
from afina.models.predictions import Predictions
from afina.studies.backbones import usual_backbone
from afina.studies.runs.inputs import lacks_words
from afina.studies.runs.run import Run

if TYPE_CHECKING:
    from afina.predicting.predictor import Predictor

GIVEN = "the texts given to fit"
"""The address of the task of an estimator's run: the texts come from memory, not from a file."""

EVALUATED = 16
"""The number of training texts on which the run of an estimator is evaluated, because every run has to be evaluated;
the scores are discarded."""


_OPENED: WeakKeyDictionary[_TextEstimator, Predictor] = WeakKeyDictionary()
"""The opened predictor of each estimator. A predictor is no attribute, because predicting must not change an estimator,
and because a predictor must not be pickled."""


class _TextEstimator(BaseEstimator):  # type: ignore[misc]
    """The base class of the estimators for texts: `fit` executes a run, and a predictor predicts.

    Attributes:
        adapter_: The trained `Adapter` (manifest and tensors), after `fit`.
        loss_curve_: The mean training loss of each optimizer step, or of groups of steps if there are many steps.
        n_iter_: The number of optimizer steps.
        n_features_in_: The number of columns of X, if X was a DataFrame, an array of two dimensions or a list of pairs.
        feature_names_in_: The column names of X, if X was a DataFrame.
    """

    kind: ClassVar[Kind]

    def __init__(
        self,
        method: str = "lora",
        *,
        backbone: str | Path | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        epochs: int | None = None,
        learning_rate: float | None = None,
        batch_size: int = 16,
        max_length: int | None = None,
        training: Mapping[str, Any] | None = None,
        out: str | Path | None = None,
        random_state: Any = 0,
    ) -> None:
        self.method = method
        self.backbone = backbone
        self.hyperparameters = hyperparameters
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_length = max_length
        self.training = training
        self.out = out
        self.random_state = random_state

    def set_params(self, **given: Any) -> Self:
        """Set parameters of the estimator; `hyperparameters__r=8` sets one entry of a parameter that is a dict.

        Raises ValueError for a parameter that does not exist. The entries of dicts are checked by `fit`.
        """
        tables = {"hyperparameters", "training", "words"} & self.get_params(deep=False).keys()
        entries = {name: value for name, value in given.items() if "__" in name and name.partition("__")[0] in tables}
        super().set_params(**{name: value for name, value in given.items() if name not in entries})
        for name, value in entries.items():
            table, _, entry = name.partition("__")
            setattr(self, table, {**(getattr(self, table) or {}), entry: _plain(value)})
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for pickle and skops, with the adapter as {file name: bytes}, without classes of torch."""
        state: dict[str, Any] = dict(super().__getstate__())
        if "adapter_" in state:
            state["adapter_"] = _as_files(state["adapter_"])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        files = state.get("adapter_")
        if files is not None and not isinstance(files, dict):
            raise problems.STATE_WITHOUT_FILES(estimator=type(self).__name__, found=type(files).__name__)
        super().__setstate__(state if files is None else {**state, "adapter_": _of_files(files)})

    def _fit(
        self,
        inputs: TextInputs,
        targets: np.ndarray,
        weights: np.ndarray | None,
        label_names: tuple[str, ...],
        ask: dict[str, Any],
    ) -> Self:
        out = _place(self.out)
        run, whole = self._run(inputs, ask), Split(inputs.texts, targets, inputs.pairs, weights=weights)
        if not make(run.method, run.hyperparameters).has_adapter:
            raise problems.METHOD_WITHOUT_ADAPTER(method=run.method, estimator=type(self).__name__)
        if weights is not None:
            _check_weighted(run)
        task = self._task(whole, label_names, run.training.cuts)
        if run.ask.head != "random" and lacks_words(run, task):
            words = ", ".join(f"{name!r}: [{f' {word}'!r}]" for name, word in word_examples(label_names))
            note = no_words_note(label_names, len(task.train), f"words={{{words}{', ...' * (len(label_names) > 2)}}}")
            warnings.warn(f'{note} head="random" leaves this warning out.', stacklevel=3)
        directory = Path(tempfile.mkdtemp(prefix="afina-"))
        try:
            record = run.execute(directory, ignore, task)
            assert record.adapter is not None  # as the method has an adapter
            self.adapter_ = _handed_over(directory / record.adapter, out)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        self.loss_curve_ = [loss for _, loss in record.losses]
        self.n_iter_ = record.steps
        for name in ("n_features_in_", "feature_names_in_"):
            self.__dict__.pop(name, None)
        if inputs.columns is not None:
            self.n_features_in_ = inputs.columns
        if inputs.names is not None:
            self.feature_names_in_ = np.asarray(inputs.names, dtype=object)
        _OPENED.pop(self, None)
        return self

    def _check_mappings(self, *names: str) -> None:
        for name in names:
            if not isinstance(getattr(self, name), Mapping | None):
                raise problems.OPTION_NOT_A_DICT(option=name, found=type(getattr(self, name)).__name__)

    def _run(self, inputs: TextInputs, ask: dict[str, Any]) -> Run:
        self._check_mappings("hyperparameters", "training")
        weights = {"class_weights": self.class_weight} if getattr(self, "class_weight", None) is not None else {}
        own = {name: getattr(self, name) for name in ("epochs", "learning_rate", "batch_size", "max_length")}
        twice = {*own, *weights} & {*(self.training or {})}
        if twice:
            raise problems.TRAINING_REPEATS_PARAMETER(option=min(twice))
        given = {name: value for name, value in own.items() if value is not None}
        training = {name: _plain(value) for name, value in {**given, **weights, **(self.training or {})}.items()}
        hyperparameters = {name: _plain(value) for name, value in (self.hyperparameters or {}).items()}
        backbone = BGE if self.backbone is None else self.backbone
        run = Run(
            backbone=str(backbone) if isinstance(backbone, Path) else backbone,
            task=GIVEN,
            method=self.method,
            hyperparameters=hyperparameters,
            data={} if inputs.pairs is None else {"text_pair": "second text"},
            ask=ask,
            training=training,
            seed=_seed(self.random_state),
        )
        if self.backbone is not None:
            return run
        return run.model_copy(update={"backbone": usual_backbone(self.kind, warnings.warn, inputs.texts, run)})

    def _task(self, whole: Split, label_names: tuple[str, ...], cuts: Cuts) -> Task:
        train, aside = set_aside(whole, self.kind, cuts)
        seen = whole.take(range(min(EVALUATED, len(whole))))
        return Task(
            GIVEN,
            label_names,
            train,
            seen,
            leaked=len(seen),
            kind=self.kind,
            calibration=aside.get("calibration"),
            abstention=aside.get("abstention"),
            data_digest=whole.digest,
        )

    @property
    def predictor_(self) -> Predictor:
        """The predictor of the trained adapter, which is opened once and not pickled. Raises NotFittedError."""
        check_is_fitted(self, "adapter_")
        if self not in _OPENED:
            from afina.predicting.predictor import Predictor

            _OPENED[self] = Predictor.load(self.adapter_)
        return _OPENED[self]

    def _predictions(self, X: Any) -> Predictions:
        predictor = self.predictor_
        inputs, pairs = TextInputs.of(X), self.adapter_.manifest.pairs
        if (inputs.pairs is not None) != pairs:
            known, found = ("pairs of texts", "single texts")[:: 1 if pairs else -1]
            raise problems.PAIRS_MISMATCH(estimator=type(self).__name__, expected=known, found=found)
        known_names = getattr(self, "feature_names_in_", None)
        if inputs.names is not None and known_names is not None and inputs.names != list(known_names):
            raise problems.COLUMNS_DIFFER(estimator=type(self).__name__, expected=known_names, found=inputs.names)
        return predictor.predict(inputs.texts, inputs.pairs)[0]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array, tags.target_tags.required = True, False, True
        return tags


class TextClassifier(ClassifierMixin, _TextEstimator):  # type: ignore[misc]
    """A text classifier for scikit-learn: a language model that is adapted with one of the methods in `afina.METHODS`.

        TextClassifier(method="lora").fit(texts, labels).predict(texts)

    X is a list, array or Series of texts, or a DataFrame or list of rows with one column of texts or two columns of
    pairs. y has one label for each text. The estimator is trained on all texts; as with any scikit-learn estimator, the
    caller holds out texts for evaluation. The same parameters and texts give the same adapter, bit for bit, on the same
    machine.

    After `fit`, the attribute `classes_` has the labels in the order of the columns of `predict_proba`.

    Args:
        method, hyperparameters: A method and its hyperparameters, such as "lora" and {"r": 8} (`afina methods`).
        backbone: The address of the pretrained model. None: the packaged encoder `bge`, or the packaged language model
            `embedded` if the method or the prompt needs a language model.
        template, words, head: The prompt template, the label words and the start of the classification head, as in
            `afina.studies.runs.spec.Ask`. The defaults of `template`, `words` and `head` depend on the label names
            (docs/background/words.md). `fit` warns if the head is random because labels are not words.
        epochs, batch_size: The number of epochs and the batch size of training. None as `epochs`: 2, on an encoder 4.
        learning_rate: The learning rate. None: the method's default on the backbone.
        max_length: The largest number of tokens of a text; by default 512, or the backbone's limit if this is lower.
        class_weight: "balanced" weights classes as in scikit-learn. None: all classes have the same weight.
        training: Further fields of `afina.training.settings.Training`, such as {"max_steps": 100}. With
            {"abstain_error": 0.05}, the method `answered` says which texts the classifier is sure of; `predict` returns
            a label for every text.
        out: A directory for the adapter, which `Predictor.load` and `afina predict` open. None: the adapter stays in
            memory.
        random_state: The seed of the head, the order of texts and dropout: an int, a RandomState, or None for a new
            seed in each `fit`.
    """

    kind = CLASSES

    def __init__(
        self,
        method: str = "lora",
        *,
        backbone: str | Path | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        template: str | None = None,
        words: Mapping[str, Any] | None = None,
        head: str = "auto",
        epochs: int | None = None,
        learning_rate: float | None = None,
        batch_size: int = 16,
        max_length: int | None = None,
        class_weight: str | None = None,
        training: Mapping[str, Any] | None = None,
        out: str | Path | None = None,
        random_state: Any = 0,
    ) -> None:
        super().__init__(
            method,
            backbone=backbone,
            hyperparameters=hyperparameters,
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            max_length=max_length,
            training=training,
            out=out,
            random_state=random_state,
        )
        self.template = template
        self.words = words
        self.head = head
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train the classifier on all texts.

        Args:
            X, y: The texts and their labels.
            sample_weight: A weight of 0 or more for each text, by which the text's loss is multiplied; only the ratios
                of the weights matter. Texts of weight 0 are left out. None: all weights are equal.

        Raises InvalidInput (a ValueError) for invalid X, y or sample_weight, and AfinaError for invalid parameters.
        """
        inputs, labels, weights = TextInputs.of(X).weighted(y, sample_weight)
        classes, indices = classes_of(labels)
        names = tuple(map(str, classes.tolist()))
        self._check_mappings("words")
        words = None if self.words is None else {str(label): given for label, given in self.words.items()}
        self._fit(inputs, indices, weights, names, {"head": self.head, "template": self.template, "words": words})
        self.classes_ = classes
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the predicted class of each text, [N], in the type of the labels in y."""
        predictions = self._predictions(X)
        answers: np.ndarray = self.classes_[self.predictor_.objective.decode(predictions)]
        return answers

    def answered(self, X: Any) -> np.ndarray:
        """Return whether the classifier is sure enough to answer each text, bool [N].

        The training setting `abstain_error` promises a largest error among the answered texts. `predict` returns the
        best guess for the other texts, too. Without `abstain_error`, every text is answered.
        """
        predictions = self._predictions(X)
        unanswered = self.predictor_.objective.abstentions(predictions)
        return np.ones(len(predictions), dtype=bool) if unanswered is None else ~unanswered

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities of the classes for each text, [N, classes], in the order of `classes_`."""
        chances = self.predictor_.objective.probabilities(self._predictions(X))
        assert chances is not None
        return chances

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True  # scikit-learn's checks give rows of numbers, which are read as text
        return tags


class TextRegressor(RegressorMixin, _TextEstimator):  # type: ignore[misc]
    """A text regressor for scikit-learn: it predicts a number for each text, such as a rating or a price.

    X and the parameters are the same as for `TextClassifier`; y has a number for each text.
    """

    kind = NUMBER

    def __init__(
        self,
        method: str = "lora",
        *,
        backbone: str | Path | None = None,
        hyperparameters: Mapping[str, Any] | None = None,
        template: str | None = None,
        epochs: int | None = None,
        learning_rate: float | None = None,
        batch_size: int = 16,
        max_length: int | None = None,
        training: Mapping[str, Any] | None = None,
        out: str | Path | None = None,
        random_state: Any = 0,
    ) -> None:
        super().__init__(
            method,
            backbone=backbone,
            hyperparameters=hyperparameters,
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            max_length=max_length,
            training=training,
            out=out,
            random_state=random_state,
        )
        self.template = template

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train the regressor on all texts; the arguments and errors are the same as for `TextClassifier.fit`."""
        inputs, labels, weights = TextInputs.of(X).weighted(y, sample_weight)
        numbers = numbers_of(labels)
        name = getattr(y, "name", None)
        return self._fit(inputs, numbers, weights, (str(name) if name else "value",), {"template": self.template})

    def predict(self, X: Any) -> np.ndarray:
        """Return the predicted number of each text, float64 [N], in the unit of y."""
        return self.predictor_.objective.decode(self._predictions(X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True
        return tags


class TokenClassifier(_TextEstimator):
    """A token classifier for scikit-learn: it finds entities in texts, such as names of persons and places.

        TokenClassifier().fit(["Maria lives in Porto."], [[(0, 5, "PER"), (15, 20, "LOC")]])

    X is a list, array or Series of texts. y has the entities of each text as (start, end, label); `start` and `end` are
    places of characters, and `end` is the place after the last character. The parameters are the same as for
    `TextClassifier`.

    After `fit`, the attribute `labels_` has the labels, sorted.
    """

    kind = ENTITIES

    def fit(self, X: Any, y: Any) -> Self:
        """Train the token classifier on all texts.

        Raises InvalidInput (a ValueError) for invalid X or y, and AfinaError for invalid parameters.
        """
        inputs = self._single_texts(X)
        targets, names = entities_of(y, inputs.texts)
        self._fit(inputs, targets, None, names, {})
        self.labels_ = np.asarray(names, dtype=object)
        return self

    def predict(self, X: Any) -> list[list[Entity]]:
        """Return the entities of each text, each a named tuple (start, end, label), in the order of their places."""
        return [list(one) for one in self.predictor_.objective.decode(self._predictions(X))]

    def score(self, X: Any, y: Any) -> float:
        """Return the strict F1 of the entities of all texts: borders and label have to be right."""
        objective, predictions = self.predictor_.objective, self._predictions(X)
        targets, _ = entities_of(y, self._single_texts(X).texts)
        return objective.value(objective.metric, predictions.against(targets))

    @staticmethod
    def _single_texts(X: Any) -> TextInputs:
        inputs = TextInputs.of(X)
        if inputs.pairs is not None:
            raise problems.PAIRS_WITHOUT_ENTITIES()
        return inputs


def _plain(value: Any) -> Any:
    """Convert a numpy scalar, such as a grid search over arrays gives, to a Python scalar."""
    return value.item() if isinstance(value, np.generic) else value


def _seed(random_state: Any) -> int:
    if isinstance(random_state, Integral) and not isinstance(random_state, bool):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def _check_weighted(run: Run) -> None:
    if make(run.method, run.hyperparameters).trains_nothing:
        raise problems.WEIGHTS_WITHOUT_TRAINING(option="sample_weight", method=run.method)
    if run.training.temperature:
        raise problems.WEIGHTS_WITH_TEMPERATURE(option="sample_weight")
    if run.training.abstain_error is not None:
        raise problems.WEIGHTS_WITH_ABSTENTION(option="sample_weight")


def _place(out: str | Path | None) -> Path | None:
    if out is None:
        return None
    path = Path(out).expanduser()
    if path.exists() and not (path / MANIFEST).is_file() and (path.is_file() or any(path.iterdir())):
        raise problems.OUT_IS_NO_ADAPTER(path=out)
    return path


def _as_files(adapter: Adapter) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="afina-") as directory:
        adapter.save(place := Path(directory) / "adapter")
        return {file.name: file.read_bytes() for file in sorted(place.iterdir())}


def _of_files(files: Mapping[str, bytes]) -> Adapter:
    with tempfile.TemporaryDirectory(prefix="afina-") as directory:
        for name, content in files.items():
            if Path(name).name != name:
                raise problems.FILE_NAME_IS_A_PATH(path=name)
            (Path(directory) / name).write_bytes(content)
        return replace(Adapter.load(directory), where="adapter")


def _handed_over(found: Path, out: Path | None) -> Adapter:
    """Return the adapter without the run's metrics, which are of training texts, and write it to `out`."""
    adapter = Adapter.load(found)
    silent: dict[str, Any] = {"task": None, "metrics": {}, "answers": None, "evaluation_digest": None}
    cleaned = replace(adapter, manifest=adapter.manifest.model_copy(update=silent).sealed(), where="adapter")
    if out is None:
        return cleaned

    def companions(fresh: Path) -> None:
        for file in found.iterdir():
            if file.name not in (MANIFEST, adapter.manifest.tensor_file):
                shutil.copy2(file, fresh / file.name)

    cleaned.save(out, companions)
    return replace(cleaned, where=str(out))
