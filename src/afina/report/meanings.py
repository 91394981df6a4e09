"""How the figures of a table are meant: what they are of, and the least that is worth anything. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

from afina.report import metrics
from afina.report.arms import Arm
from afina.report.kinds import PRESENTATIONS
from afina.report.words import listed, share
from afina.studies.runs.record import Record
from afina.studies.runs.spec import Data


def notes(arms: Sequence[Arm], data: Data) -> list[str]:
    """How the metrics are meant, the least that is worth anything, and which runs gave but one answer."""
    record, targets = arms[0].record, arms[0].targets
    presentation = PRESENTATIONS[record.kind]
    said = [
        "On the evaluation texts, from the weights at the end of training.",
        *presentation.meaning(record, data),
        "The intervals say where the figure may lie on other texts of this kind, and with other seeds where several "
        "were run.",
    ]
    made = [" ".join(said)]
    if len({result.predictions.right_as_bytes for arm in arms for result in arm.results}) == 1:
        made += presentation.least(record.label_names, targets.tolist())
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


def _monotonous(label: str, record: Record, answers: list[object]) -> list[str]:
    if len(answers) < 2 or len(set(map(str, answers))) > 1:
        return []
    same = PRESENTATIONS[record.kind].same(record.label_names, answers[0])
    return [f"{label}, seed {record.seed}, answered {same} to every text."] if same else []
