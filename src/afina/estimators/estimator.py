"""TextClassifier and TextRegressor: scikit-learn estimators of texts.

`Run` trains and `Predictor` predicts; this module only adapts both to scikit-learn's interface. Importing this module
loads scikit-learn, but not torch.
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

from afina.data.kinds import CLASSES, NUMBER, Kind
from afina.data.label_words import no_words_note, word_examples
from afina.data.readers import splitting
from afina.data.split import Split
from afina.data.task import CALIBRATION, Task
from afina.estimators import problems
from afina.estimators.inputs import TextInputs, classes_of, numbers_of
from afina.events import ignore
from afina.methods import make
from afina.models.adapter import Adapter
from afina.models.manifest import MANIFEST
from afina.models.objectives import Predictions
from afina.studies.runs.inputs import lacks_words
from afina.studies.runs.run import Run

if TYPE_CHECKING:
    from afina.predicting.predictor import Predictor

GIVEN = "the texts given to fit"
"""The address of the task in the adapter's manifest."""

EVALUATED = 16
"""Training texts on which a run is evaluated, because every run is evaluated. The scores are discarded."""


_OPENED: WeakKeyDictionary[_TextEstimator, Predictor] = WeakKeyDictionary()
"""Predictors by estimator. Not attributes: predicting must not change an estimator, or be pickled with it."""


class _TextEstimator(BaseEstimator):  # type: ignore[misc]
    """The base class of both estimators: `fit` executes a run, and a predictor predicts.

    Attributes:
        adapter_: The `Adapter`, manifest and tensors, after `fit`.
        loss_curve_: The mean training loss of each step, or of groups of steps if there are many.
        n_iter_: The number of optimizer steps.
        n_features_in_: The number of columns, if X was a frame, an array of two dimensions or a list of pairs.
        feature_names_in_: The column names, if X was a frame.
    """

    kind: ClassVar[Kind]

    def set_params(self, **given: Any) -> Self:
        """Set parameters; `hyperparameters__r=8` sets one entry of a parameter that is a dict.

        Raises ValueError for a parameter that does not exist; `fit` checks the entries.
        """
        tables = {"hyperparameters", "training", "words"} & self.get_params(deep=False).keys()
        entries = {name: value for name, value in given.items() if "__" in name and name.partition("__")[0] in tables}
        super().set_params(**{name: value for name, value in given.items() if name not in entries})
        for name, value in entries.items():
            table, _, entry = name.partition("__")
            setattr(self, table, {**(getattr(self, table) or {}), entry: _plain(value)})
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Return the state with the adapter as its files, {name: bytes}: skops and pickle need no class of torch."""
        state: dict[str, Any] = dict(super().__getstate__())
        if "adapter_" in state:
            state["adapter_"] = _as_files(state["adapter_"])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state. Raises CorruptAdapter for other files, and for the state of an earlier version."""
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
        if weights is not None:
            _check_weighted(run)
        task = self._task(whole, label_names)
        if run.ask.head != "random" and lacks_words(run, task):
            words = ", ".join(f"{name!r}: [{f' {word}'!r}]" for name, word in word_examples(label_names))
            note = no_words_note(label_names, len(task.train), f"words={{{words}{', ...' * (len(label_names) > 2)}}}")
            warnings.warn(f'{note} head="random" leaves this warning out.', stacklevel=3)
        directory = Path(tempfile.mkdtemp(prefix="afina-"))
        try:
            record = run.execute(directory, ignore, task)
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
        training = {name: _plain(value) for name, value in {**own, **weights, **(self.training or {})}.items()}
        return Run(
            backbone=str(self.backbone) if isinstance(self.backbone, Path) else self.backbone,
            task=GIVEN,
            method=self.method,
            hyperparameters={name: _plain(value) for name, value in (self.hyperparameters or {}).items()},
            data={} if inputs.pairs is None else {"text_pair": "second text"},
            ask=ask,
            training=training,
            seed=_seed(self.random_state),
        )

    def _task(self, whole: Split, label_names: tuple[str, ...]) -> Task:
        shares = {"calibration": CALIBRATION} if (self.training or {}).get("temperature") else {}
        train, aside = splitting.cuts(whole, shares)
        seen = whole.take(range(min(EVALUATED, len(whole))))
        return Task(
            GIVEN,
            label_names,
            train,
            seen,
            leaked=len(seen),
            kind=self.kind,
            calibration=aside.get("calibration"),
            data_digest=whole.digest,
        )

    @property
    def predictor_(self) -> Predictor:
        """The predictor of the adapter, opened once on its backbone; not pickled. Raises NotFittedError."""
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
    """A text classifier: a language model, adapted by one of `METHODS`.

        TextClassifier(method="lora").fit(texts, labels).predict(texts)

    X is a list, array or Series of texts, or a frame (or rows) with one column of texts, or two columns of pairs. y has
    one label for each text. All texts are trained on; holding some out is up to the caller, as with any scikit-learn
    estimator. The same parameters and texts give the same adapter, bit for bit, on the same machine.

    After `fit`, `classes_` holds the labels in the order of the columns of `predict_proba`.

    Args:
        method, hyperparameters: A method and its hyperparameters, such as "lora" and {"r": 8} (`afina methods`).
        backbone: The address of the language model.
        template, words, head: Prompt template, label words and start of the head, as in `afina.studies.runs.spec.Ask`.
            Default: those that suit the labels (docs/background/words.md). `fit` warns if the labels are not words,
            because training then starts from a random head.
        epochs, batch_size: Epochs and batch size of training.
        learning_rate: None: the method's default.
        max_length: Most tokens of a text. None: 512, or the backbone's limit if it is lower.
        class_weight: "balanced" as in scikit-learn, or None.
        training: Further fields of `afina.studies.runs.spec.Training`, such as {"max_steps": 100}.
        out: A directory for the adapter, which `Predictor.load` and `afina predict` open. None: memory only.
        random_state: The seed of the head, the order of texts and dropout: an int, a RandomState, or None for a new
            seed each time.
    """

    kind = CLASSES

    def __init__(
        self,
        method: str = "lora",
        *,
        backbone: str = "embedded",
        hyperparameters: Mapping[str, Any] | None = None,
        template: str | None = None,
        words: Mapping[str, Any] | None = None,
        head: str = "auto",
        epochs: int = 2,
        learning_rate: float | None = None,
        batch_size: int = 16,
        max_length: int | None = None,
        class_weight: str | None = None,
        training: Mapping[str, Any] | None = None,
        out: str | Path | None = None,
        random_state: Any = 0,
    ) -> None:
        self.method = method
        self.backbone = backbone
        self.hyperparameters = hyperparameters
        self.template = template
        self.words = words
        self.head = head
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_length = max_length
        self.class_weight = class_weight
        self.training = training
        self.out = out
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on all texts.

        Args:
            X, y: The texts and their labels.
            sample_weight: A weight of 0 or more for each text, by which its loss is multiplied; only the weights'
                ratios count. Texts of weight 0 are left out. None: equal weights.

        Raises InvalidInput (a ValueError) for X, y and sample_weight, AfinaError for parameters.
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
        """Return the class of each text, [N], in the type of y's labels."""
        predictions = self._predictions(X)
        answers: np.ndarray = self.classes_[self.predictor_.objective.decode(predictions)]
        return answers

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, [N, classes], in the order of `classes_`."""
        chances = self.predictor_.objective.probabilities(self._predictions(X))
        assert chances is not None
        return chances

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.poor_score = True  # scikit-learn's checks give rows of numbers, which are read as text
        return tags


class TextRegressor(RegressorMixin, _TextEstimator):  # type: ignore[misc]
    """A text regressor, such as for ratings or prices.

    X and the parameters are those of `TextClassifier`; y has a number for each text.
    """

    kind = NUMBER

    def __init__(
        self,
        method: str = "lora",
        *,
        backbone: str = "embedded",
        hyperparameters: Mapping[str, Any] | None = None,
        template: str | None = None,
        epochs: int = 2,
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
        self.template = template
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_length = max_length
        self.training = training
        self.out = out
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on all texts; the arguments and errors are those of `TextClassifier.fit`."""
        inputs, labels, weights = TextInputs.of(X).weighted(y, sample_weight)
        numbers = numbers_of(labels)
        name = getattr(y, "name", None)
        return self._fit(inputs, numbers, weights, (str(name) if name else "value",), {"template": self.template})

    def predict(self, X: Any) -> np.ndarray:
        """Return the number of each text, float64 [N], in the unit of y."""
        return self.predictor_.objective.decode(self._predictions(X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True
        return tags


def _plain(value: Any) -> Any:
    """Return a numpy scalar, such as from a grid search over arrays, as a Python scalar."""
    return value.item() if isinstance(value, np.generic) else value


def _seed(random_state: Any) -> int:
    if isinstance(random_state, Integral) and not isinstance(random_state, bool):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))


def _check_weighted(run: Run) -> None:
    """Raise InvalidStudy if the weights of texts would have no effect on the run, or not on all of it."""
    if make(run.method, run.hyperparameters).trains_nothing:
        raise problems.WEIGHTS_WITHOUT_TRAINING(option="sample_weight", method=run.method)
    if run.training.temperature:
        raise problems.WEIGHTS_WITH_TEMPERATURE(option="sample_weight")


def _place(out: str | Path | None) -> Path | None:
    """Return the directory for the adapter. Raises InvalidStudy, before training, if it has other content."""
    if out is None:
        return None
    path = Path(out).expanduser()
    if path.exists() and not (path / MANIFEST).is_file() and (path.is_file() or any(path.iterdir())):
        raise problems.OUT_IS_NO_ADAPTER(path=out)
    return path


def _as_files(adapter: Adapter) -> dict[str, bytes]:
    """Return the files of an adapter's directory by name."""
    with tempfile.TemporaryDirectory(prefix="afina-") as directory:
        adapter.save(place := Path(directory) / "adapter")
        return {file.name: file.read_bytes() for file in sorted(place.iterdir())}


def _of_files(files: Mapping[str, bytes]) -> Adapter:
    """Return the adapter in files by name. Raises CorruptAdapter if a file is damaged or its name is a path."""
    with tempfile.TemporaryDirectory(prefix="afina-") as directory:
        for name, content in files.items():
            if Path(name).name != name:
                raise problems.FILE_NAME_IS_A_PATH(path=name)
            (Path(directory) / name).write_bytes(content)
        return replace(Adapter.load(directory), where="adapter")


def _handed_over(found: Path, out: Path | None) -> Adapter:
    """Return the adapter of a run without its metrics, which were measured on training texts; write it to `out`."""
    adapter = Adapter.load(found)
    silent: dict[str, Any] = {"task": None, "metrics": {}, "evaluation_digest": None}
    cleaned = replace(adapter, manifest=adapter.manifest.model_copy(update=silent).sealed(), where="adapter")
    if out is None:
        return cleaned

    def companions(fresh: Path) -> None:
        for file in found.iterdir():
            if file.name not in (MANIFEST, adapter.manifest.tensor_file):
                shutil.copy2(file, fresh / file.name)

    cleaned.save(out, companions)
    return replace(cleaned, where=str(out))
