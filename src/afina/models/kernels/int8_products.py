"""Products in int8: a frozen weight in int8, multiplied by inputs that are quantised for each token at run time.

For a token x and an output channel with codes c and scale s, the result is (x / t . c) s t, where t = max |x| / 127 and
x / t is rounded to an integer. oneDNN adds up the products of integers in int32, so only the rounding of x and of the
weight differs from a product of floats. A token's scale does not depend on other tokens, so its result does not depend
on its batch.

Some input channels of a language model are 20 times as large as the others, for every token. With one scale for all
channels, little would be left of the others. So each channel of the inputs is divided by a factor, and the weight's
channel is multiplied by it (SmoothQuant: Xiao et al. 2023, equation 4 with alpha = 0.5). Layers that read one tensor,
such as the projections to queries, keys and values, have the same factors, and the tensor is quantised once for them.

oneDNN is faster for unsigned inputs: the codes of inputs are shifted by 128, and oneDNN subtracts the shift again. For
signed inputs, torch 2.13 takes a reference kernel that needs seconds (docs/LOG.md). The module does not know models.
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
"""Added to the codes of inputs, which makes them unsigned."""

ROWS = 256
"""Input rows that are multiplied at once. More rows take more memory, and are not faster (docs/LOG.md)."""

SMALLEST = 2.0**-100
"""The smallest scale of a token, so that a token of zeros is divided by a number."""


class DynamicInt8Weight(HeldWeight):
    """A weight [M, K] in int8, in oneDNN's order; inputs are quantised dynamically (at run time, for each token).

    Results are in the dtype of the inputs. `to(dtype)` keeps codes, scales and factors.

    Args:
        weight: float32 [M, K].
        factors: float32 [K], the factor of each input channel.
        like: A tensor of the compute dtype.
        readers: Number of weights that have this very tensor of factors, because they multiply the same inputs. Each
            of them multiplies the inputs once before any of them gets other inputs.
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
        """Return a weight in int8, given the weight in any form and the other arguments of the class."""
        weight = own.dequantize()
        return cls(weight.float(), factors, weight, readers)

    def product(self, inputs: Tensor, bias: Tensor | None = None) -> Tensor:
        """Quantise the inputs, multiply in int8, and scale the result by token in the dtype of the inputs."""
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
        """Multiply by the dequantised weight: nothing is trained in int8, so this is rare."""
        return multiply(grads, self.dequantize().to(grads.dtype).t())

    def dequantize(self) -> Tensor:
        """Return codes times scales, divided by the factors and rounded to `dtype`."""
        return (self.packed.to_dense().t() * self.scales[:, None] * self.inverse).to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the original weight, or of the last `to`."""
        return self.like.dtype

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        scales, inverse = self.scales, self.inverse
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.scales, self.inverse = scales, inverse
        return self


class _Quantized:
    """Quantised inputs that several weights multiply, and to which of them they were given. Keeps no inputs alive."""

    def __init__(self, blocks: Sequence[tuple[Tensor, Tensor]], inputs: Tensor, factors: Tensor) -> None:
        self.blocks, self.given = blocks, list[int]()
        self._storage, self._view, self._factors = StorageWeakRef(inputs.untyped_storage()), _view(inputs), factors

    def gives(self, inputs: Tensor, factors: Tensor, to: DynamicInt8Weight) -> bool:
        """Whether the blocks are of these inputs and factors, and the weight has not had them.

        A storage has no equal while a weak reference to it is left, even if its memory is used again. A weight that
        asks again is computing new inputs, possibly in the memory of the old ones.
        """
        same = factors is self._factors and _view(inputs) == self._view
        return same and StorageWeakRef(inputs.untyped_storage()) == self._storage and id(to) not in self.given


def _view(inputs: Tensor) -> tuple[object, ...]:
    """Return the part of its storage that a tensor is, and the number of changes in place if the tensor counts them."""
    version = None if inputs.is_inference() else inputs._version
    return inputs.data_ptr(), inputs.shape, inputs.stride(), inputs.dtype, version


class _Last(local):
    """The last inputs that several weights multiply, of each thread."""

    found: _Quantized | None = None


_last = _Last()


def quantized_blocks(inputs: Tensor, inverse: Tensor, *, kept: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the results of `quantize_tokens` for inputs [N, K] times `inverse`, float32 [K], in blocks of ROWS tokens.

    Args:
        inputs: float32 or bfloat16.
        inverse: 1 / factors.
        kept: Whether a block stays valid after the next one is computed.
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
    """Return codes plus SHIFT, uint8 [N, K], and scales [N, 1] in `dtype`, of float32 inputs [N, K].

    A token with NaN or infinity gets a scale of NaN or infinity, so its results are NaN or infinite.

    Args:
        inputs: The inputs, which are overwritten.
        dtype: float32 or bfloat16. Inputs are divided by a scale that is rounded to it already.
        spare: float32 [N, K], which is overwritten. New memory for each product takes longer than the computation.
        codes: int8 [N, K], which becomes the first result.
    """
    largest = torch.abs(inputs, out=spare).amax(1, keepdim=True)
    scales = largest.mul_(1 / LEVELS).clamp_(min=SMALLEST).to(dtype)
    codes.copy_(inputs.mul_(scales.float().reciprocal()).round_())
    return codes.view(torch.uint8).bitwise_xor_(SHIFT), scales
