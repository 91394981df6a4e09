"""A faster computation of peft's LoRA layers with a frozen weight, and LoRA in a mixed batch.

For a LoRA layer, afina's results equal those of peft except for rounding.

In a mixed batch, multiplying a few rows by a few ranks takes less time than calling the kernel. Adapters that are
neighbours in the row share a product, as long as this takes no longer than another call. In a shared product, each row
is also multiplied by the ranks of the neighbours, and a mask sets these results to 0. The module `lora` knows peft's
layers, but not models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from afina.models.kernels import linear
from afina.models.kernels.dropout_masks import scaled_mask
from afina.models.kernels.elementwise import Dropout
from afina.models.kernels.layer_changes import LayerChange, PlacedChange
from afina.models.kernels.linear import FrozenWeight

DORA = "DoraLinearVariant"
"""peft's name of the class that computes DoRA in a LoRA layer."""


def is_alone(layer: Any, names: Sequence[str]) -> bool:
    """Whether a peft layer has a single adapter, which is active and not merged into the frozen weight."""
    return len(names) == 1 and names == list(layer.active_adapters) and not layer.disable_adapters and not layer.merged


def adapter_of_vectors(layer: nn.Module, vectors: str) -> str | None:
    """Return the name of a peft layer's only adapter, if it is in the attribute `vectors`."""
    if not hasattr(layer, vectors) or not linear.is_linear(getattr(layer, "base_layer", None)):
        return None
    names = list(getattr(layer, vectors))
    return names[0] if is_alone(layer, names) else None


def lora_adapter(layer: nn.Module, variant: str | None = None) -> str | None:
    """Return the name of a peft layer's only adapter if it computes LoRA, or the `variant` of LoRA, such as `DORA`."""
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
    """Return the layers A and B of LoRA whose weights `lora_layer` and `dora_layer` read without calling the layers."""
    found: set[nn.Module] = set()
    for layer in model.modules():
        name = lora_adapter(layer) or lora_adapter(layer, DORA)
        if name is not None:
            peft_layer: Any = layer
            found |= {peft_layer.lora_A[name], peft_layer.lora_B[name]}
    return found


def dropout_mask(dropout: nn.Module, inputs: Tensor) -> Tensor | None:
    """Draw the factors by which dropout multiplies a layer's input; None: no dropout."""
    rate = dropout.p if isinstance(dropout, Dropout) and dropout.training else 0.0
    return scaled_mask(inputs.shape, rate, inputs.dtype, inputs.device) if rate else None


def lora_layer(layer: Any, name: str, inputs: Tensor) -> Tensor:
    """Compute peft's LoRA layer, W x + b + scaling B A dropout(x), for inputs with any leading shape."""
    base, dropout = layer.base_layer, layer.lora_dropout[name]
    down, up, scaling = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]
    if linear.weight_trains(base):
        result: Tensor = base(inputs) + (dropout(inputs) @ down.t()) @ up.t() * scaling
        return result
    mask = dropout_mask(dropout, inputs)
    result = _LoRA.apply(inputs, mask, down, up, base.bias, scaling, linear.frozen_weight(base))  # type: ignore[no-untyped-call]
    return result


class _LoRA(torch.autograd.Function):
    """A LoRA layer with a frozen W, which gets no gradient; each product is added in place."""

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
        """Compute the output [..., M]: inputs and mask [..., K], down [r, K], up [M, r], bias [M]."""
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


CALL_COST = {torch.float32: 3e7, torch.bfloat16: 2e8}
"""Floating-point operations that take as long as calling a matrix product, on two cores with both dtypes."""

Masks = dict[tuple[tuple[int, int, float], ...], Tensor]
"""Masks for shared products, by rows, rank and scaling of each neighbour: a row's own ranks have the scaling."""


@dataclass(frozen=True, eq=False)
class LoraChange(LayerChange):
    """Adds LoRA's scaling B A x to W x + b in a mixed batch; down is A [r, K], up is B transposed [r, M]."""

    down: Tensor
    up: Tensor
    scaling: float

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        assert inputs is not None
        outputs.addmm_(inputs @ self.down.t(), self.up, alpha=self.scaling)

    @property
    def rank(self) -> int:
        return len(self.down)

    @property
    def width(self) -> int:
        """K + M, the number of the layer's inputs plus its outputs."""
        return self.down.shape[1] + self.up.shape[1]


@dataclass(frozen=True, eq=False)
class SharedLoraChange(LayerChange):
    """Adds the LoRA of neighbours to their own rows in one product: down [R, K], up [R, M], a mask by rows."""

    down: Tensor
    up: Tensor
    masks: Mapping[int, Tensor]

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        assert inputs is not None
        outputs.addmm_((inputs @ self.down.t()).mul_(self.masks[len(outputs)]), self.up)


def share_products(changes: Sequence[PlacedChange], masks: Masks) -> list[PlacedChange]:
    """Return a layer's changes in order, with neighbouring LoRA changes joined where a shared product is faster.

    Missing masks are added to `masks`, which all layers share.
    """
    found: list[PlacedChange] = []
    run: list[tuple[LoraChange, PlacedChange]] = []
    begin = end = ranks = 0
    for one in changes:
        change, tokens = one.change, one.tokens
        if type(change) is not LoraChange:  # subclasses compute more than LoRA
            found += [*_as_one(run, masks), one]
            run = []
            continue
        ranks += change.rank
        if (
            not run
            or tokens.start != end
            or 2 * (tokens.stop - begin) * ranks * change.width > CALL_COST[change.down.dtype]
        ):
            found += _as_one(run, masks)
            run, begin, ranks = [], tokens.start, change.rank
        run.append((change, one))
        end = tokens.stop
    return [*found, *_as_one(run, masks)]


def _as_one(run: Sequence[tuple[LoraChange, PlacedChange]], masks: Masks) -> list[PlacedChange]:
    if len(run) < 2:
        return [one for _, one in run]
    changes, (_, first), (_, last) = [change for change, _ in run], run[0], run[-1]
    made = SharedLoraChange(
        torch.cat([change.down for change in changes]),
        torch.cat([change.up for change in changes]),
        dict(
            _mask(changes, where, masks)
            for where in ([one.tokens for _, one in run], [one.sequences for _, one in run])
        ),
    )
    tokens, sequences = slice(first.tokens.start, last.tokens.stop), slice(first.sequences.start, last.sequences.stop)
    return [PlacedChange(made, tokens, sequences)]


def _mask(changes: Sequence[LoraChange], slices: Sequence[slice], masks: Masks) -> tuple[int, Tensor]:
    """Return the number of rows of the neighbours, and the mask that keeps each row's own ranks."""
    rows = [each.stop - each.start for each in slices]
    key = tuple((count, change.rank, change.scaling) for count, change in zip(rows, changes, strict=True))
    if key not in masks:
        made = changes[0].down.new_zeros(sum(rows), sum(change.rank for change in changes))
        row = rank = 0
        for count, size, scaling in key:
            made[row : row + count, rank : rank + size] = scaling
            row, rank = row + count, rank + size
        masks[key] = made
    return sum(rows), masks[key]
