"""The forward of a linear layer, by oneDNN where that is the faster. Knows layers, not what they belong to.

torch gives float32 products on a CPU to MKL, which on processors with AVX-512 of other makes than Intel's takes more
than twice as long as oneDNN; without AVX-512, and on Intel's, it is oneDNN that takes up to twice as long, with weights
as Conv1D stores them (docs/LOG.md). In bfloat16, oneDNN brings a weight into its own order before it multiplies: a
frozen weight is packed in that order once, for each direction, which saves a sixth of a product. Results are the same
but for rounding; `tests/models/kernels/test_linear.py` holds them to torch's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from afina.models.kernels import frozen
from afina.models.kernels.frozen import FrozenWeight, by_onednn, multiply


def serves(layer: nn.Module) -> bool:
    """Whether `linear` may be faster than the layer's own forward."""
    return frozen.ONEDNN and frozen.is_linear(layer) and frozen.held_by(layer) is None


def linear(layer: Any, plain: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """A layer, whose own forward is `plain`. Any leading shape, width K -> the same leading shape, width M."""
    if not (by_onednn(layer.weight) and inputs.dtype == torch.float32):
        return plain(inputs)
    return _apply(layer, layer.weight, inputs)


def held_linear(layer: Any, inputs: Tensor) -> Tensor:
    """A layer that holds its weight in another form; its bias may train. Shapes as in `linear`."""
    return _apply(layer, None, inputs)


def _apply(layer: Any, weight: Tensor | None, inputs: Tensor) -> Tensor:
    """weight: what may get a gradient."""
    own = frozen.of(layer)
    if not torch.is_grad_enabled():
        flat = inputs.reshape(-1, inputs.shape[-1])
        return own.product(flat, layer.bias).view(*inputs.shape[:-1], -1)
    result: Tensor = _Linear.apply(inputs, weight, layer.bias, own, isinstance(layer, Conv1D))  # type: ignore[no-untyped-call]
    # Not in there: what a Function returns as a view may not be added to in place, as some of peft's layers do.
    return result.view(*inputs.shape[:-1], -1)


class _Linear(torch.autograd.Function):
    """weight: what may get a gradient, None where held; inward: stored [K, M], as Conv1D does."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor | None, bias: Tensor | None, own: FrozenWeight, inward: bool
    ) -> Tensor:
        flat = inputs.reshape(-1, inputs.shape[-1])
        ctx.save_for_backward(flat if weight is not None and weight.requires_grad else None)
        ctx.own, ctx.shape, ctx.inward = own, inputs.shape, inward
        return own.product(flat, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (inputs,) = ctx.saved_tensors
        grad = grads[0]
        into = weight = bias = None
        if ctx.needs_input_grad[0]:
            into = ctx.own.transposed_product(grad).view(ctx.shape)
        if ctx.needs_input_grad[1]:
            weight = multiply(inputs.t(), grad.t()) if ctx.inward else multiply(grad.t(), inputs.t())
        if ctx.needs_input_grad[2]:
            bias = grad.sum(0)
        return into, weight, bias, None, None
