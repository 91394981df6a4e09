"""Optimiser: AdamW with torch's defaults (as in Trainer), training settings, L2-SP and weight averaging.

The module does not know batches or losses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from afina.data.batch import MicroBatchLimits
from afina.methods.method import Method


@dataclass(frozen=True)
class Recipe:
    """Settings of training.

    Attributes:
        steps: Total number of optimiser steps; the learning rate decays over them.
        learning_rate: The largest learning rate, of the first step after warm-up; decays linearly to zero after the
            last step.
        weight_decay: Weight decay of the parameters that the method names.
        clip: Maximum total norm of the gradients.
        seed: Seed of dropout.
        checkpoint_seconds: Minimum time between checkpoints.
        at_once: Limits of a micro-batch; gradients of a batch's micro-batches are accumulated.
        checkpointing: Activation checkpointing: keep only each block's input for the backward pass.
        label_smoothing: Share of a target that is spread over all labels.
        average: Share of the last steps whose weights are averaged at the end.
        pull: Decay of the backbone's own weights towards their start (L2-SP), instead of weight decay.
        warmup: First steps, in which the learning rate rises linearly from zero.
    """

    steps: int
    learning_rate: float
    weight_decay: float
    clip: float
    seed: int
    checkpoint_seconds: float = 60.0
    at_once: MicroBatchLimits = field(default_factory=MicroBatchLimits)
    checkpointing: bool = False
    label_smoothing: float = 0.0
    average: float = 0.0
    pull: float = 0.0
    warmup: int = 0

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0, as transformers' linear schedule with warm-up."""
        if step < self.warmup:
            return self.learning_rate * step / self.warmup
        return self.learning_rate * (self.steps - step) / (self.steps - self.warmup)


def make_optimizer(
    model: Any, method: Method, parameters: Mapping[str, Parameter], recipe: Recipe
) -> torch.optim.Optimizer:
    """Return AdamW with parameter groups by learning-rate multiplier and weight decay.

    Args:
        model: The model that the method has prepared.
        method: Gives multipliers, and the parameters with weight decay.
        parameters: float32 parameters by name; may be empty.
    """
    decaying, multipliers = method.decays(model), method.multipliers(model)
    if recipe.pull:
        decaying -= method.pretrained(model)
    by_multiplier: dict[float, tuple[list[Parameter], list[Parameter]]] = {1.0: ([], [])}
    for name, parameter in parameters.items():
        decayed, others = by_multiplier.setdefault(multipliers.get(name, 1.0), ([], []))
        (decayed if name in decaying else others).append(parameter)
    groups = [
        {"params": members, "weight_decay": decay, "multiplier": multiplier}
        for multiplier, pair in by_multiplier.items()
        for members, decay in zip(pair, (recipe.weight_decay, 0.0), strict=True)
    ]
    filled = [group for group in groups if group["params"]]
    return torch.optim.AdamW(filled or groups[:1], lr=recipe.learning_rate, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next step to `rate` times each group's multiplier."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["multiplier"]


def clip(optimizer: torch.optim.Optimizer, norm: torch.Tensor, largest: float) -> None:
    """Clip the gradients of the next step to the total norm `largest`, as `clip_grad_norm_` does.

    The fused optimiser divides by `grad_scale` when it reads a gradient. This saves a pass over all gradients.

    Args:
        largest: Maximum total norm.
    """
    optimizer.grad_scale = ((norm + 1e-6) / largest).clamp(min=1.0)  # type: ignore[attr-defined]
    optimizer.found_inf = torch.zeros((), device=norm.device)  # type: ignore[attr-defined]


class L2SP:
    """L2-SP (Li et al. 2018): decoupled decay towards the pretrained weights instead of zero.

    Args:
        strength: Strength of the decay, in units of weight decay.
        parameters: The backbone's parameters, float32, before the first step.
        multipliers: Learning-rate multipliers by name; 1 if missing.
    """

    def __init__(self, strength: float, parameters: Mapping[str, Parameter], multipliers: Mapping[str, float]) -> None:
        self.strength = strength
        self._groups: dict[float, tuple[list[Tensor], list[Tensor]]] = {}
        for name, parameter in parameters.items() if strength else ():
            weights, starts = self._groups.setdefault(multipliers.get(name, 1.0), ([], []))
            weights.append(parameter.data)
            starts.append(parameter.detach().clone())

    @property
    def held(self) -> Sequence[Tensor]:
        """The start weights, if they are kept."""
        return [start for _, starts in self._groups.values() for start in starts]

    def apply(self, rate: float) -> None:
        """Update w <- w - rate * multiplier * strength * (w - start)."""
        for multiplier, (weights, starts) in self._groups.items():
            torch._foreach_lerp_(weights, starts, rate * multiplier * self.strength)


class WeightAverage:
    """Mean of the weights after each of the last steps (Polyak and Juditsky 1992; Izmailov et al. 2018).

    Attributes:
        first: Steps before the first step that is averaged.
        weights: The mean so far, by name; part of a checkpoint.

    Args:
        share: Share of the steps that are averaged, at least one step. 0: no averaging.
        steps: Total number of steps.
        parameters: Trained float32 parameters by name.
    """

    def __init__(self, share: float, steps: int, parameters: Mapping[str, Parameter]) -> None:
        self.first = steps - max(1, round(share * steps)) if share else steps
        self._parameters = parameters
        self.weights = {name: torch.zeros_like(each.data) for name, each in parameters.items() if share}

    def take(self, step: int) -> None:
        """Include the weights after step number `step`, counted from 1."""
        if self.weights and step > self.first:
            trained = [self._parameters[name].data for name in self.weights]
            torch._foreach_lerp_(list(self.weights.values()), trained, 1 / (step - self.first))

    def settle(self) -> None:
        for name, mean in self.weights.items():
            self._parameters[name].data.copy_(mean)
