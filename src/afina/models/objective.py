"""`Objective`: what a kind of task must say: its loss, the number of a model's outputs, decoding and metrics.

Training, studies and the report call an `Objective` and do not assume that a task has labels. The module does not
import torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

import numpy as np

from afina.data.kinds import Kind
from afina.errors import UnknownName
from afina.models import losses, problems
from afina.models.decoding import Decoding
from afina.models.feature_rows import FeatureRows
from afina.models.predictions import Predictions
from afina.stats import metrics
from afina.stats.answered import Answered
from afina.stats.linear_models import LinearKind
from afina.stats.metrics import METRICS

if TYPE_CHECKING:
    from torch import Tensor

    from afina.data.batch import SoftTargets
    from afina.data.template import Template
    from afina.data.tokenize import Tokenizer

ANSWERS_NOTHING = 2.0
"""The value of `Objective.abstain_below` with which no text is answered: it is above every probability."""

AutoClass = Literal["classifier", "language_model", "token_classifier"]
"""The auto class of transformers that opens a model: "classifier" with a new head for texts, "token_classifier" with a
new head for tokens, or "language_model" with the model's own head."""


class Opening(NamedTuple):
    """How transformers opens a model for a kind of task: its auto class and problem type.

    The problem type selects the loss of a saved classifier in transformers; "" if transformers has none.
    """

    problem_type: str
    auto_class: AutoClass = "classifier"

    @property
    def has_head(self) -> bool:
        """Whether the opened model has a new classification head."""
        return self.auto_class != "language_model"


SINGLE_LABEL = Opening("single_label_classification")
"""How transformers opens a model for a task with one label for each text."""


@dataclass(frozen=True)
class Objective(ABC):
    """A kind of task: how a model is trained on targets, and what the model's outputs mean.

    Attributes:
        column: Name of the field that has the prediction in results for users.
        linear: The linear model of the baselines and of the method `linear_probe`. Text-to-text tasks have none.
        has_margin: Whether predictions have a `margin`, by which active learning chooses texts.
        can_be_weighted: Whether labels may have different weights in the loss.
        texts_can_be_weighted: Whether training texts may have different weights in the loss.
        can_be_asked: Whether the labels can be asked for in words, so that an untrained language model can predict
            zero-shot.
        can_be_distilled: Whether a student can learn from a teacher's outputs.
        reads_words: Whether a model has an output for each word of a text, not one for the text (`WordTokens`).
        label_names: Names of the labels; for regression, the name of the number.
        abstain_below: The lowest confidence (`confidence`) at which a text is answered. None: every text is answered.
            ANSWERS_NOTHING: no text is answered.
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
    can_abstain: ClassVar[bool] = False
    has_margin: ClassVar[bool] = True
    one_label: ClassVar[bool] = False
    reads_words: ClassVar[bool] = False

    label_names: tuple[str, ...]
    abstain_below: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Raise ValueError for a threshold of abstention out of range, or for a kind that does not abstain."""
        if self.abstain_below is not None and not (self.can_abstain and 0 < self.abstain_below <= ANSWERS_NOTHING):
            raise ValueError(f"expected no `abstain_below`, or a confidence above 0, found {self.abstain_below}")

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
        return len(self.output_names)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The name of each output of a model, transformers' `id2label`."""
        return self.label_names

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
            raise problems.KIND_LACKS(_lacking="weights of texts", option="weights", kind=self.kind)
        return self

    def check(
        self, *, smoothing: float, temperature: bool, abstention: bool = False, class_weights: str | None = None
    ) -> None:
        """Raise InvalidStudy for settings of training that the kind of task does not support."""
        self._check_weights(class_weights)
        if smoothing and not self.has_probabilities:
            raise problems.KIND_LACKS(_lacking="labels to smooth", kind=self.kind, option="label_smoothing")
        if temperature and not self.has_probabilities:
            raise problems.KIND_LACKS(_lacking="probabilities", kind=self.kind, option="temperature")
        if abstention and not self.can_abstain:
            raise problems.KIND_LACKS(_lacking="probabilities", kind=self.kind, option="abstain_error")

    def check_can_be_distilled(self) -> None:
        """Raise InvalidStudy if no student of this kind of task can learn from a teacher's outputs."""
        if not self.can_be_distilled:
            raise problems.DISTILLATION_INAPPLICABLE(kind=self.kind)

    def _check_weights(self, class_weights: str | None) -> None:
        if class_weights and not self.can_be_weighted:
            raise problems.KIND_LACKS(
                _lacking="class weights", found=class_weights, option="class_weights", kind=self.kind
            )

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

    def row_targets(self, targets: np.ndarray, features: FeatureRows) -> np.ndarray:
        """Return the target of each row of features, as `LinearKind` takes them, given the targets of the texts."""
        return self.loss_targets(targets)

    def of_rows(self, outputs: np.ndarray, targets: np.ndarray | None, features: FeatureRows) -> Predictions:
        """Return the predictions of the texts, given the outputs for each row of their features, [M, width]."""
        return Predictions(outputs, targets)

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
        """Return the mean loss of outputs [B, width] and targets in the form of `loss_targets`, a float32 scalar.

        The loss of each text is multiplied by its weight (float32 [B], 1 without `weights`) and averaged without
        dividing by the sum of weights: the mean weight over the training split is 1. Gradients accumulated over parts
        of a batch equal the gradient of the whole batch.
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

    def soft_losses(self, outputs: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Return how far each text's outputs are from the teacher's, float32 [B].

        At every temperature, the gradient is as large as that of `loss` (Hinton et al. 2015, section 2).

        Args:
            outputs: The student's outputs, [B, width].
            targets: The teacher's outputs, as `soft_targets` returns them.
            temperature: The number by which both outputs are divided.

        Raises InvalidStudy for a kind of task that cannot be distilled.
        """
        raise problems.DISTILLATION_INAPPLICABLE(kind=self.kind)

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
        return on_labels + losses.weighted_mean(on_teacher, weight * of_texts)

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
        """

    @abstractmethod
    def decode(self, predictions: Predictions) -> np.ndarray:
        """Return the prediction for each text, in the same form as the targets."""

    def probabilities(self, predictions: Predictions) -> np.ndarray | None:
        """Return the probabilities of the labels, [N, width]; None: the kind of task has no probabilities."""
        return None

    def confidence(self, predictions: Predictions) -> np.ndarray | None:
        """Return the probability that each text's whole prediction is right, as the model states it, [N].

        None: the kind of task, or the predictions, have no probabilities.
        """
        return None

    def margin(self, predictions: Predictions) -> np.ndarray | None:
        """Return the probability of the most probable answer minus that of the second, [N], as active learning uses it.

        None: the kind of task, or the predictions, have no probabilities.
        """
        return None

    def abstentions(self, predictions: Predictions) -> np.ndarray | None:
        """Return whether each text is left unanswered, bool [N]; None: the objective answers every text.

        A text is left unanswered if its confidence is below `abstain_below`. Predictions without probabilities have no
        confidence, so all their texts are left unanswered.
        """
        if self.abstain_below is None:
            return None
        confidence = self.confidence(predictions)
        if confidence is None:
            return np.ones(len(predictions), dtype=bool)
        below: np.ndarray = ~(confidence >= self.abstain_below)
        return below

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
        probabilities = {"probabilities": None} if self.has_probabilities else {}
        return {self.column: None, **probabilities, **({} if self.abstain_below is None else {"answered": None})}

    def as_cell(self, answer: Mapping[str, Any], between: str) -> Any:
        """Return a prediction as a table cell, without probabilities; `between` separates several labels."""
        return answer[self.column]

    @abstractmethod
    def perfect(self, targets: np.ndarray) -> Answered:
        """Return the input of metrics for a model that is always right and certain."""

    def answers(self, predictions: Predictions) -> Iterator[dict[str, Any]]:
        """Yield each text's prediction as JSON values for users.

        If the objective abstains, each prediction also has the field `answered`. A prediction with `"answered": false`
        keeps its label and probabilities, as the model's best guess for the person who decides instead.
        """
        unanswered = self.abstentions(predictions)
        if unanswered is None:
            yield from self._answers(predictions)
            return
        for answer, left in zip(self._answers(predictions), unanswered.tolist(), strict=True):
            yield {**answer, "answered": not left}

    @abstractmethod
    def _answers(self, predictions: Predictions) -> Iterator[dict[str, Any]]:
        """Yield each text's prediction as JSON values, as if every text was answered."""

    @property
    def _abstaining(self) -> dict[str, float]:
        """The setting `abstain_below`, if the objective abstains."""
        return {} if self.abstain_below is None else {"abstain_below": self.abstain_below}


def metric_for(objective: Objective, asked: str | None = None, standard: str | None = None) -> str:
    """Return the name of the main metric: `asked`, or else the task's `standard` metric, or else the kind's default.

    Raises UnknownName, and InvalidStudy for a metric of another kind or one that is not a mean over texts.
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
