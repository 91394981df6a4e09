"""Evaluate an adapter on labelled texts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from afina.data.addresses import named
from afina.data.answer_tokens import encode_references, without_long
from afina.data.evaluation_set import EvaluationSet, TrainingInfo
from afina.data.split import Split
from afina.data.task import Cuts
from afina.models import objectives
from afina.models.adapter import FOREIGN, Adapter
from afina.models.manifest import Manifest
from afina.models.objective import ANSWERS_NOTHING, metric_for
from afina.models.predictions import Predictions
from afina.predicting import golden_test
from afina.predicting.predictor import ModelPredictor, Predictor
from afina.stats import intervals
from afina.stats.abstention import AnsweredShare
from afina.stats.answered import Answered
from afina.stats.intervals import Interval
from afina.stats.metrics import METRICS


@dataclass(frozen=True)
class MeasuredAbstention:
    """How many texts an adapter that abstains answers, and how many of these answers are wrong.

    Attributes:
        threshold: The lowest confidence at which the adapter answers a text.
        promised: The largest share of wrong answers that the training promised. None: the manifest has no promise.
    """

    threshold: float
    promised: float | None
    found: AnsweredShare

    @property
    def answers_nothing(self) -> bool:
        return self.threshold >= ANSWERS_NOTHING

    @classmethod
    def of(cls, predictor: Predictor, measured: Predictions, answered: Answered) -> MeasuredAbstention | None:
        """Return the figures of the predictions `measured`; None if the adapter answers every text."""
        objective = predictor.objective
        unanswered = objective.abstentions(measured)
        if unanswered is None or objective.abstain_below is None:
            return None
        promised = predictor.manifest.training.get("abstain_error")
        return cls(objective.abstain_below, promised, AnsweredShare.of(answered.wrong, unanswered))


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating an adapter on labelled texts.

    Attributes:
        adapter: The adapter's directory.
        task: The address of the labelled texts.
        metric: The name of the main metric.
        interval: The 95 % confidence interval of `metric`, over texts.
        where: The file or task of the texts. The fields `where`, `held_out`, `leaked`, `left_out`, `unmeasured` and
            `repeated` are those of `EvaluationSet`.
        label_names: If there are two, the second is the positive label.
        max_length: In tokens. None: the adapter does not truncate texts.
        chosen: Whether a person or a benchmark chose which of two labels is the positive one.
        too_long: The number of texts that were left out because their right answer has too many tokens.
        abstention: None: the adapter answers every text.
    """

    adapter: str
    digest: str
    task: str
    metric: str
    metrics: dict[str, float]
    interval: Interval
    examples: int
    truncated: int
    dtype: str
    where: str
    held_out: bool
    leaked: int | None
    left_out: int
    kind: str
    label_names: tuple[str, ...]
    answered: Answered
    max_length: int | None
    chosen: bool
    too_long: int = 0
    unmeasured: tuple[str, ...] = ()
    repeated: int = 0
    abstention: MeasuredAbstention | None = None


def trained(adapter: Adapter) -> TrainingInfo:
    """Return what the manifest says about the training texts."""
    manifest = adapter.manifest
    names = None if manifest.method == FOREIGN else manifest.label_names
    kind = objectives.make(manifest.label_names, manifest.objective).kind
    given = manifest.training
    cuts = Cuts(calibration=bool(given.get("temperature")), abstention=given.get("abstain_error") is not None)
    learnt = manifest.task, manifest.data, manifest.train_digest
    return TrainingInfo(len(manifest.label_names), names, *learnt, kind, cuts, adapter.trained_on)


def evaluate(
    adapter: Adapter,
    texts: EvaluationSet,
    *,
    backbone: str | None = None,
    check_probe: bool = False,
    dtype: str = "float32",
    metric: str | None = None,
    positive: str | None = None,
) -> Evaluation:
    """Evaluate the predictions of `adapter` on labelled texts.

    Args:
        texts: The labelled texts, read with the result of `trained`, so that training texts are recognised.
        backbone: The address of the backbone. None: the adapter's own.
        check_probe: Whether to run the golden test first, which checks outputs recorded after training.
        metric: None: the task's main metric, or else the default of the kind of task.
        positive: Which of two labels is the positive one, for F1 and AUROC. None: the second label of `texts`.

    Raises the errors of `Predictor.load` and `golden_test.check`; InvalidStudy for a metric that the kind of task does
    not have, and InvalidData if `positive` is not one of an adapter's two labels.
    """
    if adapter.manifest.method == FOREIGN:  # peft stores no label names
        adapter = replace(adapter, manifest=adapter.manifest.model_copy(update={"label_names": texts.label_names}))
    texts = texts if positive is None else texts.with_positive(positive)
    predictor = golden_test.opened(adapter, backbone, dtype, checked=check_probe)
    return _evaluated(predictor, adapter, texts, metric_for(predictor.objective, metric, texts.metric))


def _evaluated(predictor: Predictor, adapter: Adapter, texts: EvaluationSet, headline: str) -> Evaluation:
    objective, (split, too_long) = predictor.objective, _fitting(predictor, texts)
    measured, truncated = predictor.measure(split, where=f"{texts.where}, text")
    answered = objective.answered(measured, texts.label_names)
    return Evaluation(
        adapter=adapter.where,
        digest=adapter.digest,
        task=texts.address,
        metric=headline,
        metrics={name: METRICS[name].value(answered) for name in objective.measures},
        interval=intervals.estimate_of_answers([answered], METRICS[headline]).interval,
        examples=len(split),
        truncated=truncated,
        dtype=predictor.dtype,
        where=texts.where,
        held_out=texts.held_out,
        leaked=texts.leaked,
        left_out=texts.left_out,
        kind=objective.kind,
        label_names=texts.label_names,
        answered=answered,
        max_length=getattr(predictor, "max_length", None),
        chosen=texts.chosen or _is_chosen(adapter.manifest),
        too_long=too_long,
        unmeasured=texts.unmeasured,
        repeated=texts.repeated,
        abstention=MeasuredAbstention.of(predictor, measured, answered),
    )


def _fitting(predictor: Predictor, texts: EvaluationSet) -> tuple[Split, int]:
    """Return the texts without those whose right answer is too long, and the number of texts left out."""
    split, answer_tokens = texts.split, (predictor.objective.settings or {}).get("answer_tokens")
    if not isinstance(predictor, ModelPredictor) or answer_tokens is None:
        return split, 0
    assert predictor.template is not None
    where, tokenizer = f"{texts.where}, text", predictor.backbone.tokenizer
    found = encode_references(tokenizer, split.texts, split.pairs, split.labels, predictor.template, where=where)
    most = predictor.max_length + answer_tokens
    kept, _, left_out = without_long(split, found, most, texts.long, where)
    return kept, left_out.targets


def _is_chosen(manifest: Manifest) -> bool:
    """Whether a person or a benchmark chose the order of the labels, instead of the order of words in a file."""
    given = manifest.data.positive is not None or manifest.data.labels is not None
    return given or manifest.task is None or named(manifest.task) is not None
