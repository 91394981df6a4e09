"""The number of doubtful labels of a task, found by a linear model on TF-IDF within a share of the given minutes.

The command `afina doubts` looks at labels with a language model, lists them and takes longer.
"""

from __future__ import annotations

import numpy as np

from afina import meter
from afina.data.split import Split
from afina.data.terms import joined
from afina.errors import InvalidData, NotFound
from afina.models.objective import Objective
from afina.models.predictions import Predictions
from afina.studies.choosing import floors, time_budget
from afina.studies.choosing.recommendation import DoubtfulCount
from afina.studies.choosing.setup import ChoiceSetup
from afina.studies.labelling.cross_fitting import FOLDS, CrossFit, calibrated, folds_of, labelled_texts, objective_of
from afina.studies.labelling.doubtful_kinds import DOUBTFUL_KINDS
from afina.studies.labelling.find_doubts import MOST_ROUNDS, Finding
from afina.studies.labelling.similar_texts import SimilarTexts

SHARE = 0.05
"""The largest share of the given minutes that the search for doubtful labels takes."""

LEAST_SECONDS = 6.0
"""The search is left out if it may take fewer seconds than this, because cleanlab alone is loaded in about two."""

OF_FLOORS = 0.5
"""The time of one cross-fitting, at most, as a share of the time in which the baselines were fitted."""


def count_doubtful(setting: ChoiceSetup) -> DoubtfulCount | None:
    """Return the number of doubtful labels of the task.

    None: the minutes or the texts are too few, labels of this kind have no probabilities, the model cannot tell wrong
    labels from right ones, or the extra `doubts` is missing.
    """
    allowed = SHARE * 60 * setting.clock.minutes
    foreseen = OF_FLOORS * setting.stages.seconds[time_budget.SIMPLE]
    whole = len(setting.task.train) + len(setting.task.evaluation)
    told = setting.objective.kind in DOUBTFUL_KINDS and setting.objective.has_probabilities
    if not told or allowed < max(LEAST_SECONDS, foreseen) or whole > floors.MOST_TEXTS:
        return None
    setting.watcher.says("looking for doubtful labels")
    with setting.stages.of(time_budget.LABELS):
        try:
            return _count(setting, meter.now() + allowed)
        except (InvalidData, NotFound):  # too few texts, or no cleanlab
            return None


def _count(setting: ChoiceSetup, until: float) -> DoubtfulCount | None:
    split, training = labelled_texts(setting.task)
    objective = objective_of(setting.task, split.labels)
    similar = SimilarTexts.of_equal(split)
    folds = folds_of(setting.task, split.labels, similar.groups, FOLDS, 0)
    began = meter.now()
    fitted = _cross_fit(split, objective, folds)
    taken = max(meter.now() - began, 1e-3)
    rounds = min(MOST_ROUNDS, int((until - meter.now()) / taken))
    if rounds < 1:
        return None
    name = floors.FLOORS[objective.kind].learned
    found = Finding(setting.task, split, training, similar, fitted, rounds=rounds).doubts(name, "")
    flips = found.flips
    if flips is None or flips.wrong >= max(len(found), 1):  # the model cannot tell wrong labels from right ones
        return None
    return DoubtfulCount(method=name, texts=found.texts, doubtful=len(found), wrong=flips.wrong, at_most=flips.at_most)


def _cross_fit(split: Split, objective: Objective, folds: np.ndarray) -> CrossFit:
    kind = floors.FLOORS[objective.kind]
    assert isinstance(kind, floors.LinearFloors)
    texts = joined(split.texts, split.pairs)

    def fitted(targets: np.ndarray) -> Predictions:
        return Predictions(kind.cross_fitted(texts, objective.loss_targets(targets), objective.width, folds), targets)

    predictions = fitted(split.labels)
    return CrossFit(predictions, calibrated(objective, predictions, folds), folds, fitted)
