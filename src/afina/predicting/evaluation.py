"""Evaluate an adapter on labelled texts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from afina.data.addresses import named
from afina.data.answer_tokens import encode_references, without_long
from afina.data.evaluation_set import EvaluationSet, TrainingInfo
from afina.data.split import Split
from afina.models import objectives
from afina.models.adapter import FOREIGN, Adapter
from afina.models.manifest import Manifest
from afina.models.objectives import metric_for
from afina.predicting import probes
from afina.predicting.predictor import ModelPredictor, Predictor
from afina.stats import intervals
from afina.stats.answered import Answered
from afina.stats.intervals import Interval
from afina.stats.metrics import METRICS


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating an adapter.

    Attributes:
        adapter: The adapter's directory.
        digest: The adapter's digest.
        task: Address of the texts.
        metric: Name of the headline metric.
        metrics: All metrics of the objective.
        interval: 95 % confidence interval of the headline metric, over texts.
        examples: Number of texts.
        truncated: Number of texts that were truncated to the adapter's maximum length.
        dtype: The compute dtype.
        where: The file or task of the texts, as in `EvaluationSet`; so are `held_out`, `leaked` and `left_out`.
        kind: Kind of the task.
        label_names: Names of the labels; of two labels, the second is the positive label.
        answered: Targets and predictions of all texts.
        max_length: Maximum length in tokens. None: the adapter reads whole texts.
        chosen: Whether somebody chose the positive label of two.
        too_long: Number of target texts that were left out because they have too many tokens.
        unmeasured, repeated: The fields of `EvaluationSet`.
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


def trained(adapter: Adapter) -> TrainingInfo:
    """Return the facts in an adapter's manifest about its training texts."""
    manifest = adapter.manifest
    names = None if manifest.method == FOREIGN else manifest.label_names
    kind = objectives.make(manifest.label_names, manifest.objective).kind
    calibrated = bool(manifest.training.get("temperature"))
    learnt = manifest.task, manifest.data, manifest.train_digest
    return TrainingInfo(len(manifest.label_names), names, *learnt, kind, calibrated, adapter.trained_on)


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
    """Evaluate `adapter` on labelled texts.

    Args:
        adapter: The adapter.
        texts: The labelled texts, read with the result of `trained`, so that training texts are recognised.
        backbone: Address of the backbone. None: the adapter's own.
        check_probe: Whether to check the golden test (recorded outputs) first.
        dtype: Compute type, as in `Predictor.of`.
        metric: The headline metric. None: the task's, else the kind's default.
        positive: The positive label of two, for F1 and AUROC. None: the second of `texts`.

    Raises:
        InvalidStudy: The kind of task does not have the metric.
        InvalidData: `positive` is not a label of the adapter, or the adapter has not two labels.
        NotFound: The backbone does not exist, or the adapter names none.
        WrongBackbone: The adapter was made for another backbone.
        CorruptAdapter: The tensors do not fit the backbone, or the golden test fails.
    """
    manifest = adapter.manifest
    if manifest.method == FOREIGN:  # peft stores no label names
        adapter = replace(adapter, manifest=manifest.model_copy(update={"label_names": texts.label_names}))
    texts = texts if positive is None else texts.with_positive(positive)
    predictor = probes.opened(adapter, backbone, dtype, checked=check_probe)
    objective, (split, too_long) = predictor.objective, _fitting(predictor, texts)
    headline = metric_for(objective, metric, texts.metric)
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
        chosen=texts.chosen or _is_chosen(manifest),
        too_long=too_long,
        unmeasured=texts.unmeasured,
        repeated=texts.repeated,
    )


def _fitting(predictor: Predictor, texts: EvaluationSet) -> tuple[Split, int]:
    """Return the split without targets that are too long, as in training, and how many targets were left out.

    Raises InvalidData if a target is too long and is not to be left out.
    """
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
