"""The recommendation of `afina choose` as the JSON object that `--json` prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from afina.models.backbone_spec import FLOAT
from afina.report.formatting import ACCURACY, F1
from afina.report.recommendation import Interval, sentences, setting_note, titled, why_left_out
from afina.schema import figures_as_json, null_where_undefined
from afina.studies.choosing.recommendation import Contender, Recommendation


def as_json(choice: Recommendation, out: Path, interval: Interval = None) -> dict[str, Any]:
    """Return a recommendation as JSON values with stable keys; paths of adapters begin with the output directory `out`.

    The JSON object has the key `backbones`, and each row the key `backbone`, only if several backbones were compared.
    The JSON object has the key `products` only if trainings computed products with frozen weights in int8. The JSON
    object has the keys `latency` and `latencies` only if the user gave a latency limit, and the key `student` or
    `no_student` only if the user gave a file of texts without labels. A row has the key `endpoint` only for a model
    behind an API, and the object then has the key `instead_of` if this model is recommended. The object has the key
    `labels` only if doubtful labels were counted.
    """
    fewer = choice.fewer
    return {
        "task": choice.task,
        "backbone": choice.backbone,
        **({"backbones": list(choice.backbones)} if choice.backbones else {}),
        "kind": choice.kind,
        "metric": choice.metric,
        "recommended": choice.recommended,
        "recommendation": list(sentences(choice, interval)),
        "adapter": None if choice.adapter is None else str(out / choice.adapter),
        **({"instead_of": choice.instead_of} if choice.instead_of is not None else {}),
        "rows": [_row(contender, choice, out) for contender in choice.contenders],
        "comparisons": [titled(one).words for one in choice.comparisons],
        "dropped": {name: why_left_out(one) for name, one in choice.dropped.items()},
        "fewer": fewer and {"name": fewer.name, "examples": fewer.examples, "metrics": figures_as_json(fewer.metrics)},
        **_student(choice, out),
        **({"labels": choice.labels.model_dump(mode="json")} if choice.labels else {}),
        "train_examples": choice.train_examples,
        "examples": choice.examples,
        "minutes": choice.minutes,
        "seconds": choice.seconds,
        "stages": choice.stages,
        **({"products": choice.products} if choice.products != FLOAT else {}),
        **({"latency": choice.latency, "latencies": choice.latencies} if choice.latency is not None else {}),
    }


def _row(contender: Contender, choice: Recommendation, out: Path) -> dict[str, Any]:
    return {
        "name": contender.name,
        "accuracy": null_where_undefined(contender.metrics.get(ACCURACY)),
        "f1": null_where_undefined(contender.metrics.get(F1)),
        "metrics": figures_as_json(contender.metrics),
        "method": contender.method,
        **({"backbone": contender.backbone} if choice.backbones else {}),
        "rate": contender.rate,
        "ended": contender.ended,
        "race": setting_note(contender, choice.metric),
        "validation": contender.validation,
        "validation_accuracy": contender.validation if choice.metric == ACCURACY else None,
        "validation_examples": contender.validation_examples,
        "weighed": contender.weighed,
        "examples": contender.examples,
        "steps": contender.steps,
        "seconds": contender.seconds,
        "memory": contender.memory,
        "adapter": None if contender.adapter is None else str(out / contender.adapter),
        "remark": contender.setting,
        **({"endpoint": contender.endpoint.model_dump(mode="json")} if contender.endpoint else {}),
    }


def _student(choice: Recommendation, out: Path) -> dict[str, Any]:
    if (student := choice.student) is None:
        return {"no_student": choice.no_student} if choice.no_student else {}
    found = student.model_dump(mode="json") | {"adapter": str(out / student.adapter)}
    found["metrics"] = figures_as_json(student.metrics)
    return {"student": found}
