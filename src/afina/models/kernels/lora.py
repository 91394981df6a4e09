"""peft's LoRA layer over a frozen weight, with a backward pass of its own. Equal to peft's but for rounding.

Knows the layout of peft's layer, not the model that it stands in.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from afina.models.kernels import frozen
from afina.models.kernels.dropout import Dropout, scaled_mask
from afina.models.kernels.frozen import FrozenWeight
from afina.models.kernels.peft_layer import is_alone

DORA = "DoraLinearVariant"
"""peft's name for what DoRA adds to a layer of LoRA's."""


def only_adapter(layer: nn.Module, variant: str | None = None) -> str | None:
    """The adapter of a peft layer that has one and computes LoRA's formula alone, by name; None of any other layer.

    variant  that of the formula, such as DORA
    """
    if not hasattr(layer, "lora_A") or not isinstance(getattr(layer, "base_layer", None), nn.Module):
        return None
    peft_layer: Any = layer
    names = list(peft_layer.lora_A)
    variants = [type(one).__name__ for one in getattr(peft_layer, "lora_variant", {}).values()]
    plain = (
        is_alone(layer, names)
        and any(peft_layer.use_dora.values()) == (variant == DORA)
        and variants == ([] if variant is None else [variant])
        and not any(peft_layer.lora_bias.values())
        and isinstance(peft_layer.lora_A[names[0]], nn.Linear)
    )
    return names[0] if plain else None


def read_layers(model: nn.Module) -> set[nn.Module]:
    """The small layers in a model whose weights are read, in place of calling them: by `lora_layer`, and for DoRA."""
    found: set[nn.Module] = set()
    for layer in model.modules():
        name = only_adapter(layer) or only_adapter(layer, DORA)
        if name is not None:
            peft_layer: Any = layer
            found |= {peft_layer.lora_A[name], peft_layer.lora_B[name]}
    return found


def mask_of(dropout: nn.Module, inputs: Tensor) -> Tensor | None:
    """A draw of what a layer's dropout multiplies its input by; None where nothing is dropped."""
    rate = dropout.p if isinstance(dropout, Dropout) and dropout.training else 0.0
    return scaled_mask(inputs.shape, rate, inputs.dtype, inputs.device) if rate else None


def lora_layer(layer: Any, name: str, inputs: Tensor) -> Tensor:
    """peft's LoRA layer: W x + b + scaling B A dropout(x). Any leading shape."""
    base, dropout = layer.base_layer, layer.lora_dropout[name]
    down, up, scaling = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]
    if frozen.trains(base):
        result: Tensor = base(inputs) + (dropout(inputs) @ down.t()) @ up.t() * scaling
        return result
    mask = mask_of(dropout, inputs)
    result = _LoRA.apply(inputs, mask, down, up, base.bias, scaling, frozen.of(base))  # type: ignore[no-untyped-call]
    return result


class _LoRA(torch.autograd.Function):
    """The layer over a frozen W, with its backward pass: sums go into the products, and W gets no gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        mask: Tensor | None,
        down: Tensor,
        up: Tensor,
        bias: Tensor | None,
        scaling: float,
        own: FrozenWeight,
    ) -> Tensor:
        """inputs [..., K], mask of that shape, down [r, K], up [M, r], bias [M]; returns [..., M]."""
        flat = inputs.reshape(-1, inputs.shape[-1])
        dropped = flat if mask is None else flat * mask.view(flat.shape)
        low = dropped @ down.t()
        result = own.product(flat, bias).addmm_(low, up.t(), alpha=scaling)
        ctx.save_for_backward(dropped, low, mask, down, up)
        ctx.scaling, ctx.own, ctx.shape = scaling, own, inputs.shape
        return result.view(*inputs.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dropped, low, mask, down, up = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        grad_up = (low.t() @ grad).mul_(ctx.scaling).t()
        grad_low = (grad @ up).mul_(ctx.scaling)
        grad_down = grad_low.t() @ dropped
        grad_bias = grad.sum(0) if ctx.needs_input_grad[4] else None
        into = None
        if ctx.needs_input_grad[0]:
            into = ctx.own.transposed_product(grad)
            if mask is None:
                into.addmm_(grad_low, down)
            else:
                into.addcmul_(grad_low @ down, mask.view(into.shape))
            into = into.view(ctx.shape)
        return into, None, grad_down, grad_up, grad_bias, None, None
