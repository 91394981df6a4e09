"""What was fitted or trained, as contenders of a recommendation. Starts without torch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from afina.data.task import Task
from afina.schema import null_where_undefined
from afina.stats.comparison import compare
from afina.stats.metrics import Metric
from afina.studies import floors
from afina.studies.floors import Floor
from afina.studies.recommendation import HALF, Contender, Fewer
from afina.studies.runs.record import Result
from afina.studies.trainings import Trainings


def of_floor(floor: Floor, figures: Mapping[str, float], task: Task, adapter: str | None) -> Contender:
    """A floor with its figures on the held-out texts."""
    return Contender(
        name=floor.name,
        setting=floor.setting,
        metrics=dict(figures),
        examples=min(len(task.train), floors.MOST),
        adapter=adapter,
    )


def finalists(trainings: Trainings) -> dict[str, Result]:
    """Each method's best, the best first; the selected one as it was trained last."""
    found: dict[str, Result] = {}
    for name in trainings.ranked:
        if trainings.results[name].record.method not in {one.record.method for one in found.values()}:
            found[name] = trainings.last(name)
    return found


def trained(trainings: Trainings) -> list[Contender]:
    """All that was trained, in its order."""
    made = []
    for name, result in trainings.results.items():
        selection = result.record.selection
        if selection is None:
            continue
        one = Contender(
            name=name,
            method=result.record.method,
            rate=result.record.training["learning_rate"],
            validation=null_where_undefined(selection.value),
            validation_examples=selection.examples,
            weighed=trainings.weighed(name),
            ended=trainings.ended[name],
        )
        made.append(measured(one, trainings.last(name)))
    return made


def fewer(trainings: Trainings, metric: Metric, margin: float | None) -> Fewer | None:
    """What the selected one is with half of the texts."""
    best, again, half = trainings.selected, trainings.again, trainings.half
    if not best or not again or not half:
        return None
    values = {best: again.scores[None], HALF: half.scores[None]}
    if any(np.isnan(scores).any() for scores in values.values()):
        return None
    (compared,) = compare(values, metric=metric, margin=margin)
    return Fewer(name=best, examples=half.record.train_examples, metrics=half.record.metrics, comparison=compared)


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
