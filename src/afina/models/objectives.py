"""`Objective`: a kind of task, with its loss, the number of a model's outputs, decoding and metrics.

The kinds of task are single-label classification, regression, multi-label classification, and text-to-text. Training,
studies and the report call an `Objective` and do not assume that a task has labels. `Predictions` are a model's
outputs; packages above `models` only use the length of `Predictions`, select some, and read and write the file.
Objectives pass arrays to `afina.stats`, which does not know objectives. The module `objectives` imports torch only in
`loss`, and does not know models.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np

from afina import digest, file_io, tensorfile
from afina.data.kinds import CLASSES, LABELS, NUMBER, TEXT, Kind
from afina.data.prompts import prompt_of
from afina.data.split import as_references
from afina.errors import CorruptAdapter, UnknownName
from afina.models import problems
from afina.models.decoding import GREEDY, Decoding
from afina.stats import bleu_chrf_nist, classification, metrics
from afina.stats.answered import MISSING, UNDEFINED, Answered
from afina.stats.linear_models import LinearClasses, LinearKind, LinearLabels, LinearNumber
from afina.stats.metrics import METRICS

if TYPE_CHECKING:
    from torch import Tensor

    from afina.data.batch import SoftTargets
    from afina.data.template import Template
    from afina.data.tokenize import Tokenizer

_ENDS, _LAST = "_ends", "_last"
"""Suffixes of arrays in a file that stores strings. Arrays with the suffix `_ends` have the end of each string, in
bytes of UTF-8. If an example has several strings, arrays with the suffix `_last` have the number of strings up to the
example's last string."""

_EXTRA = "extra."
"""Prefix of the names under which a file stores the arrays of `Predictions.extras`."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """A model's outputs for N texts in order, with the targets if they are known.

    Attributes:
        outputs: The model's output for each text: float [N, width], or generated strings, object [N]. Labels without
            probabilities, such as those that a model behind an API writes: int64, in the form of the targets, with
            MISSING for a missing answer.
        targets: The right answers [N, ...], in a form that depends on the kind of task; tuples of strings are object
            [N]. None: unknown.
        extras: Further arrays [N] by name that metrics of the kind of task need; empty for most kinds. `missing`: for
            numbers and texts, whether the answer is missing, bool.
    """

    outputs: np.ndarray
    targets: np.ndarray | None = None
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.outputs)

    def take(self, indices: Sequence[int] | np.ndarray) -> Self:
        chosen = np.asarray(indices, dtype=np.int64)
        return replace(
            self,
            outputs=self.outputs[chosen],
            targets=None if self.targets is None else self.targets[chosen],
            extras={name: array[chosen] for name, array in self.extras.items()},
        )

    def against(self, targets: np.ndarray) -> Self:
        """Return the same outputs with other targets."""
        return replace(self, targets=targets)

    @property
    def right(self) -> np.ndarray:
        """The targets. Raises ValueError if the targets are unknown."""
        if self.targets is None:
            raise ValueError("expected predictions with targets, found none")
        return self.targets

    @property
    def right_as_bytes(self) -> bytes:
        """The targets as bytes, which are equal for two runs exactly if the targets are equal."""
        return b"".join(part.tobytes() for part in _as_arrays("targets", self.right).values())

    @property
    def are_labels(self) -> bool:
        """Whether the outputs are labels without probabilities."""
        return self.outputs.dtype.kind == "i"

    @property
    def missing(self) -> np.ndarray:
        """Whether the answer to each text is missing, bool [N]."""
        if self.are_labels:
            absent: np.ndarray = (self.outputs.reshape(len(self), -1) == MISSING).any(axis=1)
            return absent
        return self.extras.get("missing", np.zeros(len(self), dtype=bool))

    @property
    def finite(self) -> bool:
        """Whether all outputs are finite; for generated strings, whether the references' likelihoods are finite."""
        numbers = [array for array in (self.outputs, *self.extras.values()) if array.dtype.kind == "f"]
        return all(bool(np.isfinite(array).all()) for array in numbers)

    def write(self, path: Path) -> str:
        """Write the predictions to the file `path` atomically, numbers as float32; return the file's digest."""
        outputs = self.outputs.astype(np.float32) if self.outputs.dtype.kind == "f" else self.outputs
        given = {"outputs": outputs} | ({} if self.targets is None else {"targets": self.targets})
        given |= {f"{_EXTRA}{name}": array for name, array in self.extras.items()}
        with file_io.replacing(path) as fresh:
            arrays = {name: part for each, array in given.items() for name, part in _as_arrays(each, array).items()}
            tensorfile.write_arrays(fresh, arrays)
        return digest.of_file(path)

    @classmethod
    def read(cls, path: Path, expected: str) -> Self:
        """Read predictions from a file, which must have the digest `expected`.

        Raises InvalidData if the file with predictions is missing, damaged or changed.
        """
        try:
            if digest.of_file(path) != expected:
                raise problems.PREDICTIONS_CHANGED(path=path)
            arrays = tensorfile.read_arrays(path)
            targets = _of_arrays("targets", arrays) if "targets" in arrays else None
            extras = {name.removeprefix(_EXTRA): each for name, each in arrays.items() if name.startswith(_EXTRA)}
            return cls(_of_arrays("outputs", arrays), targets, extras)
        except (OSError, KeyError, ValueError, CorruptAdapter):
            raise problems.PREDICTIONS_DAMAGED(path=path) from None


def _as_arrays(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays that a file stores for one array; strings become their bytes and the end of each string."""
    if array.dtype.kind not in "OU":
        return {name: array}
    if any(isinstance(one, tuple) for one in array):
        strings = np.array([string for one in array for string in one], dtype=object)
        return {**_as_arrays(name, strings), f"{name}{_LAST}": np.cumsum([len(one) for one in array], dtype=np.int64)}
    encoded = [str(one).encode() for one in array]
    whole = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    return {name: whole, f"{name}{_ENDS}": np.cumsum([len(one) for one in encoded], dtype=np.int64)}


def _of_arrays(name: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    array = arrays[name]
    if f"{name}{_ENDS}" not in arrays:
        return array
    ends = arrays[f"{name}{_ENDS}"].tolist()
    whole = array.tobytes()
    strings = [whole[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]
    if f"{name}{_LAST}" not in arrays:
        return np.array(strings, dtype=object)
    last = arrays[f"{name}{_LAST}"].tolist()
    return as_references(strings[start:end] for start, end in zip([0, *last], last, strict=False))


AutoClass = Literal["classifier", "language_model"]
"""The auto class of transformers that opens a model: "classifier" with a new head, or "language_model" with the model's
own head."""


class Opening(NamedTuple):
    """How transformers opens a model for a kind of task: its auto class and problem type.

    Attributes:
        problem_type: transformers' name of the kind of task, which selects the loss of a saved classifier in
            transformers.
    """

    problem_type: str
    auto_class: AutoClass = "classifier"


SINGLE_LABEL = Opening("single_label_classification")
"""How transformers opens a model for a task with one label for each text."""


@dataclass(frozen=True)
class Objective(ABC):
    """A kind of task: how a model is trained on targets, and what the model's outputs mean.

    Attributes:
        kind: afina's name of the kind of task.
        problem_type: transformers' name of the kind of task.
        auto_class: The auto class of transformers that opens models for this kind of task.
        column: Name of the field that has the prediction in results for users.
        linear: The linear model of the baselines and of the method `linear_probe`. Text-to-text tasks have none.
        has_probabilities: Whether predictions of this kind have probabilities.
        can_be_weighted: Whether labels may have different weights in the loss.
        texts_can_be_weighted: Whether training texts may have different weights in the loss.
        can_be_asked: Whether the labels can be asked for in words, so that an untrained language model can predict
            zero-shot.
        can_be_distilled: Whether a student can learn from a teacher's outputs.
        label_names: Names of the labels; for regression, the name of the number.
    """

    kind: ClassVar[Kind]
    problem_type: ClassVar[str]
    auto_class: ClassVar[AutoClass] = "classifier"
    column: ClassVar[str]
    linear: ClassVar[LinearKind]
    has_probabilities: ClassVar[bool] = True
    can_be_weighted: ClassVar[bool] = False
    texts_can_be_weighted: ClassVar[bool] = True
    can_be_asked: ClassVar[bool] = False
    can_be_distilled: ClassVar[bool] = True

    label_names: tuple[str, ...]

    @classmethod
    def from_settings(cls, label_names: tuple[str, ...], given: Mapping[str, Any]) -> Self:
        """Return the objective with these `settings`, without `kind`. Raises TypeError for an unknown setting."""
        return cls(label_names, **given)

    @classmethod
    @abstractmethod
    def takes(cls, labels: int) -> bool:
        """Whether a model with this number of labels can be of this kind of task."""

    @property
    def opening(self) -> Opening:
        """How transformers opens models for this kind of task."""
        return Opening(self.problem_type, self.auto_class)

    @property
    def width(self) -> int:
        return len(self.label_names)

    @property
    def metric(self) -> str:
        """Name of the metric that is the main result by default."""
        return metrics.of_kind(self.kind)[0]

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any] | None:
        """All settings except the label names, as JSON values; None: single-label classification with the defaults."""

    def of(self, targets: np.ndarray, class_weights: str | None = None, weights: np.ndarray | None = None) -> Self:
        """Return the objective fitted to the targets (and weights) of the training texts.

        Raises InvalidStudy if the kind of task does not support weights of classes or texts.
        """
        self._check_weights(class_weights)
        if weights is not None and not self.texts_can_be_weighted:
            raise problems.WEIGHTS_INAPPLICABLE(option="weights", kind=self.kind)
        return self

    def check(self, *, smoothing: float, temperature: bool, class_weights: str | None = None) -> None:
        """Raise InvalidStudy for settings of training that the kind of task does not support."""
        self._check_weights(class_weights)
        if smoothing and not self.has_probabilities:
            raise problems.SMOOTHING_INAPPLICABLE(kind=self.kind, option="label_smoothing")
        if temperature and not self.has_probabilities:
            raise problems.TEMPERATURE_INAPPLICABLE(kind=self.kind, option="temperature")

    def check_can_be_distilled(self) -> None:
        """Raise InvalidStudy if no student of this kind of task can learn from a teacher's outputs."""
        if not self.can_be_distilled:
            raise problems.DISTILLATION_INAPPLICABLE(kind=self.kind)

    def _check_weights(self, class_weights: str | None) -> None:
        if class_weights and not self.can_be_weighted:
            raise problems.CLASS_WEIGHTS_INAPPLICABLE(found=class_weights, option="class_weights", kind=self.kind)

    @classmethod
    def prompt(
        cls, asked: str | None, columns: Mapping[str, str], *, pairs: bool, tokenizer: Tokenizer
    ) -> Template | None:
        """Return the prompt template of a text-to-text task; None for other kinds of task."""
        return None

    def generating(self, answer_tokens: int | None, decoding: Decoding, *, chat: bool) -> Self:
        """Return the objective with these settings for generation; unchanged if predictions are not generated."""
        return self

    def generation(self) -> Decoding | None:
        """Return the decoding settings, with a limit of new tokens; None: predictions are not generated."""
        return None

    def decoding_changed(self, **given: Any) -> Self:
        """Return the objective with other decoding settings.

        Raises InvalidStudy if predictions of the kind of task are not generated.
        """
        option = min(given)
        raise problems.DECODING_INAPPLICABLE(option=option, kind=self.kind)

    @abstractmethod
    def loss_targets(self, targets: np.ndarray) -> np.ndarray:
        """Return the targets in the form that the method `loss` takes."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
        """Return the mean loss of a batch, a float32 scalar.

        The loss of each text is multiplied by its weight, and averaged over the batch without dividing by the sum of
        weights: the mean weight over the training split is 1. Gradients accumulated over parts of a batch equal the
        gradient of the whole batch.

        Args:
            outputs: The model's outputs, [B, width].
            targets: The targets as returned by `loss_targets`.
            smoothing: The share of each target that label smoothing spreads over all labels.
            weights: The weight of each text, float32 [B]. None: all weights are 1.
        """

    def soft_targets(self, teacher: Objective, predictions: Predictions) -> np.ndarray:
        """Return the targets that a student learns from a teacher's predictions, float32 [N, width].

        Args:
            teacher: The objective of the teacher, which has the same kind and the same labels, in any order.
        """
        order = [teacher.label_names.index(name) for name in self.label_names]
        return np.ascontiguousarray(teacher.calibrated_outputs(predictions)[:, order], dtype=np.float32)

    def calibrated_outputs(self, predictions: Predictions) -> np.ndarray:
        """Return the outputs of predictions, after the temperature or the unit of this objective, [N, width]."""
        return predictions.outputs

    @abstractmethod
    def soft_losses(self, outputs: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Return how far each text's outputs are from the teacher's, float32 [B].

        The gradient is as large as that of `loss`, whatever the temperature (Hinton et al. 2015, section 2).

        Args:
            outputs: The student's outputs, [B, width].
            targets: The teacher's outputs, as `soft_targets` returns them.
            temperature: The number by which both outputs are divided.
        """

    def distilled_loss(
        self,
        outputs: Tensor,
        targets: Tensor,
        soft: SoftTargets,
        *,
        temperature: float,
        weight: float,
        smoothing: float = 0.0,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Return the mean over a batch of `1 - weight` times the loss on labels, plus `weight` times the soft losses.

        A text without a label has no loss on labels. Other arguments are those of `loss` and `soft_losses`.
        """
        of_texts = soft.labelled.new_ones(len(soft.labelled)) if weights is None else weights
        on_labels = self.loss(outputs, targets, smoothing, (1 - weight) * soft.labelled * of_texts)
        on_teacher = self.soft_losses(outputs, soft.outputs, temperature)
        return on_labels + _weighted_mean(on_teacher, weight * of_texts)

    @abstractmethod
    def mean_loss(self, predictions: Predictions) -> float:
        """Return the mean loss of predictions, without weights and label smoothing; used to select hyperparameters."""

    @abstractmethod
    def of_answers(self, answers: Sequence[Any], targets: np.ndarray | None = None) -> Predictions:
        """Return the predictions of a model that answers in words, without probabilities.

        Args:
            answers: The answer to each text: the index of a class, a number, the indices of the labels of a text, or a
                text. None: the answer is missing. A missing answer is wrong, and counts as no label; a missing number
                counts as the mean of the training numbers, and a missing text as an empty text.
            targets: The right answers, as in `Predictions`.
        """

    @abstractmethod
    def decode(self, predictions: Predictions) -> np.ndarray:
        """Return the prediction for each text, in the same form as the targets."""

    def probabilities(self, predictions: Predictions) -> np.ndarray | None:
        """Return the probabilities of the labels, [N, width]; None: the kind of task has no probabilities."""
        return None

    def calibrated(self, predictions: Predictions) -> Self:
        """Return the objective calibrated on held-out predictions; unchanged for kinds without probabilities."""
        return self

    def fits(self, predictions: Predictions) -> bool:
        """Whether the predictions have targets, and a finite output for every label of each text."""
        if predictions.targets is None or not predictions.finite:
            return False
        return predictions.outputs.shape == (len(predictions.targets), self.width)

    def answered(self, predictions: Predictions, names: Sequence[str] | None = None) -> Answered:
        """Return targets, decoded predictions and probabilities, as the metrics take them.

        Args:
            names: The labels that the targets refer to, in the order of the targets. None: `label_names`.
        """
        chances = self.probabilities(predictions)
        labels = self.width if predictions.are_labels else None
        found = Answered(predictions.right, self.decode(predictions), chances, predictions.extras, labels)
        return found if names is None or tuple(names) == self.label_names else self._about(found, names)

    def _about(self, found: Answered, names: Sequence[str]) -> Answered:
        """Return the answers with labels in the order of `names`; unchanged for kinds of task without labels."""
        return found

    def metrics(self, predictions: Predictions) -> dict[str, float]:
        """Return all metrics of the kind of task, the main one first (docs/reference/figures.md defines them)."""
        answered = self.answered(predictions)
        return {name: METRICS[name].value(answered) for name in self.measures}

    def values(self, metric: str, predictions: Predictions) -> np.ndarray:
        """Return each text's contribution to a metric, [N], whose mean is the metric.

        The contributions are bool (right or wrong) for some metrics.
        """
        made = METRICS[metric].values
        assert made is not None
        return made(self.answered(predictions))

    def value(self, metric: str, predictions: Predictions) -> float:
        return METRICS[metric].value(self.answered(predictions))

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the metrics for this kind of task and this number of labels."""
        return tuple(name for name in metrics.of_kind(self.kind) if METRICS[name].classes in (None, self.width))

    def signatures(self, targets: np.ndarray) -> dict[str, str] | None:
        """Return, by metric, a string that states how another library computes the metric; None: no such metric."""
        return None

    def _rows(self, predictions: Predictions) -> Iterator[dict[str, float] | None]:
        """Yield the probabilities of each text by label; None for labels without probabilities."""
        chances = self.probabilities(predictions)
        if chances is None:
            yield from (None for _ in range(len(predictions)))
        else:
            yield from (dict(zip(self.label_names, row, strict=True)) for row in chances.tolist())

    def _labelled(self, predictions: Predictions) -> bool:
        """Whether the outputs are labels of this kind of task without probabilities."""
        return predictions.are_labels and predictions.outputs.shape == predictions.right.shape

    @property
    def empty_answer(self) -> dict[str, Any]:
        """The fields of a prediction, all None, which stand for the prediction of a missing text."""
        return {self.column: None, **({"probabilities": None} if self.has_probabilities else {})}

    def as_cell(self, answer: Mapping[str, Any], between: str) -> Any:
        """Return a prediction as a table cell, without probabilities; `between` separates several labels."""
        return answer[self.column]

    @abstractmethod
    def perfect(self, targets: np.ndarray) -> Answered:
        """Return the input of metrics for a model that is always right and certain."""

    @abstractmethod
    def answers(self, predictions: Predictions) -> Iterator[dict[str, Any]]:
        """Yield each text's prediction as JSON values for users."""


def metric_for(objective: Objective, asked: str | None = None, standard: str | None = None) -> str:
    """Return the name of the main metric: `asked`, or else the task's `standard` metric, or else the kind's default.

    Raises:
        UnknownName: There is no metric with this name.
        InvalidStudy: The kind of task does not have the metric, or the metric is not a mean over texts.
    """
    name = (standard or objective.metric) if asked is None else asked
    if name not in METRICS:
        raise UnknownName("metric", name, objective.measures)
    if name not in objective.measures:
        few = f" with {objective.width} labels" if METRICS[name].kind == objective.kind else ""
        raise problems.METRIC_OF_OTHER_KIND(_hint=few, metric=name, kind=objective.kind, known=objective.measures)
    if METRICS[name].values is None:
        raise problems.METRIC_NOT_A_MEAN(found=METRICS[name].words, metric=name)
    return name


@dataclass(frozen=True)
class Classes(Objective):
    """Single-label classification: each text has one label.

    Targets are int64 [N], indices into the label names.

    Attributes:
        temperature: Number by which outputs are divided before the softmax (Guo et al. 2017).
        weights: The weight of each class in the loss. None: all weights are 1.
    """

    kind: ClassVar[Kind] = CLASSES
    problem_type: ClassVar[str] = "single_label_classification"
    column: ClassVar[str] = "label"
    linear: ClassVar[LinearKind] = LinearClasses()
    can_be_weighted: ClassVar[bool] = True
    can_be_asked: ClassVar[bool] = True

    temperature: float = 1.0
    weights: tuple[float, ...] | None = field(default=None, compare=False)

    @classmethod
    def takes(cls, labels: int) -> bool:
        return labels > 1

    @property
    def settings(self) -> dict[str, Any] | None:
        """The kind of task and the temperature; None: single-label classification with temperature 1."""
        plain = self.kind == Classes.kind and self.temperature == 1.0
        return None if plain else {"kind": self.kind, "temperature": self.temperature}

    def of(self, targets: np.ndarray, class_weights: str | None = None, weights: np.ndarray | None = None) -> Self:
        """Return the objective with class weights.

        Balanced class weights are N / (C count) as in scikit-learn, and 0 for absent classes.

        If texts have weights, N in N / (C count) is their sum over all texts, and the count their sum over the class.
        """
        if class_weights is None:
            return self
        counts = np.bincount(targets, weights, minlength=self.width)
        balanced = np.divide(counts.sum(), self.width * counts, out=np.zeros(self.width), where=counts > 0)
        return replace(self, weights=tuple(balanced.tolist()))

    def loss_targets(self, targets: np.ndarray) -> np.ndarray:
        return targets

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
        """Return the cross-entropy, optionally with label smoothing (Szegedy et al. 2016) and class weights."""
        from torch.nn.functional import cross_entropy

        if self.weights is None and weights is None:
            return cross_entropy(outputs, targets, label_smoothing=smoothing)
        of_labels = None if self.weights is None else outputs.new_tensor(self.weights)
        losses = cross_entropy(outputs, targets, of_labels, label_smoothing=smoothing, reduction="none")
        return _weighted_mean(losses, weights)

    def calibrated_outputs(self, predictions: Predictions) -> np.ndarray:
        """Return the logits divided by the temperature of calibration."""
        return predictions.outputs / self.temperature

    def soft_losses(self, outputs: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Return the squared temperature times the cross-entropy of the teacher's and the student's probabilities."""
        teacher = (targets / temperature).softmax(dim=-1)
        return -(temperature**2) * (teacher * (outputs / temperature).log_softmax(dim=-1)).sum(dim=-1)

    def mean_loss(self, predictions: Predictions) -> float:
        """Return the cross-entropy in nats; NaN for labels without probabilities."""
        if predictions.are_labels:
            return UNDEFINED
        return classification.log_loss(predictions.right, predictions.outputs)

    def of_answers(self, answers: Sequence[Any], targets: np.ndarray | None = None) -> Predictions:
        """Return class indices int64 [N], MISSING for None."""
        given = [MISSING if answer is None else answer for answer in answers]
        return Predictions(np.array(given, dtype=np.int64), targets)

    def decode(self, predictions: Predictions) -> np.ndarray:
        if predictions.are_labels:
            return predictions.outputs
        decoded: np.ndarray = predictions.outputs.argmax(axis=1)
        return decoded

    def probabilities(self, predictions: Predictions) -> np.ndarray | None:
        """Return the softmax of the outputs divided by the temperature; None for labels without probabilities."""
        outputs = predictions.outputs
        if predictions.are_labels:
            return None
        return classification.probabilities(outputs if self.temperature == 1.0 else outputs / self.temperature)

    def _about(self, found: Answered, names: Sequence[str]) -> Answered:
        """Return the same answers as indices into `names`, which has all labels in another order."""
        order = [self.label_names.index(name) for name in names]
        answers = np.where(found.answers == MISSING, MISSING, np.argsort(order)[found.answers])
        chances = None if found.chances is None else found.probabilities[:, order]
        return Answered(found.targets, answers, chances, labels=found.labels)

    def calibrated(self, predictions: Predictions) -> Self:
        """Return the objective with the temperature that minimises the cross-entropy of the held-out predictions.

        The objective is unchanged for labels without probabilities.
        """
        if predictions.are_labels:
            return self
        return replace(self, temperature=_temperature(self, predictions))

    def fits(self, predictions: Predictions) -> bool:
        right = predictions.targets
        if right is None or right.dtype.kind != "i" or right.ndim != 1:
            return False
        if self._labelled(predictions):
            known = (predictions.outputs >= MISSING) & (predictions.outputs < self.width)
        elif super().fits(predictions):
            known = np.ones(len(right), dtype=bool)
        else:
            return False
        return bool((known & (right >= 0) & (right < self.width)).all())

    def perfect(self, targets: np.ndarray) -> Answered:
        """Return answers that give each target class probability 1."""
        return Answered(targets, targets, np.eye(self.width)[targets])

    def answers(self, predictions: Predictions) -> Iterator[dict[str, Any]]:
        for answer, row in zip(self.decode(predictions).tolist(), self._rows(predictions), strict=True):
            yield {"label": None if answer == MISSING else self.label_names[answer], "probabilities": row}


@dataclass(frozen=True)
class Number(Objective):
    """Regression: the answer is a number.

    Targets are float64 [N] in the user's unit; the model's outputs are (number - mean) / scale.
    """

    kind: ClassVar[Kind] = NUMBER
    problem_type: ClassVar[str] = "regression"
    column: ClassVar[str] = "value"
    linear: ClassVar[LinearKind] = LinearNumber()
    has_probabilities: ClassVar[bool] = False

    mean: float = 0.0
    scale: float = 1.0

    @classmethod
    def takes(cls, labels: int) -> bool:
        return labels == 1

    @property
    def settings(self) -> dict[str, Any]:
        """The kind of task, and the mean and scale that convert outputs to the user's unit."""
        return {"kind": self.kind, "mean": self.mean, "scale": self.scale}

    def of(self, targets: np.ndarray, class_weights: str | None = None, weights: np.ndarray | None = None) -> Self:
        """Return the objective with the mean and standard deviation of the targets, weighted if texts have weights."""
        made = super().of(targets, class_weights, weights)
        if weights is None:
            return replace(made, mean=float(targets.mean()), scale=float(targets.std()) or 1.0)
        mean = float(np.average(targets, weights=weights))
        spread = float(np.sqrt(np.average((targets - mean) ** 2, weights=weights)))
        return replace(made, mean=mean, scale=spread or 1.0)

    def loss_targets(self, targets: np.ndarray) -> np.ndarray:
        standardised: np.ndarray = ((targets - self.mean) / self.scale).astype(np.float32)
        return standardised

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
        """Return the mean squared error of the standardised numbers."""
        from torch.nn.functional import mse_loss

        if weights is None:
            return mse_loss(outputs.squeeze(-1), targets)
        return _weighted_mean(mse_loss(outputs.squeeze(-1), targets, reduction="none"), weights)

    def soft_targets(self, teacher: Objective, predictions: Predictions) -> np.ndarray:
        """Return the numbers that the teacher predicts, standardised as this objective's outputs."""
        return self.loss_targets(teacher.decode(predictions))[:, None]

    def soft_losses(self, outputs: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Return the squared difference to the teacher's number; the temperature has no effect."""
        squared: Tensor = (outputs - targets).squeeze(-1) ** 2
        return squared

    def mean_loss(self, predictions: Predictions) -> float:
        outputs = predictions.outputs[:, 0].astype(np.float64)
        return float(np.mean((outputs - self.loss_targets(predictions.right)) ** 2))

    def of_answers(self, answers: Sequence[Any], targets: np.ndarray | None = None) -> Predictions:
        """Return the standardised numbers, float64 [N, 1]; a missing number is 0, which is the mean of training."""
        missing = np.array([answer is None for answer in answers], dtype=bool)
        numbers = np.array([self.mean if answer is None else answer for answer in answers], dtype=np.float64)
        return Predictions(((numbers - self.mean) / self.scale)[:, None], targets, {"missing": missing})

    def decode(self, predictions: Predictions) -> np.ndarray:
        numbers: np.ndarray = predictions.outputs[:, 0].astype(np.float64) * self.scale + self.mean
        return numbers

    def perfect(self, targets: np.ndarray) -> Answered:
        return Answered(targets, targets)

    def answers(self, predictions: Predictions) -> Iterator[dict[str, Any]]:
        yield from ({"value": value} for value in self.decode(predictions).tolist())


@dataclass(frozen=True)
class Labels(Objective):
    """Multi-label classification: each text may have several labels.

    Targets are int64 [N, L], 0 or 1.

    Attributes:
        temperature: Number by which outputs are divided before the logistic function.
        thresholds: For each label, the lowest probability at which a text has the label. None: 0.5 for all labels.
    """

    kind: ClassVar[Kind] = LABELS
    problem_type: ClassVar[str] = "multi_label_classification"
    column: ClassVar[str] = "labels"
    linear: ClassVar[LinearKind] = LinearLabels()

    temperature: float = 1.0
    thresholds: tuple[float, ...] | None = None

    @classmethod
    def from_settings(cls, label_names: tuple[str, ...], given: Mapping[str, Any]) -> Self:
        """Return the objective with these `settings`, in which `thresholds` may be any sequence of numbers."""
        thresholds = {"thresholds": tuple(map(float, given["thresholds"]))} if "thresholds" in given else {}
        return cls(label_names, **{**given, **thresholds})

    @classmethod
    def takes(cls, labels: int) -> bool:
        return labels > 0

    @property
    def settings(self) -> dict[str, Any]:
        """The kind of task, with temperature and thresholds if they differ from the defaults."""
        made = {"temperature": self.temperature} if self.temperature != 1.0 else {}
        return {"kind": self.kind, **made, **({"thresholds": list(self.thresholds)} if self.thresholds else {})}

    def loss_targets(self, targets: np.ndarray) -> np.ndarray:
        return targets.astype(np.float32)

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
        """Return the binary cross-entropy, averaged over texts and labels; smoothing moves targets towards 0.5."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        if smoothing:
            targets = targets * (1 - smoothing) + smoothing / 2
        if weights is None:
            return binary_cross_entropy_with_logits(outputs, targets)
        losses = binary_cross_entropy_with_logits(outputs, targets, reduction="none")
        return _weighted_mean(losses.mean(dim=1), weights)

    def calibrated_outputs(self, predictions: Predictions) -> np.ndarray:
        """Return the logits divided by the temperature of calibration."""
        return predictions.outputs / self.temperature

    def soft_losses(self, outputs: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Return the squared temperature times the binary cross-entropy with the teacher, averaged over labels."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        teacher = (targets / temperature).sigmoid()
        losses = binary_cross_entropy_with_logits(outputs / temperature, teacher, reduction="none")
        return temperature**2 * losses.mean(dim=1)

    def mean_loss(self, predictions: Predictions) -> float:
        """Return the binary cross-entropy in nats; NaN for labels without probabilities."""
        outputs = predictions.outputs
        if predictions.are_labels:
            return UNDEFINED
        return float(np.mean(np.logaddexp(0.0, outputs.astype(np.float64)) - outputs * predictions.right))

    def of_answers(self, answers: Sequence[Any], targets: np.ndarray | None = None) -> Predictions:
        """Return int64 [N, L], 1 where a text has a label; MISSING in the whole row for None."""
        rows = np.zeros((len(answers), self.width), dtype=np.int64)
        for row, answer in zip(rows, answers, strict=True):
            row[:] = MISSING if answer is None else row
            row[[] if answer is None else list(answer)] = 1
        return Predictions(rows, targets)

    def decode(self, predictions: Predictions) -> np.ndarray:
        """Return int64 [N, L], which is 1 where a label's probability reaches the label's threshold."""
        chances = self.probabilities(predictions)
        if chances is None:
            return predictions.outputs
        thresholds = classification.DEFAULT_THRESHOLD if self.thresholds is None else np.array(self.thresholds)
        return np.asarray(chances >= thresholds, dtype=np.int64)

    def fits(self, predictions: Predictions) -> bool:
        if predictions.targets is None or not predictions.are_labels:
            return super().fits(predictions)
        known = np.isin(predictions.outputs, (MISSING, 0, 1))
        return self._labelled(predictions) and predictions.outputs.shape[1:] == (self.width,) and bool(known.all())

    def _about(self, found: Answered, names: Sequence[str]) -> Answered:
        """Return the answers with only the columns of the labels `names`."""
        columns = [self.label_names.index(name) for name in names]
        chances = None if found.chances is None else found.probabilities[:, columns]
        return Answered(found.targets, found.answers[:, columns], chances)

    def probabilities(self, predictions: Predictions) -> np.ndarray | None:
        """Return the logistic function of the outputs divided by the temperature; None without probabilities."""
        if predictions.are_labels:
            return None
        made: np.ndarray = (1 + np.tanh(predictions.outputs.astype(np.float64) / (2 * self.temperature))) / 2
        return made

    def calibrated(self, predictions: Predictions) -> Self:
        """Return the objective with the temperature of lowest cross-entropy, and each label's threshold of best F1.

        The objective is unchanged for labels without probabilities.
        """
        if predictions.are_labels:
            return self
        made = replace(self, temperature=_temperature(self, predictions))
        probabilities, targets = made.probabilities(predictions), predictions.right
        assert probabilities is not None
        thresholds = [
            classification.fit_threshold(targets[:, label], probabilities[:, label]) for label in range(self.width)
        ]
        return replace(made, thresholds=tuple(thresholds))

    def perfect(self, targets: np.ndarray) -> Answered:
        return Answered(targets, targets, targets)

    def as_cell(self, answer: Mapping[str, Any], between: str) -> Any:
        return between.join(answer[self.column] or ())

    def answers(self, predictions: Predictions) -> Iterator[dict[str, Any]]:
        for answer, row in zip(self.decode(predictions).tolist(), self._rows(predictions), strict=True):
            absent = MISSING in answer
            labels = [name for name, has in zip(self.label_names, answer, strict=True) if has]
            yield {"labels": None if absent else labels, "probabilities": row}


@dataclass(frozen=True)
class Texts(Objective):
    """Text-to-text: the answer is a generated text.

    Targets are object [N], tuples of the strings that are right answers.

    Attributes:
        answer_tokens: Number of tokens of the longest training target, including its end token; so many positions are
            reserved after each prompt.
        chat: Whether the template was the tokenizer's chat template, which contains the special tokens.
    """

    kind: ClassVar[Kind] = TEXT
    problem_type: ClassVar[str] = ""
    auto_class: ClassVar[AutoClass] = "language_model"
    column: ClassVar[str] = "answer"
    has_probabilities: ClassVar[bool] = False
    texts_can_be_weighted: ClassVar[bool] = False
    can_be_distilled: ClassVar[bool] = False

    answer_tokens: int | None = None
    chat: bool = False
    decoding: Decoding = GREEDY

    @classmethod
    def from_settings(cls, label_names: tuple[str, ...], given: Mapping[str, Any]) -> Self:
        return cls(label_names, **dict(given) | {"decoding": Decoding(**given.get("decoding", {}))})

    @classmethod
    def prompt(cls, asked: str | None, columns: Mapping[str, str], *, pairs: bool, tokenizer: Tokenizer) -> Template:
        """Return the prompt template `asked`, or the default template for the task's columns."""
        return prompt_of(asked, columns, pairs=pairs, tokenizer=tokenizer)

    @classmethod
    def takes(cls, labels: int) -> bool:
        return labels == 1

    @property
    def settings(self) -> dict[str, Any]:
        """The kind of task, the decoding settings, the answer length, and whether the template is a chat template."""
        how = self.decoding.non_defaults()
        made = {"kind": self.kind, "answer_tokens": self.answer_tokens, "chat": self.chat, "decoding": how}
        return {name: value for name, value in made.items() if value}

    def generating(self, answer_tokens: int | None, decoding: Decoding, *, chat: bool) -> Self:
        return replace(self, answer_tokens=answer_tokens, decoding=decoding, chat=chat)

    def generation(self) -> Decoding:
        """Return the decoding settings; by default, the length of the longest training target limits new tokens."""
        return self.decoding.model_copy(update={"max_new_tokens": self.decoding.max_new_tokens or self.answer_tokens})

    def decoding_changed(self, **given: Any) -> Self:
        return replace(self, decoding=self.decoding.changed(**given))

    def loss_targets(self, targets: np.ndarray) -> np.ndarray:
        """Return the targets unchanged, because the batches already contain the targets' tokens."""
        return targets

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
        """Return the mean of `outputs` [M], which already are the losses of the target tokens."""
        return outputs.mean()

    def soft_losses(self, outputs: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Raise InvalidStudy, because `outputs` are losses of tokens, without the probabilities of other tokens."""
        raise problems.DISTILLATION_INAPPLICABLE(kind=self.kind)

    def mean_loss(self, predictions: Predictions) -> float:
        """Return the mean negative log-likelihood of the tokens in the right answers, in nats."""
        return float(predictions.extras["nll"].sum() / predictions.extras["reference_tokens"].sum())

    def of_answers(self, answers: Sequence[Any], targets: np.ndarray | None = None) -> Predictions:
        """Return strings, object [N]; a missing text is empty."""
        missing = np.array([answer is None for answer in answers], dtype=bool)
        texts = np.array([*("" if answer is None else answer for answer in answers), None], dtype=object)[:-1]
        return Predictions(texts, targets, {"missing": missing})

    def decode(self, predictions: Predictions) -> np.ndarray:
        return predictions.outputs

    def fits(self, predictions: Predictions) -> bool:
        return predictions.targets is not None and len(predictions.outputs) == len(predictions.targets)

    def perfect(self, targets: np.ndarray) -> Answered:
        """Return answers that equal the first reference, as from a model that gives all references probability 1."""
        ones, answers = np.ones(len(targets), np.int64), np.array([each[0] for each in targets], dtype=object)
        return Answered(targets, answers, None, {"nll": 0.0 * ones, "reference_tokens": ones, "ended": ones > 0})

    def signatures(self, targets: np.ndarray) -> dict[str, str]:
        """Return sacrebleu's signatures of BLEU and chrF."""
        return bleu_chrf_nist.signatures(targets)

    def answers(self, predictions: Predictions) -> Iterator[dict[str, Any]]:
        for answer in predictions.outputs.tolist():
            yield {"answer": answer}


def _weighted_mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean over a batch of the texts' losses [B], each multiplied by the text's weight."""
    return losses.mean() if weights is None else (losses * weights).mean()


def _temperature(objective: Objective, predictions: Predictions) -> float:
    """Return the temperature that minimises the mean loss of held-out predictions."""
    return classification.fit_temperature(
        lambda divisor: objective.mean_loss(replace(predictions, outputs=predictions.outputs / divisor))
    )


OBJECTIVES: dict[str, type[Objective]] = {made.kind: made for made in (Classes, Number, Labels, Texts)}


def make(label_names: Sequence[str], settings: Mapping[str, Any] | None = None) -> Objective:
    """Return the objective with these `Objective.settings`. Raises KeyError or TypeError for unknown settings."""
    given = dict(settings or {"kind": CLASSES})
    return OBJECTIVES[given.pop("kind")].from_settings(tuple(label_names), given)


def of_problem(label_names: Sequence[str], problem_type: str | None, where: str) -> Objective:
    """Return the objective that fits the configuration of a transformers model.

    Args:
        problem_type: Value of `problem_type` in the model's configuration. If `problem_type` is None, the objective is
            chosen by the number of labels.
        where: The name of the configuration in error messages.

    Raises InvalidStudy if no kind of task has this problem type, or if the problem type does not fit the number of
    labels.
    """
    known, count = {kind.problem_type: kind for kind in OBJECTIVES.values() if kind.problem_type}, len(label_names)
    kind = known.get(problem_type) if problem_type else next(one for one in known.values() if one.takes(count))
    if kind is None:
        raise problems.PROBLEM_TYPE_UNKNOWN(where=where, field="problem_type", found=problem_type, known=list(known))
    if not kind.takes(count):
        raise problems.PROBLEM_TYPE_CONTRADICTORY(
            where=where, field="problem_type", found=kind.problem_type, labels=count
        )
    return kind(tuple(label_names))
