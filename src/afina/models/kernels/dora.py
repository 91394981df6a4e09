"""A faster computation of peft's DoRA layers with a frozen weight, and DoRA in a mixed batch.

For a DoRA layer, afina's results equal those of peft except for rounding. DoRA is m / ||W + s B A|| (W + s B A) x + b,
where the norm of each row is a constant for gradients (Liu et al. 2024, section 4.3). peft computes the matrix W + s B
A at every pass. afina computes the row norms from products of the size of A and B, so that W may stay in oneDNN's
layout: ||W + s B A||^2 =
||W||^2 + 2 s <W A^T, B> + s^2 <B A A^T, B>, each by row. The module `dora` knows peft's layers, but not models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from afina.models.kernels import linear
from afina.models.kernels.linear import FrozenWeight
from afina.models.kernels.lora import DORA, LoraChange, dropout_mask, lora_adapter

SQUARES = "squares"


def dora_adapter(layer: nn.Module) -> str | None:
    """Return the name of a peft layer's only adapter if the adapter computes DoRA; None for any other layer."""
    name = lora_adapter(layer, DORA)
    peft_layer: Any = layer
    return name if name is not None and linear.is_linear(peft_layer.base_layer) else None


def prepare_dora(layer: Any) -> None:
    """Store the squared row norms of W that DoRA needs, on a layer or peft's wrapper, while W is float32."""
    if not hasattr(layer, SQUARES):
        weight = linear.frozen_weight(getattr(layer, "base_layer", layer)).dequantize()
        layer.register_buffer(SQUARES, weight.float().square().sum(1), persistent=False)


def dora_layer(layer: Any, name: str, inputs: Tensor) -> Tensor:
    """Compute peft's DoRA layer for inputs with any leading shape.

    In training with dropout, the input of W is dropped like that of B A, except in the term W x + b.
    """
    base = layer.base_layer
    if linear.weight_trains(base):
        plain: Tensor = type(layer).forward(layer, inputs)
        return plain
    mask = dropout_mask(layer.lora_dropout[name], inputs)
    down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
    magnitude, scaling = layer.lora_magnitude_vector[name].weight, layer.scaling[name]
    own = linear.frozen_weight(base)
    with torch.no_grad():
        lengths = _lengths(layer.squares, down, up, scaling, own)
    result: Tensor = _DoRA.apply(inputs, mask, down, up, magnitude, base.bias, lengths, scaling, own)  # type: ignore[no-untyped-call]
    return result.view(*inputs.shape[:-1], -1)


def _lengths(squares: Tensor, down: Tensor, up: Tensor, scaling: float, own: FrozenWeight) -> Tensor:
    """Return the row norms of W + s B A, float32 [M], from ||W||^2 [M], down [r, K] and up [M, r]."""
    beside = own.product(down).float().t()
    down, up = down.float(), up.float()
    added = (2 * beside).add_(up @ (down @ down.t()), alpha=scaling).mul_(up).sum(1)
    return added.mul_(scaling).add_(squares).clamp_(min=torch.finfo(torch.float32).tiny).sqrt_()


class _DoRA(torch.autograd.Function):
    """DoRA layer with a frozen W; the row norms get no gradient.

    The row scales m / ||W + s B A|| are near 1, so that rounding their difference from 1 to the dtype of the inputs is
    more accurate than rounding the scales.
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
        """Compute the output [N, M]: inputs and mask [..., K], down [r, K], up [M, r], other vectors [M]."""
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
class DoraChange(LoraChange):
    """Changes W x + b to DoRA's (m / ||W + s B A||) (W + s B A) x + b in a mixed batch.

    Attributes:
        beyond: The row scales m / ||W + s B A|| minus 1, [M].
        bias: The bias that the adapter trained, [M]. None: the frozen bias.
    """

    beyond: Tensor
    layer: Any
    bias: Tensor | None

    @classmethod
    def over(
        cls, layer: Any, down: Tensor, up: Tensor, scaling: float, magnitude: Tensor, bias: Tensor | None = None
    ) -> Self:
        """Return the change of a layer after `prepare_dora`; down [r, K], up [M, r], magnitude [M] float32."""
        device, own = layer.squares.device, linear.frozen_weight(layer)
        down, up = down.to(device, own.dtype), up.to(device, own.dtype)
        with torch.inference_mode():
            lengths = _lengths(layer.squares, down, up, scaling, own)
            return cls(down, up.t().contiguous(), scaling, magnitude.to(device).float() / lengths - 1, layer, bias)

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        bias = self.layer.bias if self.bias is None else self.bias
        if bias is not None:
            outputs.sub_(bias)
        super().leaving(inputs, outputs)
        outputs.addcmul_(outputs, self.beyond)
        if bias is not None:
            outputs.add_(bias)
