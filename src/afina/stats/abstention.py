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

The argument: let t[0] > t[1] > ... be LADDER, m[i] the number of calibration texts that t[i] answers, and j the first
index with R(t[j]) > most. Given m[i], the number of errors at t[i] has the binomial distribution (m[i], R(t[i])), so
t[j] is accepted with a probability of at most 1 - CONFIDENCE, for every m[j]. A chosen threshold that breaks the
promise has an index of j or more, and all tested thresholds up to it were accepted. Hence one of two things has
happened.

- The test began at t[j] or before, which means m[j] >= start, and t[j] was accepted. Given m[j], this has a probability
  of at most 1 - CONFIDENCE.
- The test began at t[k] with k > j, which means m[k] >= start > m[k - 1], and t[k] was accepted. Given m[k], the event
  m[k - 1] < start means that few of the m[k] texts lie above t[k - 1], where errors are at most as frequent as below.
  The number of errors is therefore stochastically at least binomial (m[k], R(t[k])), and the probability of acceptance
  at most 1 - CONFIDENCE.

The events of different m[j] and k exclude each other, so their total probability is at most 1 - CONFIDENCE. A threshold
that is chosen as the lowest one with a small enough error on the calibration texts has no such promise, because the
lowest one of many thresholds is the one with the luckiest sample.
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
    """A tested threshold of abstention.

    `value` is the lowest confidence at which a text is answered. None: no threshold keeps the promise with the asked
    confidence, so no text can be answered. `found` are the numbers of calibration texts.
    """

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
    """Return the lowest threshold whose error is at most `most`, as the module describes.

    `confidence` is that of each calibration text, from 0 to 1, float [N], and `wrong` whether its answer is wrong, bool
    [N].
    """
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
