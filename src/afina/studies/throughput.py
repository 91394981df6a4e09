"""Throughput: how long training will take, from a few of its steps. Reads no task and writes nothing."""

from __future__ import annotations

from dataclasses import replace

import torch

from afina import device as devices
from afina.data.loader import Loader
from afina.errors import OutOfMemory
from afina.methods.method import Method
from afina.models.backbone import Backbone
from afina.models.classifier import Classifier
from afina.models.objective import Objective
from afina.studies.prepared import attached, recipe_of
from afina.studies.spec import RunSpec
from afina.training.fit import Fit

WARM_UP, MEASURED = 1, 3
"""Steps; the first allocates what the later ones find allocated."""


def seconds_per_token(run: RunSpec, method: Method, objective: Objective, loader: Loader) -> float:
    """Of training `run`, whose method trains something, on its first batches, of which it has read none before; then
    thrown away.

    Raises NotFound where the backbone's weights cannot be opened, Diverged, OutOfMemory.
    """
    device = devices.choose()
    try:
        names, opening = objective.label_names, objective.opening
        classifier = Classifier.open(Backbone.load(run.backbone), names, run.seed, opening=opening)
        classifier.hold(run.training.precision)
        attached(classifier, method, run.seed, device)
        recipe = replace(recipe_of(run, method, loader), steps=WARM_UP + MEASURED)
        dtype = devices.precision(run.training.dtype, device)
        fit = Fit(classifier, method, objective, loader, recipe, dtype)
        fit.advance(WARM_UP)
        tokens, seconds = fit.account.tokens, fit.account.seconds["train"]
        fit.advance()
    except torch.OutOfMemoryError:
        raise OutOfMemory(run.title) from None
    return (fit.account.seconds["train"] - seconds) / (fit.account.tokens - tokens)
