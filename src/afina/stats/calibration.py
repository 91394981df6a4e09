"""What makes probabilities right: a temperature, and for each of several labels a threshold. Pure functions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

HALF = 0.5
"""From this probability on a text has a label, where no threshold was chosen."""


def temperature(loss: Callable[[float], float]) -> float:
    """From a twentieth to twenty, the one at which `loss`, of outputs divided by it, is least (Guo et al. 2017)."""
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(lambda exponent: loss(float(np.exp(exponent))), bounds=(-3.0, 3.0), method="bounded")
    return float(np.exp(found.x))


def threshold(targets: np.ndarray, chances: np.ndarray) -> float:
    """Between two of the probabilities, where F1 is highest, the nearest to HALF; targets 0 or 1 and chances, [N] each.

    HALF where the label never occurs.
    """
    order = np.argsort(-chances, kind="stable")
    ranked, hits = chances[order], np.cumsum(targets[order])
    if not len(hits) or not hits[-1]:
        return HALF
    scores = 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])
    scores[:-1][ranked[:-1] == ranked[1:]] = -1.0  # no threshold parts equal ones
    between = (ranked + np.append(ranked[1:], 0.0)) / 2
    best = np.flatnonzero(scores == scores.max())
    return float(between[best[np.argmin(np.abs(between[best] - HALF))]])
