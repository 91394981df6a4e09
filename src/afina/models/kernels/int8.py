"""A frozen weight stored as int8: one code for each number, and one scale for each output channel.

The forward and the backward pass use the same copy of the codes. Multiplication casts the codes to the compute dtype,
multiplies with oneDNN or torch, and scales the result: x W^T = (x codes^T) * scales, and g W = (g * scales) codes.
Codes and scales are exact in bfloat16, so that bfloat16 and float32 compute with the same weight. The module `int8`
does not know models.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from afina.models.kernels.linear import HeldWeight, multiply, multiply_fused

LEVELS = 127
"""The largest int8 code; the code -128 is not used, so that codes are symmetric."""

FORM = 1
"""Version of `quantize`; increase it when a weight would get other codes or scales."""

BLOCK = 1 << 22
"""Number of int8 codes that are cast at once, which limits the memory of a product; smaller blocks are not faster
(docs/LOG.md)."""

FEW_ROWS = 16
"""Maximum number of input rows in bfloat16 for which torch's int8 kernel for decoding is faster than a cast and a
product."""


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the codes, int8 [M, K], and the scales, float32 [M], of a float32 weight [M, K].

    The largest absolute value of a row has the code 127 or -127. Each scale is rounded to a bfloat16 value. The error
    of a weight is at most half a scale. A row with NaN or infinity gets a scale of NaN or infinity, so that every
    product shows it.
    """
    largest = weight.abs().amax(1).float()
    scales = (largest / LEVELS).to(torch.bfloat16).float().clamp_(min=_SMALLEST)
    codes = (weight / scales[:, None]).round_().clamp_(-LEVELS, LEVELS)
    return codes.to(torch.int8, memory_format=torch.contiguous_format), scales  # Conv1D's weight is a transposed view


def form() -> dict[str, object]:
    """Return everything on which int8 codes and scales depend besides the weight."""
    return {"version": FORM, "torch": torch.__version__, "processor": torch.backends.cpu.get_cpu_capability()}


_SMALLEST = 2.0**-100
"""The smallest scale, for which a bias divided by the scale is still finite. Smaller weights become 0."""


class Int8Weight(HeldWeight):
    """A weight stored as int8 codes with a float32 scale for each output channel; `to(dtype)` changes neither."""

    by_rows: ClassVar[bool] = True
    codes: Tensor
    scales: Tensor
    like: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight)
        if weight.is_meta:  # torch computes on this device in Python, a hundredth of a second for each weight
            codes, scales = weight.new_empty(weight.shape, dtype=torch.int8), weight.new_empty(weight.shape[0])
        else:
            codes, scales = quantize(weight)
        self._keep(codes=codes, scales=scales, like=weight.new_empty(0))

    def product(self, inputs: Tensor, bias: Tensor | None = None) -> Tensor:
        """Multiply inputs by the codes and scale the result; a bias is divided by the scales first."""
        rows, scales = self.codes.shape[0], self.scales.to(inputs.dtype)
        if _decodes(inputs):
            few: Tensor = torch._weight_int8pack_mm(inputs.contiguous(), self.codes, scales)
            return few if bias is None else few.add_(bias)
        if bias is not None:
            bias = (bias / self.scales).to(inputs.dtype)
        step = self._rows_at_once
        if step >= rows:
            return multiply_fused(inputs, self.codes.to(inputs.dtype), bias).mul_(scales)
        result = inputs.new_empty(inputs.shape[0], rows)
        for at in self._blocks:
            some = slice(at, at + step)
            codes = self.codes[some].to(inputs.dtype)
            part = multiply_fused(inputs, codes, None if bias is None else bias[some])
            torch.mul(part, scales[some], out=result[:, some])
        return result

    def transposed_product(self, grads: Tensor) -> Tensor:
        """Multiply scaled gradients by the codes; parts of a large weight are summed in float32."""
        rows, scaled = self.codes.shape[0], grads * self.scales.to(grads.dtype)
        step = self._rows_at_once
        if step >= rows:
            return multiply(scaled, self.codes.to(grads.dtype).t())
        result = grads.new_zeros(grads.shape[0], self.codes.shape[1], dtype=torch.float32)
        for at in self._blocks:
            result += multiply(scaled[:, at : at + step], self.codes[at : at + step].to(grads.dtype).t())
        return result.to(grads.dtype)

    def dequantize(self) -> Tensor:
        return (self.codes * self.scales[:, None]).to(self.dtype)

    @property
    def _rows_at_once(self) -> int:
        return max(1, BLOCK // self.codes.shape[1])

    @property
    def _blocks(self) -> range:
        rows, step = self.codes.shape[0], self._rows_at_once
        if isinstance(self.codes, FakeTensor):  # in a dry run (`afina.training.dry_run`), two need the memory of all
            rows = min(rows, 2 * step)
        return range(0, rows, step)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of products: that of the weight before quantization, or of the last `to`."""
        return self.like.dtype

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        scales = self.scales
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.scales = scales.to(self.codes.device)
        return self


def _decodes(inputs: Tensor) -> bool:
    """Whether torch's int8 kernel for decoding is faster for these inputs [N, K], and gives right results.

    torch's int8 kernel reads beyond the end of a row whose length is not a multiple of the processor's vector length;
    then it crashes or returns wrong numbers (torch 2.13).
    """
    rows, columns = inputs.shape
    fits = 0 < rows <= FEW_ROWS and columns % _VECTOR == 0
    return fits and inputs.device.type == "cpu" and inputs.dtype == torch.bfloat16


_VECTOR = 32
