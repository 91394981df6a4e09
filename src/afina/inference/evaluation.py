"""An adapter on labelled texts, to figures. Knows no file of texts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from afina.data.labelled import Labelled, Trained
from afina.inference import probes
from afina.models import objectives
from afina.models.adapter import FOREIGN, Adapter
from afina.models.manifest import Manifest
from afina.models.objective import metric_for
from afina.stats import estimates
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
    where, held_out, leaked  as in `Labelled`
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


def trained(manifest: Manifest) -> Trained:
    """What an adapter tells of the texts that it learnt from."""
    names = None if manifest.method == FOREIGN else manifest.label_names
    kind = objectives.make(manifest.label_names, manifest.objective).kind
    calibrated = bool(manifest.training.get("temperature"))
    learnt = manifest.task, manifest.data, manifest.train_digest
    return Trained(len(manifest.label_names), names, *learnt, kind, calibrated)


def evaluate(
    adapter: Adapter,
    texts: Labelled,
    *,
    backbone: str | None = None,
    check_probe: bool = False,
    dtype: str = "float32",
    metric: str | None = None,
) -> Evaluation:
    """Measure `adapter` on `texts`, read for what it is `trained` on; `dtype` as in `Predictor.of`.

    backbone  an address, by default the adapter's
    metric    the headline; None: the one that the task of the texts has, else the usual one of the kind
    Raises InvalidStudy for a metric that the kind has not, and what `probes.opened` raises.
    """
    manifest = adapter.manifest
    if manifest.method == FOREIGN:  # made by peft, which names no labels
        manifest = manifest.model_copy(update={"label_names": texts.label_names})
        adapter = replace(adapter, manifest=manifest)
    predictor = probes.opened(adapter, backbone, dtype, checked=check_probe)
    split, objective = texts.split, predictor.objective
    headline = metric_for(objective, metric, texts.metric)
    outputs, truncated = predictor.predict(split.texts, split.pairs, where=f"{texts.where}, text")
    return Evaluation(
        adapter=adapter.where,
        digest=adapter.digest,
        task=texts.address,
        metric=headline,
        metrics=objective.metrics(outputs, split.labels),
        interval=estimates.of_answers([objective.answered(outputs, split.labels)], METRICS[headline]).interval,
        examples=len(split),
        truncated=truncated,
        dtype=predictor.dtype,
        where=texts.where,
        held_out=texts.held_out,
        leaked=texts.leaked,
    )
