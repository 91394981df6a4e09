"""Matrix products in int8: a frozen int8 weight times inputs that are quantised for each token at run time.

For a token x and an output channel with codes c and scale s, the product is (x / t . c) s t, where t = max |x| / 127
and x / t is rounded to integers. The products of integers are summed in int32 by oneDNN, so that only the rounding of x
and of the weight differs from a product of floats. The scale of a token does not depend on other tokens, so a token's
result does not depend on the other texts of a batch.

Some input channels of a language model are 20 times as large as the others, for every token. With one scale for all
channels, the rounding error would be large relative to the small channels. Each input channel is divided by its own
factor, and the weight's channel is multiplied by this factor (SmoothQuant: Xiao et al. 2023, equation 4 with alpha =
0.5). Layers that read the same tensor, such as the projections to queries, keys and values, have the same factors, and
the tensor is quantised once for all of them.

oneDNN is faster for unsigned inputs, so the codes of inputs are shifted by 128, and oneDNN subtracts the shift again.
For signed inputs, torch 2.13 uses a reference kernel that takes seconds (docs/LOG.md). The module `int8_products` does
not know models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import local
from typing import Any, Self

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from afina.models.kernels.int8 import LEVELS, quantize
from afina.models.kernels.linear import FrozenWeight, HeldWeight, multiply

SHIFT = 128
"""Number added to the int8 codes of inputs, which makes them unsigned."""

ROWS = 256
"""Number of input rows that are multiplied at once; more need more memory and are not faster (docs/LOG.md)."""

SMALLEST = 2.0**-100
"""The smallest scale of a token, so that a token of zeros is not divided by 0."""


class DynamicInt8Weight(HeldWeight):
    """A weight [M, K] stored as int8 in oneDNN's layout; its inputs are quantised at run time, for each token.

    Products have the dtype of the inputs. `factors` are those of the input channels, float32 [K]; `readers` weights
    share this tensor, and each multiplies the same inputs once before any of them gets other inputs.
    """

    packed: Tensor
    scales: Tensor
    inverse: Tensor
    zeros: Tensor
    like: Tensor

    def __init__(self, weight: Tensor, factors: Tensor, like: Tensor, readers: int = 1) -> None:
        super().__init__(weight)
        self._factors, self._readers = factors, readers
        codes, scales = quantize(weight * factors)
        self._keep(
            packed=torch.ops.onednn.qlinear_prepack(codes, None),
            scales=scales,
            inverse=1 / factors,
            zeros=torch.zeros(len(scales), dtype=torch.int64),
            like=like.new_empty(0),
        )

    @classmethod
    def of(cls, own: FrozenWeight, factors: Tensor, readers: int = 1) -> Self:
        weight = own.dequantize()
        return cls(weight.float(), factors, weight, readers)

    def product(self, inputs: Tensor, bias: Tensor | None = None) -> Tensor:
        dtype = inputs.dtype
        result = inputs.new_empty(len(inputs), self._shape[0])
        bias = None if bias is None else bias.to(dtype)
        for at, (shifted, scales) in enumerate(self._quantized(inputs)):
            into = result[at * ROWS : (at + 1) * ROWS]
            given = (shifted, 1.0, SHIFT, self.packed, self.scales, self.zeros, None, 1.0, 0, dtype)
            sums: Tensor = torch.ops.onednn.qlinear_pointwise(*given, "none", [], "")
            if bias is None:
                torch.mul(sums, scales, out=into)
            else:
                torch.addcmul(bias, sums, scales, out=into)
        return result

    def _quantized(self, inputs: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
        if self._readers == 1:
            return quantized_blocks(inputs, self.inverse)
        found = _last.found
        if found is None or not found.gives(inputs, self._factors, self):
            blocks = [*quantized_blocks(inputs, self.inverse, kept=True)]
            found = _last.found = _Quantized(blocks, inputs, self._factors)
        found.given.append(id(self))
        if len(found.given) == self._readers:
            _last.found = None
        return found.blocks

    def transposed_product(self, grads: Tensor) -> Tensor:
        """Slow but rare, because this form of int8 is only used for prediction."""
        return multiply(grads, self.dequantize().to(grads.dtype).t())

    def dequantize(self) -> Tensor:
        return (self.packed.to_dense().t() * self.scales[:, None] * self.inverse).to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the original weight, or of the last `to`."""
        return self.like.dtype

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        scales, inverse = self.scales, self.inverse
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.scales, self.inverse = scales, inverse
        return self


class TensorIdentity:
    """Which tensor something was computed from, without keeping the tensor alive."""

    def __init__(self, tensor: Tensor) -> None:
        self._storage, self._view = StorageWeakRef(tensor.untyped_storage()), _view(tensor)

    def is_of(self, tensor: Tensor) -> bool:
        """Whether `tensor` is the same part of the same storage, and was not changed in place since.

        A weak reference to a freed storage equals no other storage, even in the same memory. Changes of a tensor of the
        inference mode, which counts no changes, are not seen.
        """
        return _view(tensor) == self._view and StorageWeakRef(tensor.untyped_storage()) == self._storage


def _view(inputs: Tensor) -> tuple[object, ...]:
    version = None if inputs.is_inference() else inputs._version
    return inputs.storage_offset(), inputs.shape, inputs.stride(), inputs.dtype, version


class _Quantized:
    """Quantised inputs that several weights multiply, and the weights that have used them; keeps no inputs alive."""

    def __init__(self, blocks: Sequence[tuple[Tensor, Tensor]], inputs: Tensor, factors: Tensor) -> None:
        self.blocks, self.given = blocks, list[int]()
        self._of, self._factors = TensorIdentity(inputs), factors

    def gives(self, inputs: Tensor, factors: Tensor, to: DynamicInt8Weight) -> bool:
        """Whether the blocks belong to these inputs, and `to` has not used them: else its inputs are new."""
        return factors is self._factors and self._of.is_of(inputs) and id(to) not in self.given


class _Last(local):
    """The last inputs that several weights multiply, separately for each thread."""

    found: _Quantized | None = None


_last = _Last()


def quantized_blocks(inputs: Tensor, inverse: Tensor, *, kept: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """Quantise inputs [N, K] times `inverse` (1 / factors), float32 [K], in blocks of ROWS tokens.

    `kept`: whether the tensors of a block stay valid after the next block is computed.
    """
    count, columns = inputs.shape
    most = min(count, ROWS)
    wide, spare = torch.empty(most, columns), torch.empty(most, columns)
    codes = torch.empty(count if kept else most, columns, dtype=torch.int8)
    for at in range(0, count, ROWS):
        rows, begin = inputs[at : at + ROWS], at if kept else 0
        some = len(rows)
        scaled = wide[:some].copy_(rows).mul_(inverse)
        yield quantize_tokens(scaled, inputs.dtype, spare[:some], codes[begin : begin + some])


def quantize_tokens(inputs: Tensor, dtype: torch.dtype, spare: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the codes plus SHIFT, uint8 [N, K], and the scales [N, 1] in `dtype`, of float32 inputs [N, K].

    A token with NaN or infinity gets a scale of NaN or infinity, so its results are NaN or infinite. The inputs are
    overwritten, and divided by scales that are already rounded to `dtype`. `spare`, float32 [N, K], and `codes`, int8
    [N, K], are memory: allocating it for each product takes longer than the computation.
    """
    largest = torch.abs(inputs, out=spare).amax(1, keepdim=True)
    scales = largest.mul_(1 / LEVELS).clamp_(min=SMALLEST).to(dtype)
    codes.copy_(inputs.mul_(scales.float().reciprocal()).round_())
    return codes.view(torch.uint8).bitwise_xor_(SHIFT), scales
