"""Dropout and GELU, faster than those of torch and transformers, with equal results.

`dropout_masks.py` says how masks are drawn. GELU is computed by the tanh formula, with equal results except for
rounding.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.functional import gelu

from afina.models.kernels.dropout_masks import scaled_mask


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return inputs * mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return grads[0] * mask, None


class Dropout(nn.Module):
    """Replacement of `nn.Dropout`, with the same distribution and other random numbers."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return inputs
        mask = scaled_mask(inputs.shape, self.p, inputs.dtype, inputs.device)
        result: Tensor = _Masked.apply(inputs, mask)  # type: ignore[no-untyped-call]
        return result


class TanhGELU(nn.Module):
    """transformers' `gelu_new`, x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)), computed faster on CPU and CUDA.

    On a CPU, the sigmoid takes a sixth of the time of torch's tanh. The derivative is stored for the backward pass,
    which is then a single product.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.device.type != "cpu":
            return gelu(inputs, approximate="tanh")
        if torch.is_grad_enabled() and inputs.requires_grad:
            result: Tensor = _TanhGELU.apply(inputs)  # type: ignore[no-untyped-call]
            return result
        return _tanh_gelu(inputs, slope=False)[0]


class _TanhGELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        result, slope = _tanh_gelu(inputs, slope=True)
        ctx.save_for_backward(slope)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        result: Tensor = grads[0] * slope
        return result


_OUTER = 2 * math.sqrt(2 / math.pi)
_INNER = 0.044715 * _OUTER
_PIECE = 1 << 17
"""Number of elements for which GELU is computed at a time, so that intermediate results stay in the cache."""


def _tanh_gelu(inputs: Tensor, *, slope: bool) -> tuple[Tensor, Tensor | None]:
    """Return GELU and, if `slope`, its derivative, in the shape and dtype of the inputs; computed in float32."""
    inputs = inputs.contiguous()
    result = torch.empty_like(inputs)
    slopes = torch.empty_like(inputs) if slope else None
    outer = torch.tensor(_OUTER)
    buffers = [torch.empty(min(inputs.numel(), _PIECE)) for _ in range(4)]
    starts = range(0, inputs.numel(), _PIECE)
    if isinstance(inputs, FakeTensor):  # in a dry run (`afina.training.dry_run`), one piece needs the memory of all
        starts = starts[:1]
    for start in starts:
        piece = slice(start, start + _PIECE)
        source = inputs.view(-1)[piece]
        wide, square, chance, value = (buffer[: len(source)] for buffer in buffers)
        x = source if source.dtype == wide.dtype else wide.copy_(source)
        torch.mul(x, x, out=square)
        torch.add(outer, square, alpha=_INNER, out=chance).mul_(x).sigmoid_()
        torch.mul(x, chance, out=value)
        result.view(-1)[piece] = value
        if slopes is not None:  # with s = chance, s + x s (1 - s) (outer + 3 inner x^2)
            rise = value.addcmul_(value, chance, value=-1)
            torch.add(outer, square, alpha=3 * _INNER, out=square)
            slopes.view(-1)[piece] = chance.addcmul_(square, rise)
    return result, slopes
