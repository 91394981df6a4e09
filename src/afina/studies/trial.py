"""Try a run out: train it and score it on the way, without an adapter, a checkpoint or a record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from afina import device as devices
from afina.data.task import Task
from afina.data.token_cache import EncodedTask
from afina.errors import Diverged
from afina.events import Listener, Progress, Score, ignore
from afina.inference import predictor
from afina.meter import Meter
from afina.stats import metrics
from afina.studies.execute import load, loader_of, recipe_of
from afina.training.checkpoint import Account
from afina.training.loop import make_optimizer, train
from afina.training.mixed_precision import Working

if TYPE_CHECKING:
    from afina.studies.spec import RunSpec


def try_out(
    run: RunSpec, shares: Sequence[float], *, limit: int | None = None, listen: Listener = ignore
) -> Iterator[Score]:
    """Train `run`, and pause for a score on its evaluation split after each of `shares` of its steps.

    limit  end after so many steps, with a last score there, though the decay goes by all of them
    Leaves no file. The scores are computed in training's own precision, which is cheap and good enough to choose by.
    Training that diverges ends with a score that says so.
    """
    device = devices.choose()
    listen(Progress("load"))
    texts = Task.load(run.task, **run.data.model_dump())
    prepared = load(run, texts.label_names, device)
    listen(Progress("encode"))
    tokenizer, digest = prepared.backbone.tokenizer, prepared.backbone.tokenizer_digest
    task = EncodedTask.of(texts, tokenizer, digest, prepared.max_length)
    classifier, gold = prepared.classifier, task.evaluation.labels
    working = Working(
        classifier.model, prepared.method.trainable(classifier.model), devices.precision(run.training.dtype, device)
    )
    loader = loader_of(run, task.train)
    recipe = recipe_of(run, prepared.method, loader)
    optimizer = make_optimizer(classifier, working.trained, recipe)
    account = Account()
    last = min(limit or recipe.steps, recipe.steps)
    for stop in sorted({min(max(1, round(share * recipe.steps)), last) for share in shares}):
        try:
            train(classifier, working, optimizer, loader, recipe, account=account, stop=stop, listen=listen)
        except Diverged:
            yield Score(account.step + 1, recipe.steps, len(gold), None, None)
            return
        with (meter := Meter(device)).phase("evaluate"):
            logits = predictor.logits(classifier, task.evaluation.encoded, listen)
        if not np.isfinite(logits).all():  # the last step itself spoilt the weights
            yield Score(stop, recipe.steps, len(gold), None, None)
            return
        right, loss = metrics.accuracy(gold, logits.argmax(axis=1)), metrics.log_loss(gold, logits)
        spent = account.seconds["train"]
        yield Score(stop, recipe.steps, len(gold), right, loss, spent, meter.seconds["evaluate"])
