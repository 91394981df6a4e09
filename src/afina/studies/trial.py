"""Try a run out: train it and score it on the way, without an adapter, a checkpoint or a record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from afina import device as devices
from afina.data.task import Task
from afina.errors import Diverged, OutOfMemory
from afina.events import Listener, ValidationScore, ignore
from afina.meter import Meter
from afina.models.backbone import Backbone
from afina.studies.prepared import prepare
from afina.studies.spec import RunSpec


def try_out(
    run: RunSpec,
    shares: Sequence[float],
    *,
    limit: int | None = None,
    listen: Listener = ignore,
    task: Task | None = None,
    backbone: Backbone | None = None,
) -> Iterator[ValidationScore]:
    """Train `run`, and pause for a score on its evaluation split after each of `shares` of its steps.

    limit  end after so many steps, with a last score there, though the decay goes by all of them
    task, backbone  as in `execute`
    Leaves no file. The scores are computed in training's own precision, which is cheap and good enough to choose by.
    Training that diverges ends with a score that says so. Raises OutOfMemory.
    """
    try:
        prepared, fit = prepare(run, Meter(devices.choose()), listen, task, backbone)
        steps, split = fit.recipe.steps, prepared.task.evaluation
        last = min(limit or steps, steps)
        for stop in sorted({min(max(1, round(share * steps)), last) for share in shares}):
            try:
                fit.advance(stop, listen=listen)
            except Diverged:
                yield ValidationScore(fit.account.step + 1, steps, len(split), None, None)
                return
            score = fit.score(split, prepared.metric, listen)
            yield score
            if score.value is None:
                return
    except torch.OutOfMemoryError:
        raise OutOfMemory(run.title) from None
