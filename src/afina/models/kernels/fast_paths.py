"""Cheaper equivalents of what a model computes needlessly. Each gives the plain module's result, but for rounding.

Nothing here adds, renames or moves a parameter: modules without parameters are exchanged, and the
forward of some others is replaced on the instance. `tests/test_lean.py` holds each to the plain one.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from afina.models.families import FAMILIES, Block
from afina.models.kernels.dropout import Dropout, scaled_mask
from afina.models.kernels.linear import Operands, multiply, speed_up


def lean(model: Any, body: Any) -> None:
    """Exchange, in place, what has a cheaper equivalent. May be called again after a wrap.

    model  everything, perhaps wrapped by peft;  body  the transformer in it, without the head
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p).train(child.training))
            elif type(child).__name__ == "NewGELUActivation":
                setattr(parent, name, TanhGELU())
        if hasattr(parent, "lora_A") and isinstance(getattr(parent, "base_layer", None), nn.Module):
            _lean_lora(parent)
    for layer in body.modules():
        speed_up(layer)
    family = FAMILIES[body.config.model_type]
    last = getattr(body, family.block.layers)[-1]
    last.forward = partial(last_block, last, family.block)


class TanhGELU(nn.Module):
    """transformers' `gelu_new`, x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)), in one kernel instead of eight or faster.

    On a CPU the sigmoid costs a sixth of the tanh in torch's kernel, and the slope is kept for the backward pass, which
    then is one product.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Any shape."""
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
"""Elements computed at a time, so that what lies between input and result stays in the processor's cache."""


def _tanh_gelu(inputs: Tensor, *, slope: bool) -> tuple[Tensor, Tensor | None]:
    """GELU and, where asked, its derivative, both of the inputs' shape and dtype; computed in float32."""
    inputs = inputs.contiguous()
    result = torch.empty_like(inputs)
    slopes = torch.empty_like(inputs) if slope else None
    outer = torch.tensor(_OUTER)
    buffers = [torch.empty(min(inputs.numel(), _PIECE)) for _ in range(4)]
    for start in range(0, inputs.numel(), _PIECE):
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


def _lean_lora(layer: Any) -> None:
    names = list(layer.lora_A)
    plain = (
        len(names) == 1
        and names == list(layer.active_adapters)
        and not layer.disable_adapters
        and not layer.merged
        and not any(layer.use_dora.values())
        and not getattr(layer, "lora_variant", {})
        and not any(layer.lora_bias.values())
        and isinstance(layer.lora_A[names[0]], nn.Linear)
    )
    if plain:
        layer.forward = partial(lora_layer, layer, names[0])


def lora_layer(layer: Any, name: str, inputs: Tensor) -> Tensor:
    """peft's LoRA layer: W x + b + scaling B A dropout(x). Any leading shape."""
    base, dropout = layer.base_layer, layer.lora_dropout[name]
    down, up, scaling = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]
    if base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad):
        result: Tensor = base(inputs) + (dropout(inputs) @ down.t()) @ up.t() * scaling
        return result
    rate = dropout.p if isinstance(dropout, Dropout) and dropout.training else 0.0
    mask = scaled_mask(inputs.shape, rate, inputs.dtype, inputs.device) if rate else None
    result = _LoRA.apply(inputs, mask, down, up, scaling, Operands.of(base))  # type: ignore[no-untyped-call]
    return result


class _LoRA(torch.autograd.Function):
    """The layer over a frozen W, with its backward pass: sums go into the products, and W gets no gradient."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, mask: Tensor | None, down: Tensor, up: Tensor, scaling: float, frozen: Operands
    ) -> Tensor:
        """inputs [..., K], mask of that shape, down [r, K], up [M, r]; returns [..., M]."""
        flat = inputs.reshape(-1, inputs.shape[-1])
        dropped = flat if mask is None else flat * mask.view(flat.shape)
        low = dropped @ down.t()
        result = multiply(flat, frozen.weight, frozen.bias).addmm_(low, up.t(), alpha=scaling)
        ctx.save_for_backward(dropped, low, mask, down, up)
        ctx.scaling, ctx.frozen, ctx.shape = scaling, frozen, inputs.shape
        return result.view(*inputs.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dropped, low, mask, down, up = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        grad_up = (low.t() @ grad).mul_(ctx.scaling).t()
        grad_low = (grad @ up).mul_(ctx.scaling)
        grad_down = grad_low.t() @ dropped
        into = None
        if ctx.needs_input_grad[0]:
            into = multiply(grad, ctx.frozen.transposed)
            if mask is None:
                into.addmm_(grad_low, down)
            else:
                into.addcmul_(grad_low @ down, mask.view(into.shape))
            into = into.view(ctx.shape)
        return into, None, grad_down, grad_up, None, None


def last_block(block: Any, names: Block, hidden: Tensor, *_: Any, layout: Any, **options: Any) -> Tensor:
    """The last block, whose output is read at each sequence's last token only: 0 elsewhere.

    Keys and values need every token; the residual stream and the MLP, two thirds of the block, only those.
    hidden [1, T, width] -> [1, T, width].
    """
    options.pop("cache", None)
    first, second = getattr(block, names.first_norm), getattr(block, names.second_norm)
    normed = first(hidden)
    options["attention_mask"] = None
    attended = getattr(block, names.attention)(normed, layout=layout, **options)[0].index_select(1, layout.last)
    stream = hidden.index_select(1, layout.last)
    after_attention = getattr(block, "post_attention_dropout", nn.Identity())
    after_mlp = getattr(block, "post_mlp_dropout", nn.Identity())
    attended = after_attention(attended)
    if names.parallel and getattr(block, "use_parallel_residual", True):
        stream = stream + attended + after_mlp(block.mlp(second(stream)))
    else:
        stream = stream + attended
        stream = stream + after_mlp(block.mlp(second(stream)))
    return hidden.new_zeros(hidden.shape).index_copy(1, layout.last, stream)
