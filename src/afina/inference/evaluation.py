"""An adapter on labelled texts, to figures. Knows no file of texts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from afina.data.addresses import named
from afina.data.leakage import EvaluationSet, TrainingInfo
from afina.data.readers.target_kinds import TARGETS
from afina.errors import InvalidData
from afina.inference import probes
from afina.models import objectives
from afina.models.adapter import FOREIGN, Adapter
from afina.models.manifest import Manifest
from afina.models.objective import Objective, metric_for
from afina.stats import intervals
from afina.stats.answered import Answered
from afina.stats.intervals import Interval
from afina.stats.metrics import METRICS


@dataclass(frozen=True)
class Evaluation:
    """How good an adapter is.

    adapter    its directory; `digest` is its identity
    dtype      what it computed in
    task       the address of the texts
    metric     the headline
    metrics    the figures of its objective
    interval   where the headline may lie on other texts of this kind: 95 %
    examples   texts, of which `truncated` were cut to the adapter's maximum length
    label_names, answered  what was right and what was answered; the positive one of two labels is the second
    chosen     whether somebody said which of two labels is positive
    where, held_out, leaked, left_out  as in `EvaluationSet`
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


def trained(adapter: Adapter) -> TrainingInfo:
    """What an adapter tells of the texts that it learnt from."""
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
    """Measure `adapter` on `texts`, read for what it is `trained` on; `dtype` as in `Predictor.of`.

    backbone  an address, by default the adapter's
    metric    the headline; None: the one that the task of the texts has, else the usual one of the kind
    positive  of two labels, the one that F1 and AUROC are about; None: the one that the adapter was trained with
    Raises InvalidStudy for a metric that the kind has not, InvalidData for a positive label that is none, and what
    `probes.opened` raises.
    """
    manifest = adapter.manifest
    if manifest.method == FOREIGN:  # made by peft, which names no labels
        manifest = manifest.model_copy(update={"label_names": texts.label_names})
        adapter = replace(adapter, manifest=manifest)
    predictor = probes.opened(adapter, backbone, dtype, checked=check_probe)
    split, objective = texts.split, predictor.objective
    headline = metric_for(objective, metric, texts.metric)
    turned = _turned(objective, positive, texts.where)
    predictions, truncated = predictor.predict(split.texts, split.pairs, where=f"{texts.where}, text")
    answered, names = objective.answered(predictions.against(split.labels)), objective.label_names
    answered, names = (answered.turned, names[::-1]) if turned else (answered, names)
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
        label_names=names,
        answered=answered,
        max_length=getattr(predictor, "max_length", None),
        chosen=positive is not None or _is_chosen(manifest),
    )


def _turned(objective: Objective, positive: str | None, where: str) -> bool:
    """Whether the positive label is the first of the objective's."""
    if positive is None:
        return False
    names = objective.label_names
    if what := TARGETS[objective.kind].check_positive(names):
        raise InvalidData(
            f"{where}: `positive` says which of two classes is; the adapter learnt {what}. Leave it out.",
            code="data.option-inapplicable",
            where=where,
        )
    if positive not in names:
        raise InvalidData(
            f"{where}: `positive` {positive!r} is no label of the adapter. Give {' or '.join(names)}.",
            code="data.label-unknown",
            where=where,
            label=positive,
            known=names,
        )
    return positive == names[0]


def _is_chosen(manifest: Manifest) -> bool:
    """Whether the labels' order is somebody's choice, or a benchmark's, and not that of the words in a file."""
    given = {"positive", "labels"} & manifest.data.keys()
    return bool(given) or manifest.task is None or named(manifest.task) is not None
