"""The writers of `tables.csv` and `tables.json` (a report's figures as plain numbers) and of the JSON of `--json`.

docs/reference/figures.md defines the figures and their units: shares, seconds, bytes. Columns and keys must not be
renamed or removed, because scripts rely on them.
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
from typing import Any

from afina.meter import PHASES
from afina.report.answer_costs import answer_costs_as_json
from afina.report.arms import Arm, Value, has_several_backbones, lines
from afina.report.details.abstention import abstention_as_json
from afina.report.details.endpoints import endpoints_as_json
from afina.report.details.retention import retention_as_json
from afina.report.formatting import ACCURACY, F1, metric_value
from afina.report.tables import published_figures
from afina.report.verdicts import Verdicts, verdicts_as_json
from afina.studies.descriptions import Failure
from afina.studies.published import Published
from afina.studies.results import Results
from afina.studies.runs.record import Memory, Record, Seconds
from afina.studies.trials import Tuned

PUBLISHED = "published"
"""The value of `seed` in a table row with figures of others."""

Columns = Mapping[str, Value]

_COUNTS = ("trainable", "body", "head", "total", "steps", "tokens", "tokens_per_second")
COST: Columns = {name: attrgetter(name) for name in _COUNTS}
MEMORY: Columns = {name: attrgetter(f"memory.{name}") for name in Memory.model_fields}

JsonRows = list[dict[str, object]]


def plain_tables(arms: Sequence[Arm], published: Published | None = None) -> dict[str, JsonRows]:
    """Return the rows of each table of `tables.json` by the table's name.

    A row has `method`, `seed` (a number or "mean") and the columns of its table. A value in a row is null if it was not
    measured or is undefined. A row of means also has the standard deviation over the seeds (n - 1) of each column,
    under the column's name with `_sd`, except in the tables `answers`, `retention`, `abstention` and `endpoints`. The
    table `answers` exists if a study has several backbones, `retention` if runs measured their forgetting
    (`train.retention`), `abstention` if adapters leave texts unanswered (`train.abstain_error`), `endpoints` if a model
    behind an API was asked, and `published` if the study file has figures of others for metrics of the study; the
    `seed` of these rows is "published", and `source` is the title or the URL of the publication.
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
        **({"abstention": abstains} if (abstains := abstention_as_json(arms)) else {}),
        **({"endpoints": asked} if (asked := endpoints_as_json(arms)) else {}),
        **({"published": rows} if published and (rows := _published(arms, published, names)) else {}),
    }
    for found, arm in zip(made["performance"], lines(arms), strict=True):
        for name in names:
            found[f"{name}_low"], found[f"{name}_high"] = arm.interval(name) or (None, None)
    return made


def _published(arms: Sequence[Arm], published: Published, metrics: Sequence[str]) -> JsonRows:
    by_metric = {metric: published_figures(arms, published, metric) for metric in metrics}
    figures = {
        arm.label: {metric: figures[arm.label] for metric, figures in by_metric.items() if arm.label in figures}
        for arm in arms
    }
    return [
        {"method": label, "seed": PUBLISHED, **values, "source": published.source}
        for label, values in figures.items()
        if values
    ]


def _seconds(phase: str) -> Value:
    return lambda record: float(getattr(record.seconds, phase))


def _lines(arms: Sequence[Arm], columns: Columns) -> JsonRows:
    made: JsonRows = []
    for arm in lines(arms):
        found = arm.row_name
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


def as_csv(arms: Sequence[Arm], published: Published | None = None) -> str:
    """Return the content of `tables.csv`: one long table, in which a value that is null in `plain_tables` is empty."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["table", "method", "seed", "column", "value"])
    for name, found in plain_tables(arms, published).items():
        for row in found:
            for column, value in row.items():
                if column not in ("method", "seed"):
                    writer.writerow([name, row["method"], row["seed"], column, value])
    return written.getvalue()


def as_json(study: str, arms: Sequence[Arm], found: Verdicts, published: Published | None = None) -> str:
    content = {"study": study, "tables": plain_tables(arms, published), **verdicts_as_json(found)}
    return json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


FIRST = (
    "method", "seed", "status", "accuracy", "f1", "examples", "trainable", "body", "head", "total", "tokens_per_second",
    "seconds", "memory", "adapter", "digest",
)  # fmt: skip
LEFT_OUT = {"losses", "format", "content_digest", "backbone_files"}
WHERE_GIVEN = {
    "abstention",
    "at_once",
    "endpoint",
    "fitted",
    "retention",
    "signatures",
    "too_long_rows",
    "weight_bytes",
}
"""The fields of a record that `--json` has only if they differ from the default; a failed run has none of them."""
AT_TOP = (ACCURACY, F1)
"""The metrics that a record of `--json` has also at its top level; null if the kind of task lacks the metric."""


def summary(results: Results, report: Path, conclusion: Sequence[str], found: Verdicts) -> dict[str, object]:
    """Return the JSON object of a study that `--json` prints.

    The elements of `records` are finished and failed runs, all with the same keys. A study with tuning also has the key
    `tuning`: the budget and the chosen hyperparameters of each method, without metrics on validation texts. A study
    with a section [published] also has the key `published_figures`.
    """
    runs = [*(_done(result.record, results.out) for result in results.results), *map(_failed, results.failed)]
    return {
        "study": results.name,
        "out": str(results.out),
        "report": str(report),
        "conclusion": list(conclusion),
        "records": runs,
        **verdicts_as_json(found),
        **({"published_figures": results.published.model_dump(mode="json")} if results.published else {}),
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
    values |= {"predictions": str(out / record.predictions)}
    values |= {"adapter": None if record.adapter is None else str(out / record.adapter)}
    return _ordered({**values, "error": None})


def _failed(failure: Failure) -> dict[str, object]:
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
