"""The objectives of the kinds of task: `Classes`, `Number`, `Labels` and `Texts`, with the table `OBJECTIVES`.

Token classification has a module of its own (`token_classification`). `afina.models.losses` has the formulas of the
losses. The module `objectives` does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from afina.data.entities import labels_of_tags
from afina.data.kinds import CLASSES, LABELS, NUMBER, TEXT, Kind
from afina.data.prompts import prompt_of
from afina.models import losses, problems
from afina.models.decoding import GREEDY, Decoding
from afina.models.objective import AutoClass, Objective
from afina.models.predictions import Predictions
from afina.models.token_classification import Entities
from afina.stats import bleu_chrf_nist, classification
from afina.stats.answered import MISSING, UNDEFINED, Answered
from afina.stats.linear_models import LinearClasses, LinearKind, LinearLabels, LinearNumber

if TYPE_CHECKING:
    from torch import Tensor

    from afina.data.template import Template
    from afina.data.tokenize import Tokenizer


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
    can_abstain: ClassVar[bool] = True
    one_label: ClassVar[bool] = True

    temperature: float = 1.0
    weights: tuple[float, ...] | None = field(default=None, compare=False)

    @classmethod
    def takes(cls, labels: int) -> bool:
        return labels > 1

    @property
    def settings(self) -> dict[str, Any] | None:
        """The kind of task, the temperature, and the threshold of abstention, if any.

        None: single-label classification with temperature 1 that answers every text.
        """
        plain = self.kind == Classes.kind and self.temperature == 1.0 and self.abstain_below is None
        return None if plain else {"kind": self.kind, "temperature": self.temperature, **self._abstaining}

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
        return losses.cross_entropy(outputs, targets, smoothing=smoothing, weights=weights, class_weights=self.weights)

    def calibrated_outputs(self, predictions: Predictions) -> np.ndarray:
        """Return the logits divided by the temperature of calibration."""
        return predictions.outputs / self.temperature

    def soft_losses(self, outputs: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Return the squared temperature times the cross-entropy of the teacher's and the student's probabilities."""
        return losses.soft_cross_entropy(outputs, targets, temperature)

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

    def confidence(self, predictions: Predictions) -> np.ndarray | None:
        """Return the largest probability of each text, [N]; None for labels without probabilities."""
        chances = self.probabilities(predictions)
        return None if chances is None else chances.max(axis=1)

    def margin(self, predictions: Predictions) -> np.ndarray | None:
        """Return the difference of the two largest probabilities, [N]; None for labels without probabilities."""
        chances = self.probabilities(predictions)
        if chances is None:
            return None
        two = np.sort(chances, axis=1)[:, -2:]
        made: np.ndarray = two[:, 1] - two[:, 0]
        return made

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

    def _answers(self, predictions: Predictions) -> Iterator[dict[str, Any]]:
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
    has_margin: ClassVar[bool] = False

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
        return losses.squared_error(outputs, targets, weights)

    def soft_targets(self, teacher: Objective, predictions: Predictions) -> np.ndarray:
        """Return the numbers that the teacher predicts, standardised as this objective's outputs."""
        return self.loss_targets(teacher.decode(predictions))[:, None]

    def soft_losses(self, outputs: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Return the squared difference to the teacher's number; the temperature has no effect."""
        return losses.soft_squared_error(outputs, targets)

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

    def _answers(self, predictions: Predictions) -> Iterator[dict[str, Any]]:
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
    can_abstain: ClassVar[bool] = True

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
        """The kind of task, with temperature, thresholds and `abstain_below` if they differ from the defaults."""
        made: dict[str, Any] = {"temperature": self.temperature} if self.temperature != 1.0 else {}
        made |= {"thresholds": list(self.thresholds)} if self.thresholds else {}
        return {"kind": self.kind, **made, **self._abstaining}

    def loss_targets(self, targets: np.ndarray) -> np.ndarray:
        return targets.astype(np.float32)

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
        """Return the binary cross-entropy, averaged over texts and labels; smoothing moves targets towards 0.5."""
        return losses.binary_cross_entropy(outputs, targets, smoothing=smoothing, weights=weights)

    def calibrated_outputs(self, predictions: Predictions) -> np.ndarray:
        """Return the logits divided by the temperature of calibration."""
        return predictions.outputs / self.temperature

    def soft_losses(self, outputs: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Return the squared temperature times the binary cross-entropy with the teacher, averaged over labels."""
        return losses.soft_binary_cross_entropy(outputs, targets, temperature)

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

    def confidence(self, predictions: Predictions) -> np.ndarray | None:
        """Return the product of the probabilities that each label is decided rightly, [N].

        The product is the probability that the whole set of labels is right, if labels are independent given the text.
        """
        chances = self.probabilities(predictions)
        if chances is None:
            return None
        made: np.ndarray = np.where(self.decode(predictions) == 1, chances, 1 - chances).prod(axis=1)
        return made

    def margin(self, predictions: Predictions) -> np.ndarray | None:
        """Return the probability of the most probable set of labels minus that of the second, [N].

        Labels are independent given the text, so the second set differs in the least certain label.
        """
        chances = self.probabilities(predictions)
        if chances is None:
            return None
        likely = np.maximum(chances, 1 - chances)
        least = likely.min(axis=1)
        made: np.ndarray = likely.prod(axis=1) * (2 - 1 / least)
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

    def _answers(self, predictions: Predictions) -> Iterator[dict[str, Any]]:
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
    can_be_distilled: ClassVar[bool] = False  # outputs are losses of tokens, without probabilities of other tokens
    has_margin: ClassVar[bool] = False

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

    def _answers(self, predictions: Predictions) -> Iterator[dict[str, Any]]:
        for answer in predictions.outputs.tolist():
            yield {"answer": answer}


def _temperature(objective: Objective, predictions: Predictions) -> float:
    """Return the temperature that minimises the mean loss of held-out predictions."""
    return classification.fit_temperature(
        lambda divisor: objective.mean_loss(replace(predictions, outputs=predictions.outputs / divisor))
    )


OBJECTIVES: dict[str, type[Objective]] = {made.kind: made for made in (Classes, Number, Labels, Texts, Entities)}


def make(label_names: Sequence[str], settings: Mapping[str, Any] | None = None) -> Objective:
    """Return the objective with these `Objective.settings`. Raises KeyError or TypeError for unknown settings."""
    given = dict(settings or {"kind": CLASSES})
    return OBJECTIVES[given.pop("kind")].from_settings(tuple(label_names), given)


def of_outputs(names: Sequence[str], auto_class: AutoClass, problem_type: str | None, where: str) -> Objective:
    """Return the objective of a saved transformers model, given the names of its outputs (`id2label`).

    Raises the errors of `of_problem`, and InvalidStudy if a token classifier has other outputs than BIO tags.
    """
    if auto_class != Entities.auto_class:
        return of_problem(names, problem_type, where)
    labels = labels_of_tags(names)
    if not labels:
        raise problems.TAGS_UNUSABLE(where=where, field="id2label", found=list(names))
    return Entities(labels)


def of_problem(label_names: Sequence[str], problem_type: str | None, where: str) -> Objective:
    """Return the objective that fits the configuration of a transformers model; the labels decide without problem type.

    Raises InvalidStudy for an unknown problem type, or one that does not fit the number of labels.
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
