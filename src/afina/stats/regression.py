"""Metrics of predicted numbers, as pure functions of an `Answered`, and their per-example values (answered.py).

A correlation is UNDEFINED (NaN) if the predictions or the targets are constant. R² is UNDEFINED if the targets are
constant.
"""

from __future__ import annotations

import numpy as np

from afina.stats.answered import UNDEFINED, Answered, Order


def pearson_values(answered: Answered) -> np.ndarray:
    """Return values, [N], whose mean is Pearson's correlation: r + zx zy - r (zx² + zy²) / 2 (Devlin et al. 1975).

    zx and zy are the standardized prediction and target of an example.
    """
    x, y = _standardised(answered.answers), _standardised(answered.targets)
    if x is None or y is None:
        return np.full(len(answered.targets), UNDEFINED)
    r = float(np.clip(np.mean(x * y), -1.0, 1.0))
    values: np.ndarray = r + (x * y - r * (x**2 + y**2) / 2)
    return values


def spearman_values(answered: Answered) -> np.ndarray:
    """Return values, [N], whose mean is Spearman's rank correlation, Pearson's correlation of midranks.

    The formula is spearman = C / sqrt(V_x V_y), where C is the covariance and V_x and V_y are the variances of midranks
    minus 1/2. An example changes C and both variances by its own ranks, and by shifting the ranks of greater examples
    (for C, by E[1{X >= x} (V - 1/2)] with the midranks V of Y).
    """
    orders = Order.of(answered.answers), Order.of(answered.targets)
    u, v = (order.share_below - 0.5 for order in orders)
    covariance, of_x, of_y = np.mean(u * v), np.mean(u**2), np.mean(v**2)
    if min(of_x, of_y) <= 1e-15:
        return np.full(len(u), UNDEFINED)
    scale = np.sqrt(of_x * of_y)
    r = float(np.clip(covariance / scale, -1.0, 1.0))
    of_covariance = u * v + orders[0].mean_above(v) + orders[1].mean_above(u) - 3 * covariance
    of_variances = [
        (ranks**2 + 2 * order.mean_above(ranks) - 3 * variance) / variance
        for ranks, order, variance in zip((u, v), orders, (of_x, of_y), strict=True)
    ]
    values: np.ndarray = r + of_covariance / scale - r * (of_variances[0] + of_variances[1]) / 2
    return values


def rmse(answered: Answered) -> float:
    """Return the root of the mean squared error, in the unit of the targets."""
    return float(np.sqrt(np.mean(_errors(answered) ** 2)))


def rmse_values(answered: Answered) -> np.ndarray:
    """Return per-example values whose mean is `rmse`, [N]: rmse + (error² - mse) / (2 rmse)."""
    squares = _errors(answered) ** 2
    root = np.sqrt(squares.mean())
    if not root:
        return np.zeros(len(squares))
    values: np.ndarray = root + (squares - squares.mean()) / (2 * root)
    return values


def absolute_errors(answered: Answered) -> np.ndarray:
    """Return the absolute error of each example in the unit of the targets, [N]; the mean is the MAE."""
    absolute: np.ndarray = np.abs(_errors(answered))
    return absolute


def r2_values(answered: Answered) -> np.ndarray:
    """Return per-example values, [N], whose mean is R² = 1 - mse / variance of the targets."""
    squares = _errors(answered) ** 2
    targets = np.asarray(answered.targets, dtype=np.float64)
    spread = (targets - targets.mean()) ** 2
    variance, mse = spread.mean(), squares.mean()
    if np.ptp(targets) == 0:
        return np.full(len(targets), UNDEFINED)
    values: np.ndarray = 1 - mse / variance - (squares - mse) / variance + mse / variance**2 * (spread - variance)
    return values


def _errors(answered: Answered) -> np.ndarray:
    errors: np.ndarray = np.asarray(answered.answers, dtype=np.float64) - answered.targets
    return errors


def _standardised(numbers: np.ndarray) -> np.ndarray | None:
    """Return numbers minus their mean, divided by their standard deviation; None if they differ only by rounding."""
    numbers = np.asarray(numbers, dtype=np.float64)
    deviations = numbers - numbers.mean()
    spread = np.sqrt(np.mean(deviations**2))
    if spread <= 1e-13 * np.abs(numbers).max(initial=0.0):
        return None
    standardised: np.ndarray = deviations / spread
    return standardised
