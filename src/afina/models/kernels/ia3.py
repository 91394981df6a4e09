"""What peft's (IA)^3 layer does to the rows of one adapter among others. Knows the layout of peft's layer.

For a model of its own it needs no kernel: peft calls the frozen layer and scales once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from afina.models.kernels import frozen
from afina.models.kernels.peft_layer import is_alone
from afina.models.rider import Change


def ia3_adapter(layer: nn.Module) -> str | None:
    """The adapter of a peft layer that has one and computes (IA)^3's formula, by name; None of any other layer."""
    if not hasattr(layer, "ia3_l") or not frozen.is_linear(getattr(layer, "base_layer", None)):
        return None
    peft_layer: Any = layer
    names = list(peft_layer.ia3_l)
    return names[0] if is_alone(layer, names) else None


@dataclass(frozen=True, eq=False)
class ScaledInput(Change):
    """What the layer is given, times `by`, [K]."""

    by: Tensor

    def entering(self, inputs: Tensor) -> Tensor:
        """[N, K] -> [N, K]."""
        return inputs * self.by


@dataclass(frozen=True, eq=False)
class ScaledOutput(Change):
    """What comes out of it, bias and all, times `by`, [M]."""

    by: Tensor

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        """outputs [N, M]."""
        outputs.mul_(self.by)
