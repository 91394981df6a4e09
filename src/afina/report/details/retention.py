"""The report's table of forgetting (`train.retention`): the loss on neutral sentences before and after training."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from afina.report.arms import Arm, Value, keeping, lines
from afina.report.formatting import metric_heading, metric_value, share
from afina.report.tables import Measure, Table, measure, table_of
from afina.studies.runs.record import Record, Retention

RETENTION = "Retention"

FIGURES = ("before", "after", "change")  # fields of `Retention` that are columns of the table


def retention_table(arms: Sequence[Arm]) -> Table | None:
    measured = measured_arms(arms)
    if not measured:
        return None
    metric, kept = measured[0].record.metric, _retention(measured[0].record)
    columns = [
        measure(metric_heading(metric, measured[0].record.label_names), metric_value(metric), share),
        *(measure(f"Loss {name}" if name != "change" else "Change", figure_of(name), _form(name)) for name in FIGURES),
        Measure("95 % interval", _interval),
    ]
    notes = (
        f"Loss: of the language model on {kept.sentences:,} neutral sentences of {kept.source}, in nats per token "
        f"({kept.tokens:,} tokens), before and after the training. A positive change means that the adapted model "
        "predicts other texts worse. The interval of the change is over sentences; for several seeds, the mean of "
        "each seed's interval.",
    )
    return table_of(RETENTION, columns, measured, notes)


def retention_as_json(arms: Sequence[Arm]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for arm in lines(measured_arms(arms)):
        low, high = change_ends(arm)
        figures = {name: arm.mean(figure_of(name)) for name in FIGURES}
        found.append({**arm.row_name, **figures, "change_low": low, "change_high": high})
    return found


def measured_arms(arms: Sequence[Arm]) -> list[Arm]:
    """Return the methods that measured their forgetting, each with only the seeds of these runs."""
    return keeping(arms, lambda record: record.retention is not None)


def _retention(record: Record) -> Retention:
    assert record.retention is not None
    return record.retention


def figure_of(name: str) -> Value:
    return lambda record: float(getattr(_retention(record), name))


def _form(name: str) -> Callable[[float], str]:
    return ("{:+.3f}" if name == "change" else "{:.3f}").format


def change_ends(arm: Arm) -> tuple[float, float]:
    """Return the 95 % interval of the change of the loss; for several seeds, the mean of each end over the seeds."""
    intervals = [_retention(record).change_interval for record in arm.records]
    low, high = (statistics.fmean(ends) for ends in zip(*intervals, strict=True))
    return low, high


def _interval(arm: Arm) -> str:
    low, high = change_ends(arm)
    return f"{low:+.3f} to {high:+.3f}".replace("-", "−")
