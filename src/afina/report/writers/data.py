"""Arms -> `tables.csv` and `tables.json`: the tables' figures as plain numbers, for other programs.

Units are those of docs/figures.md: shares, seconds, bytes. The columns never change their meaning.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from math import isnan

from afina.meter import PHASES
from afina.report import metrics
from afina.report import verdicts as pairs
from afina.report.arms import Arm, Value, lines
from afina.report.paper import claims as tested
from afina.report.paper.claims import Claim
from afina.report.verdicts import Verdicts

MEAN = "mean"
"""Stands for the seed where a figure is the mean over all seeds of a setting."""

Columns = Mapping[str, Value]

COST: Columns = {
    "trainable": lambda record: record.trainable,
    "body": lambda record: record.body,
    "head": lambda record: record.head,
    "total": lambda record: record.total,
    "steps": lambda record: record.steps,
    "tokens": lambda record: record.tokens,
    "tokens_per_second": lambda record: record.tokens_per_second,
}
MEMORY: Columns = {
    "state_bytes": lambda record: record.memory.state_bytes,
    "activation_bytes": lambda record: record.memory.activation_bytes,
    "activation_tokens": lambda record: record.memory.activation_tokens,
    "rss_peak": lambda record: record.memory.rss_peak,
    "allocated_end": lambda record: record.memory.allocated_end,
    "allocated_peak": lambda record: record.memory.allocated_peak,
    "reserved_peak": lambda record: record.memory.reserved_peak,
}

Lines = list[dict[str, object]]


def tables(arms: Sequence[Arm]) -> dict[str, Lines]:
    """By table, a mapping per line: `method`, `seed` (a number or "mean"), then the columns.

    Null where not measured, or undefined.
    A line of means has the standard deviation (n - 1) of each column beside it, under the column's name and `_sd`.
    """
    names = list(arms[0].record.metrics) if arms else []
    performance = {name: metrics.value(name) for name in names} | {"examples": lambda record: record.examples}
    seconds = {phase: _seconds(phase) for phase in PHASES}
    made = {
        "performance": _lines(arms, performance),
        "cost": _lines(arms, COST),
        "seconds": _lines(arms, seconds),
        "memory": _lines(arms, MEMORY),
    }
    for found, arm in zip(made["performance"], lines(arms), strict=True):
        for name in names:
            found[f"{name}_low"], found[f"{name}_high"] = arm.interval(name) or (None, None)
    return made


def _seconds(phase: str) -> Value:
    return lambda record: float(getattr(record.seconds, phase))


def _lines(arms: Sequence[Arm], columns: Columns) -> Lines:
    made: Lines = []
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
    known = [value for value in values if value is not None and not isnan(value)]  # null where undefined, too
    if len(known) < len(values):
        return {column: None, **({f"{column}_sd": None} if len(values) > 1 else {})}
    if len(values) == 1:
        return {column: values[0]}
    return {column: statistics.fmean(known), f"{column}_sd": statistics.stdev(known)}


def as_csv(arms: Sequence[Arm]) -> str:
    """One long table: `table`, `method`, `seed`, `column`, `value`; the value is empty where `tables` has null."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["table", "method", "seed", "column", "value"])
    for name, found in tables(arms).items():
        for row in found:
            for column, value in row.items():
                if column not in ("method", "seed"):
                    writer.writerow([name, row["method"], row["seed"], column, value])
    return written.getvalue()


def as_json(study: str, arms: Sequence[Arm], found: Verdicts, claims: Sequence[Claim]) -> str:
    """The same tables, with verdicts and claims."""
    content = {
        "study": study,
        "tables": tables(arms),
        **pairs.as_json(found),
        "claims": tested.as_json(claims),
    }
    return json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
