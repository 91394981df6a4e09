"""Matrix products in int8 for training: a frozen weight times inputs or gradients that are quantised at run time.

The forward product x W^T and the product g W for the gradients of the inputs multiply int8 codes, and oneDNN sums them
in int32. W has two sets of codes: one with a scale for each output channel, for the forward product, and one with a
scale for each input channel, for the backward product. In this way no product needs a scale inside its sum, and both
sets together take half the memory of a bfloat16 weight that is stored once for each direction. A row of inputs or of
gradients has its own scale max |row| / 127, so a token's result does not depend on other tokens.

Some input channels of a language model are 20 times as large as the others, so each input channel is divided by its own
factor before the inputs are quantised, and the weight's channel is multiplied by this factor, as in `int8_products`.
The backward product needs no factors: gradients have no such channels, and their rounding adds nothing to the error of
a step (docs/LOG.md).

Quantising has to cost little beside a product that takes half as long as in bfloat16. The largest absolute value of a
row is the largest integer among its bits without the sign bit. Layers that read the same tensor, such as the
projections to queries, keys and values, quantise it once. `docs/LOG.md` has the times, and what was slower. oneDNN is
faster for unsigned inputs, so codes are shifted by 128, and oneDNN subtracts the shift.

The module `int8_training` does not know models, methods or steps.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import local
from typing import Any, Self

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from afina.models.kernels.int8 import LEVELS, quantize
from afina.models.kernels.int8_products import SHIFT, SMALLEST, TensorIdentity
from afina.models.kernels.linear import FrozenWeight, HeldWeight

_BITS = {torch.bfloat16: (torch.int16, 0x7FFF), torch.float32: (torch.int32, 0x7FFFFFFF)}
"""The integer type of a float's bits, and the mask that removes the sign bit."""

ROWS = 512
"""Number of rows that are quantised and multiplied at once; more need more memory and are not faster."""

Codes = list[tuple[Tensor, Tensor]]
"""Quantised rows in blocks: codes plus SHIFT, uint8 [n, K], and scales [n, 1]."""


class Int8ProductsWeight(HeldWeight):
    """A frozen weight [M, K] stored as int8 in oneDNN's layout, once for each direction.

    Products have the dtype of their inputs. Weights that multiply the same inputs have the same tensor of `factors`,
    float32 [K], so that the inputs are quantised once. Without `backward`, the weight takes half the memory.
    """

    packed: Tensor
    scales: Tensor
    inverse: Tensor
    turned: Tensor
    turned_scales: Tensor
    like: Tensor

    def __init__(self, weight: Tensor, factors: Tensor, like: Tensor, *, backward: bool = True) -> None:
        super().__init__(weight)
        self._factors = factors
        packed, scales = _pack(weight * factors)
        turned, turned_scales = _pack(weight.t()) if backward else (packed.new_empty(0), scales.new_empty(0))
        self._keep(
            packed=packed,
            scales=scales,
            inverse=1 / factors,
            turned=turned,
            turned_scales=turned_scales,
            like=like.new_empty(0),
        )

    @classmethod
    def of(cls, own: FrozenWeight, factors: Tensor | None = None, *, backward: bool = True) -> Self:
        weight = own.dequantize()
        factors = torch.ones(weight.shape[1], device=weight.device) if factors is None else factors
        return cls(weight.float(), factors, weight, backward=backward)

    def product(self, inputs: Tensor, bias: Tensor | None = None) -> Tensor:
        codes = _last.codes_of(inputs, self._factors, self.inverse)
        return _multiply(codes, self.packed, self.scales, inputs.dtype, bias)

    def transposed_product(self, grads: Tensor) -> Tensor:
        return _multiply(quantize_rows(grads), self.turned, self.turned_scales, grads.dtype)

    def dequantize(self) -> Tensor:
        codes = self.packed.to_dense() if self.packed.is_mkldnn else self.packed
        return (codes.t() * self.scales[:, None] * self.inverse).to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the original weight, or of the last `to`."""
        return self.like.dtype

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        scales, inverse, turned = self.scales, self.inverse, self.turned_scales
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.scales, self.inverse, self.turned_scales = scales, inverse, turned
        return self


def quantize_rows(rows: Tensor) -> Codes:
    """Quantise bfloat16 or float32 rows [N, K], in blocks of about equal size.

    A row with NaN or infinity gets the scale NaN or infinity, so that every product with it shows it.
    """
    count = len(rows)
    if count <= ROWS:
        return [_quantize(rows)]
    return [_quantize(block) for block in rows.split(-(-count // -(-count // ROWS)))]


def _quantize(rows: Tensor) -> tuple[Tensor, Tensor]:
    bits, magnitude = _BITS[rows.dtype]
    largest = rows.view(bits).bitwise_and(magnitude).amax(1, keepdim=True).view(rows.dtype)
    scales = largest.mul_(1 / LEVELS).add_(SMALLEST)
    wide = rows.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    wide.mul_(scales.float().reciprocal()).round_()
    return wide.to(torch.int8).view(torch.uint8).bitwise_xor_(SHIFT), scales


def _multiply(codes: Codes, packed: Tensor, scales: Tensor, dtype: torch.dtype, bias: Tensor | None = None) -> Tensor:
    rows, wide = sum(len(block) for block, _ in codes), len(scales)
    zeros = torch.zeros(wide, dtype=torch.int64, device=scales.device)
    if len(codes) == 1:
        ((block, sizes),) = codes
        sums = _sums(block, packed, scales, zeros, dtype)
        return sums.mul_(sizes) if bias is None else torch.addcmul(bias.to(dtype), sums, sizes, out=sums)
    result = scales.new_empty(rows, wide, dtype=dtype)
    at = 0
    for block, sizes in codes:
        into = result[at : at + len(block)]
        sums = _sums(block, packed, scales, zeros, dtype)
        if bias is None:
            torch.mul(sums, sizes, out=into)
        else:
            torch.addcmul(bias.to(dtype), sums, sizes, out=into)
        at += len(block)
    return result


def _sums(codes: Tensor, packed: Tensor, scales: Tensor, zeros: Tensor, dtype: torch.dtype) -> Tensor:
    if isinstance(codes, FakeTensor):
        return scales.new_empty(len(codes), len(scales), dtype=dtype)
    given = (codes, 1.0, SHIFT, packed, scales, zeros, None, 1.0, 0, dtype)
    sums: Tensor = torch.ops.onednn.qlinear_pointwise(*given, "none", [], "")
    return sums


def _pack(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a weight's codes in oneDNN's layout, and the scale of each output channel, float32 [M]."""
    codes, scales = quantize(weight)
    if isinstance(codes, FakeTensor):
        return codes.t().contiguous(), scales
    return torch.ops.onednn.qlinear_prepack(codes, None), scales


class _Last(local):
    """The last quantised inputs of each thread, because several layers read one tensor; keeps no inputs alive."""

    codes: Codes | None = None
    of: TensorIdentity | None = None
    factors: Tensor | None = None

    def codes_of(self, inputs: Tensor, factors: Tensor, inverse: Tensor) -> Codes:
        """Return the quantised rows of `inputs` divided by `factors` [K], computed unless they are the last ones."""
        if inputs.is_inference():  # changes in place could not be seen
            return quantize_rows(inputs * inverse.to(inputs.dtype))
        if self.codes is None or self.of is None or factors is not self.factors or not self.of.is_of(inputs):
            self.codes = quantize_rows(inputs * inverse.to(inputs.dtype))
            self.of, self.factors = TensorIdentity(inputs), factors
        return self.codes


_last = _Last()
