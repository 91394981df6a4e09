"""Objective: the kind of answer that a model gives to a text, with its loss, head width, decoding and metrics.

Training, studies and the report call the objective and do not assume labels. `Predictions` are a model's answers;
packages above `models` only use their length, selection and file. Passes arrays to `afina.stats`, which does not know
objectives. Imports torch only in `loss`. The kinds are in `objectives.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np

from afina import digest, file_io, tensorfile
from afina.data.kinds import Kind
from afina.data.split import as_references
from afina.errors import CorruptAdapter, UnknownName
from afina.models import problems
from afina.models.decoding import Decoding
from afina.stats import metrics
from afina.stats.metrics import METRICS, Answered

if TYPE_CHECKING:
    from torch import Tensor

    from afina.data.tokenize import Template, Tokenizer


_ENDS, _LAST = "_ends", "_last"
"""Suffixes of arrays in a file of strings: where each string ends, in bytes of UTF-8; and, if an example has several
strings, the number of strings up to its last."""

_EXTRA = "extra."
"""Prefix of the arrays of `extras` in a file."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """A model's answers to N texts in order, with the targets if they are known.

    Attributes:
        outputs: One answer for each text: float [N, width], or strings, object [N].
        targets: [N, ...] in the form of the kind of task; tuples of strings are object [N]. None: unknown.
        extras: Other arrays [N] by name that metrics of the kind need; empty for most kinds.
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
        """Return the same answers with these targets."""
        return replace(self, targets=targets)

    @property
    def right(self) -> np.ndarray:
        """The targets. Raises ValueError if they are unknown."""
        if self.targets is None:
            raise ValueError("expected predictions with targets, found none")
        return self.targets

    @property
    def right_as_bytes(self) -> bytes:
        """The targets as bytes, equal for two runs if their targets are equal."""
        return b"".join(part.tobytes() for part in _as_arrays("targets", self.right).values())

    @property
    def finite(self) -> bool:
        """Whether no output is NaN or infinite; for strings, whether the likelihoods of the references are finite."""
        numbers = [array for array in (self.outputs, *self.extras.values()) if array.dtype.kind == "f"]
        return all(bool(np.isfinite(array).all()) for array in numbers)

    def write(self, path: Path) -> str:
        """Write the file `path` atomically, numbers as float32; return the file's digest."""
        outputs = self.outputs.astype(np.float32) if self.outputs.dtype.kind == "f" else self.outputs
        given = {"outputs": outputs} | ({} if self.targets is None else {"targets": self.targets})
        given |= {f"{_EXTRA}{name}": array for name, array in self.extras.items()}
        with file_io.replacing(path) as fresh:
            arrays = {name: part for each, array in given.items() for name, part in _as_arrays(each, array).items()}
            tensorfile.write_arrays(fresh, arrays)
        return digest.of_file(path)

    @classmethod
    def read(cls, path: Path, expected: str) -> Self:
        """Read a file that must have the digest `expected`.

        Raises:
            InvalidData: The file is missing, damaged or changed.
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
    """Return the arrays that a file stores; strings are stored as bytes and the end of each string."""
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
"""transformers' auto class of an architecture: with a newly drawn head, or with the model's own head."""


class Opening(NamedTuple):
    """How transformers opens a model for a kind of task.

    Attributes:
        problem_type: transformers' name of the kind; a saved classifier uses the same loss there.
        auto_class: The auto class.
    """

    problem_type: str
    auto_class: AutoClass = "classifier"


SINGLE_LABEL = Opening("single_label_classification")
"""How transformers opens a model for a task with one label for each text."""


@dataclass(frozen=True)
class Objective(ABC):
    """One kind of task: how a model is trained on targets, and what `Predictions` mean.

    Attributes:
        kind: afina's name of the kind.
        problem_type: transformers' name of the kind.
        auto_class: transformers' auto class of the kind's models.
        column: Name of the answer in predictions for users.
        has_probabilities: Whether an answer has probabilities.
        can_be_weighted: Whether labels may have weights in the loss.
        texts_can_be_weighted: Whether texts may have weights in the loss.
        can_be_asked: Whether label words exist, so that an untrained language model can answer.
        label_names: Names of the labels; for a number, its own name.
    """

    kind: ClassVar[Kind]
    problem_type: ClassVar[str]
    auto_class: ClassVar[AutoClass] = "classifier"
    column: ClassVar[str]
    has_probabilities: ClassVar[bool] = True
    can_be_weighted: ClassVar[bool] = False
    texts_can_be_weighted: ClassVar[bool] = True
    can_be_asked: ClassVar[bool] = False

    label_names: tuple[str, ...]

    @classmethod
    def from_settings(cls, label_names: tuple[str, ...], given: Mapping[str, Any]) -> Self:
        """Return the objective with these `settings` (without the kind). Raises TypeError for an unknown setting."""
        return cls(label_names, **given)

    @classmethod
    @abstractmethod
    def takes(cls, labels: int) -> bool:
        """Whether a model with `labels` labels can be of this kind."""

    @property
    def opening(self) -> Opening:
        """How transformers opens models of this kind."""
        return Opening(self.problem_type, self.auto_class)

    @property
    def width(self) -> int:
        return len(self.label_names)

    @property
    def metric(self) -> str:
        """Name of the default headline metric."""
        return metrics.of_kind(self.kind)[0]

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any] | None:
        """All settings except the label names, as JSON values for `objectives.make`; None: classes with defaults."""

    def of(self, targets: np.ndarray, class_weights: str | None = None, weights: np.ndarray | None = None) -> Self:
        """Return the objective fitted to a training split's targets, with the weights of its texts.

        Raises InvalidStudy for unsupported weights.
        """
        self._check_weights(class_weights)
        if weights is not None and not self.texts_can_be_weighted:
            raise problems.WEIGHTS_INAPPLICABLE(option="weights", kind=self.kind)
        return self

    def check(self, *, smoothing: float, temperature: bool, class_weights: str | None = None) -> None:
        """Raise InvalidStudy for training settings that the kind does not support."""
        self._check_weights(class_weights)
        if smoothing and not self.has_probabilities:
            raise problems.SMOOTHING_INAPPLICABLE(kind=self.kind, option="label_smoothing")
        if temperature and not self.has_probabilities:
            raise problems.TEMPERATURE_INAPPLICABLE(kind=self.kind, option="temperature")

    def _check_weights(self, class_weights: str | None) -> None:
        if class_weights and not self.can_be_weighted:
            raise problems.CLASS_WEIGHTS_INAPPLICABLE(found=class_weights, option="class_weights", kind=self.kind)

    @classmethod
    def prompt(
        cls, asked: str | None, columns: Mapping[str, str], *, pairs: bool, tokenizer: Tokenizer
    ) -> Template | None:
        """Return the template of a kind without label words, `asked` or usual; None: templates go with label words."""
        return None

    def generating(self, answer_tokens: int | None, decoding: Decoding, *, chat: bool) -> Self:
        """Return the objective with the settings of generation; unchanged if answers are not generated."""
        return self

    def generation(self) -> Decoding | None:
        """Return how answers are generated, with a limit of new tokens; None: they are not generated."""
        return None

    def decoding_changed(self, **given: Any) -> Self:
        """Return the objective with other settings of generation. Raises InvalidStudy if answers are not generated."""
        option = min(given)
        raise problems.DECODING_INAPPLICABLE(option=option, kind=self.kind)

    @abstractmethod
    def loss_targets(self, targets: np.ndarray) -> np.ndarray:
        """Return targets in the form that `loss` takes."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
        """Return the mean loss of a batch, a float32 scalar.

        Weights multiply the losses of the texts, and the mean over the batch is not divided by the sum of weights:
        their mean over the training split is 1. Gradient accumulation over parts of a batch therefore gives the
        gradient of the whole batch.

        Args:
            outputs: [B, width].
            targets: As returned by `loss_targets`.
            smoothing: Share of each target that label smoothing spreads over all labels.
            weights: float32 [B]. None: all 1.
        """

    @abstractmethod
    def mean_loss(self, predictions: Predictions) -> float:
        """Return the mean loss of predictions with targets, without weights and smoothing; used to select settings."""

    @abstractmethod
    def decode(self, predictions: Predictions) -> np.ndarray:
        """Return the answer to each example, in the form of targets."""

    def probabilities(self, predictions: Predictions) -> np.ndarray | None:
        """Return probabilities, [N, width]; None: the kind has no probabilities."""
        return None

    def calibrated(self, predictions: Predictions) -> Self:
        """Return the objective calibrated on held-out predictions; unchanged if the kind has no probabilities."""
        return self

    def fits(self, predictions: Predictions) -> bool:
        """Whether the predictions have targets and a finite output for every label."""
        if predictions.targets is None or not predictions.finite:
            return False
        return predictions.outputs.shape == (len(predictions.targets), self.width)

    def answered(self, predictions: Predictions, names: Sequence[str] | None = None) -> Answered:
        """Return the input of metrics, for predictions with targets.

        Args:
            names: The labels that the targets are about, in the order of the targets. None: `label_names`.
        """
        chances = self.probabilities(predictions)
        found = Answered(predictions.right, self.decode(predictions), chances, predictions.extras)
        return found if names is None or tuple(names) == self.label_names else self._about(found, names)

    def _about(self, found: Answered, names: Sequence[str]) -> Answered:
        """Return answers about the labels `names`, in their order; kinds without labels have one order."""
        return found

    def metrics(self, predictions: Predictions) -> dict[str, float]:
        """Return every metric of this kind (docs/reference/figures.md defines them), the default headline first."""
        answered = self.answered(predictions)
        return {name: METRICS[name].value(answered) for name in self.measures}

    def values(self, metric: str, predictions: Predictions) -> np.ndarray:
        """Return each example's contribution to a metric, [N]; their mean is the metric. bool: right or wrong."""
        made = METRICS[metric].values
        assert made is not None
        return made(self.answered(predictions))

    def value(self, metric: str, predictions: Predictions) -> float:
        return METRICS[metric].value(self.answered(predictions))

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the metrics for this kind and number of labels."""
        return tuple(name for name in metrics.of_kind(self.kind) if METRICS[name].classes in (None, self.width))

    def signatures(self, targets: np.ndarray) -> dict[str, str] | None:
        """Return the signatures, by metric, that state how another library computes it; None: no metric has one."""
        return None

    @property
    def empty_answer(self) -> dict[str, Any]:
        """The fields of an answer with the value None, used where a text is missing."""
        return {self.column: None, **({"probabilities": None} if self.has_probabilities else {})}

    def as_cell(self, answer: Mapping[str, Any], between: str) -> Any:
        """Return an answer without probabilities as one table cell; `between` separates several labels."""
        return answer[self.column]

    @abstractmethod
    def perfect(self, targets: np.ndarray) -> Answered:
        """Return the input of metrics for answers that are all right and certain."""

    @abstractmethod
    def answers(self, predictions: Predictions) -> Iterator[dict[str, Any]]:
        """Yield each example's answer as JSON values for users."""


def metric_for(objective: Objective, asked: str | None = None, standard: str | None = None) -> str:
    """Return the headline metric: `asked`, else the task's `standard` metric, else the kind's default.

    Raises:
        UnknownName: No metric has this name.
        InvalidStudy: The kind does not have the metric, or the metric is no mean over texts.
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
