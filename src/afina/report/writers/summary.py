"""The machine-readable form of a study, which scripts rely on: the keys never change or go.

Knows the shape of the JSON; does not write or print it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afina.report import metrics, verdicts
from afina.report.paper import claims
from afina.report.paper.claims import Claim
from afina.report.verdicts import Verdicts
from afina.studies.runs.record import Memory, Record, Seconds
from afina.studies.trials import Tuned

if TYPE_CHECKING:  # numpy is imported by what needs it
    from afina.studies.results import Failure, Results

FIRST = (
    "method", "seed", "status", "accuracy", "f1", "examples", "trainable", "body", "head", "total", "tokens_per_second",
    "seconds", "memory", "adapter", "digest",
)  # fmt: skip
NOT_TOLD = {"losses", "content_digest"}
WHERE_GIVEN = {"at_once"}
"""Fields that a record is written with only where they are not neutral; a failed run has none of them."""
AT_TOP = (metrics.ACCURACY, metrics.F1)
"""Metrics that stand beside the record's fields as well as within `metrics`; null where a kind of task has them not."""


def summary(
    results: Results, report: Path, conclusion: Sequence[str], found: Verdicts, tested: Sequence[Claim]
) -> dict[str, object]:
    """One JSON object: `study`, `out`, `report`, `conclusion`, `records`, `verdicts`, `not_comparable` and `claims`.

    Records are those of finished and failed runs, each with the same keys. `tuning`, where the study tuned: what each
    method was given, and its setting; no figure of what chose it.
    """
    runs = [*(_done(result.record, results.out) for result in results.results), *map(_failed, results.failed)]
    return {
        "study": results.name,
        "out": str(results.out),
        "report": str(report),
        "conclusion": list(conclusion),
        "records": runs,
        **verdicts.as_json(found),
        "claims": claims.as_json(tested),
        **({"tuning": [_tuned(one) for one in results.tuned]} if results.tuned else {}),
    }


def _tuned(one: Tuned) -> dict[str, object]:
    return {
        "name": one.name,
        "method": one.method,
        "candidates": len(one.trials),
        "stopped": one.stopped,
        "steps": one.steps,
        "seconds": one.seconds,
        "setting": one.setting,
    }


def _done(record: Record, out: Path) -> dict[str, object]:
    values: dict[str, Any] = record.model_dump(mode="json", exclude=NOT_TOLD)
    values |= {metric: values["metrics"].get(metric) for metric in AT_TOP}
    values |= {"adapter": str(out / record.adapter), "predictions": str(out / record.predictions)}
    return _ordered({**values, "error": None})


def _failed(failure: Failure) -> dict[str, object]:
    """Every key of a finished run; null where there is nothing to say."""
    nothing: dict[str, object] = {
        key: None for key in (*Record.model_fields, *AT_TOP) if key not in NOT_TOLD | WHERE_GIVEN
    }
    return _ordered(
        {
            **nothing,
            "seconds": dict.fromkeys(Seconds.model_fields),
            "memory": dict.fromkeys(Memory.model_fields),
            "name": failure.name,
            "method": failure.method,
            "seed": failure.seed,
            "status": "failed",
            "error": failure.error,
        }
    )


def _ordered(values: dict[str, object]) -> dict[str, object]:
    return {key: values[key] for key in (*FIRST, *(key for key in values if key not in FIRST))}
