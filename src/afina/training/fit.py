"""Fit: a training session. One, for every method: it sees a classifier, named parameters and batches.

AdamW with Trainer's parameter groups, linear decay to zero without warm-up, clipping by the total norm; the loss is
the objective's mean over a batch. Activation checkpointing is torch's own `checkpoint` around each transformer block,
whatever its forward is, with the same dropout masks: its random state is restored for the second time. Knows no task,
no run, and no file but its checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as recomputed

from afina import meter
from afina.allocator import keep_freed
from afina.data.batch import Loader
from afina.data.token_cache import EncodedSplit
from afina.errors import Diverged, InvalidStudy
from afina.events import Listener, Progress, ValidationScore, ignore
from afina.inference import predictor
from afina.methods.method import Method
from afina.models.architectures import blocks_of
from afina.models.classifier import Classifier
from afina.models.kernels.linear import held_tensors
from afina.models.kernels.patches import Patch, call_of, patch
from afina.models.objective import Objective
from afina.stats.metrics import METRICS
from afina.training import checkpoint
from afina.training.checkpoint import Account
from afina.training.inputs import MicroBatch, inputs_of
from afina.training.mixed_precision import WorkingWeights
from afina.training.optimizer import L2SP, Recipe, WeightAverage, clip, make_optimizer, set_rate

CHECKPOINT_SHARE = 0.05
"""Writing checkpoints may take this share of the time between them; slower disks get fewer."""


@dataclass(frozen=True)
class Measured:
    """What training holds, as docs/reference/figures.md defines it; activations are None where there is no figure."""

    state_bytes: int
    activation_bytes: int | None = None
    activation_tokens: int | None = None


class Fit:
    """A classifier that `method` has prepared, in training from its construction until `finish`.

    parameters  those that train, by name; where there are none, nothing is lowered and `advance` does nothing
    weights     what the model computes in, and the float32 weights that are trained
    inputs      what its steps compute their outputs from
    account     what has been done so far
    """

    def __init__(
        self,
        classifier: Classifier,
        method: Method,
        objective: Objective,
        loader: Loader,
        recipe: Recipe,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.classifier, self.method, self.objective = classifier, method, objective
        self.loader, self.recipe, self.account = loader, recipe, Account()
        self.parameters = method.trainable(classifier.model)
        if recipe.checkpointing:
            checkpoint_blocks(classifier.body)
        precision = dtype if self.parameters else torch.float32
        self.weights = WorkingWeights.of(method, classifier.model, precision)
        self.optimizer = make_optimizer(classifier.model, method, self.weights.trained, recipe)
        self.inputs = inputs_of(method)(classifier, loader, recipe)
        model, trained = classifier.model, self.weights.trained
        brought = {name: trained[name] for name in sorted(method.pretrained(model))}
        if recipe.pull and self.parameters and not brought:
            raise InvalidStudy(
                f"method {method.name}: it trains no weight that the model brought, so `pull` has nowhere to pull. "
                "Set it for methods such as full alone.",
                code="option.inapplicable",
                method=method.name,
                option="pull",
            )
        self.pull = L2SP(recipe.pull, brought, method.multipliers(model))
        self.average = WeightAverage(recipe.average, recipe.steps, trained)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.classifier.parameters()).device

    def advance(
        self,
        stop: int | None = None,
        *,
        keep: Callable[[Account], None] | None = None,
        listen: Listener = ignore,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take the steps that are left.

        stop  steps in all after which to pause; called again, it goes on as if it had not. None: the last
        keep  called now and then with the account; writes a checkpoint
        stopped  asked after each step: whether to keep what there is and raise KeyboardInterrupt
        Raises Diverged at the first loss that is not a finite number.
        """
        if not self.parameters:
            return
        self.begin()
        account, steps = self.account, self.recipe.steps
        first, tokens, seconds = account.step, account.tokens, account.seconds.get("train", 0.0)
        began = last_kept = meter.now()
        pause = self.recipe.checkpoint_seconds
        for batch in self.inputs.batches(first, stop or steps):
            loss = self.step(batch)
            done = account.step
            pace = (account.tokens - tokens) / (account.seconds["train"] - seconds)
            left = (meter.now() - began) / (done - first) * (steps - done)
            listen(Progress("train", done, steps, loss, pace, left))
            # The last step is never kept: a run killed after it takes it again, and so measures its memory.
            ends = stopped()
            if keep and done < steps and (ends or meter.now() - last_kept >= pause):
                start = meter.now()
                keep(account)
                last_kept = meter.now()
                pause = max(self.recipe.checkpoint_seconds, (last_kept - start) / CHECKPOINT_SHARE)
            if ends:
                raise KeyboardInterrupt

    def begin(self) -> None:
        """Ready the model for steps, whatever it did before."""
        keep_freed()
        self.inputs.begin()
        self.weights.refresh()

    def step(self, batch: Any) -> float:
        """Take the next step, on a batch as `inputs` has them, and account for it; its loss.

        Its seconds begin with the batch in place. Raises Diverged.
        """
        account, recipe = self.account, self.recipe
        parts = self.inputs.parts(batch)
        ready = meter.now()
        self.inputs.prepare(account.step)
        set_rate(self.optimizer, recipe.rate(account.step))
        loss = self.update(parts).item()
        spent = meter.now() - ready
        if not math.isfinite(loss):
            raise Diverged(
                f"step {account.step + 1} of {recipe.steps}: the loss is {loss}. "
                f"Lower the learning rate (it was {recipe.learning_rate:g}).",
                step=account.step + 1,
                steps=recipe.steps,
                learning_rate=recipe.learning_rate,
            )
        account.step += 1
        account.tokens += self.inputs.tokens(batch)
        account.losses.append(loss)
        account.seconds["train"] = account.seconds.get("train", 0.0) + spent
        return loss

    def update(self, parts: Sequence[MicroBatch]) -> torch.Tensor:
        """Move the weights by the gradients of the parts of a batch; its mean loss, float32, detached."""
        self.weights.clear()
        loss = self._backward(parts)
        clip(self.optimizer, self.weights.norm(), self.recipe.clip)
        self.optimizer.step()
        self.pull.apply(self.recipe.rate(self.account.step))
        self.average.take(self.account.step + 1)
        self.weights.refresh()
        return loss

    def _backward(self, parts: Sequence[MicroBatch]) -> torch.Tensor:
        learnt = [part.learnt for part in parts]
        total = torch.zeros((), device=parts[0].targets.device)
        for part, count in zip(parts, learnt, strict=True):
            if not count:
                continue  # none of its tokens is to be learnt: its mean would be NaN
            loss = self._loss(part)
            if len(parts) > 1:
                loss = loss * (count / sum(learnt))
            loss.backward()
            total += loss.detach()
        return total

    def _loss(self, part: MicroBatch) -> torch.Tensor:
        return self.objective.loss(self.inputs.outputs(part), part.targets, self.recipe.label_smoothing)

    def score(self, split: EncodedSplit, metric: str, listen: Listener = ignore) -> ValidationScore:
        """How well it does on `split` so far, by `metric`, in training's own precision, which is good enough to choose
        by.

        Without figures where the last step has spoilt the weights.
        """
        account, steps = self.account, self.recipe.steps
        with (clock := meter.Meter(self.device)).phase("evaluate"):
            found = predictor.predictions(self.classifier, split.encoded, split.labels, listen)
        if not found.finite:
            return ValidationScore(account.step, steps, len(split), None, None)
        return ValidationScore(
            account.step,
            steps,
            len(split),
            self.objective.value(metric, found),
            self.objective.mean_loss(found),
            account.seconds.get("train", 0.0),
            clock.seconds["evaluate"],
            METRICS[metric].lower,
        )

    def checkpoint(self, path: Path, key: str) -> None:
        """Write all that `resume` needs, in place of what was there."""
        checkpoint.save(path, key, self.weights.trained, self.optimizer, self.account, self.average.weights)

    def resume(self, path: Path, key: str) -> None:
        """Go on from the checkpoint with that key; where there is none that is whole, nothing changes."""
        self.account = checkpoint.load(path, key, self.weights.trained, self.optimizer, self.average.weights)

    @property
    def state_bytes(self) -> int:
        """Parameters, gradients, the optimiser's state, and what the inputs, a pull and a mean keep."""
        weights = [*self.classifier.parameters(), *self.weights.trained.values(), *held_tensors(self.classifier)]
        held = [*self.inputs.held, *self.pull.held, *self.average.weights.values()]
        return meter.state_bytes([*weights, *held], self.optimizer)

    def activation_bytes(self, part: MicroBatch) -> int:
        """What a forward pass over `part` keeps for the backward pass."""
        return meter.activation_bytes(self.classifier, lambda: self._loss(part))

    def measure(self) -> Measured:
        """What it holds after its last step, and what the largest part of a batch keeps besides."""
        if not self.parameters or self.recipe.checkpointing:
            return Measured(self.state_bytes)  # what a block computes again is not saved, and cannot be counted
        largest = self.inputs.largest(self.loader, self.recipe)
        return Measured(self.state_bytes, self.activation_bytes(self.inputs.stand_in(largest)), len(largest.tokens))

    def finish(self, reopen: Callable[[], Classifier]) -> Classifier:
        """End the session: the trained classifier in float32, to evaluate, probe and save.

        reopen  gives a fresh one, prepared by the method: the frozen weights are read again rather than kept beside
                their lowered copies while training
        """
        self.average.settle()
        self.weights.settle()
        lowered = self.weights.lowered
        del self.weights, self.optimizer, self.inputs, self.pull, self.average
        if lowered:
            trained = {name: each.detach().clone() for name, each in self.method.state(self.classifier.model).items()}
            self.classifier = reopen()
            self.method.restore(self.classifier.model, trained)
        return self.classifier


def checkpoint_blocks(body: Any) -> None:
    """Checkpoint every block of `body`, a transformer without head, in place; in training only.

    Not through transformers' switch: its name changes between versions, and it passes by a forward that is replaced.
    """
    for block in blocks_of(body):
        patch(block, Patch.CHECKPOINT, _checkpointed, call_of(block))


def _checkpointed(block: nn.Module, forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    if block.training and torch.is_grad_enabled():
        return recomputed(forward, *inputs, use_reentrant=False, **options)
    return forward(*inputs, **options)
