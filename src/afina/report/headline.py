"""The headline of a report: the result of a study or a recommendation in one line, with three figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan

from afina.report import recommendation
from afina.report.arms import Arm
from afina.report.formatting import (
    NOTHING,
    count,
    figure_with_interval,
    metric_heading,
    money,
    seconds_in_words,
    size,
)
from afina.report.recommendation import Interval
from afina.report.tables import measured_on_gpu
from afina.stats.intervals import FEWEST
from afina.studies.choosing.recommendation import Contender, Recommendation
from afina.studies.runs.record import Record


@dataclass(frozen=True)
class Figure:
    """A figure below a headline, such as `Training time`, `60 s` and `mean of 3 seeds`."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Headline:
    """The result of a report in one line, and three figures: headline metric, training time, memory."""

    text: str
    figures: tuple[Figure, ...]


def of_recommendation(choice: Recommendation, arms: Sequence[Arm]) -> Headline:
    chosen = choice.contender(choice.recommended)
    text = recommendation.headline(choice, interval(choice, arms))
    arm = _arm(choice, arms)
    return Headline(text, figures_of(arm) if arm else _of_contender(choice, chosen, interval(choice, arms)))


def interval(choice: Recommendation, arms: Sequence[Arm]) -> Interval:
    """Return the 95 % interval of the recommended method's headline metric; None if it cannot be computed.

    A baseline has no run with its single predictions: only its accuracy has an interval (Wilson's).
    """
    if arm := _arm(choice, arms):
        return arm.interval(choice.metric)
    return recommendation.counted_interval(choice, choice.contender(choice.recommended))


def _arm(choice: Recommendation, arms: Sequence[Arm]) -> Arm | None:
    key = choice.contender(choice.recommended).key
    return next((arm for arm in arms if key in {record.key for record in arm.records}), None)


def _first(metric: str, value: float, found: Interval, texts: str, why_none: str) -> Figure:
    shown, _, between = figure_with_interval(metric, value, found).partition(" ")
    interval = f"95 % interval {between.strip('()')}" if found else f"no interval: {why_none}"
    return Figure(metric_heading(metric), shown, f"{interval}; {texts}")


def _why_none(arm: Arm) -> str:
    """Return why the headline metric of a method has no interval."""
    if isnan(arm.headline):
        return "the metric is undefined"
    if arm.record.examples < FEWEST:
        return f"there are fewer than {FEWEST} evaluation texts"
    return "these texts do not show how far the metric may vary"


def fee_per_1000(record: Record) -> float | None:
    """The cost of 1,000 texts of a model behind an API; None if prices or tokens are unknown."""
    return record.endpoint.cost_per_1000 if record.endpoint else None


def figures_of(arm: Arm) -> tuple[Figure, ...]:
    """Return the figures of a method: headline metric, training time, and memory or cost."""
    record = arm.record
    seeds = f"mean of {len(arm.seeds)} seeds" if len(arm.seeds) > 1 else "one seed"
    texts = f"{count(record.examples)} evaluation texts, {seeds}"
    figures = [_first(record.metric, arm.headline, arm.interval(record.metric), texts, _why_none(arm))]
    where = record.place
    trained = arm.mean(lambda one: one.seconds.train) if arm.trained else None
    time = NOTHING if trained is None else seconds_in_words(trained)
    figures.append(Figure("Training time", time, where if arm.trained else "this method trains nothing"))
    if (use := record.endpoint) is not None:
        fee = arm.mean(fee_per_1000)
        note = f"of 1,000 texts, at {use.host}" if fee is not None else f"prices unknown, at {use.host}"
        return (*figures, Figure("Cost", NOTHING if fee is None else money(fee), note))
    on_gpu = all(measured_on_gpu(one) for one in arm.records)
    used = arm.mean(lambda one: one.memory.allocated_peak if on_gpu else one.memory.rss_peak)
    what = "peak of allocated GPU memory" if on_gpu else "peak of the process"
    if (devices := record.devices) is not None:
        what = f"{what.removesuffix(' of the process')} of the first of {devices.count} processes"
    figures.append(Figure("Memory", NOTHING if used is None else size(used), what))
    return tuple(figures)


def _of_contender(choice: Recommendation, chosen: Contender, found: Interval) -> tuple[Figure, ...]:
    """The figures of a recommended baseline without a language model, which has no run."""
    texts = f"{count(choice.examples)} held-out texts"
    return (
        _first(choice.metric, chosen.metrics[choice.metric], found, texts, recommendation.NOT_KEPT),
        Figure("Training time", "seconds", "fitted without a language model"),
        Figure("Memory", "not measured", "no language model is loaded"),
    )
