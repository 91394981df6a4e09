"""The length of the trainings of a recommendation: as many epochs as fit in the time, or less than an epoch."""

from __future__ import annotations

import math
from typing import NamedTuple

from afina.studies.choosing.recommendation import BATCH, ENOUGH, whole_steps
from afina.studies.choosing.recorded_curves import FEW_LABELS
from afina.studies.choosing.step_times import StepTime

ROOM, ALONE = 2.3, 1.15
"""Trainings are so short that ROOM trainings fit in the time; first epochs are reduced, then training texts.

ROOM is two trainings and a reserve: the selected candidate is trained again on all texts, in more steps. If there is no
time for all texts, another candidate is trained instead. If two trainings of useful length do not fit, there must be
time for one training (`ALONE`), with a reserve in case the machine becomes slower.
"""

SHARE, MOST = 0.2, 300
"""The share of the training texts that is the validation set, and the largest number of texts in this set."""


def share_aside(used: int) -> float:
    """Return the share of `used` training texts that is the validation set."""
    return min(SHARE, MOST / max(1, used))


class TrainingLength(NamedTuple):
    """Optimizer steps, and training texts with the validation set, of each training on a backbone."""

    steps: int
    used: int

    @property
    def share(self) -> float:
        return share_aside(self.used)

    def steps_on(self, examples: int, there: int) -> int:
        """Return the steps of a training on `examples` of all `there` training texts, none of which is set aside.

        The training has as many epochs as one of this length, or as many steps if there are few training texts.
        """
        if there < FEW_LABELS:
            return self.steps
        return max(1, round(self.steps / steps_of_epoch(there))) * math.ceil(examples / BATCH)


def steps_of_epoch(there: int) -> int:
    """Return the optimizer steps of an epoch of `there` training and validation texts."""
    return math.ceil(there * (1 - share_aside(there)) / BATCH)


def training_length(
    pace: StepTime, left: float, there: int, texts: int, *, short: bool = False
) -> TrainingLength | None:
    """Return the length of the trainings that fit in `left` seconds, if it is useful.

    `there` is the number of training texts, and `texts` that of the held-out texts. `short`: one epoch is long enough,
    also below ENOUGH steps.
    """
    share, epoch = share_aside(there), steps_of_epoch(there)
    scored, whole = texts + math.ceil(share * there), whole_steps(there, epoch)
    least = min(ENOUGH, epoch if short else whole)
    for trainings in (ROOM, ALONE):
        most = pace.steps(left / trainings, scored)
        if most >= least:
            steps = max(least, min(whole, most // epoch * epoch)) if most >= epoch else most
            return TrainingLength(steps, min(there, math.ceil(steps * BATCH + share * there)))
    return None
