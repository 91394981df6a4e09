"""The optimizer: AdamW with torch's defaults (as in Trainer), L2-SP and weight averaging.

The module does not know batches or losses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from afina.methods.method import Method
from afina.training.recipe import Recipe


def make_optimizer(
    model: Any, method: Method, parameters: Mapping[str, Parameter], recipe: Recipe
) -> torch.optim.Optimizer:
    """Return AdamW with parameter groups by learning-rate multiplier and weight decay; `parameters` may be empty."""
    decaying, multipliers = method.decays(model), method.multipliers(model)
    if recipe.training.pull:
        decaying -= method.pretrained(model)
    by_multiplier: dict[float, tuple[list[Parameter], list[Parameter]]] = {1.0: ([], [])}
    for name, parameter in parameters.items():
        decayed, others = by_multiplier.setdefault(multipliers.get(name, 1.0), ([], []))
        (decayed if name in decaying else others).append(parameter)
    groups = [
        {"params": members, "weight_decay": decay, "multiplier": multiplier}
        for multiplier, pair in by_multiplier.items()
        for members, decay in zip(pair, (recipe.training.weight_decay, 0.0), strict=True)
    ]
    filled = [group for group in groups if group["params"]]
    return torch.optim.AdamW(filled or groups[:1], lr=recipe.learning_rate, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next step to `rate` times the multiplier of each parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["multiplier"]


def clip(optimizer: torch.optim.Optimizer, norm: torch.Tensor, largest: float) -> None:
    """Clip the gradients of the next step to the total norm `largest`, as torch's `clip_grad_norm_` does.

    The fused AdamW divides each gradient by `grad_scale` when it reads it, which saves a pass over all gradients.
    """
    optimizer.grad_scale = ((norm + 1e-6) / largest).clamp(min=1.0)  # type: ignore[attr-defined]
    optimizer.found_inf = torch.zeros((), device=norm.device)  # type: ignore[attr-defined]


class L2SP:
    """L2-SP (Li et al. 2018): decoupled decay towards the pretrained weights instead of zero.

    Args:
        strength: Strength of the decay, in the units of weight decay.
        parameters: The trained parameters that come from the backbone, before the first step.
        multipliers: Learning-rate multipliers by parameter name; 1 for a parameter without an entry.
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
        """The pretrained weights that L2-SP keeps; empty if its strength is 0."""
        return [start for _, starts in self._groups.values() for start in starts]

    def apply(self, rate: float) -> None:
        """Update each weight: w <- w - rate * multiplier * strength * (w - start)."""
        for multiplier, (weights, starts) in self._groups.items():
            torch._foreach_lerp_(weights, starts, rate * multiplier * self.strength)


class WeightAverage:
    """The mean of the weights after each of the last steps (Polyak and Juditsky 1992; Izmailov et al. 2018).

    Attributes:
        first: Number of steps before the first step whose weights are averaged.
        weights: The mean of the weights so far, by name.

    Args:
        share: Share of the last steps whose weights are averaged, at least one step. 0: no averaging.
    """

    def __init__(self, share: float, steps: int, parameters: Mapping[str, Parameter]) -> None:
        self.first = steps - max(1, round(share * steps)) if share else steps
        self._parameters = parameters
        self.weights = {name: torch.zeros_like(each.data) for name, each in parameters.items() if share}

    def take(self, step: int) -> None:
        """Include the current weights, after the step with this number (from 1), in the mean."""
        if self.weights and step > self.first:
            trained = [self._parameters[name].data for name in self.weights]
            torch._foreach_lerp_(list(self.weights.values()), trained, 1 / (step - self.first))

    def settle(self) -> None:
        for name, mean in self.weights.items():
            self._parameters[name].data.copy_(mean)
