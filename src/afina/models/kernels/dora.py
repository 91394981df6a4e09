"""peft's DoRA layer over a frozen weight, with a backward pass of its own. Equal to peft's but for rounding.

m / ||W + s B A|| (W + s B A) x + b, the length of each row taken as a constant (Liu et al. 2024, section 4.3). peft
forms the sum at every pass; here its rows' lengths come from products as small as A and B, and W may stay packed:
||W + s B A||^2 = ||W||^2 + 2 s <W A^T, B> + s^2 <B A A^T, B>, each by row, and ||W||^2 never changes.
Knows the layout of peft's layer, not the model that it stands in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from afina.models.kernels import frozen
from afina.models.kernels.frozen import FrozenWeight
from afina.models.kernels.lora import DORA, mask_of, only_adapter
from afina.models.kernels.low_rank import LowRank

SQUARES = "squares"
"""Buffer of a layer that `dora_layer` or `Turned` serves: float32 [M], ||W||^2 by row."""


def dora_adapter(layer: nn.Module) -> str | None:
    """The adapter of a peft layer that has one and computes DoRA's formula, by name; None of any other layer."""
    name = only_adapter(layer, DORA)
    peft_layer: Any = layer
    return name if name is not None and frozen.is_linear(peft_layer.base_layer) else None


def prepare(layer: Any, base: Any = None) -> None:
    """Give a layer what is needed of the frozen weight of `base`, by default the layer in it, while that is float32."""
    if not hasattr(layer, SQUARES):
        weight = frozen.of(layer.base_layer if base is None else base).dequantize()
        layer.register_buffer(SQUARES, weight.float().square().sum(1), persistent=False)


def dora_layer(layer: Any, name: str, inputs: Tensor) -> Tensor:
    """peft's DoRA layer. In training with dropout, that of B A's input is W's as well, but for W x + b.

    Any leading shape.
    """
    base = layer.base_layer
    if frozen.trains(base):
        plain: Tensor = type(layer).forward(layer, inputs)
        return plain
    mask = mask_of(layer.lora_dropout[name], inputs)
    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
    magnitude, scaling = layer.lora_magnitude_vector[name].weight, layer.scaling[name]
    own = frozen.of(base)
    with torch.no_grad():
        lengths = _lengths(layer.squares, down, up, scaling, own)
    result: Tensor = _DoRA.apply(inputs, mask, down, up, magnitude, base.bias, lengths, scaling, own)  # type: ignore[no-untyped-call]
    return result.view(*inputs.shape[:-1], -1)


def _lengths(squares: Tensor, down: Tensor, up: Tensor, scaling: float, own: FrozenWeight) -> Tensor:
    """Float32 [M]: of the rows of W + s B A. squares [M], down [r, K], up [M, r]."""
    beside = own.product(down).float().t()
    down, up = down.float(), up.float()
    added = (2 * beside).add_(up @ (down @ down.t()), alpha=scaling).mul_(up).sum(1)
    return added.mul_(scaling).add_(squares).clamp_(min=torch.finfo(torch.float32).tiny).sqrt_()


class _DoRA(torch.autograd.Function):
    """The layer over a frozen W, whose rows' lengths get no gradient.

    What a row is scaled by is near 1; its distance from 1 is what is rounded to the precision of the inputs.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        mask: Tensor | None,
        down: Tensor,
        up: Tensor,
        magnitude: Tensor,
        bias: Tensor | None,
        lengths: Tensor,
        scaling: float,
        own: FrozenWeight,
    ) -> Tensor:
        """inputs [..., K], mask of that shape, down [r, K], up [M, r], others [M]; returns [N, M]."""
        flat = inputs.reshape(-1, inputs.shape[-1])
        dropped = flat if mask is None else flat * mask.view(flat.shape)
        beyond = (magnitude.float() / lengths - 1).to(flat.dtype)
        low = dropped @ down.t()
        turned = own.product(dropped).addmm_(low, up.t(), alpha=scaling)
        if mask is None:
            result = torch.addcmul(turned, turned, beyond)
            if bias is not None:
                result.add_(bias)
        else:
            result = own.product(flat, bias).addmm_(low, up.t(), alpha=scaling).addcmul_(turned, beyond)
        ctx.save_for_backward(dropped, low, turned, mask, down, up, beyond, lengths)
        ctx.scaling, ctx.own, ctx.shape, ctx.dtype = scaling, own, inputs.shape, magnitude.dtype
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dropped, low, turned, mask, down, up, beyond, lengths = ctx.saved_tensors
        grad, own = grads[0], ctx.own
        grad_magnitude = (turned.mul(grad).sum(0, dtype=torch.float32) / lengths).to(ctx.dtype)
        grad_bias = grad.sum(0) if ctx.needs_input_grad[5] else None
        scaled = torch.addcmul(grad, grad, beyond)
        grad_up = (low.t() @ scaled).mul_(ctx.scaling).t()
        grad_low = (scaled @ up).mul_(ctx.scaling)
        grad_down = grad_low.t() @ dropped
        into = None
        if ctx.needs_input_grad[0]:
            if mask is None:
                into = own.transposed_product(scaled).addmm_(grad_low, down)
            else:
                into = own.transposed_product(grad)
                within = own.transposed_product(scaled.sub_(grad)).addmm_(grad_low, down)
                into.addcmul_(within, mask.view(into.shape))
            into = into.view(ctx.shape)
        return into, None, grad_down, grad_up, grad_magnitude, grad_bias, None, None, None


@dataclass(frozen=True, eq=False)
class Turned(LowRank):
    """What the layer makes of W x + b: (m / ||W + s B A||) (W + s B A) x + b.

    beyond  [M], what a row is scaled by, less 1
    layer   the frozen one;  bias  [M], where the adapter has another than that
    """

    beyond: Tensor
    layer: Any
    bias: Tensor | None

    @classmethod
    def over(
        cls, layer: Any, down: Tensor, up: Tensor, scaling: float, magnitude: Tensor, bias: Tensor | None = None
    ) -> Self:
        """On a layer that was made ready by `prepare`; down [r, K], up [M, r], magnitude [M] float32."""
        device, own = layer.squares.device, frozen.of(layer)
        down, up = down.to(device, own.dtype), up.to(device, own.dtype)
        with torch.inference_mode():
            lengths = _lengths(layer.squares, down, up, scaling, own)
            return cls(down, up.t().contiguous(), scaling, magnitude.to(device).float() / lengths - 1, layer, bias)

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        """inputs [N, K], outputs [N, M]."""
        bias = self.layer.bias if self.bias is None else self.bias
        if bias is not None:
            outputs.sub_(bias)
        super().leaving(inputs, outputs)
        outputs.addcmul_(outputs, self.beyond)
        if bias is not None:
            outputs.add_(bias)
