"""What each metric is called, and how its figures and their differences are told. What it is, is `afina.stats`'."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from afina.report.words import points
from afina.studies.record import Record

if TYPE_CHECKING:
    from afina.stats.metrics import Metric

ACCURACY, F1 = "accuracy", "f1"


def metric_of(name: str) -> Metric:
    """The metric of that name."""
    from afina.stats.metrics import METRICS  # loads numpy

    return METRICS[name]


def words(metric: str) -> str:
    """Within a sentence."""
    return metric_of(metric).words


def heading(metric: str) -> str:
    """`Accuracy`."""
    return words(metric)[:1].upper() + words(metric)[1:]


def interval_heading(metric: str) -> str:
    """`95 % of accuracy`."""
    return f"95 % of {words(metric)}"


def of_record(record: Record) -> tuple[str, ...]:
    """All that its kind of task has, the headline first."""
    return (record.metric, *(name for name in record.metrics if name != record.metric))


def value(metric: str) -> Callable[[Record], float | None]:
    """That metric of a record; None where its kind of task does not have it."""

    def of(record: Record) -> float | None:
        return record.metrics.get(metric)

    return of


def difference(value: float, metric: str) -> str:
    """Of two: in percentage points, or as a plain number with its sign; four digits, or more where it is small."""
    if metric_of(metric).points:
        return points(value)
    text = f"{value:+.4g}" if 0 < abs(value) < 0.001 else f"{value:+.4f}"
    return text.replace("-", "−") if float(text) else text[1:]


def unit(metric: str) -> str:
    """What differences are told in, in brackets behind a heading; empty for plain numbers."""
    return " (points)" if metric_of(metric).points else ""
