"""`tables.csv` and `tables.json` (the tables' figures as plain numbers), and the JSON object of `--json`.

docs/reference/figures.md defines the units: shares, seconds, bytes. Scripts rely on columns and keys: do not
rename or remove any.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from math import isnan
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from afina.meter import PHASES
from afina.report.answer_costs import answer_costs_as_json
from afina.report.arms import Arm, Value, has_several_backbones, lines
from afina.report.details.retention import retention_as_json
from afina.report.formatting import ACCURACY, F1, metric_value
from afina.report.paper import Claim, claims_as_json
from afina.report.verdicts import Verdicts, verdicts_as_json
from afina.studies.runs.record import Memory, Record, Seconds
from afina.studies.trials import Tuned

if TYPE_CHECKING:  # the import loads scipy
    from afina.studies.descriptions import Failure
    from afina.studies.results import Results

MEAN = "mean"
"""The value of `seed` in rows of means over all seeds of an arm."""

Columns = Mapping[str, Value]

_COUNTS = ("trainable", "body", "head", "total", "steps", "tokens", "tokens_per_second")
COST: Columns = {name: attrgetter(name) for name in _COUNTS}
MEMORY: Columns = {name: attrgetter(f"memory.{name}") for name in Memory.model_fields}

JsonRows = list[dict[str, object]]


def plain_tables(arms: Sequence[Arm]) -> dict[str, JsonRows]:
    """Return the rows of each table by its name: `method`, `seed` (a number or "mean"), then the columns.

    A value is null if not measured or undefined. A row of means also has the standard deviation (n - 1) of each
    column, under the column's name with `_sd`. Two tables have no standard deviations: `answers`, for results of
    several backbones only, and `retention`, for runs that measured it.
    """
    names = list(arms[0].record.metrics) if arms else []
    performance = {name: metric_value(name) for name in names} | {"examples": lambda record: record.examples}
    seconds = {phase: _seconds(phase) for phase in PHASES}
    made = {
        "performance": _lines(arms, performance),
        "cost": _lines(arms, COST),
        "seconds": _lines(arms, seconds),
        "memory": _lines(arms, MEMORY),
        **({"answers": answer_costs_as_json(arms)} if has_several_backbones(arms) else {}),
        **({"retention": retained} if (retained := retention_as_json(arms)) else {}),
    }
    for found, arm in zip(made["performance"], lines(arms), strict=True):
        for name in names:
            found[f"{name}_low"], found[f"{name}_high"] = arm.interval(name) or (None, None)
    return made


def _seconds(phase: str) -> Value:
    return lambda record: float(getattr(record.seconds, phase))


def _lines(arms: Sequence[Arm], columns: Columns) -> JsonRows:
    made: JsonRows = []
    for arm in lines(arms):
        found: dict[str, object] = {
            "method": arm.label,
            "seed": arm.record.seed if len(arm.results) == 1 else MEAN,
        }
        for column, value in columns.items():
            found |= _mean(column, [value(record) for record in arm.records])
        made.append(found)
    return made


def _mean(column: str, values: Sequence[float | None]) -> dict[str, object]:
    known = [value for value in values if value is not None and not isnan(value)]  # undefined values are null too
    if len(known) < len(values):
        return {column: None, **({f"{column}_sd": None} if len(values) > 1 else {})}
    if len(values) == 1:
        return {column: values[0]}
    return {column: statistics.fmean(known), f"{column}_sd": statistics.stdev(known)}


def as_csv(arms: Sequence[Arm]) -> str:
    """Return one long table: `table`, `method`, `seed`, `column`, `value`; null in `plain_tables` is an empty value."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["table", "method", "seed", "column", "value"])
    for name, found in plain_tables(arms).items():
        for row in found:
            for column, value in row.items():
                if column not in ("method", "seed"):
                    writer.writerow([name, row["method"], row["seed"], column, value])
    return written.getvalue()


def as_json(study: str, arms: Sequence[Arm], found: Verdicts, claims: Sequence[Claim]) -> str:
    """Return the content of tables.json: the tables of `plain_tables`, verdicts and claims."""
    content = {
        "study": study,
        "tables": plain_tables(arms),
        **verdicts_as_json(found),
        "claims": claims_as_json(claims),
    }
    return json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


FIRST = (
    "method", "seed", "status", "accuracy", "f1", "examples", "trainable", "body", "head", "total", "tokens_per_second",
    "seconds", "memory", "adapter", "digest",
)  # fmt: skip
LEFT_OUT = {"losses", "format", "content_digest", "backbone_files"}
WHERE_GIVEN = {"at_once", "fitted", "retention", "signatures", "too_long_rows", "weight_bytes"}
"""Fields that are written only where they differ from the default; a failed run has none of these fields."""
AT_TOP = (ACCURACY, F1)
"""Metrics that are also written beside the record's fields; null if the kind of task lacks them."""


def summary(
    results: Results, report: Path, conclusion: Sequence[str], found: Verdicts, tested: Sequence[Claim]
) -> dict[str, object]:
    """Return the JSON object `study`, `out`, `report`, `conclusion`, `records`, verdicts and `claims`.

    Records are of finished and failed runs, and have the same keys. A study with tuning also has `tuning`: the budget
    and the chosen setting of each method, without figures on the validation texts. `verdicts_as_json` names the keys
    of verdicts.
    """
    runs = [*(_done(result.record, results.out) for result in results.results), *map(_failed, results.failed)]
    return {
        "study": results.name,
        "out": str(results.out),
        "report": str(report),
        "conclusion": list(conclusion),
        "records": runs,
        **verdicts_as_json(found),
        "claims": claims_as_json(tested),
        **({"tuning": [_tuned(one) for one in results.tuned]} if results.tuned else {}),
    }


def _tuned(one: Tuned) -> dict[str, object]:
    return {
        "name": one.name,
        "method": one.method,
        **({"backbone": one.backbone} if one.backbone is not None else {}),
        "candidates": len(one.trials),
        "stopped": one.stopped,
        "steps": one.steps,
        "seconds": one.seconds,
        "setting": one.setting,
    }


def _done(record: Record, out: Path) -> dict[str, object]:
    values: dict[str, Any] = record.model_dump(
        mode="json", exclude=LEFT_OUT | (WHERE_GIVEN - record.non_defaults().keys())
    )
    values |= {metric: values["metrics"].get(metric) for metric in AT_TOP}
    values |= {"adapter": str(out / record.adapter), "predictions": str(out / record.predictions)}
    return _ordered({**values, "error": None})


def _failed(failure: Failure) -> dict[str, object]:
    """A failed run with every key of a finished run; null if there is no value."""
    nothing: dict[str, object] = {
        key: None for key in (*Record.model_fields, *AT_TOP) if key not in LEFT_OUT | WHERE_GIVEN
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
            "backbone": failure.backbone,
            "error": failure.error,
        }
    )


def _ordered(values: dict[str, object]) -> dict[str, object]:
    return {key: values[key] for key in (*FIRST, *(key for key in values if key not in FIRST))}
