"""The training loop. One, for every method: it sees a classifier, named parameters and batches.

AdamW with Trainer's parameter groups, linear decay to zero without warm-up, clipping by the total
norm; the loss is the mean cross-entropy of a batch. Knows no task and no file but its checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import torch
from torch.nn import Parameter
from torch.nn.functional import cross_entropy

from afina import meter
from afina.allocator import keep_freed
from afina.data.batch import Packed
from afina.data.loader import Limits, Loader
from afina.errors import Diverged
from afina.events import Listener, Progress, ignore
from afina.methods.full import Full
from afina.models.classifier import Classifier
from afina.models.kernels.layout import Layout
from afina.seeds import derive
from afina.training.checkpoint import Account
from afina.training.mixed_precision import Working

CHECKPOINT_SHARE = 0.05
"""Writing checkpoints may take this share of the time between them; slower disks get fewer."""


@dataclass(frozen=True)
class Recipe:
    """How to train.

    steps               optimiser steps in all; the horizon of the decay
    learning_rate       at the first step; falls linearly to zero after the last
    weight_decay        of every parameter but biases and norm weights
    clip                largest total norm of the gradients
    seed                of the dropout stream
    checkpoint_seconds  shortest time between checkpoints
    at_once             the most of a batch that is computed at once; the gradients of its parts are added up
    """

    steps: int
    learning_rate: float
    weight_decay: float
    clip: float
    seed: int
    checkpoint_seconds: float = 60.0
    at_once: Limits = field(default_factory=Limits)


def make_optimizer(
    classifier: Classifier, parameters: Mapping[str, Parameter], recipe: Recipe
) -> torch.optim.Optimizer:
    """AdamW with torch's defaults, which are Trainer's; weight decay as every method's `decays`.

    parameters  float32, by their names in the classifier's model
    """
    decayed = Full().decays(classifier.model)
    groups = [
        {"params": [p for n, p in parameters.items() if n in decayed], "weight_decay": recipe.weight_decay},
        {"params": [p for n, p in parameters.items() if n not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=recipe.learning_rate, fused=True)


def batch_loss(classifier: Classifier, packed: Packed, layout: Layout | None = None) -> torch.Tensor:
    """Mean cross-entropy of one batch, a float32 scalar."""
    return cross_entropy(classifier(packed, layout), packed.targets)


def take_step(
    classifier: Classifier,
    working: Working,
    optimizer: torch.optim.Optimizer,
    parts: Sequence[Packed],
    largest: float,
    layouts: Sequence[Layout | None] = (),
) -> torch.Tensor:
    """One optimiser step on the parts of a batch, its gradients clipped to the total norm `largest`; returns the loss.

    layouts: of the parts, where they are made already
    """
    working.clear()
    loss = backward(classifier, parts, layouts)
    clip(optimizer, working.norm(), largest)
    optimizer.step()
    working.refresh()
    return loss


def backward(classifier: Classifier, parts: Sequence[Packed], layouts: Sequence[Layout | None] = ()) -> torch.Tensor:
    """Add the gradients of the mean cross-entropy of all examples of `parts`; returns that mean, float32, detached."""
    examples = sum(map(len, parts))
    total = torch.zeros((), device=parts[0].tokens.device)
    for part, layout in zip_longest(parts, layouts):
        loss = batch_loss(classifier, part, layout)
        if len(parts) > 1:
            loss = loss * (len(part) / examples)
        loss.backward()
        total += loss.detach()
    return total


def clip(optimizer: torch.optim.Optimizer, norm: torch.Tensor, largest: float) -> None:
    """Let the next step see gradients of total norm at most `largest`, as `clip_grad_norm_` would make them.

    norm: what it is now. The fused optimiser divides by `grad_scale` while it reads a gradient, which saves a pass over
    all of them.
    """
    optimizer.grad_scale = ((norm + 1e-6) / largest).clamp(min=1.0)  # type: ignore[attr-defined]
    optimizer.found_inf = torch.zeros((), device=norm.device)  # type: ignore[attr-defined]


def seed_dropout(seed: int, step: int) -> None:
    """Start the dropout stream of one step, whatever was drawn before."""
    torch.manual_seed(derive(seed, "dropout", step))


def train(
    classifier: Classifier,
    working: Working,
    optimizer: torch.optim.Optimizer,
    loader: Loader,
    recipe: Recipe,
    *,
    account: Account,
    stop: int | None = None,
    keep: Callable[[Account], None] | None = None,
    listen: Listener = ignore,
) -> None:
    """Take the steps from `account.step` on, and add to the account.

    stop  steps in all after which to pause; called again, it goes on as if it had not. None: the last
    keep  called now and then with the account; writes a checkpoint
    Raises Diverged at the first loss that is not a finite number.
    """
    keep_freed()
    classifier.train()
    device = next(iter(working.trained.values())).device
    working.refresh()
    earlier = account.seconds.get("train", 0.0)
    began = last_kept = meter.now()
    tokens_before, spent, pause = account.tokens, 0.0, recipe.checkpoint_seconds
    first = account.step
    for step, packed in enumerate(loader.batches(first, stop or recipe.steps), start=first):
        parts = [part.to(device) for part in recipe.at_once.parts(packed)]
        ready = meter.now()
        seed_dropout(recipe.seed, step)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * (recipe.steps - step) / recipe.steps
        value = take_step(classifier, working, optimizer, parts, recipe.clip).item()
        spent += meter.now() - ready
        if not math.isfinite(value):
            raise Diverged(
                f"step {step + 1} of {recipe.steps}: the loss is {value}. "
                f"Lower the learning rate (it was {recipe.learning_rate:g})."
            )
        account.step, account.tokens = step + 1, account.tokens + len(packed.tokens)
        account.losses.append(value)
        account.seconds["train"] = earlier + spent
        elapsed = meter.now() - began
        listen(
            Progress(
                "train",
                step + 1,
                recipe.steps,
                value,
                (account.tokens - tokens_before) / spent,
                elapsed / (step + 1 - first) * (recipe.steps - step - 1),
            )
        )
        # The last step is never kept: a run killed after it takes it again, and so measures its memory.
        if keep and step + 1 < recipe.steps and meter.now() - last_kept >= pause:
            start = meter.now()
            keep(account)
            last_kept = meter.now()
            pause = max(recipe.checkpoint_seconds, (last_kept - start) / CHECKPOINT_SHARE)
