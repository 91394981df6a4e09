"""Optimizer: AdamW with torch's defaults, which are Trainer's. How to train, in numbers (Recipe); decay toward the
pretrained weights (L2SP); the mean of the last steps' weights (WeightAverage).

Knows parameters by name; no batch and no loss.
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
    """How to train.

    steps               optimiser steps in all; the horizon of the decay
    learning_rate       at the first step; falls linearly to zero after the last
    weight_decay        of the parameters that the method says decay
    clip                largest total norm of the gradients
    seed                of the dropout stream
    checkpoint_seconds  shortest time between checkpoints
    at_once             the most of a batch that is computed at once; the gradients of its parts are added up
    checkpointing       keep only each block's input for the backward pass
    label_smoothing     share of a target that is spread over all labels
    average             share of the steps, the last ones, whose weights are averaged in the end
    pull                decay of the backbone's own weights toward where they began, in the place of weight decay
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

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.learning_rate * (self.steps - step) / self.steps


def make_optimizer(
    model: Any, method: Method, parameters: Mapping[str, Parameter], recipe: Recipe
) -> torch.optim.Optimizer:
    """AdamW in groups by the method's learning-rate multipliers, and by whether a parameter decays.

    parameters  float32, by their names in the model; there may be none
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
    """Let the next step take `rate`, times each group's multiplier."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["multiplier"]


def clip(optimizer: torch.optim.Optimizer, norm: torch.Tensor, largest: float) -> None:
    """Let the next step see gradients of total norm at most `largest`, as `clip_grad_norm_` would make them.

    norm: what it is now. The fused optimiser divides by `grad_scale` while it reads a gradient, which saves a pass over
    all of them.
    """
    optimizer.grad_scale = ((norm + 1e-6) / largest).clamp(min=1.0)  # type: ignore[attr-defined]
    optimizer.found_inf = torch.zeros((), device=norm.device)  # type: ignore[attr-defined]


class L2SP:
    """L2-SP (Li et al. 2018): decay toward the pretrained weights in the place of zero; decoupled, as AdamW's is.

    strength     of the pull, in the units of weight decay
    parameters   float32, those that the backbone brought, before the first step
    multipliers  of their learning rates, by name; 1 for those not named
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
        """The start, where it is kept."""
        return [start for _, starts in self._groups.values() for start in starts]

    def apply(self, rate: float) -> None:
        """w <- w - rate multiplier strength (w - start)."""
        for multiplier, (weights, starts) in self._groups.items():
            torch._foreach_lerp_(weights, starts, rate * multiplier * self.strength)


class WeightAverage:
    """The mean of the weights after each of the last steps (Polyak and Juditsky 1992; Izmailov et al. 2018).

    share       of the steps, the last of them at least; 0: nothing is averaged
    parameters  float32, by name, as they are trained
    weights     the mean so far, by name; what a checkpoint has to hold
    """

    def __init__(self, share: float, steps: int, parameters: Mapping[str, Parameter]) -> None:
        self.first = steps - max(1, round(share * steps)) if share else steps
        self._parameters = parameters
        self.weights = {name: torch.zeros_like(each.data) for name, each in parameters.items() if share}

    def take(self, step: int) -> None:
        """Count in the weights after step number `step`, from 1."""
        if self.weights and step > self.first:
            trained = [self._parameters[name].data for name in self.weights]
            torch._foreach_lerp_(list(self.weights.values()), trained, 1 / (step - self.first))

    def settle(self) -> None:
        """Put the mean in the place of the weights."""
        for name, mean in self.weights.items():
            self._parameters[name].data.copy_(mean)
