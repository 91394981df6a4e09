"""The length of all trainings of a recommendation: as many epochs as there is time for, or else fewer texts.

Starts without torch. The module knows no task.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from afina.studies.choosing.candidates import BATCH, EPOCHS
from afina.studies.choosing.time_budget import StepTime

AT_LEAST, ROOM = 2, 2.3
"""The number of trainings for which there must be time: if time is short, epochs are reduced first, then texts.

The second training is that of the selected candidate on all texts, which takes more steps (`ROOM`). If there are more
texts than time, it is a training of another candidate.
"""

SHARE, MOST = 0.2, 300
"""The share of the training texts that is set aside for selecting, and the largest number of them."""


def share_aside(used: int) -> float:
    """Return the share of `used` training texts that is set aside for selecting."""
    return min(SHARE, MOST / max(1, used))


class TrainingLength(NamedTuple):
    """The steps and the training texts of each training on a backbone.

    Attributes:
        used: Training texts, including the texts that are set aside for selecting.
    """

    steps: int
    used: int

    @property
    def share(self) -> float:
        """The share of the training texts that is set aside for selecting."""
        return share_aside(self.used)

    def epochs(self, there: int) -> int:
        """Return the epochs of trainings on all `there` texts."""
        return max(1, round(self.steps / math.ceil(there * (1 - self.share) / BATCH)))


def training_length(pace: StepTime, left: float, there: int, texts: int) -> TrainingLength:
    """Return the length of each training, for which `left` seconds suffice.

    Args:
        there: The number of training texts.
        texts: The number of held-out texts on which each training is evaluated.
    """
    share = share_aside(there)
    epoch = math.ceil(there * (1 - share) / BATCH)
    scored = texts + math.ceil(share * there)
    for epochs in range(EPOCHS, 0, -1):
        steps = epochs * epoch
        if ROOM * pace.seconds(steps, scored) <= left:
            return TrainingLength(steps, there)
    bought = pace.steps(left / ROOM, scored)
    steps = min(epoch, bought if bought >= 1 else pace.steps(left, scored))
    return TrainingLength(steps, min(there, math.ceil(max(1, steps) * BATCH + share * there)))
