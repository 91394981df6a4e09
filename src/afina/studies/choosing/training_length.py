"""The length of all trainings of a recommendation: as many epochs as fit in the time, or else fewer texts.

The module loads without torch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from afina.studies.choosing.recommendation import BATCH, ENOUGH, EPOCHS
from afina.studies.choosing.step_times import StepTime

ROOM, ALONE = 2.3, 1.15
"""The number of trainings for which there must be time: if time is short, epochs are reduced first, then texts.

The second training is that of the selected candidate on all texts, which takes more steps. If there are more texts than
time, it is a training of another candidate. If two trainings of useful length do not fit, there is time for one
(`ALONE`), with some left for a machine that becomes slower.
"""

SHARE, MOST = 0.2, 300
"""The share of the training texts that is set aside for selecting, and the largest number of them."""


def share_aside(used: int) -> float:
    """Return the share of `used` training texts that is cut off as the validation set."""
    return min(SHARE, MOST / max(1, used))


class TrainingLength(NamedTuple):
    """The steps and the training texts of each training on a backbone.

    Attributes:
        used: The number of training texts, including the validation set.
    """

    steps: int
    used: int

    @property
    def share(self) -> float:
        return share_aside(self.used)

    def epochs(self, there: int) -> int:
        """Return the epochs of trainings on all training texts; `there` is their number."""
        return max(1, round(self.steps / steps_of_epoch(there)))


def steps_of_epoch(there: int) -> int:
    """Return the optimizer steps of an epoch of `there` training texts, without the validation set."""
    return math.ceil(there * (1 - share_aside(there)) / BATCH)


def training_length(
    pace: StepTime, left: float, there: int, texts: int, *, short: bool = False
) -> TrainingLength | None:
    """Return the length of each training that fits in `left` seconds; None if no useful length fits.

    Args:
        there: The number of training texts.
        texts: The number of held-out texts on which each training is evaluated.
        short: Whether trainings of one epoch are allowed. By default, trainings have ENOUGH steps or EPOCHS epochs.
    """
    share, epoch = share_aside(there), steps_of_epoch(there)
    scored = texts + math.ceil(share * there)
    least = min(ENOUGH, epoch if short else EPOCHS * epoch)
    for trainings in (ROOM, ALONE):
        most = pace.steps(left / trainings, scored)
        if most >= least:
            steps = max(least, min(EPOCHS, most // epoch) * epoch) if most >= epoch else most
            return TrainingLength(steps, min(there, math.ceil(steps * BATCH + share * there)))
    return None
