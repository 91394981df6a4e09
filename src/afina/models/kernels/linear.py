"""Matrix products with a layer's weight, by oneDNN where that is the faster. Knows layers, not what they belong to.

torch gives float32 products on a CPU to MKL, which on processors with AVX-512 of other makes than Intel's takes more
than twice as long as oneDNN; without AVX-512, and on Intel's, it is oneDNN that takes up to twice as long, with weights
as Conv1D stores them (docs/LOG.md). In bfloat16, oneDNN brings a weight into its own order before it multiplies: a
frozen weight is packed in that order once, for each direction, which saves a sixth of a product. Results are the same
but for rounding; `tests/models/kernels/test_linear.py` holds them to torch's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.functional import linear as plain_linear
from transformers.pytorch_utils import Conv1D

from afina import allocator
from afina import device as devices

allocator.keep_kernels(allocator.SOME, anew=False)

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
_ONEDNN_FLOAT32 = _ONEDNN and (
    not torch.backends.mkl.is_available()
    or (torch.backends.cpu.get_cpu_capability() == "AVX512" and "Intel" not in devices.processor())
)
_ONEDNN_BFLOAT16 = _ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported()

_TYPICAL_ROWS = 256
"""What a weight is packed for; the order barely depends on it."""


def multiply(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """inputs [N, K], weight [M, K] or packed, bias [M] -> inputs weight^T + bias, [N, M]. Keeps no graph."""
    if weight.is_mkldnn or _by_onednn(weight):
        result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
        return result
    return plain_linear(inputs, weight, bias)


def _by_onednn(weight: Tensor) -> bool:
    return _ONEDNN_FLOAT32 and weight.device.type == "cpu" and weight.dtype == torch.float32


@dataclass(frozen=True, eq=False)
class Operands:
    """A weight for both directions: weight [M, K] and its transpose [K, M], packed or not."""

    weight: Tensor
    transposed: Tensor

    @classmethod
    def of(cls, layer: Any) -> Operands:
        """Those of an `nn.Linear` or `Conv1D`: what `packed` has made, or else views of its parameter."""
        kept: Operands | None = layer.__dict__.get("packed")
        if kept is not None:
            return kept
        weight = layer.weight.detach()
        weight = weight.t() if isinstance(layer, Conv1D) else weight
        return cls(weight, weight.t())


def can_pack(layer: nn.Module, dtype: torch.dtype) -> bool:
    """Whether `packed` gains anything for this layer's weight, once that is `dtype`."""
    weight = getattr(layer, "weight", None)
    on_cpu = isinstance(weight, Tensor) and weight.device.type == "cpu"
    return _ONEDNN_BFLOAT16 and on_cpu and dtype == torch.bfloat16 and type(layer) in (nn.Linear, Conv1D)


def packed(layer: Any, *, backward: bool = True) -> Operands:
    """A frozen weight's operands, both in oneDNN's order; the transpose is empty without `backward`."""
    plain = Operands.of(layer)
    weight = _reorder(plain.weight.contiguous())
    transposed = _reorder(plain.transposed.contiguous()) if backward else plain.transposed.new_empty(0)
    return Operands(weight, transposed)


def _reorder(weight: Tensor) -> Tensor:
    if isinstance(weight, FakeTensor):  # has a size but no order (see `afina.training.dry_run`): a copy is as large
        return weight.clone()
    reordered: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _TYPICAL_ROWS)
    return reordered


def serves(layer: nn.Module) -> bool:
    """Whether `linear` may be faster than the layer's own forward."""
    return _ONEDNN and type(layer) in (nn.Linear, Conv1D)


def linear(layer: Any, plain: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """A layer, whose own forward is `plain`. Any leading shape, width K -> the same leading shape, width M."""
    if not (_by_onednn(layer.weight) and inputs.dtype == torch.float32):
        return plain(inputs)
    return _apply(layer, layer.weight, inputs)


def packed_linear(layer: Any, inputs: Tensor) -> Tensor:
    """A layer that keeps its weight packed; its bias may train. Shapes as in `linear`."""
    return _apply(layer, None, inputs)


def _apply(layer: Any, weight: Tensor | None, inputs: Tensor) -> Tensor:
    """weight: what may get a gradient."""
    operands = Operands.of(layer)
    if not torch.is_grad_enabled():
        flat = inputs.reshape(-1, inputs.shape[-1])
        return multiply(flat, operands.weight, layer.bias).view(*inputs.shape[:-1], -1)
    result: Tensor = _Linear.apply(inputs, weight, layer.bias, operands, isinstance(layer, Conv1D))  # type: ignore[no-untyped-call]
    # Not in there: what a Function returns as a view may not be added to in place, as some of peft's layers do.
    return result.view(*inputs.shape[:-1], -1)


class _Linear(torch.autograd.Function):
    """weight: what may get a gradient, None where packed; inward: stored [K, M], as Conv1D does."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor | None, bias: Tensor | None, operands: Operands, inward: bool
    ) -> Tensor:
        flat = inputs.reshape(-1, inputs.shape[-1])
        ctx.save_for_backward(flat if weight is not None and weight.requires_grad else None)
        ctx.operands, ctx.shape, ctx.inward = operands, inputs.shape, inward
        return multiply(flat, operands.weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (inputs,) = ctx.saved_tensors
        grad = grads[0]
        into = weight = bias = None
        if ctx.needs_input_grad[0]:
            into = multiply(grad, ctx.operands.transposed).view(ctx.shape)
        if ctx.needs_input_grad[1]:
            weight = multiply(inputs.t(), grad.t()) if ctx.inward else multiply(grad.t(), inputs.t())
        if ctx.needs_input_grad[2]:
            bias = grad.sum(0)
        return into, weight, bias, None, None
