"""An adapter on the evaluation split of a task, to figures. Knows no file of texts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from afina.data.task import Task
from afina.errors import InvalidData
from afina.inference import probes
from afina.inference.predictor import Predictor, logits
from afina.models.adapter import Adapter
from afina.models.backbone import Backbone


@dataclass(frozen=True)
class Evaluation:
    """How good an adapter is.

    adapter    its directory; `digest` is its identity
    task       the task's address
    metrics    the figures of its objective, the headline first
    examples   evaluation texts, of which `truncated` were cut to the adapter's maximum length
    """

    adapter: str
    digest: str
    task: str
    metrics: dict[str, float]
    examples: int
    truncated: int


def evaluate(adapter: Adapter, task: Task, *, backbone: str | None = None, check_probe: bool = False) -> Evaluation:
    """Measure `adapter` on a task's evaluation split, in float32; `backbone` is an address, by default the adapter's.

    The task's labels must be the adapter's; an adapter made by peft names none and takes the task's. Raises InvalidData
    where they are not, and what `Predictor.of` and `probes.check` raise.
    """
    manifest = adapter.manifest
    if manifest.backbone_digest is None and len(task.label_names) == len(manifest.label_names):
        manifest = manifest.model_copy(update={"label_names": task.label_names})
        adapter = replace(adapter, manifest=manifest)
    if task.label_names != manifest.label_names:
        raise InvalidData(
            f"task {task.address}: its labels are {', '.join(task.label_names)}; the adapter's are "
            f"{', '.join(manifest.label_names)}. Give the labels in the adapter's order with `labels`."
        )
    predictor = Predictor.of(adapter, Backbone.load(backbone or manifest.backbone))
    if check_probe:
        probes.check(predictor)
    split = task.evaluation
    encoded = predictor.encode(split.texts, split.pairs, where=f"task {task.address}, evaluation text")
    return Evaluation(
        adapter=adapter.where,
        digest=adapter.digest,
        task=task.address,
        metrics=predictor.objective.metrics(logits(predictor.classifier, encoded), split.labels),
        examples=len(split),
        truncated=encoded.truncated,
    )
