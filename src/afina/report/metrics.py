"""What each metric is called, and how its figures and their differences are told. What it is, is `afina.stats`'."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import isnan
from typing import TYPE_CHECKING

from afina.report.words import points, share
from afina.studies.runs.record import Record

if TYPE_CHECKING:
    from afina.stats.metrics import Metric

ACCURACY, F1 = "accuracy", "f1"


def metric_of(name: str) -> Metric:
    """The metric of that name."""
    from afina.stats.metrics import METRICS  # loads numpy

    return METRICS[name]


def words(metric: str, labels: Sequence[str] = ()) -> str:
    """Within a sentence; with a task's labels, F1 names the one that it is of, as `F1 of spam`, or is `macro F1`."""
    plain = metric_of(metric).words
    if metric != F1 or not labels:
        return plain
    return f"{plain} of {labels[1]}" if len(labels) == 2 else f"macro {plain}"


def heading(metric: str, labels: Sequence[str] = ()) -> str:
    """`Accuracy`."""
    text = words(metric, labels)
    return text[:1].upper() + text[1:]


def figure(name: str, value: float, labels: Sequence[str] = ()) -> str:
    """`accuracy 0.8571`; `AUROC undefined (it needs texts of both labels)`."""
    why = f" (it needs {metric_of(name).needs})" if isnan(value) else ""
    return f"{words(name, labels)} {share(value)}{why}"


def interval_heading(metric: str) -> str:
    """`95 % of accuracy`."""
    return f"95 % of {words(metric)}"


def of_record(record: Record) -> tuple[str, ...]:
    """All that its kind of task has, as `in_order`."""
    return in_order(record.metrics, record.metric)


def in_order(names: Iterable[str], headline: str) -> tuple[str, ...]:
    """The headline first, then the main ones."""
    return (headline, *sorted((name for name in names if name != headline), key=lambda name: not metric_of(name).main))


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
