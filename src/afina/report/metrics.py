"""What each metric is called, what is said of it, and its 95 % interval, by its name and its kind of task.

What a metric is, and how sure it is, is `afina.stats`'; how a table is made is not known here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from afina.report.words import points, share
from afina.studies.record import Record

if TYPE_CHECKING:
    from afina.report.arms import Arm, Value
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


def value(metric: str) -> Value:
    """That metric of a record; None where its kind of task does not have it."""

    def of(record: Record) -> float | None:
        return record.metrics.get(metric)

    return of


def interval(metric: str, arm: Arm) -> tuple[float, float] | None:
    """The 95 % interval of a metric of one result, or of the seeds of one setting; None of one that has none."""
    from afina.stats import estimates

    if metric_of(metric).values is None:
        return None
    if metric == F1:
        found = estimates.f1(arm.targets, arm.answers, len(arm.record.label_names)).interval
    else:
        found = estimates.estimate(arm.values(metric), metric_of(metric)).interval
    return found.low, found.high


def difference(value: float, metric: str) -> str:
    """Of two: in percentage points, or as a plain number with its sign; four digits, or more where it is small."""
    if metric_of(metric).points:
        return points(value)
    text = f"{value:+.4g}" if 0 < abs(value) < 0.001 else f"{value:+.4f}"
    return text.replace("-", "−") if float(text) else text[1:]


def unit(metric: str) -> str:
    """What differences are told in, in brackets behind a heading; empty for plain numbers."""
    return " (points)" if metric_of(metric).points else ""


def notes(arms: Sequence[Arm]) -> list[str]:
    """How the metrics are meant, the least that is worth anything, and which runs gave but one answer."""
    record, targets = arms[0].record, arms[0].targets
    made = [
        f"On the evaluation texts, from the weights at the end of training. {_meant(record)}The intervals say where "
        "the figure may lie on other texts of this kind, and with other seeds where several were run."
    ]
    if len({result.targets.tobytes() for arm in arms for result in arm.results}) == 1:
        made += _least(record, targets.tolist())
        for metric, reached in record.ceiling.items():
            if metric == record.metric:
                made.append(f"One human who tells what others say of these texts has {words(metric)} {share(reached)}.")
    for arm in arms:
        for result in arm.results:
            made += _monotonous(arm.label, result.record, result.answers.tolist())
    return made


def _meant(record: Record) -> str:
    if record.kind == "classes":
        names = record.label_names
        f1 = f"of the class `{names[1]}`" if len(names) == 2 else f"the plain mean over the {len(names)} classes"
        return f"F1 is {f1}. "
    return "RMSE is in the unit of the numbers. " if record.kind == "number" else ""


def _least(record: Record, targets: list[object]) -> list[str]:
    """What always answering the same comes to, where that says something."""
    if record.kind != "classes":
        return []
    most, times = Counter(targets).most_common(1)[0]
    name = record.label_names[int(str(most))]
    return [f"Always answering `{name}`, the most frequent label, has accuracy {share(times / len(targets))}."]


def _monotonous(label: str, record: Record, answers: list[object]) -> list[str]:
    given = {str(answer) for answer in answers}
    if len(given) > 1 or len(answers) < 2 or (record.kind == "classes" and len(record.label_names) < 2):
        return []
    name = f"`{record.label_names[int(given.pop())]}`" if record.kind == "classes" else "the same"
    return [f"{label}, seed {record.seed}, answered {name} to every text."]
