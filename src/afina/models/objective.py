"""Objective: what is asked of a text. Its loss, the width of its head, what outputs mean, how good they are.

Training, studies and the report ask it instead of assuming labels. `Predictions` are what a model said of texts: above
`models` opaque but for length, selection and a file. Hands arrays to `afina.stats`, which knows no objective; imports
torch in `loss` alone. The kinds are in `objectives.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np

from afina import digest, file_io, tensorfile
from afina.data.kinds import Kind
from afina.errors import CorruptAdapter, InvalidData, InvalidStudy, UnknownName
from afina.stats import metrics
from afina.stats.metrics import METRICS, Answered

if TYPE_CHECKING:
    from torch import Tensor


_ENDS = "_ends"
"""Suffix of the name under which a file of strings has the place where each ends, in bytes of UTF-8."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """A model's answers to N texts, in their order, and the targets where they are known.

    outputs  an answer a text: rows of numbers, float [N, width], or strings, object [N]
    targets  [N, ...], in the form that the kind of task has; None where they are not known
    """

    outputs: np.ndarray
    targets: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.outputs)

    def take(self, indices: Sequence[int] | np.ndarray) -> Self:
        """Those at `indices`, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return replace(
            self,
            outputs=self.outputs[chosen],
            targets=None if self.targets is None else self.targets[chosen],
        )

    def against(self, targets: np.ndarray) -> Self:
        """The same answers, with what was right of each."""
        return replace(self, targets=targets)

    @property
    def right(self) -> np.ndarray:
        """The targets. Raises ValueError where they are not known."""
        if self.targets is None:
            raise ValueError("expected predictions with targets, found none")
        return self.targets

    @property
    def right_as_bytes(self) -> bytes:
        """The targets as bytes: those of two runs are equal where the same was right of the same texts."""
        return b"".join(part.tobytes() for part in _as_arrays("targets", self.right).values())

    @property
    def finite(self) -> bool:
        """Whether no number is NaN or infinite; true of strings."""
        return self.outputs.dtype.kind != "f" or bool(np.isfinite(self.outputs).all())

    def write(self, path: Path) -> str:
        """Write the file `path`, whole or not at all; its digest. Numbers are kept as float32."""
        outputs = self.outputs.astype(np.float32) if self.outputs.dtype.kind == "f" else self.outputs
        given = {"outputs": outputs} | ({} if self.targets is None else {"targets": self.targets})
        with file_io.replacing(path) as fresh:
            arrays = {name: part for each, array in given.items() for name, part in _as_arrays(each, array).items()}
            tensorfile.write_arrays(fresh, arrays)
        return digest.of_file(path)

    @classmethod
    def read(cls, path: Path, expected: str) -> Self:
        """Of the file with the digest `expected`. Raises InvalidData."""
        try:
            if digest.of_file(path) != expected:
                raise InvalidData(
                    f"{path}: changed since it was recorded. Remove the file, and run the study again.",
                    code="results.changed",
                    path=path,
                )
            arrays = tensorfile.read_arrays(path)
            return cls(_of_arrays("outputs", arrays), _of_arrays("targets", arrays) if "targets" in arrays else None)
        except (OSError, KeyError, ValueError, CorruptAdapter):
            raise InvalidData(
                f"{path}: missing or damaged. Run the study again; it makes again what is missing.",
                code="results.damaged",
                path=path,
            ) from None


def _as_arrays(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """An array as a file holds it: strings are their bytes, and where each ends."""
    if array.dtype.kind not in "OU":
        return {name: array}
    encoded = [str(one).encode() for one in array]
    whole = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    return {name: whole, f"{name}{_ENDS}": np.cumsum([len(one) for one in encoded], dtype=np.int64)}


def _of_arrays(name: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    array = arrays[name]
    if f"{name}{_ENDS}" not in arrays:
        return array
    ends = arrays[f"{name}{_ENDS}"].tolist()
    whole = array.tobytes()
    return np.array([whole[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)], dtype=object)


AutoClass = Literal["classifier", "language_model"]
"""Which of an architecture's auto classes of transformers: with a head that is drawn, or with its own."""


class Opening(NamedTuple):
    """How transformers opens a model for a kind of task.

    problem_type  what it calls the kind: a saved classifier has there the loss that it has here
    """

    problem_type: str
    auto_class: AutoClass = "classifier"


@dataclass(frozen=True)
class Objective(ABC):
    """One kind of task: how a model is trained on its targets, and what `Predictions` mean.

    problem_type  what transformers calls it
    auto_class    which of transformers' auto classes its models are of
    column        the name of the answer in what a user gets
    has_probabilities  whether an answer has probabilities
    can_be_weighted  whether its labels may have weights in the loss
    can_be_asked  whether words can stand for its labels, so that an untrained language model can answer
    label_names   name of each label; of a number, its own
    """

    kind: ClassVar[Kind]
    problem_type: ClassVar[str]
    auto_class: ClassVar[AutoClass] = "classifier"
    column: ClassVar[str]
    has_probabilities: ClassVar[bool] = True
    can_be_weighted: ClassVar[bool] = False
    can_be_asked: ClassVar[bool] = False

    label_names: tuple[str, ...]

    @classmethod
    def from_settings(cls, label_names: tuple[str, ...], given: Mapping[str, Any]) -> Self:
        """The objective that has these `settings`, given without the kind. Raises TypeError for unknown ones."""
        return cls(label_names, **given)

    @classmethod
    @abstractmethod
    def takes(cls, labels: int) -> bool:
        """Whether a model with so many labels may be of this kind."""

    @property
    def opening(self) -> Opening:
        """How transformers opens its models."""
        return Opening(self.problem_type, self.auto_class)

    @property
    def width(self) -> int:
        """Outputs of the head."""
        return len(self.label_names)

    @property
    def metric(self) -> str:
        """The headline where nothing else is said."""
        return metrics.of_kind(self.kind)[0]

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any] | None:
        """All beside the names, as JSON values: what `objectives.make` takes. None for classes and nothing else."""

    def of(self, targets: np.ndarray, class_weights: str | None = None) -> Self:
        """That of a training split with these targets. Raises InvalidStudy for weights that the kind has not."""
        self._check_weights(class_weights)
        return self

    def check(self, *, smoothing: float, temperature: bool, class_weights: str | None = None) -> None:
        """Raise InvalidStudy for settings of training that the kind has not."""
        self._check_weights(class_weights)

    def _check_weights(self, class_weights: str | None) -> None:
        if class_weights and not self.can_be_weighted:
            raise InvalidStudy(
                f"`class_weights` {class_weights}: a task of kind {self.kind} has none. Leave it out.",
                code="option.inapplicable",
                option="class_weights",
                kind=self.kind,
            )

    @abstractmethod
    def loss_targets(self, targets: np.ndarray) -> np.ndarray:
        """Targets in the form in which `loss` takes them."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean over a batch, a float32 scalar; outputs [B, width], targets as `loss_targets` makes them.

        smoothing  share of each target that is spread over all of them, where the kind has such
        """

    @abstractmethod
    def mean_loss(self, predictions: Predictions) -> float:
        """The same of predictions with targets, without weights and smoothing, to choose by."""

    @abstractmethod
    def decode(self, predictions: Predictions) -> np.ndarray:
        """The answer to each example, in the form of targets."""

    def probabilities(self, predictions: Predictions) -> np.ndarray | None:
        """Probabilities, [N, width], where the kind has such."""
        return None

    def calibrated(self, predictions: Predictions) -> Self:
        """With what makes probabilities right on texts that were not trained on, where the kind has such."""
        return self

    def fits(self, predictions: Predictions) -> bool:
        """Whether they can be of this kind and these labels: a finite number for each output, and targets."""
        if predictions.targets is None or not predictions.finite:
            return False
        return predictions.outputs.shape == (len(predictions.targets), self.width)

    def answered(self, predictions: Predictions) -> Answered:
        """The input of metrics, from predictions with targets."""
        return Answered(predictions.right, self.decode(predictions), self.probabilities(predictions))

    def metrics(self, predictions: Predictions) -> dict[str, float]:
        """Every figure of docs/reference/figures.md that this kind has, the usual headline first."""
        answered = self.answered(predictions)
        return {name: METRICS[name].value(answered) for name in self.measures}

    def values(self, metric: str, predictions: Predictions) -> np.ndarray:
        """What each example adds to a metric, [N]: the mean is the metric. bool where each is right or wrong."""
        made = METRICS[metric].values
        assert made is not None
        return made(self.answered(predictions))

    def value(self, metric: str, predictions: Predictions) -> float:
        """One metric."""
        return METRICS[metric].value(self.answered(predictions))

    @property
    def measures(self) -> tuple[str, ...]:
        """The metrics of this kind that there are for so many labels."""
        return tuple(name for name in metrics.of_kind(self.kind) if METRICS[name].classes in (None, self.width))

    @property
    def empty_answer(self) -> dict[str, Any]:
        """What stands in the place of an answer where there is no text: the same names, all of them None."""
        return {self.column: None, **({"probabilities": None} if self.has_probabilities else {})}

    def as_cell(self, answer: Mapping[str, Any], between: str) -> Any:
        """An answer, its probabilities apart, in one cell of a table; between: what separates several labels."""
        return answer[self.column]

    @abstractmethod
    def perfect(self, targets: np.ndarray) -> Answered:
        """The input of metrics if every answer were right and certain."""

    @abstractmethod
    def answers(self, predictions: Predictions) -> Iterator[dict[str, Any]]:
        """Each example's answer as a user gets it, as JSON values."""


def metric_for(objective: Objective, asked: str | None = None, standard: str | None = None) -> str:
    """The headline: what is asked for, else the standard one of the task, else the kind's.

    Raises UnknownName, and InvalidStudy for one that the kind has not, or by which methods cannot be compared.
    """
    name = asked or standard or objective.metric
    if name not in METRICS:
        raise UnknownName("metric", name, objective.measures)
    if name not in objective.measures:
        few = f" with {objective.width} labels" if METRICS[name].kind == objective.kind else ""
        raise InvalidStudy(
            f"`metric` {name}: the task's kind is {objective.kind}{few}, which has {', '.join(objective.measures)}. "
            "Give one of these.",
            code="metric.inapplicable",
            metric=name,
            kind=objective.kind,
            known=objective.measures,
        )
    if METRICS[name].values is None:
        raise InvalidStudy(
            f"`metric` {name}: {METRICS[name].words} is no mean over texts, so methods cannot be compared by it. It is "
            "reported in any case; give another one.",
            code="metric.inapplicable",
            metric=name,
        )
    return name
