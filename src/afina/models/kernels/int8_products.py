"""Products in int8: a frozen weight in int8, multiplied by inputs that are quantised for each token at run time.

For a token x and an output channel with codes c and scale s, the result is (x / t . c) s t, where t = max |x| / 127 and
x / t is rounded to an integer. oneDNN adds up the products of integers in int32, so only the rounding of x and of the
weight differs from a product of floats. A token's scale does not depend on other tokens, so its result does not depend
on its batch.

Some input channels of a language model are 20 times as large as the others, for every token. With one scale for all
channels, little would be left of the others. So each channel of the inputs is divided by a factor, and the weight's
channel is multiplied by it (SmoothQuant: Xiao et al. 2023, equation 4 with alpha = 0.5).

oneDNN is faster for unsigned inputs: the codes of inputs are shifted by 128, and oneDNN subtracts the shift again. For
signed inputs, torch 2.13 takes a reference kernel that needs seconds (docs/LOG.md). Does not know models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from afina.models.kernels.int8 import LEVELS, quantize
from afina.models.kernels.linear import FrozenWeight, HeldWeight, frozen_weight, multiply

SHIFT = 128
"""Added to the codes of inputs, which makes them unsigned."""

ROWS = 256
"""Input rows that are multiplied at once. More rows take more memory, and are not faster (docs/LOG.md)."""

SENSITIVE = 0.04
"""Largest relative change of a layer's results with which its products are in int8; see `int8_factors`.

Of the 210 layers of the embedded model, one is above: the layer that gives a text's first token its extreme values.
"""

FLOOR = 0.25
"""Smallest size of an input channel in `smoothing`, as a share of the mean over channels."""

_SMALLEST = 2.0**-100
"""The smallest scale of a token, so that a token of zeros is divided by a number."""


class DynamicInt8Weight(HeldWeight):
    """A weight [M, K] in int8, in oneDNN's order; inputs are quantised dynamically (at run time, for each token).

    Results are in the dtype of the inputs. `to(dtype)` keeps codes, scales and factors.

    Args:
        weight: float32 [M, K].
        factors: float32 [K], the factor of each input channel.
        like: A tensor of the compute dtype.
    """

    packed: Tensor
    scales: Tensor
    inverse: Tensor
    zeros: Tensor
    like: Tensor

    def __init__(self, weight: Tensor, factors: Tensor, like: Tensor) -> None:
        super().__init__()
        self._shape = weight.shape[0], weight.shape[1]
        codes, scales = quantize(weight * factors)
        self._keep(
            packed=torch.ops.onednn.qlinear_prepack(codes, None),
            scales=scales,
            inverse=1 / factors,
            zeros=torch.zeros(len(scales), dtype=torch.int64),
            like=like.new_empty(0),
        )

    @classmethod
    def of(cls, own: FrozenWeight, factors: Tensor) -> Self:
        """Return a weight in int8, given the weight in any form and the factor of each input channel."""
        weight = own.dequantize()
        return cls(weight.float(), factors, weight)

    def product(self, inputs: Tensor, bias: Tensor | None = None) -> Tensor:
        """Quantise the inputs, multiply in int8, and scale the result by token in the dtype of the inputs."""
        count, columns = inputs.shape
        dtype, most = inputs.dtype, min(count, ROWS)
        result = inputs.new_empty(count, self._shape[0])
        bias = None if bias is None else bias.to(dtype)
        buffers = torch.empty(most, columns), torch.empty(most, columns), torch.empty(most, columns, dtype=torch.int8)
        for at in range(0, count, ROWS):
            rows, into = inputs[at : at + ROWS], result[at : at + ROWS]
            wide, spare, codes = (each[: len(rows)] for each in buffers)
            shifted, scales = quantize_tokens(wide.copy_(rows).mul_(self.inverse), dtype, spare, codes)
            given = (shifted, 1.0, SHIFT, self.packed, self.scales, self.zeros, None, 1.0, 0, dtype)
            sums: Tensor = torch.ops.onednn.qlinear_pointwise(*given, "none", [], "")
            if bias is None:
                torch.mul(sums, scales, out=into)
            else:
                torch.addcmul(bias, sums, scales, out=into)
        return result

    def transposed_product(self, grads: Tensor) -> Tensor:
        """Multiply by the dequantised weight: nothing is trained in int8, so this is rare."""
        return multiply(grads, self.dequantize().to(grads.dtype).t())

    def dequantize(self) -> Tensor:
        """Return codes times scales, divided by the factors and rounded to `dtype`."""
        return (self.packed.to_dense().t() * self.scales[:, None] * self.inverse).to(self.dtype)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the original weight."""
        return self._shape

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the original weight, or of the last `to`."""
        return self.like.dtype

    @property
    def device(self) -> torch.device:
        """Always the CPU."""
        return self.scales.device

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        scales, inverse = self.scales, self.inverse
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.scales, self.inverse = scales, inverse
        return self


def quantize_tokens(inputs: Tensor, dtype: torch.dtype, spare: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return codes plus SHIFT, uint8 [N, K], and scales [N, 1] in `dtype`, of float32 inputs [N, K].

    A token with NaN or infinity gets a scale of NaN or infinity, so its results are NaN or infinite.

    Args:
        inputs: The inputs, which are overwritten.
        dtype: float32 or bfloat16. Inputs are divided by a scale that is rounded to it already.
        spare: float32 [N, K], which is overwritten. New memory for each product takes longer than the computation.
        codes: int8 [N, K], which becomes the first result.
    """
    largest = torch.abs(inputs, out=spare).amax(1, keepdim=True)
    scales = largest.mul_(1 / LEVELS).clamp_(min=_SMALLEST).to(dtype)
    codes.copy_(inputs.mul_(scales.float().reciprocal()).round_())
    return codes.view(torch.uint8).bitwise_xor_(SHIFT), scales


def smoothing(inputs: Tensor, weight: Tensor) -> Tensor:
    """Return the factor of each input channel, float32 [K], given typical inputs [N, K] and the weight [M, K].

    The factor is the root of the channel's largest input divided by its largest weight; the mean of their logarithms is
    0. A channel that is small in all typical inputs counts as larger than it is, because other inputs may be large.
    """
    sizes, weights = inputs.abs().amax(0).float(), weight.abs().amax(0).float()
    sizes = torch.maximum(sizes, FLOOR * sizes.mean()).clamp_(min=_SMALLEST)
    weights = torch.maximum(weights, FLOOR * weights.mean()).clamp_(min=_SMALLEST)
    logarithms = (sizes.log() - weights.log()) / 2
    return (logarithms - logarithms.mean()).exp()


def int8_factors(layers: Mapping[str, nn.Module], compute: Callable[[], object]) -> dict[str, Tensor]:
    """Return the factors of the layers that may compute in int8, measured in a float32 computation.

    A layer is left out if `compute` does not call it, or if its results would change by more than SENSITIVE. The change
    is the norm of the change of a token's results, divided by the norm of the results without a bias; the mean over all
    tokens counts.

    Args:
        layers: Linear layers by name.
        compute: Computes the model that the layers belong to, once.

    Returns:
        Factors, float32 [K], by name.
    """
    found: dict[str, Tensor] = {}
    hooks = [layer.register_forward_pre_hook(partial(_measure, found, name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            compute()
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _measure(found: dict[str, Tensor], name: str, layer: nn.Module, given: tuple[Tensor, ...]) -> None:
    own, inputs = frozen_weight(layer), given[0].reshape(-1, given[0].shape[-1])
    exact, factors = own.product(inputs), smoothing(inputs, own.dequantize())
    change = DynamicInt8Weight.of(own, factors).product(inputs) - exact
    if (change.norm(dim=1) / exact.norm(dim=1).clamp_(min=_SMALLEST)).mean() <= SENSITIVE:
        found[name] = factors
