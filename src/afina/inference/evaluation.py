"""An adapter on the evaluation split of a task, to figures. Knows no file of texts."""

from __future__ import annotations

from dataclasses import dataclass, replace

from afina.data.task import Task
from afina.errors import InvalidData
from afina.inference import probes
from afina.models.adapter import FOREIGN, Adapter


@dataclass(frozen=True)
class Evaluation:
    """How good an adapter is.

    adapter    its directory; `digest` is its identity
    dtype      what it computed in
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
    dtype: str


def evaluate(
    adapter: Adapter, task: Task, *, backbone: str | None = None, check_probe: bool = False, dtype: str = "float32"
) -> Evaluation:
    """Measure `adapter` on a task's evaluation split; `backbone` is an address, by default the adapter's.

    The task's labels must be the adapter's; an adapter made by peft names none and takes the task's. Raises InvalidData
    where they are not, and what `probes.opened` raises, where `dtype` is explained too.
    """
    manifest = adapter.manifest
    if manifest.method == FOREIGN and len(task.label_names) == len(manifest.label_names):
        manifest = manifest.model_copy(update={"label_names": task.label_names})
        adapter = replace(adapter, manifest=manifest)
    if task.label_names != manifest.label_names:
        raise InvalidData(
            f"task {task.address}: its labels are {', '.join(task.label_names)}; the adapter's are "
            f"{', '.join(manifest.label_names)}. Give the labels in the adapter's order with `labels`."
        )
    predictor = probes.opened(adapter, backbone, dtype, checked=check_probe)
    split = task.evaluation
    outputs, truncated = predictor.predict(split.texts, split.pairs, where=f"task {task.address}, evaluation text")
    return Evaluation(
        adapter=adapter.where,
        digest=adapter.digest,
        task=task.address,
        metrics=predictor.objective.metrics(outputs, split.labels),
        examples=len(split),
        truncated=truncated,
        dtype=predictor.dtype,
    )
