"""What was fitted, raced or carried out, as contenders of a recommendation. Starts without torch."""

from __future__ import annotations

from collections.abc import Mapping

from afina.data.task import Task
from afina.studies import floors
from afina.studies.floors import Floor
from afina.studies.halving import Standing
from afina.studies.recommendation import Contender
from afina.studies.result import Result


def of_floor(floor: Floor, figures: Mapping[str, float], task: Task, adapter: str | None) -> Contender:
    """A floor with its figures on the held-out texts."""
    return Contender(
        name=floor.name,
        setting=floor.setting,
        metrics=dict(figures),
        examples=min(len(task.train), floors.MOST),
        adapter=adapter,
    )


def of_method(one: Standing, result: Result | None) -> Contender:
    """A method that was raced; result: of its last training, where it came so far."""
    raced = Contender(
        name=one.method,
        rounds=one.rounds,
        rate=one.rate,
        finished=one.value is not None,
        validation=one.value,
        validation_examples=None if one.value is None else one.examples,
    )
    return raced if result is None else measured(raced, result)


def measured(contender: Contender, result: Result) -> Contender:
    """With what its run came to."""
    made = result.record
    figures = {
        "metrics": made.metrics,
        "examples": made.train_examples if made.steps else None,
        "steps": made.steps or None,
        "seconds": made.seconds.train if made.steps else None,
        "memory": made.memory.rss_peak,
        "trainable": made.trainable,
        "total": made.total,
        "key": made.key,
        "adapter": made.adapter,
        "ask": made.ask,
    }
    return contender.model_copy(update=figures)
