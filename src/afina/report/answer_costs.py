"""The cost of predictions, compared between backbones: seconds per text, and bytes of weights that a server loads."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, isnan

from afina.methods import make
from afina.models.backbone_spec import FLOAT
from afina.report.arms import Arm, has_several_backbones, lines, records_of
from afina.report.formatting import metric_heading, metric_value, share, size
from afina.report.tables import ANSWERS, Measure, Table, measure, table_of
from afina.report.verdicts import Verdicts
from afina.stats.metrics import METRICS, Metric
from afina.studies.runs.record import Record

FASTER = 1.5  # times as fast as the method with the best metric, from which on the conclusion names a method

_FLOAT32 = 4  # bytes per weight in the precision of evaluations


def seconds_a_text(record: Record) -> float | None:
    """Return the seconds of a run's `evaluate` phase per evaluated text; None if the number of texts is unknown."""
    texts = record.examples + (record.selection.examples if record.selection else 0)
    if record.training.get("temperature") or not texts or record.endpoint is not None:
        return None
    return record.seconds.evaluate / texts


def milliseconds_a_text(record: Record) -> float | None:
    found = seconds_a_text(record)
    return None if found is None else 1000 * found


def bytes_to_serve(record: Record) -> int | None:
    """Return the bytes of the weights that a server loads: the backbone's, the head's and the adapter's.

    Weights have 4 bytes each (float32), except frozen weights in another precision. Backbone weights that were trained
    are counted once. The result is None if the record does not say which weights the method added to the backbone.
    """
    if record.training.get("precision", FLOAT) != FLOAT:
        return record.weight_bytes
    if record.endpoint is not None:
        return None
    adds = make(record.method).adds_parameters
    if adds is None and record.body:
        return None
    return _FLOAT32 * (record.total + (record.body if adds else 0))


def are_comparable(arms: Sequence[Arm]) -> bool:
    """Return whether all times, other than those of models behind an API, were measured under the same conditions."""
    arms = [arm for arm in arms if arm.record.endpoint is None]
    machines = set().union(*(arm.machines for arm in arms))
    return len(machines) == 1 and len({record.at_once for record in records_of(arms)}) == 1


def answer_cost_table(arms: Sequence[Arm]) -> Table | None:
    """Return a table of metric, milliseconds per text and bytes to serve; None for one backbone."""
    if not has_several_backbones(arms):
        return None
    metric, where = arms[0].record.metric, arms[0].record.place
    milliseconds = measure("Milliseconds a text", milliseconds_a_text, _three_digits)
    columns: list[Measure] = [
        measure(metric_heading(metric, arms[0].record.label_names), metric_value(metric), share),
        milliseconds,
        measure("To serve", bytes_to_serve, size),
    ]
    timed = f" on {where}" if are_comparable(arms) else "; the runs had different conditions, so compare with care"
    notes = (
        f"Milliseconds a text: the `evaluate` phase per text, in packed batches in float32{timed}. Reading, tokenizing "
        "and opening the model are not included, and single texts take longer each.",
        f"To serve: the weights of the backbone with its head and the adapter, in float32{_beside_float32(arms)}.",
    )
    return table_of(ANSWERS, columns, arms, notes)


def _beside_float32(arms: Sequence[Arm]) -> str:
    used = {str(record.training.get("precision", FLOAT)) for record in records_of(arms)}
    others = sorted(used - {FLOAT})
    return f", and frozen weights in {' or '.join(others)} where the method has this `precision`" if others else ""


def answer_costs_as_json(arms: Sequence[Arm]) -> list[dict[str, object]]:
    return [
        {
            **arm.row_name,
            "backbone": arm.record.backbone,
            "seconds_a_text": arm.mean(seconds_a_text),
            "bytes_to_serve": arm.mean(bytes_to_serve),
        }
        for arm in lines(arms)
    ]


def faster_sentence(leader: Arm, others: Sequence[Arm], found: Verdicts) -> str:
    """Return a sentence on a much faster method on another backbone, compared with the method with the best metric.

    The sentence says how much worse the faster method can be: the unfavourable end of the difference's 95 % interval.
    Empty if no method is FASTER times as fast.
    """
    other = [arm for arm in others if arm.record.backbone != leader.record.backbone and _answers(arm)]
    fast = [arm for arm in other if _times_as_fast(arm, leader) >= FASTER]
    if not fast:
        return ""
    arm = max(fast, key=lambda one: one.gain)
    comparison = found.between(leader.label, arm.label)
    if comparison is None or isnan(comparison.interval.low):
        return ""
    metric, sign = METRICS[comparison.metric], 1 if comparison.first == leader.label else -1
    ends = (sign * comparison.interval.low, sign * comparison.interval.high)
    worst = -min(ends) if metric.lower else max(ends)
    mine, slow = _mean_milliseconds(arm), _mean_milliseconds(leader)
    level = f"{100 * comparison.level:g} % interval"
    said = (
        f"{arm.label} ({share(arm.headline)}) is within {_distance(max(worst, 0.0), metric)} of {leader.label} "
        f"({level} of the difference) and answers {_times(slow / mine)} times as fast: {_three_digits(mine)} ms "
        f"instead of {_three_digits(slow)} ms a text"
    )
    bytes_of = [one.mean(bytes_to_serve) for one in (arm, leader)]
    if bytes_of[0] is not None and bytes_of[1] is not None and bytes_of[0] < bytes_of[1]:
        said += f", with {size(bytes_of[0])} to serve instead of {size(bytes_of[1])}"
    return f"{said}."


def _answers(arm: Arm) -> bool:
    """Whether a method's predictions are meaningful; false for an untrained model with a random head."""
    return not isnan(arm.headline) and (arm.trained or arm.prescribed_head != "random")


def _times_as_fast(arm: Arm, leader: Arm) -> float:
    """Return the seconds per text of `leader` divided by those of `arm`; 0 if unknown or not comparable."""
    mine, theirs = arm.mean(seconds_a_text), leader.mean(seconds_a_text)
    return theirs / mine if mine and theirs and are_comparable([arm, leader]) else 0.0


def _mean_milliseconds(arm: Arm) -> float:
    return 1000 * (arm.mean(seconds_a_text) or 0.0)


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _times(ratio: float) -> str:
    """Return a ratio as text, such as `15` or `2.4`, rounded down so that the report never exaggerates."""
    return f"{int(ratio):,}" if ratio >= 10 else f"{int(10 * ratio) / 10:g}"


def _distance(worst: float, metric: Metric) -> str:
    """Return a difference as text, rounded up, such as `3 points`, `0.4 points` or `0.0512`."""
    if not metric.points:
        return f"{ceil(10_000 * worst) / 10_000:g}"
    points = 100 * worst
    rounded = ceil(points) if points >= 1 else ceil(10 * points) / 10
    return f"{rounded:g} point{'s' * (rounded != 1)}"
