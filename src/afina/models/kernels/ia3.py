"""(IA)^3 in a mixed batch: scales the inputs or outputs of layers in an adapter's own rows.

For a model with a single (IA)^3 adapter, afina has no kernel: peft calls the frozen layer and scales once.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from afina.models.kernels.layer_changes import LayerChange
from afina.models.kernels.lora import adapter_of_vectors


def ia3_adapter(layer: nn.Module) -> str | None:
    """Return the name of a peft layer's only adapter if the adapter computes (IA)^3; None for any other layer."""
    return adapter_of_vectors(layer, "ia3_l")


@dataclass(frozen=True, eq=False)
class ScaledInput(LayerChange):
    """Multiplies the layer's input by the vector `by`, [K]."""

    by: Tensor

    def entering(self, inputs: Tensor) -> Tensor:
        return inputs * self.by


@dataclass(frozen=True, eq=False)
class ScaledOutput(LayerChange):
    """Multiplies the layer's output, including the bias, by the vector `by`, [M]."""

    by: Tensor

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        outputs.mul_(self.by)
