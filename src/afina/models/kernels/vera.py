"""A faster computation of peft's VeRA layers with a frozen weight, and VeRA in a mixed batch.

For a VeRA layer, afina's results equal those of peft except for rounding. VeRA is W x + b + l_b * B (l_d * A x) with
trained vectors l_b and l_d. All layers share the random, frozen matrices A and B, and use slices of them. A and B stay
float32 and are cast when used: the cast takes little time compared with the product, and no copy is kept. The module
`vera` knows peft's layers, but not models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from afina.models.kernels import linear
from afina.models.kernels.layer_changes import LayerChange
from afina.models.kernels.linear import FrozenWeight, multiply
from afina.models.kernels.lora import adapter_of_vectors, dropout_mask


def vera_adapter(layer: nn.Module) -> str | None:
    """Return the name of a peft layer's only adapter if the adapter computes VeRA; None for any other layer."""
    return adapter_of_vectors(layer, "vera_lambda_d")


def vera_layer(layer: Any, name: str, inputs: Tensor) -> Tensor:
    base = layer.base_layer
    down, up = layer.vera_A[name][:, : layer.in_features], layer.vera_B[name][: layer.out_features]
    inner, outer = layer.vera_lambda_d[name], layer.vera_lambda_b[name]
    mask = dropout_mask(layer.vera_dropout[name], inputs)
    if linear.weight_trains(base):
        dropped = inputs if mask is None else inputs * mask
        result: Tensor = base(inputs) + ((dropped @ down.t().to(inputs)) * inner) @ up.t().to(inputs) * outer
        return result
    result = _VeRA.apply(inputs, mask, inner, outer, down, up, base.bias, linear.frozen_weight(base))  # type: ignore[no-untyped-call]
    return result.view(*inputs.shape[:-1], -1)


class _VeRA(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        mask: Tensor | None,
        inner: Tensor,
        outer: Tensor,
        down: Tensor,
        up: Tensor,
        bias: Tensor | None,
        own: FrozenWeight,
    ) -> Tensor:
        """Compute the output [N, M]: inputs and mask [..., K], inner [r], outer, bias [M], down [r, K], up [M, r]."""
        flat = inputs.reshape(-1, inputs.shape[-1])
        dropped = flat if mask is None else flat * mask.view(flat.shape)
        low = multiply(dropped, down.to(flat.dtype))
        high = multiply(low * inner, up.to(flat.dtype))
        ctx.save_for_backward(low, high, mask, inner, outer, down, up)
        ctx.own, ctx.shape = own, inputs.shape
        return own.product(flat, bias).addcmul_(high, outer)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        low, high, mask, inner, outer, down, up = ctx.saved_tensors
        grad = grads[0]
        grad_outer = (high * grad).sum(0)
        grad_within = multiply(grad * outer, up.t().to(grad.dtype))
        grad_inner = (low * grad_within).sum(0)
        grad_bias = grad.sum(0) if ctx.needs_input_grad[6] else None
        into = None
        if ctx.needs_input_grad[0]:
            into = ctx.own.transposed_product(grad)
            back = multiply(grad_within.mul_(inner), down.t().to(grad.dtype))
            into = (into.add_(back) if mask is None else into.addcmul_(back, mask.view(into.shape))).view(ctx.shape)
        return into, None, grad_inner, grad_outer, None, None, grad_bias, None


@dataclass(frozen=True, eq=False)
class VeraMatrices:
    """VeRA's random matrices A [r, K] and B [M, r], which many adapters share; no adapter's size includes them."""

    down: Tensor
    up: Tensor


@dataclass(frozen=True, eq=False)
class VeraChange(LayerChange):
    """Adds VeRA's l_b * B (l_d * A x) to W x + b in a mixed batch; inner is l_d [r], outer is l_b [M]."""

    inner: Tensor
    outer: Tensor
    shared: VeraMatrices

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        assert inputs is not None
        low = multiply(inputs, self.shared.down.to(inputs)) * self.inner
        outputs.addcmul_(multiply(low, self.shared.up.to(inputs)), self.outer)
