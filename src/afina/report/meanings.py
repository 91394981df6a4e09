"""How the figures of a table are meant: what they are of, and the least that is worth anything. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import isnan

from afina.report import metrics
from afina.report.arms import Arm
from afina.report.words import listed, share
from afina.studies.record import Record
from afina.studies.spec import Data


def notes(arms: Sequence[Arm], data: Data) -> list[str]:
    """How the metrics are meant, the least that is worth anything, and which runs gave but one answer."""
    record, targets = arms[0].record, arms[0].targets
    made = [
        f"On the evaluation texts, from the weights at the end of training. {_meant(record, data)}The intervals say "
        "where the figure may lie on other texts of this kind, and with other seeds where several were run."
    ]
    if len({result.targets.tobytes() for arm in arms for result in arm.results}) == 1:
        made += _least(record, targets.tolist())
        for metric, reached in record.ceiling.items():
            if metric == record.metric:
                made.append(
                    f"One human who tells what others say of these texts has {metrics.words(metric)} {share(reached)}."
                )
    made += _undefined(arms)
    for arm in arms:
        for result in arm.results:
            made += _monotonous(arm.label, result.record, result.answers.tolist())
    return made


def _meant(record: Record, data: Data) -> str:
    if record.kind == "classes":
        names = record.label_names
        if len(names) == 2:
            return f"F1 is of the class `{names[1]}`{positive_by_order(record.task, data)}. "
        return f"F1 is the plain mean over the {len(names)} classes. "
    return "RMSE is in the unit of the numbers. " if record.kind == "number" else ""


def positive_by_order(task: str, data: Data) -> str:
    """What is to be said where nobody said which of two labels is positive: the order of a file's labels did."""
    from afina.data.origins import named  # it loads numpy

    chosen = data.positive is not None or data.labels is not None or named(task) is not None
    return "" if chosen else ", the last in the order of the labels (`--positive LABEL` names another)"


def _undefined(arms: Sequence[Arm]) -> list[str]:
    """Which metrics are not defined of these answers, and what they need."""
    lacking: dict[str, list[str]] = {}
    for arm in arms:
        for name in arm.record.metrics:
            if any(isnan(record.metrics.get(name, 0.0)) for record in arm.records):
                lacking.setdefault(name, []).append(arm.label)
    return [
        f"{metrics.heading(name)} is undefined{'' if len(labels) == len(arms) else f' for {listed(labels)}'}: it needs "
        f"{metrics.metric_of(name).needs}."
        for name, labels in lacking.items()
    ]


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
