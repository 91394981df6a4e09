"""Calibrate: how long training will take, from a few of its steps. Reads no task and writes nothing."""

from __future__ import annotations

from dataclasses import replace

import torch

from afina.data.loader import Limits, Loader
from afina.methods.attachment import attach
from afina.methods.method import Method
from afina.models.backbone import Backbone
from afina.models.classifier import Classifier
from afina.seeds import derive
from afina.studies.spec import Training
from afina.training.checkpoint import Account
from afina.training.loop import Recipe, make_optimizer, train
from afina.training.mixed_precision import Working

WARM_UP, MEASURED = 1, 3
"""Steps; the first allocates what the later ones find allocated."""


def seconds_per_token(
    backbone: Backbone, labels: int, method: Method, loader: Loader, dtype: torch.dtype, device: torch.device
) -> float:
    """Of training a method that trains something, on the loader's first, shuffled batches; then thrown away.

    Raises NotFound where the backbone's weights cannot be opened, Diverged.
    """
    classifier = Classifier.open(backbone, [str(label) for label in range(labels)], loader.seed)
    torch.manual_seed(derive(loader.seed, "adapter"))
    attach(classifier, method)
    classifier.to(device)
    parameters = method.trainable(classifier.model)
    working = Working(classifier.model, parameters, dtype)
    at_once = Limits(loader.batch_size, Training().token_budget)
    recipe = Recipe(WARM_UP, method.learning_rate, weight_decay=0.01, clip=1.0, seed=loader.seed, at_once=at_once)
    optimizer = make_optimizer(classifier, working.trained, recipe)
    account = Account()
    train(classifier, working, optimizer, loader, recipe, account=account)
    tokens, seconds = account.tokens, account.seconds["train"]
    train(classifier, working, optimizer, loader, replace(recipe, steps=WARM_UP + MEASURED), account=account)
    return (account.seconds["train"] - seconds) / (account.tokens - tokens)
