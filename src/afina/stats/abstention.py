"""The threshold of abstention: the lowest confidence at which a model may answer, so that few answers are wrong.

The error is the share of wrong answers among the texts that are answered. A threshold promises an error of at most
`most`: over repeated draws of the calibration texts, the true error of the chosen threshold is above `most` with a
probability of at most 1 - CONFIDENCE.

Thresholds are tested from the highest to the lowest, as in fixed-sequence testing of Learn then Test (Angelopoulos et
al. 2021, https://arxiv.org/abs/2110.01052), with exact binomial p-values. LADDER has the thresholds. It is the same for
every model, so that no threshold depends on a calibration text. The first threshold that is tested is the first one at
which `start` calibration texts are answered; higher thresholds answer too few texts to be accepted. Each threshold is
accepted if its p-value is at most 1 - CONFIDENCE, and the first threshold that is not accepted ends the test. The last
accepted threshold is chosen.

The promise has two assumptions:

- The calibration texts and the later texts are independent draws from one distribution, and the model was not trained
  on the calibration texts.
- Let R(t) be the true error of threshold t. From the first threshold of LADDER on at which R is above `most`, R does
  not fall when the threshold is lowered. Confidence without any information, where R is the same everywhere, is
  allowed.

docs/background/benchmarks.md has the argument, and measures how often the promise is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from afina.stats.answered import UNDEFINED
from afina.stats.intervals import Interval, wilson

CONFIDENCE = 0.95
"""The probability with which a threshold keeps its promise."""

_STEPS = np.arange(320, -161, -1) / 20
LADDER: np.ndarray = np.round(1 / (1 + np.exp(-_STEPS)), 12)
"""The thresholds in descending order, [481]: confidences whose log-odds go from 16 to -8 in steps of 0.05.

Thresholds are rounded, so that they are the same on every machine."""

FIRST_ERRORS = 1
"""The number of wrong answers at which the first threshold is still accepted, if there are enough calibration texts.

With 0, a single wrong answer among the most confident texts ends the test. With 2 and more, models of moderate accuracy
seldom answer a text (docs/background/benchmarks.md)."""


@dataclass(frozen=True)
class AnsweredShare:
    texts: int
    answered: int
    errors: int

    @classmethod
    def of(cls, wrong: np.ndarray, unanswered: np.ndarray) -> AnsweredShare:
        """Return the numbers for N texts from bool [N] each."""
        return cls(len(wrong), int((~unanswered).sum()), int((wrong & ~unanswered).sum()))

    @property
    def coverage(self) -> float:
        """The share of texts that are answered; UNDEFINED without texts."""
        return self.answered / self.texts if self.texts else UNDEFINED

    @property
    def error(self) -> float:
        """The share of wrong answers among the answered texts; UNDEFINED without answers."""
        return self.errors / self.answered if self.answered else UNDEFINED

    @property
    def error_interval(self) -> Interval:
        return wilson(self.errors, self.answered)


@dataclass(frozen=True)
class Threshold:
    """The lowest confidence at which a text is answered (None: no threshold keeps the promise), and its counts."""

    value: float | None
    found: AnsweredShare


@cache
def fewest(most: float, errors: int = 0, confidence: float = CONFIDENCE) -> int:
    """Return the smallest number of answers, `errors` of them wrong, that show an error of at most `most`.

    Without wrong answers, 59 answers show an error of at most 5 %, and 29 an error of at most 10 %.
    """
    low, high = errors, errors + 1  # `low` answers never suffice
    while _p_value(errors, high, most) > 1 - confidence:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _p_value(errors, middle, most) <= 1 - confidence else (middle, high)
    return high


def _p_value(errors: int, answered: int, most: float) -> float:
    return float(p_values(np.array([errors]), np.array([answered]), most)[0])


def p_values(errors: np.ndarray, answered: np.ndarray, most: float) -> np.ndarray:
    """Return the exact binomial p-values, [T], of the hypotheses that the true error is above `most`."""
    from scipy.stats import binom

    found: np.ndarray = binom.cdf(errors, answered, most)
    return found


def start_of(texts: int, most: float) -> int:
    """Return the number of answers from which thresholds are tested, which depends on the numbers of texts only."""
    first = fewest(most, FIRST_ERRORS)
    return first if texts >= 2 * first else fewest(most)


def find_threshold(confidence: np.ndarray, wrong: np.ndarray, most: float) -> Threshold:
    """Return the lowest threshold whose error is at most `most`, from the confidences, [N], of calibration texts."""
    answered, errors = (_at_least(part) for part in (confidence, confidence[wrong]))
    tested = answered >= start_of(len(confidence), most)
    passed = p_values(errors, answered, most) <= 1 - CONFIDENCE
    accepted = np.flatnonzero(tested & (np.cumsum(tested & ~passed) == 0))
    if not len(accepted):
        return Threshold(None, AnsweredShare(len(confidence), 0, 0))
    last = accepted[-1]
    return Threshold(float(LADDER[last]), AnsweredShare(len(confidence), int(answered[last]), int(errors[last])))


def _at_least(confidence: np.ndarray) -> np.ndarray:
    """Return how many values are at least each threshold of LADDER, int [T]."""
    counts: np.ndarray = len(confidence) - np.searchsorted(np.sort(confidence), LADDER, side="left")
    return counts
