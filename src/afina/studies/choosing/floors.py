"""The baselines of each kind of task, which need no language model, and which an adapted model has to beat.

The module knows texts and targets only.
"""

from __future__ import annotations

from collections.abc import Mapping

from afina.data.kinds import CLASSES, LABELS, NUMBER, TEXT, Kind
from afina.data.split import Split
from afina.models import objectives
from afina.models.objectives import Objective
from afina.studies.choosing.floor import Floor, FloorKind
from afina.studies.choosing.linear_floors import ClassFloors, LabelFloors, NumberFloors
from afina.studies.choosing.text_floors import TextFloors

FLOORS: Mapping[Kind, FloorKind] = {
    CLASSES: ClassFloors(),
    NUMBER: NumberFloors(),
    LABELS: LabelFloors(),
    TEXT: TextFloors(),
}
CONSTANTS = frozenset(one.constant for one in FLOORS.values())
"""Names of the baselines whose answer is always the same."""

MAJORITY, TFIDF = ClassFloors.constant, ClassFloors.tfidf


def classes(train: Split) -> Objective:
    """Return an objective with as many classes as the training split has."""
    return objectives.make(tuple(map(str, range(int(train.labels.max()) + 1))))


def fit(train: Split, objective: Objective) -> list[Floor]:
    """Return all baselines that suit the training split, the constant one first."""
    return FLOORS[objective.kind].fit(train, objective)


def constant(train: Split, objective: Objective | None = None) -> Floor:
    """Return the baseline whose answer is always the same; `objective` None: classes."""
    objective = objective or classes(train)
    return FLOORS[objective.kind].fit_constant(train, objective)


def tfidf(train: Split, objective: Objective | None = None) -> Floor:
    """Return the baseline that compares texts by TF-IDF; `objective` None: classes."""
    objective = objective or classes(train)
    return FLOORS[objective.kind].fit_tfidf(train, objective)
