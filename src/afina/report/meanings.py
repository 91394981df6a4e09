"""How the figures of a table are meant: what they are of, and the least that is worth anything. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from afina.report import metrics
from afina.report.arms import Arm
from afina.report.words import share
from afina.studies.record import Record


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
                made.append(
                    f"One human who tells what others say of these texts has {metrics.words(metric)} {share(reached)}."
                )
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
