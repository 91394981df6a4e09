"""The list of all metrics with their names, their functions, and the properties that confidence intervals need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np

from afina.stats import bleu_chrf_nist, classification, entities, regression, text
from afina.stats.answered import UNDEFINED, Answered

__all__ = ["METRICS", "OF_KIND", "Answered", "Metric", "of_kind"]

LOSS = (0.0, inf)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric of a model's predictions, such as accuracy or RMSE.

    Attributes:
        name: The metric's key in `METRICS`, such as "balanced_accuracy".
        words: The metric's name within a sentence.
        kind: The kind of task that the metric is for, a key of `OF_KIND`.
        values: The function that returns per-example values, [N], whose mean is the metric and which give its standard
            error (answered.py); of entities, it returns a value for each group of examples if there are groups. The
            values are bool if a prediction is either right or wrong. None: the metric cannot compare methods.
        figure: The function that returns the metric, if another one than the mean of `values` does.
        points: Whether a difference of two values is given in percentage points.
        directed: Whether the metric has a better direction; false for a length ratio.
        range: The lowest and highest possible value.
        of_unit: Whether the metric has the unit of the targets.
        classes: The number of classes that the metric requires. None: any number.
        chances: Whether the metric uses predicted probabilities instead of predicted classes.
        graded: Whether a wrong answer can be more or less wrong, as with numbers and texts.
        share: Whether the metric is on the scale of accuracy; if so, recorded accuracies on other tasks can be used as
            prior evidence for it.
        main: Whether the report shows the metric beside the headline metric.
        of_corpus: Whether the metric, such as BLEU, is defined only for all answers together, not for a single answer.
        small: The largest difference of two methods that counts as small, except in the unit of the targets.
        counts: The function that returns how many examples (or groups) a metric is about, if most examples do not count
            for it, such as texts without entities for entity recall. None: the metric is about all examples.
        needs: The condition under which the metric is defined, in words; empty if the metric is always defined.
    """

    name: str
    words: str
    kind: str
    values: Callable[[Answered], np.ndarray] | None
    figure: Callable[[Answered], float] | None = None
    points: bool
    lower: bool = False
    directed: bool = True
    range: tuple[float, float] = (0.0, 1.0)
    of_unit: bool = False
    classes: int | None = None
    chances: bool = False
    graded: bool = False
    share: bool = False
    main: bool = False
    of_corpus: bool = False
    small: float = 0.01
    counts: Callable[[Answered], int] | None = None
    needs: str = ""

    @property
    def counted(self) -> bool:
        """Whether the metric is the share of examples whose prediction is right, such as accuracy or exact match."""
        return self.name in ("accuracy", "exact_match", "exact_answer")

    def value(self, answered: Answered) -> float:
        if self.chances and answered.chances is None:
            return UNDEFINED
        if self.figure is not None:
            return self.figure(answered)
        assert self.values is not None
        return float(np.mean(self.values(answered)))

    def fits(self, answered: Answered) -> bool:
        if self.chances and answered.chances is None:
            return False
        return self.classes is None or self.classes == answered.classes

    def margin(self, targets: np.ndarray) -> float:
        """Return the largest difference of two methods that counts as small, in the metric's unit.

        The margin is 5 % of the targets' standard deviation for a metric in the targets' unit, else `small`.
        """
        return 0.05 * (float(np.std(targets)) or 1.0) if self.of_unit else self.small


def _of_chances(values: Callable[[Answered], np.ndarray]) -> Callable[[Answered], np.ndarray]:
    return lambda answered: np.full(len(answered.targets), UNDEFINED) if answered.chances is None else values(answered)


def _f1(answered: Answered) -> float:
    return classification.f1(answered.targets, answered.answers, answered.classes)


_PROBABILITIES = "probabilities of the labels"

_OF_CLASSES = (
    Metric(
        name="accuracy", words="accuracy", kind="classes", points=True, share=True, main=True,
        values=classification.right,
    ),
    Metric(
        name="f1", words="F1", kind="classes", points=True, share=True, main=True,
        figure=_f1, values=classification.f1_values,
        needs="texts that have the label, or are answered with it",
    ),
    Metric(
        name="balanced_accuracy", words="balanced accuracy", kind="classes", points=True, share=True,
        values=classification.balanced_accuracy_values,
    ),
    Metric(
        name="mcc", words="Matthews correlation", kind="classes", points=False, range=(-1.0, 1.0),
        values=classification.mcc_values, needs="texts of two labels or more",
    ),
    Metric(
        name="auroc", words="AUROC", kind="classes", points=True, share=True, classes=2, chances=True,
        figure=classification.auroc,
        values=_of_chances(classification.auroc_values), needs="probabilities and texts of both labels",
    ),
    Metric(
        name="log_loss", words="log loss", kind="classes", points=False, lower=True, range=LOSS, chances=True,
        values=_of_chances(classification.cross_entropy_values), needs=_PROBABILITIES,
    ),
    Metric(
        name="brier", words="Brier score", kind="classes", points=False, lower=True, range=LOSS, chances=True,
        values=_of_chances(classification.brier_values), needs=_PROBABILITIES,
    ),
    Metric(
        name="ece", words="calibration error", kind="classes", points=False, lower=True, chances=True,
        figure=classification.ece, values=None, needs=_PROBABILITIES,
    ),
)  # fmt: skip

_OF_NUMBERS = (
    Metric(
        name="pearson", words="Pearson correlation", kind="number", points=False, graded=True, main=True,
        range=(-1.0, 1.0), values=regression.pearson_values,
        needs="numbers and answers that vary",
    ),
    Metric(
        name="spearman", words="Spearman correlation", kind="number", points=False, graded=True, range=(-1.0, 1.0),
        values=regression.spearman_values, needs="numbers and answers that vary",
    ),
    Metric(
        name="rmse", words="RMSE", kind="number", points=False, graded=True, main=True, lower=True, range=LOSS,
        of_unit=True, figure=regression.rmse, values=regression.rmse_values,
    ),
    Metric(
        name="mae", words="mean absolute error", kind="number", points=False, graded=True, lower=True, range=LOSS,
        of_unit=True, values=regression.absolute_errors,
    ),
    Metric(
        name="r2", words="R²", kind="number", points=False, graded=True, range=(-inf, 1.0),
        values=regression.r2_values, needs="numbers that vary",
    ),
)  # fmt: skip

_OF_LABELS = (
    Metric(
        name="micro_f1", words="micro F1", kind="labels", points=True, main=True,
        values=classification.micro_f1_values,
        needs="texts that have a label, or are answered with one",
    ),
    Metric(
        name="macro_f1", words="macro F1", kind="labels", points=True, main=True,
        values=classification.macro_f1_values,
        needs="texts that have a label, or are answered with one",
    ),
    Metric(
        name="exact_match", words="exact match", kind="labels", points=True,
        values=classification.exactly_right,
    ),
    Metric(
        name="average_precision", words="average precision", kind="labels", points=True, chances=True,
        figure=classification.average_precision,
        values=_of_chances(classification.average_precision_values),
        needs="probabilities and texts that have a label",
    ),
)  # fmt: skip

_WORDS = "references with a word"
_LATIN = "references with a letter from a to z or a digit"
_OF_MODELS = "answers of a language model"

_OF_TEXTS = (
    Metric(
        name="rouge_l", words="ROUGE-L", kind="text", points=True, graded=True, main=True, needs=_LATIN,
        values=text.rouge_values("l"),
    ),
    Metric(
        name="rouge_1", words="ROUGE-1", kind="text", points=True, graded=True, needs=_LATIN,
        values=text.rouge_values("1"),
    ),
    Metric(
        name="rouge_2", words="ROUGE-2", kind="text", points=True, graded=True, needs=_LATIN,
        values=text.rouge_values("2"),
    ),
    Metric(
        name="bleu", words="BLEU", kind="text", points=True, graded=True, main=True, of_corpus=True,
        figure=bleu_chrf_nist.bleu, values=bleu_chrf_nist.bleu_values,
    ),
    Metric(
        name="chrf", words="chrF", kind="text", points=True, graded=True, of_corpus=True,
        figure=bleu_chrf_nist.chrf, values=bleu_chrf_nist.chrf_values,
    ),
    Metric(
        name="nist", words="NIST", kind="text", points=False, graded=True, range=LOSS, small=0.1, needs=_WORDS,
        of_corpus=True, values=bleu_chrf_nist.nist_values,
    ),
    Metric(
        name="exact_answer", words="exact match", kind="text", points=True,
        values=text.exact_match_values,
    ),
    Metric(
        name="token_f1", words="token F1", kind="text", points=True, graded=True, main=True,
        values=text.token_f1_values,
    ),
    Metric(
        name="loss", words="loss of a token", kind="text", points=False, graded=True, lower=True, range=LOSS,
        values=text.loss_values, needs=_OF_MODELS,
    ),
    Metric(
        name="perplexity", words="perplexity", kind="text", points=False, graded=True, lower=True, range=(1.0, inf),
        figure=text.perplexity, values=None, needs=_OF_MODELS,
    ),
    Metric(
        name="length_ratio", words="length ratio", kind="text", points=False, directed=False, range=LOSS,
        figure=text.length_ratio, values=None, needs=_WORDS,
    ),
    Metric(
        name="unended", words="share of answers without an end", kind="text", points=True, lower=True,
        values=text.unended_values, needs=_OF_MODELS,
    ),
    Metric(
        name="repeated_4grams", words="share of repeated 4-grams", kind="text", points=True, graded=True, lower=True,
        values=text.repeated_values,
    ),
)  # fmt: skip

_FOUND = "entities in the texts, or entities that were answered"

_OF_ENTITIES = (
    Metric(
        name="entity_f1", words="entity F1", kind="entities", points=True, graded=True, main=True, needs=_FOUND,
        values=entities.entity_f1_values,
        counts=entities.either_count,
    ),
    Metric(
        name="entity_precision", words="entity precision", kind="entities", points=True, graded=True, main=True,
        values=entities.entity_precision_values,
        counts=entities.answered_count,
        needs="entities that were answered",
    ),
    Metric(
        name="entity_recall", words="entity recall", kind="entities", points=True, graded=True, main=True,
        values=entities.entity_recall_values,
        counts=entities.target_count,
        needs="entities in the texts",
    ),
    Metric(
        name="macro_entity_f1", words="macro entity F1", kind="entities", points=True, graded=True, needs=_FOUND,
        values=entities.macro_entity_f1_values,
        counts=entities.either_count,
    ),
    Metric(
        name="partial_f1", words="partial F1", kind="entities", points=True, graded=True, needs=_FOUND,
        values=entities.partial_f1_values,
        counts=entities.either_count,
    ),
    Metric(
        name="token_accuracy", words="token accuracy", kind="entities", points=True, graded=True, needs="words",
        values=entities.token_accuracy_values,
    ),
)  # fmt: skip

OF_KIND: dict[str, tuple[Metric, ...]] = {
    "classes": _OF_CLASSES,
    "number": _OF_NUMBERS,
    "labels": _OF_LABELS,
    "text": _OF_TEXTS,
    "entities": _OF_ENTITIES,
}
"""The metrics by kind of task; the first metric of a kind is its default headline metric."""

METRICS: dict[str, Metric] = {one.name: one for metrics in OF_KIND.values() for one in metrics}


def of_kind(kind: str) -> tuple[str, ...]:
    """Return the names of the metrics for a kind of task, the default headline metric first; () for an unknown kind."""
    return tuple(one.name for one in OF_KIND.get(kind, ()))
