"""`Fit`: a training session of a classifier by any method with gradient steps.

The optimizer is AdamW with the parameter groups of transformers' Trainer, linear decay of the learning rate to zero
after an optional linear warm-up, and clipping by the total norm. The loss is the mean of the objective's loss over a
batch. Activation checkpointing uses torch's `checkpoint` around each transformer block; the second forward pass draws
the same dropout masks. The module `fit` reads no file except the checkpoint.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.checkpoint import checkpoint as recomputed

from afina import meter
from afina.allocator import keep_freed
from afina.data.batch import Loader
from afina.data.token_cache import EncodedSplit
from afina.device import INT8
from afina.events import Listener, Progress, ValidationScore, ignore
from afina.methods.method import Method
from afina.models.architectures import blocks_of
from afina.models.backbone_spec import FLOAT
from afina.models.classifier import Classifier
from afina.models.kernels.dropout_masks import repeatable
from afina.models.kernels.int8_calibration import smoothing_factors
from afina.models.kernels.linear import held_tensors
from afina.models.kernels.patches import Patch, call_of, patch
from afina.models.objective import Objective
from afina.models.predictions import Predictions
from afina.models.weights.sharding import is_sharded
from afina.ranks import ALONE
from afina.stats.metrics import METRICS
from afina.training import checkpoint, problems
from afina.training.checkpoint import Account
from afina.training.head_fit import FittedHead
from afina.training.inputs import MicroBatch, inputs_of
from afina.training.mixed_precision import WorkingWeights
from afina.training.optimizer import L2SP, WeightAverage, clip, make_optimizer, set_rate
from afina.training.recipe import Recipe

CHECKPOINT_SHARE = 0.05
"""Maximum share of the training time for writing checkpoints; on a slow disk, afina writes fewer checkpoints."""


@dataclass(frozen=True)
class Measured:
    """Memory of a training session in bytes, as docs/reference/figures.md defines it; None if it cannot be measured."""

    state_bytes: int
    activation_bytes: int | None = None
    activation_tokens: int | None = None


@dataclass(frozen=True)
class Pace:
    """Training seconds per token.

    Attributes:
        step: Seconds for each token of each step.
        once: Further seconds for each token of the training split, whose features are computed once for a head.
    """

    step: float
    once: float = 0.0


class Fit:
    """A training session of a classifier to which `method` is attached, from the constructor to `finish`.

    Attributes:
        parameters: Trained parameters by name. If no parameters train, the weights stay float32 and `advance` does
            nothing.
        weights: The weights in the compute dtype, and the float32 weights that the optimizer updates.
        fitted: How scikit-learn fitted the head. None: scikit-learn has not fitted the head.
    """

    fitted: FittedHead | None = None

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
        self.loader, self.recipe = loader, recipe
        self.parameters = method.trainable(classifier.model)
        if recipe.training.checkpointing:
            checkpoint_blocks(classifier.body)
        products: str = recipe.training.products
        if not self.parameters:
            dtype, products = torch.float32, FLOAT
        factors = int8_factors(classifier, loader, recipe) if products == INT8 else {}
        of: dict[str, bool] = {"rows": recipe.ranks.count == 1, "packs": classifier.sharding is None}
        self.weights = WorkingWeights.of(method, classifier.model, dtype, products, factors, **of)
        if self.weights.in_int8 and not self.weights.int8_layers:
            raise problems.PRODUCTS_WITHOUT_LAYER(method=method.name, products=products)
        self.optimizer = make_optimizer(classifier.model, method, self.weights.trained, recipe)
        self.inputs = inputs_of(method)(classifier, loader, recipe)
        self.account = Account()
        model, trained = classifier.model, self.weights.trained
        brought = {name: trained[name] for name in sorted(method.pretrained(model))}
        if recipe.training.pull and self.parameters and not brought:
            raise problems.PULL_INAPPLICABLE(method=method.name, option="pull")
        self.pull = L2SP(recipe.training.pull, brought, method.multipliers(model))
        self.average = WeightAverage(recipe.training.average, recipe.steps, trained)

    @property
    def learning_rate(self) -> float | None:
        """The largest learning rate of the session; None if it takes no gradient steps."""
        return self.recipe.learning_rate if self.parameters else None

    @property
    def device(self) -> torch.device:
        return next(self.classifier.parameters()).device

    def advance(
        self,
        stop: int | None = None,
        *,
        keep: Callable[[Account], None] | None = None,
        listen: Listener = ignore,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take all remaining optimizer steps, or those up to the total number `stop`; a later call continues alike.

        `keep` is called from time to time to write a checkpoint. If `stopped` returns True after a step, a checkpoint
        is written and KeyboardInterrupt is raised.

        Raises Diverged if the loss of a step is NaN or infinite, and RunFailed if several processes train that do not
        have equal weights.
        """
        if not self.parameters:
            return
        self.begin()
        self.recipe.ranks.check_equal(self.weights.on_every_process)
        account, steps = self.account, self.recipe.steps
        first, tokens, seconds = account.step, account.tokens, account.seconds.get("train", 0.0)
        began = last_kept = meter.now()
        pause = self.recipe.training.checkpoint_seconds
        for batch in self.inputs.batches(first, stop or steps):
            loss = self.step(batch)
            done = account.step
            pace = (account.tokens - tokens) / (account.seconds["train"] - seconds)
            left = (meter.now() - began) / (done - first) * (steps - done)
            listen(Progress("train", done, steps, loss, pace, left))
            # The last step is never checkpointed: a run killed after it takes the step again and so measures memory.
            ends, due = self._agreed(stopped(), meter.now() - last_kept >= pause)
            if keep and done < steps and (ends or due):
                start = meter.now()
                keep(account)
                last_kept = meter.now()
                pause = max(self.recipe.training.checkpoint_seconds, (last_kept - start) / CHECKPOINT_SHARE)
            if ends:
                raise KeyboardInterrupt

    def _agreed(self, stops: bool, is_due: bool) -> tuple[bool, bool]:
        """Return whether a process stops, and whether a checkpoint is due for rank 0, equal in all processes."""
        ranks = self.recipe.ranks
        any_stops, due = ranks.any_([stops, is_due and ranks.is_first])
        return any_stops, due

    def begin(self) -> None:
        """Prepare the model for training steps; the model may be in any mode before."""
        keep_freed()
        self.account.by_text |= self.recipe.ranks.count > 1
        self.inputs.by_text = self.account.by_text
        self.inputs.begin()
        self.weights.refresh()

    def step(self, batch: Any) -> float:
        """Take the next optimizer step on a batch that is on the device, record it in the account, and return the loss.

        Raises Diverged if the loss of the step is NaN or infinite.
        """
        account, recipe = self.account, self.recipe
        parts = self.inputs.parts(batch)
        ready = meter.now()
        self.inputs.prepare(account.step)
        set_rate(self.optimizer, recipe.rate(account.step))
        loss = self.update(parts, self.inputs.learnt(batch)).item()
        spent = meter.now() - ready
        if not math.isfinite(loss):
            raise problems.LOSS_NOT_FINITE(
                loss=loss, step=account.step + 1, steps=recipe.steps, learning_rate=recipe.learning_rate
            )
        account.step += 1
        account.tokens += self.inputs.tokens(batch)
        account.losses.append(loss)
        account.seconds["train"] = account.seconds.get("train", 0.0) + spent
        return loss

    def update(self, parts: Sequence[MicroBatch], learnt: int | None = None) -> torch.Tensor:
        """Update the weights by the summed gradients of a batch's micro-batches, and return the mean loss, float32.

        `learnt`: the number of targets of the whole batch. None: the targets of `parts`.
        """
        self.weights.clear()
        loss = self._backward(parts, sum(part.learnt for part in parts) if learnt is None else learnt)
        self._take()
        return loss

    def warm_up(self) -> None:
        """Take a step with zero gradients, so that the optimizer has allocated its state."""
        self._clear_gradients()
        self._take()

    def _clear_gradients(self) -> None:
        for weight in self.weights.trained.values():
            weight.grad = torch.zeros_like(weight)

    def _take(self) -> None:
        clip(self.optimizer, self.weights.norm(), self.recipe.training.clip)
        self.optimizer.step()
        self.pull.apply(self.recipe.rate(self.account.step))
        self.average.take(self.account.step + 1)
        self.weights.refresh()

    def _backward(self, parts: Sequence[MicroBatch], learnt: int) -> torch.Tensor:
        """Compute the gradients of the mean loss over the `learnt` targets of the batch, and return the loss."""
        total = torch.zeros((), device=self.device)
        if not learnt:  # of no text of the batch is a word read
            self._clear_gradients()
            return total
        parts = [part for part in parts if part.learnt]  # the mean loss of a part without a token to learn would be NaN
        idle = self.inputs.idle_passes(len(parts))
        for part in parts:
            loss = self._loss(part)
            if part.learnt != learnt:
                loss = loss * (part.learnt / learnt)
            loss.backward()
            total += loss.detach()
        for _ in range(idle):
            self.classifier.idle_pass().backward()  # type: ignore[no-untyped-call]
        self.weights.sum_over(self.recipe.ranks, total)
        return total

    def _loss(self, part: MicroBatch) -> torch.Tensor:
        outputs = self.inputs.outputs(part)
        recipe = self.recipe
        if part.soft is None:
            return self.objective.loss(outputs, part.targets, recipe.training.label_smoothing, part.weights)
        return self.objective.distilled_loss(
            outputs,
            part.targets,
            part.soft,
            temperature=recipe.training.distil_temperature,
            weight=recipe.training.distil_weight,
            smoothing=recipe.training.label_smoothing,
            weights=part.weights,
        )

    def score(
        self,
        split: EncodedSplit,
        metric: str,
        predict: Callable[[Classifier, EncodedSplit, Listener], Predictions],
        listen: Listener = ignore,
    ) -> ValidationScore:
        """Evaluate the current weights on `split` by `metric`, in the compute dtype.

        The returned score has the value None if an output is NaN or infinite.
        """
        account, steps = self.account, self.recipe.steps
        with (clock := meter.Meter(self.device)).phase("evaluate"):
            found = predict(self.classifier, split, listen)
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
        """Write a checkpoint for `resume`, in place of the previous checkpoint; of several processes, the first writes.

        Raises RunFailed if the processes do not have equal weights.
        """
        ranks, weights = self.recipe.ranks, self.weights
        ranks.check_equal(weights.on_every_process)
        means = self.average.weights
        checkpoint.save(path, key, weights.trained, self.optimizer, self.account, means, ranks, weights.parts)

    def resume(self, path: Path, key: str) -> None:
        """Continue from the checkpoint with this key; if the checkpoint is missing or damaged, nothing changes.

        Of several processes, the first reads the checkpoint, and the others receive it.
        """
        ranks, weights = self.recipe.ranks, self.weights
        given = weights.trained, self.optimizer, self.average.weights, self.account
        self.account = checkpoint.load(path, key, *given, ranks, weights.parts)

    @property
    def state_bytes(self) -> int:
        """Bytes of parameters, gradients, optimizer state, and tensors kept for inputs, L2-SP and averaging."""
        weights = [*self.classifier.parameters(), *self.weights.trained.values(), *held_tensors(self.classifier)]
        held = [*self.inputs.held, *self.pull.held, *self.average.weights.values()]
        return meter.state_bytes([*weights, *held], self.optimizer)

    @property
    def beside_bytes(self) -> int:
        """Peak size in bytes of NumPy arrays, which are not tensors."""
        return 0

    def activation_bytes(self, part: MicroBatch) -> int | None:
        """Return the bytes that a forward pass over `part` keeps for the backward pass; None: no backward pass."""
        return meter.activation_bytes(self.classifier, lambda: self._loss(part))

    def pace(self, first: int, count: int) -> Pace:
        """Measure the training seconds per token over `count` steps after `first` steps; ends the session."""
        account = self.account
        self.advance(first)
        tokens, seconds = account.tokens, account.seconds["train"]
        self.advance(first + count)
        return Pace((account.seconds["train"] - seconds) / (account.tokens - tokens))

    def measure(self) -> Measured:
        """Measure the memory of the state and of the largest micro-batch's activations, after the last step."""
        if not self.parameters or self.recipe.training.checkpointing:
            return Measured(self.state_bytes)  # activations that are recomputed are not saved and cannot be counted
        largest = self.inputs.largest(self.loader, self.recipe)
        return Measured(self.state_bytes, self.activation_bytes(self.inputs.stand_in(largest)), len(largest.tokens))

    def finish(self, reopen: Callable[[], Classifier]) -> Classifier:
        """End the session and return the trained classifier in float32, ready for evaluation and saving.

        `reopen` returns a new classifier with the method attached. Reading the frozen weights again makes float32
        copies of them during training unnecessary.
        """
        self.average.settle()
        self.weights.settle()
        state = self.method.state(self.classifier.model)
        self.recipe.ranks.check_equal({name: each for name, each in state.items() if not is_sharded(each)})
        reopens, device = self.weights.reopens, self.device
        trained = {name: each.detach().clone() for name, each in state.items()} if reopens else {}
        del state, self.weights, self.optimizer, self.inputs, self.pull, self.average
        if reopens:
            # A process keeps most memory that it frees (docs/LOG.md). A GPU's allocator uses the memory again.
            sharded = self.classifier.sharding is not None
            if sharded or self.classifier.precision != FLOAT or device.type != "cpu":
                del self.classifier
            if sharded:
                gc.collect()  # modules and what shards them have references to each other
            self.classifier = reopen()
            self.method.restore(self.classifier.model, trained)
        return self.classifier


def int8_factors(classifier: Classifier, loader: Loader, recipe: Recipe) -> dict[nn.Module, torch.Tensor]:
    """Return the factors of the input channels of the body's own linear layers, measured on the first micro-batch.

    The factors are the same for a resumed session, because the trained weights have their initial values here. In a dry
    run and without texts, nothing is measured.
    """
    if isinstance(next(classifier.parameters()), FakeTensor) or not len(loader.encoded):
        return {}
    layers = classifier.own_linear
    names = {layer: name for name, layer in layers.items()}
    around = [(getattr(module, "base_layer", None), module) for module in classifier.modules()]
    wrappers = {names[layer]: module for layer, module in around if layer in names}
    batch = next(iter(loader.batches(0, 1)))
    part = replace(recipe.at_once, ranks=ALONE).cut(batch.lengths)[0]
    batch = batch.take(part).to(next(classifier.parameters()).device)
    classifier.eval()
    found = smoothing_factors(layers, wrappers, lambda: classifier.features(batch))
    recipe.ranks.first_([found[name] for name in sorted(found)])
    return {layers[name]: of for name, of in found.items()}


def checkpoint_blocks(body: Any) -> None:
    """Apply activation checkpointing to every transformer block of `body`, in place; it works in training mode only.

    afina does not use transformers' own switch for checkpointing, whose name changes between versions and which
    bypasses a patched forward.
    """
    for block in blocks_of(body):
        patch(block, Patch.CHECKPOINT, _checkpointed, call_of(block))


def _checkpointed(block: nn.Module, forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    if block.training and torch.is_grad_enabled():
        return recomputed(repeatable(forward), *inputs, use_reentrant=False, **options)
    return forward(*inputs, **options)
