"""Records -> `tables.csv` and `tables.json`: the tables' figures as plain numbers, for other programs.

Units are those of docs/figures.md: shares, seconds, bytes. The columns never change their meaning.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Callable, Mapping, Sequence

from afina.report import verdicts as pairs
from afina.report.paper import claims as tested
from afina.report.paper.claims import Claim
from afina.report.rows import rows
from afina.report.tables import f1_interval_of, interval_of
from afina.report.verdicts import Verdicts
from afina.studies.record import Record

MEAN = "mean"
"""Stands for the seed where a figure is the mean over all seeds of a setting."""

Value = Callable[[Record], float | None]

TABLES: Mapping[str, Mapping[str, Value]] = {
    "performance": {
        "accuracy": lambda record: record.accuracy,
        "f1": lambda record: record.f1,
        "examples": lambda record: record.examples,
    },
    "cost": {
        "trainable": lambda record: record.trainable,
        "body": lambda record: record.body,
        "head": lambda record: record.head,
        "total": lambda record: record.total,
        "steps": lambda record: record.steps,
        "tokens": lambda record: record.tokens,
        "tokens_per_second": lambda record: record.tokens_per_second,
    },
    "seconds": {
        "load": lambda record: record.seconds.load,
        "encode": lambda record: record.seconds.encode,
        "train": lambda record: record.seconds.train,
        "evaluate": lambda record: record.seconds.evaluate,
        "save": lambda record: record.seconds.save,
    },
    "memory": {
        "state_bytes": lambda record: record.memory.state_bytes,
        "activation_bytes": lambda record: record.memory.activation_bytes,
        "activation_tokens": lambda record: record.memory.activation_tokens,
        "rss_peak": lambda record: record.memory.rss_peak,
        "allocated_end": lambda record: record.memory.allocated_end,
        "allocated_peak": lambda record: record.memory.allocated_peak,
        "reserved_peak": lambda record: record.memory.reserved_peak,
    },
}

Figures = dict[str, list[dict[str, object]]]


def figures(records: Sequence[Record]) -> Figures:
    """By table, a mapping per row: `method`, `seed` (a number or "mean"), then the columns; null where not measured.

    A row of means has the standard deviation (n - 1) of each column beside it, under the column's name and `_sd`.
    """
    made: Figures = {name: [] for name in TABLES}
    for row in rows(records):
        seed: object = row.records[0].seed if len(row.records) == 1 else MEAN
        for name, columns in TABLES.items():
            found: dict[str, object] = {"method": row.label, "seed": seed}
            for column, value in columns.items():
                found |= _mean(column, [value(record) for record in row.records])
            if name == "performance":
                for column, interval in (("accuracy", interval_of), ("f1", f1_interval_of)):
                    found[f"{column}_low"], found[f"{column}_high"] = interval(row.records)
            made[name].append(found)
    return made


def _mean(column: str, values: Sequence[float | None]) -> dict[str, object]:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return {column: None, **({f"{column}_sd": None} if len(values) > 1 else {})}
    if len(values) == 1:
        return {column: values[0]}
    return {column: statistics.fmean(known), f"{column}_sd": statistics.stdev(known)}


def as_csv(records: Sequence[Record]) -> str:
    """One long table: `table`, `method`, `seed`, `column`, `value`; the value is empty where not measured."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["table", "method", "seed", "column", "value"])
    for name, found in figures(records).items():
        for row in found:
            for column, value in row.items():
                if column not in ("method", "seed"):
                    writer.writerow([name, row["method"], row["seed"], column, value])
    return written.getvalue()


def as_json(study: str, records: Sequence[Record], found: Verdicts, claims: Sequence[Claim]) -> str:
    """The same tables, with verdicts and claims."""
    content = {
        "study": study,
        "tables": figures(records),
        **pairs.as_json(found),
        "claims": tested.as_json(claims),
    }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"
