"""peft's (IA)^3 and VeRA layers over a frozen weight: VeRA with a backward pass of its own, both in a mixed batch.

Equal to peft's but for rounding. (IA)^3 needs no kernel for a model of its own: peft calls the frozen layer and scales
once. VeRA is W x + b + l_b * B (l_d * A x), where all layers share random A and B that nothing trains, and cut from
them what they need. These stay float32 and are cast where they are used, which costs little beside the product and
keeps no copy. Knows the layout of peft's layer, not the model that it stands in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from afina.models.kernels import linear
from afina.models.kernels.layer_changes import LayerChange
from afina.models.kernels.linear import FrozenWeight, multiply
from afina.models.kernels.lora import dropout_mask, is_alone


def ia3_adapter(layer: nn.Module) -> str | None:
    """The adapter of a peft layer that has one and computes (IA)^3's formula, by name; None of any other layer."""
    return _adapter(layer, "ia3_l")


def vera_adapter(layer: nn.Module) -> str | None:
    """The adapter of a peft layer that has one and computes VeRA's formula, by name; None of any other layer."""
    return _adapter(layer, "vera_lambda_d")


def _adapter(layer: nn.Module, vectors: str) -> str | None:
    """`vectors`: the attribute of a peft layer in which it keeps them, by adapter."""
    if not hasattr(layer, vectors) or not linear.is_linear(getattr(layer, "base_layer", None)):
        return None
    names = list(getattr(layer, vectors))
    return names[0] if is_alone(layer, names) else None


@dataclass(frozen=True, eq=False)
class ScaledInput(LayerChange):
    """What the layer is given, times `by`, [K]."""

    by: Tensor

    def entering(self, inputs: Tensor) -> Tensor:
        """[N, K] -> [N, K]."""
        return inputs * self.by


@dataclass(frozen=True, eq=False)
class ScaledOutput(LayerChange):
    """What comes out of it, bias and all, times `by`, [M]."""

    by: Tensor

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        """outputs [N, M]."""
        outputs.mul_(self.by)


def vera_layer(layer: Any, name: str, inputs: Tensor) -> Tensor:
    """peft's VeRA layer. Any leading shape."""
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
    """The layer over a frozen W."""

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
        """inputs [..., K], mask of that shape, inner [r], outer, bias [M], down [r, K], up [M, r]; returns [N, M]."""
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
    """Random matrices [r, K], [M, r] that many adapters share: of none of them."""

    down: Tensor
    up: Tensor


@dataclass(frozen=True, eq=False)
class VeraChange(LayerChange):
    """What the layer adds to W x + b: l_b * B (l_d * A x). inner [r], outer [M]."""

    inner: Tensor
    outer: Tensor
    shared: VeraMatrices

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        """inputs [N, K], outputs [N, M]."""
        assert inputs is not None
        low = multiply(inputs, self.shared.down.to(inputs)) * self.inner
        outputs.addcmul_(multiply(low, self.shared.up.to(inputs)), self.outer)
