"""Errors of entities by kind (missed, spurious, wrong label, wrong border), and the figures of each label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from afina.report.arms import Arm
from afina.report.formatting import count
from afina.report.per_label import LabelFigures
from afina.report.tables import Table, columns_of
from afina.stats.answered import Answered
from afina.stats.entities import ERROR_KINDS, ErrorKind, by_label, errors

ERRORS = "Errors of entities"

_RULES = (
    "Missed: a right entity without an answer. Spurious: an answer without a right entity. Wrong label: the borders "
    "are right. Wrong border: the label is right, and the two overlap. Each entity counts in at most one error."
)


def label_figures(names: Sequence[str], targets: np.ndarray, answers: np.ndarray) -> list[LabelFigures]:
    """Return the figures of each label, means over the S seeds, from targets, object [N], and answers, [S, N]."""
    seeds = [by_label(Answered(targets, one), names) for one in answers]
    made = []
    for name in names:
        of_seeds = np.array([(one[name].precision, one[name].recall, one[name].f1) for one in seeds])
        precision, recall, f1 = of_seeds.mean(axis=0).tolist()
        made.append(LabelFigures(name, precision, recall, f1, seeds[0][name].support))
    return made


def mean_counts(targets: np.ndarray, answers: np.ndarray) -> dict[ErrorKind, float]:
    counts = Counter(error.kind for one in answers for error in errors(targets, one))
    return {kind: counts[kind] / len(answers) for kind in ERROR_KINDS}


def as_json(targets: np.ndarray, answers: np.ndarray) -> Mapping[str, float | int]:
    found = mean_counts(targets, answers)
    return {kind.replace(" ", "_"): int(times) if times.is_integer() else times for kind, times in found.items()}


def table(arms: Sequence[Arm]) -> Table:
    rows = tuple((arm.label, *map(_number, mean_counts(arm.targets, arm.answers).values())) for arm in arms)
    columns = columns_of(["Method"], map(str.capitalize, ERROR_KINDS))
    there = sum(map(len, arms[0].targets))
    return Table(ERRORS, columns, rows, (f"Of {count(there)} right entities. Means over the seeds. {_RULES}",))


def terminal_table(targets: np.ndarray, answers: np.ndarray, of: str = "") -> Table:
    rows = tuple((kind.capitalize(), _number(times)) for kind, times in mean_counts(targets, answers).items())
    return Table(f"{ERRORS}, {of}" if of else ERRORS, columns_of(["Error"], ["Entities"]), rows)


def _number(times: float) -> str:
    return count(int(times)) if times.is_integer() else f"{times:,.1f}"
