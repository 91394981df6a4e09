"""What each metric is called, what is said of it, and its 95 % interval: the one place that tells kinds of task apart.

Knows metrics by name; not which of them a kind of task has, nor how a table is made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from afina.report.words import share
from afina.studies.record import Record

if TYPE_CHECKING:
    from afina.report.arms import Arm, Value

ACCURACY, F1 = "accuracy", "f1"

WORDS: Mapping[str, str] = {ACCURACY: "accuracy", F1: "F1"}
"""Within a sentence."""


def heading(metric: str) -> str:
    """`Accuracy`."""
    return WORDS[metric][:1].upper() + WORDS[metric][1:]


def interval_heading(metric: str) -> str:
    """`95 % of accuracy`."""
    return f"95 % of {WORDS[metric]}"


def value(metric: str) -> Value:
    """That metric of a record; None where its kind of task does not have it."""

    def of(record: Record) -> float | None:
        return record.metrics.get(metric)

    return of


def interval(metric: str, arm: Arm) -> tuple[float, float]:
    """The 95 % interval of a metric of one result, or of the seeds of one setting."""
    return _INTERVALS[metric](arm)


def notes(arms: Sequence[Arm]) -> list[str]:
    """How the metrics are meant, the least that is worth anything, and which runs gave but one answer."""
    names, targets = arms[0].record.label_names, arms[0].targets
    f1 = f"of the class `{names[1]}`" if len(names) == 2 else f"the plain mean over the {len(names)} classes"
    made = [
        f"On the evaluation texts, from the weights at the end of training. F1 is {f1}. The intervals say where the "
        "figure may lie on other texts of this kind, and with other seeds where several were run."
    ]
    if len({result.targets.tobytes() for arm in arms for result in arm.results}) == 1:
        most, times = Counter(targets.tolist()).most_common(1)[0]
        made.append(
            f"Always answering `{names[most]}`, the most frequent label, has accuracy {share(times / len(targets))}."
        )
    for arm in arms:
        for record, answers in zip(arm.records, arm.answers.tolist(), strict=True):
            if len(record.label_names) > 1 and len(set(answers)) == 1 and len(answers) > 1:
                answer = record.label_names[answers[0]]
                made.append(f"{arm.label}, seed {record.seed}, answered `{answer}` to every text.")
    return made


def _accuracy(arm: Arm) -> tuple[float, float]:
    from afina.stats import estimates

    found = estimates.accuracy(arm.scores).interval
    return found.low, found.high


def _f1(arm: Arm) -> tuple[float, float]:
    """Of the second label or the mean over all, as it is reported."""
    from afina.stats import estimates

    found = estimates.f1(arm.targets, arm.answers, len(arm.record.label_names)).interval
    return found.low, found.high


_INTERVALS: Mapping[str, Callable[[Arm], tuple[float, float]]] = {ACCURACY: _accuracy, F1: _f1}
