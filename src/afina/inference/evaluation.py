"""An adapter on labelled texts, to figures. Knows no file of texts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from afina.data.labelled import Labelled, Trained
from afina.inference import probes
from afina.models.adapter import FOREIGN, Adapter
from afina.models.manifest import Manifest
from afina.stats import estimates
from afina.stats.intervals import Interval


@dataclass(frozen=True)
class Evaluation:
    """How good an adapter is.

    adapter    its directory; `digest` is its identity
    dtype      what it computed in
    task       the address of the texts
    metrics    the figures of its objective, the headline first
    interval   where the headline may lie on other texts of this kind: 95 %
    examples   texts, of which `truncated` were cut to the adapter's maximum length
    where, held_out, leaked  as in `Labelled`
    """

    adapter: str
    digest: str
    task: str
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
    return Trained(len(manifest.label_names), names, manifest.task, manifest.data, manifest.train_digest)


def evaluate(
    adapter: Adapter, texts: Labelled, *, backbone: str | None = None, check_probe: bool = False, dtype: str = "float32"
) -> Evaluation:
    """Measure `adapter` on `texts`, read for what it is `trained` on; `dtype` as in `Predictor.of`.

    backbone  an address, by default the adapter's
    Raises what `probes.opened` raises.
    """
    manifest = adapter.manifest
    if manifest.method == FOREIGN:  # made by peft, which names no labels
        manifest = manifest.model_copy(update={"label_names": texts.label_names})
        adapter = replace(adapter, manifest=manifest)
    predictor = probes.opened(adapter, backbone, dtype, checked=check_probe)
    split = texts.split
    outputs, truncated = predictor.predict(split.texts, split.pairs, where=f"{texts.where}, text")
    return Evaluation(
        adapter=adapter.where,
        digest=adapter.digest,
        task=texts.address,
        metrics=predictor.objective.metrics(outputs, split.labels),
        interval=estimates.accuracy(predictor.objective.score(outputs, split.labels)).interval,
        examples=len(split),
        truncated=truncated,
        dtype=predictor.dtype,
        where=texts.where,
        held_out=texts.held_out,
        leaked=texts.leaked,
    )
