"""Headline: the answer of a report in one line, with its accuracy, training time and memory as three figures.

The module knows arms and recommendations; it does not know how a page is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

from afina.report import conclusion, recommendation
from afina.report.arms import Arm
from afina.report.formatting import NOTHING, count, figure_with_interval, metric_heading, seconds_in_words, size
from afina.report.tables import measured_on_gpu
from afina.report.verdicts import Verdicts
from afina.stats.metrics import METRICS
from afina.studies.choosing.recommendation import Contender, Recommendation

Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Figure:
    """One large figure below the headline, such as `Training time`, `60 s`, `mean of 3 seeds`."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Headline:
    """The answer in one line, and three figures: headline metric, training time, memory."""

    text: str
    figures: tuple[Figure, ...]


def of_study(arms: Sequence[Arm], found: Verdicts) -> Headline:
    """Return the headline of a study's arms and their verdicts."""
    text, arm = conclusion.headline(arms, found)
    return Headline(text, _of_arm(arm))


def of_recommendation(made: Recommendation, arms: Sequence[Arm]) -> Headline:
    """Return the headline of a recommendation; `arms` are those of its runs."""
    chosen = made.contender(made.recommended)
    text = recommendation.headline(made, interval(made, arms))
    arm = _arm(made, arms)
    return Headline(text, _of_arm(arm) if arm else _of_contender(made, chosen, interval(made, arms)))


def interval(made: Recommendation, arms: Sequence[Arm]) -> Interval:
    """Return the 95 % interval of the recommended method's headline metric; None if it cannot be computed.

    A baseline without a language model has no run. Its accuracy has Wilson's interval; its other metrics have none.
    """
    if arm := _arm(made, arms):
        return arm.interval(made.metric)
    value = made.contender(made.recommended).metrics[made.metric]
    if not METRICS[made.metric].counted or isnan(value):
        return None
    from afina.stats.intervals import wilson

    found = wilson(round(value * made.examples), made.examples)
    return found.low, found.high


def _arm(made: Recommendation, arms: Sequence[Arm]) -> Arm | None:
    return next((arm for arm in arms if any(record.adapter == made.adapter for record in arm.records)), None)


def _first(metric: str, value: float, found: Interval, texts: str) -> Figure:
    shown, _, between = figure_with_interval(metric, value, found).partition(" ")
    return Figure(metric_heading(metric), shown, f"95 % interval {between.strip('()')}; {texts}" if found else texts)


def _of_arm(arm: Arm) -> tuple[Figure, ...]:
    record = arm.record
    seeds = f"mean of {len(arm.seeds)} seeds" if len(arm.seeds) > 1 else "one seed"
    texts = f"{count(record.examples)} evaluation texts, {seeds}"
    made = [_first(record.metric, arm.headline, arm.interval(record.metric), texts)]
    where = f"{record.environment.device}, {record.environment.threads} threads"
    trained = arm.mean(lambda one: one.seconds.train) if arm.trained else None
    time = NOTHING if trained is None else seconds_in_words(trained)
    made.append(Figure("Training time", time, where if arm.trained else "this method trains nothing"))
    on_gpu = all(measured_on_gpu(one) for one in arm.records)
    used = arm.mean(lambda one: one.memory.allocated_peak if on_gpu else one.memory.rss_peak)
    what = "peak of allocated GPU memory" if on_gpu else "peak of the process"
    made.append(Figure("Memory", NOTHING if used is None else size(used), what))
    return tuple(made)


def _of_contender(made: Recommendation, chosen: Contender, found: Interval) -> tuple[Figure, ...]:
    """The figures of a baseline without a language model, which has no run."""
    return (
        _first(made.metric, chosen.metrics[made.metric], found, f"{count(made.examples)} held-out texts"),
        Figure("Training time", "seconds", "fitted without a language model"),
        Figure("Memory", "not measured", "no language model is loaded"),
    )
