"""The kinds of objective: one label of several, a number, any number of labels, a text. Does not know models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from afina.data.kinds import CLASSES, LABELS, NUMBER, TEXT, Kind
from afina.models import problems
from afina.models.decoding import GREEDY, Decoding
from afina.models.objective import AutoClass, Objective, Predictions
from afina.stats import classification, overlap
from afina.stats.answered import Answered

if TYPE_CHECKING:
    from torch import Tensor

    from afina.data.tokenize import Template, Tokenizer


@dataclass(frozen=True)
class Classes(Objective):
    """One label for each text. Targets are int64 [N], indices into the label names.

    Attributes:
        temperature: Outputs are divided by it before the softmax (Guo et al. 2017).
        weights: Weight of each class in the loss. None: all 1.
    """

    kind: ClassVar[Kind] = CLASSES
    problem_type: ClassVar[str] = "single_label_classification"
    column: ClassVar[str] = "label"
    can_be_weighted: ClassVar[bool] = True
    can_be_asked: ClassVar[bool] = True

    temperature: float = 1.0
    weights: tuple[float, ...] | None = field(default=None, compare=False)

    @classmethod
    def takes(cls, labels: int) -> bool:
        return labels > 1

    @property
    def settings(self) -> dict[str, Any] | None:
        """The kind and the temperature; None: the temperature is 1."""
        return None if self.temperature == 1.0 else {"kind": self.kind, "temperature": self.temperature}

    def of(self, targets: np.ndarray, class_weights: str | None = None, weights: np.ndarray | None = None) -> Self:
        """Return the objective with class weights; balanced: N / (C count) as in scikit-learn, 0 for absent classes.

        If texts have weights, N is their sum and the count is the sum of the weights of the class.
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

    def mean_loss(self, predictions: Predictions) -> float:
        """Return the cross-entropy in nats."""
        return classification.log_loss(predictions.right, predictions.outputs)

    def decode(self, predictions: Predictions) -> np.ndarray:
        decoded: np.ndarray = predictions.outputs.argmax(axis=1)
        return decoded

    def probabilities(self, predictions: Predictions) -> np.ndarray:
        """Return the softmax of the outputs divided by the temperature."""
        outputs = predictions.outputs
        return classification.probabilities(outputs if self.temperature == 1.0 else outputs / self.temperature)

    def _about(self, found: Answered, names: Sequence[str]) -> Answered:
        """Return the same answers as indices into `names`, which has all labels in another order."""
        order = [self.label_names.index(name) for name in names]
        return Answered(found.targets, np.argsort(order)[found.answers], found.probabilities[:, order])

    def calibrated(self, predictions: Predictions) -> Self:
        """Return the objective with the temperature that minimises the cross-entropy."""
        return replace(self, temperature=_temperature(self, predictions))

    def fits(self, predictions: Predictions) -> bool:
        if not super().fits(predictions) or predictions.right.dtype.kind != "i" or predictions.right.ndim != 1:
            return False
        return bool(((predictions.right >= 0) & (predictions.right < self.width)).all())

    def perfect(self, targets: np.ndarray) -> Answered:
        """Return answers that give each target class probability 1."""
        return Answered(targets, targets, np.eye(self.width)[targets])

    def answers(self, predictions: Predictions) -> Iterator[dict[str, Any]]:
        for answer, row in zip(
            self.decode(predictions).tolist(), self.probabilities(predictions).tolist(), strict=True
        ):
            yield {
                "label": self.label_names[answer],
                "probabilities": dict(zip(self.label_names, row, strict=True)),
            }


@dataclass(frozen=True)
class Number(Objective):
    """A number. Targets are float64 [N] in the user's unit; outputs are (number - mean) / scale."""

    kind: ClassVar[Kind] = NUMBER
    problem_type: ClassVar[str] = "regression"
    column: ClassVar[str] = "value"
    has_probabilities: ClassVar[bool] = False

    mean: float = 0.0
    scale: float = 1.0

    @classmethod
    def takes(cls, labels: int) -> bool:
        return labels == 1

    @property
    def settings(self) -> dict[str, Any]:
        """The kind, mean and scale, which turn outputs into the user's unit."""
        return {"kind": self.kind, "mean": self.mean, "scale": self.scale}

    def of(self, targets: np.ndarray, class_weights: str | None = None, weights: np.ndarray | None = None) -> Self:
        """Return the objective with the targets' mean and standard deviation, weighted if texts have weights."""
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

    def mean_loss(self, predictions: Predictions) -> float:
        outputs = predictions.outputs[:, 0].astype(np.float64)
        return float(np.mean((outputs - self.loss_targets(predictions.right)) ** 2))

    def decode(self, predictions: Predictions) -> np.ndarray:
        numbers: np.ndarray = predictions.outputs[:, 0].astype(np.float64) * self.scale + self.mean
        return numbers

    def perfect(self, targets: np.ndarray) -> Answered:
        return Answered(targets, targets)

    def answers(self, predictions: Predictions) -> Iterator[dict[str, Any]]:
        yield from ({"value": value} for value in self.decode(predictions).tolist())


@dataclass(frozen=True)
class Labels(Objective):
    """Any number of labels for each text. Targets are int64 [N, L], 0 or 1.

    Attributes:
        temperature: Outputs are divided by it before the logistic function.
        thresholds: For each label, the probability from which on a text has the label. None: 0.5 for all.
    """

    kind: ClassVar[Kind] = LABELS
    problem_type: ClassVar[str] = "multi_label_classification"
    column: ClassVar[str] = "labels"

    temperature: float = 1.0
    thresholds: tuple[float, ...] | None = None

    @classmethod
    def from_settings(cls, label_names: tuple[str, ...], given: Mapping[str, Any]) -> Self:
        """Return the objective with these settings; thresholds may be any sequence of numbers."""
        thresholds = {"thresholds": tuple(map(float, given["thresholds"]))} if "thresholds" in given else {}
        return cls(label_names, **{**given, **thresholds})

    @classmethod
    def takes(cls, labels: int) -> bool:
        return labels > 0

    @property
    def settings(self) -> dict[str, Any]:
        """The kind, with temperature and thresholds if they differ from the defaults."""
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

    def mean_loss(self, predictions: Predictions) -> float:
        """Return the binary cross-entropy in nats."""
        outputs = predictions.outputs
        return float(np.mean(np.logaddexp(0.0, outputs.astype(np.float64)) - outputs * predictions.right))

    def decode(self, predictions: Predictions) -> np.ndarray:
        """Return 1 where a label's probability reaches its threshold, int64 [N, L]."""
        thresholds = classification.DEFAULT_THRESHOLD if self.thresholds is None else np.array(self.thresholds)
        return np.asarray(self.probabilities(predictions) >= thresholds, dtype=np.int64)

    def _about(self, found: Answered, names: Sequence[str]) -> Answered:
        """Return the columns of these labels."""
        columns = [self.label_names.index(name) for name in names]
        return Answered(found.targets, found.answers[:, columns], found.probabilities[:, columns])

    def probabilities(self, predictions: Predictions) -> np.ndarray:
        """Return the logistic function of each output divided by the temperature."""
        made: np.ndarray = (1 + np.tanh(predictions.outputs.astype(np.float64) / (2 * self.temperature))) / 2
        return made

    def calibrated(self, predictions: Predictions) -> Self:
        """Return the objective with the best temperature (cross-entropy) and, for each label, the best F1 threshold."""
        made = replace(self, temperature=_temperature(self, predictions))
        probabilities, targets = made.probabilities(predictions), predictions.right
        thresholds = [
            classification.fit_threshold(targets[:, label], probabilities[:, label]) for label in range(self.width)
        ]
        return replace(made, thresholds=tuple(thresholds))

    def perfect(self, targets: np.ndarray) -> Answered:
        return Answered(targets, targets, targets)

    def as_cell(self, answer: Mapping[str, Any], between: str) -> Any:
        return between.join(answer[self.column] or ())

    def answers(self, predictions: Predictions) -> Iterator[dict[str, Any]]:
        for answer, row in zip(
            self.decode(predictions).tolist(), self.probabilities(predictions).tolist(), strict=True
        ):
            yield {
                "labels": [name for name, has in zip(self.label_names, answer, strict=True) if has],
                "probabilities": dict(zip(self.label_names, row, strict=True)),
            }


@dataclass(frozen=True)
class Texts(Objective):
    """A text for each text. Targets are object [N], tuples of the strings that are right answers.

    Attributes:
        answer_tokens: Tokens of the longest training target, its end included, which are kept free after each prompt.
        chat: Whether the template was the tokenizer's chat template, whose special tokens are in the template.
        decoding: How answers are generated.
    """

    kind: ClassVar[Kind] = TEXT
    problem_type: ClassVar[str] = ""
    auto_class: ClassVar[AutoClass] = "language_model"
    column: ClassVar[str] = "answer"
    has_probabilities: ClassVar[bool] = False
    texts_can_be_weighted: ClassVar[bool] = False

    answer_tokens: int | None = None
    chat: bool = False
    decoding: Decoding = GREEDY

    @classmethod
    def from_settings(cls, label_names: tuple[str, ...], given: Mapping[str, Any]) -> Self:
        return cls(label_names, **dict(given) | {"decoding": Decoding(**given.get("decoding", {}))})

    @classmethod
    def prompt(cls, asked: str | None, columns: Mapping[str, str], *, pairs: bool, tokenizer: Tokenizer) -> Template:
        """Return the template, or the usual template for the columns."""
        from afina.data.prompts import prompt_of

        return prompt_of(asked, columns, pairs=pairs, tokenizer=tokenizer)

    @classmethod
    def takes(cls, labels: int) -> bool:
        return labels == 1

    @property
    def settings(self) -> dict[str, Any]:
        """The kind, and what the generation of answers depends on."""
        how = self.decoding.model_dump(mode="json", exclude_defaults=True)
        made = {"kind": self.kind, "answer_tokens": self.answer_tokens, "chat": self.chat, "decoding": how}
        return {name: value for name, value in made.items() if value}

    def generating(self, answer_tokens: int | None, decoding: Decoding, *, chat: bool) -> Self:
        return replace(self, answer_tokens=answer_tokens, decoding=decoding, chat=chat)

    def generation(self) -> Decoding:
        """Return how answers are generated; without a limit of new tokens, the longest training target is the limit."""
        return self.decoding.model_copy(update={"max_new_tokens": self.decoding.max_new_tokens or self.answer_tokens})

    def decoding_changed(self, **given: Any) -> Self:
        return replace(self, decoding=self.decoding.changed(**given))

    def loss_targets(self, targets: np.ndarray) -> np.ndarray:
        """Return the targets unchanged; the loader has their tokens."""
        return targets

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
        """Return the mean of `outputs`, which are the losses of the tokens that are learnt, [M]."""
        return outputs.mean()

    def mean_loss(self, predictions: Predictions) -> float:
        """Return the mean negative log-likelihood of the references' tokens, in nats."""
        return float(predictions.extras["nll"].sum() / predictions.extras["reference_tokens"].sum())

    def decode(self, predictions: Predictions) -> np.ndarray:
        return predictions.outputs

    def fits(self, predictions: Predictions) -> bool:
        return predictions.targets is not None and len(predictions.outputs) == len(predictions.targets)

    def perfect(self, targets: np.ndarray) -> Answered:
        """Return answers that equal the first reference, of a model that is certain of every reference."""
        ones, answers = np.ones(len(targets), np.int64), np.array([each[0] for each in targets], dtype=object)
        return Answered(targets, answers, None, {"nll": 0.0 * ones, "reference_tokens": ones, "ended": ones > 0})

    def signatures(self, targets: np.ndarray) -> dict[str, str]:
        """Return sacrebleu's signatures of BLEU and chrF."""
        return overlap.signatures(targets)

    def answers(self, predictions: Predictions) -> Iterator[dict[str, Any]]:
        for answer in predictions.outputs.tolist():
            yield {"answer": answer}


def _weighted_mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean over a batch of the losses, [B], each multiplied by its weight."""
    return losses.mean() if weights is None else (losses * weights).mean()


def _temperature(objective: Objective, predictions: Predictions) -> float:
    """Return the temperature that minimises the mean loss."""
    return classification.fit_temperature(
        lambda divisor: objective.mean_loss(replace(predictions, outputs=predictions.outputs / divisor))
    )


OBJECTIVES: dict[str, type[Objective]] = {made.kind: made for made in (Classes, Number, Labels, Texts)}


def make(label_names: Sequence[str], settings: Mapping[str, Any] | None = None) -> Objective:
    """Return the objective with these `Objective.settings`. Raises KeyError or TypeError for unknown settings."""
    given = dict(settings or {"kind": CLASSES})
    return OBJECTIVES[given.pop("kind")].from_settings(tuple(label_names), given)


def of_problem(label_names: Sequence[str], problem_type: str | None, where: str) -> Objective:
    """Return the objective of a transformers model.

    Args:
        label_names: The labels.
        problem_type: From the model's configuration. None: chosen by the number of labels.
        where: Names the configuration in messages.

    Raises InvalidStudy if no kind has this problem type, or the number of labels does not fit.
    """
    known, count = {kind.problem_type: kind for kind in OBJECTIVES.values() if kind.problem_type}, len(label_names)
    kind = known.get(problem_type) if problem_type else next(one for one in known.values() if one.takes(count))
    if kind is None:
        raise problems.PROBLEM_TYPE_UNKNOWN(where=where, field="problem_type", found=problem_type, known=known)
    if not kind.takes(count):
        raise problems.PROBLEM_TYPE_CONTRADICTORY(
            where=where, field="problem_type", found=kind.problem_type, labels=count
        )
    return kind(tuple(label_names))
