"""The optimiser: AdamW with torch's defaults, which are Trainer's. Knows parameters by name, and no batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import Parameter

from afina.methods.method import Method
from afina.training.recipe import Recipe


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
