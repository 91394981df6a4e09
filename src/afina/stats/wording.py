"""How a difference of two methods is told, by its metric: in points, as a plain number, as lower or higher."""

from __future__ import annotations

from math import floor, inf, log10

from afina.stats.intervals import Interval
from afina.stats.metrics import Metric


def number(value: float, metric: Metric, interval: Interval) -> str:
    """In points with one decimal, else to the second digit of the interval's width; with a minus sign."""
    if metric.points:
        text = f"{100 * value:.1f}"
    else:
        width = interval.high - interval.low
        digits = 1 - floor(log10(width)) if 0 < width < inf else 3
        text = f"{value:,.{min(max(digits, 0), 9)}f}"
    return f"−{text[1:]}" if text.startswith("-") and text.strip("-0.,") else text.lstrip("-")


def margin(value: float, metric: Metric) -> str:
    """`1 point`, `0.01`."""
    if not metric.points:
        return f"{value:.3g}"
    return "1 point" if value == 0.01 else f"{100 * value:g} points"


def told(value: float, interval: Interval, metric: Metric, level: float, sign: int = 1) -> str:
    """`4.0 points (95 % interval 2.1 to 5.9)`; the interval is of the negative where `sign` is -1."""
    low, high = sorted((sign * interval.low, sign * interval.high))
    ends = f"{number(low, metric, interval)} to {number(high, metric, interval)}"
    unit = " points" if metric.points else ""
    return f"{number(value, metric, interval)}{unit} ({100 * level:g} % interval {ends})"


def better(first: str, second: str, verdict: str, by: str, metric: Metric) -> str:
    """`A is better than B by 4.0 points ...`; of losses, `A is better than B: log loss lower by 0.02 ...`."""
    if metric.lower:
        return f"{first} is {verdict} than {second}: {metric.words} {_less(verdict)} by {by}"
    return f"{first} is {verdict} than {second} by {by}"


def seen(difference: str, metric: Metric) -> str:
    """`difference 0.4 points`; of losses, whose sign needs it, `difference in log loss −0.02`."""
    named = f" in {metric.words}" if metric.lower else ""
    return f"difference{named} {difference}"


def _less(verdict: str) -> str:
    return "lower" if verdict == "better" else "higher"
