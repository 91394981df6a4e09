"""Frozen weights in 4-bit NormalFloat (NF4) with double quantization, as in QLoRA; kernels by bitsandbytes.

The codes and scales are those of bitsandbytes' `Linear4bit(quant_type="nf4", compress_statistics=True)`, so that
adapters trained on such layers have the same base weights in afina and in bitsandbytes. Each product dequantizes the
NF4 weight in the compute dtype. The layer of bitsandbytes itself is not used: on a CPU with AVX512-BF16, in evaluation,
that layer converts its weight to a layout without gradients, and rounds the scales to bfloat16. The module `nf4` does
not know models.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from math import prod
from typing import Any, Self

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from afina.models import problems
from afina.models.kernels.linear import HeldWeight, multiply

BLOCK, NESTED_BLOCK = 64, 256
"""Number of weights that share a scale (absmax), and number of scales that share a second scale."""

FORM = 1
"""Version of `Nf4Weight`; increase it when a weight would get other tensors."""

_PART = 1 << 20
"""Number of weights quantized at once, because bitsandbytes needs more than 16 bytes for each meanwhile."""


class Nf4Weight(HeldWeight):
    """A weight in NF4: two weights in a byte, an 8-bit scale for 64 weights, and a float32 scale for 256 such scales.

    Attributes:
        codes: Indices of two NormalFloat values in each byte, in the order of the rows, uint8 [M * K / 2, 1].
        absmax: The scale of each block of 64 weights, as an index of bitsandbytes' dynamic map, uint8 [blocks].
        nested_absmax: The scales of `absmax`, float32 [blocks / 256].
        offset: The mean of all scales, which is added to each scale, float32 scalar.
    """

    codes: Tensor
    absmax: Tensor
    nested_absmax: Tensor
    offset: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight)
        self._dtype = weight.dtype
        self._keep(**(_empty(weight) if _has_no_values(weight) else _quantized(weight)))

    def _apply(self, convert: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the weight's tensors with the model. A conversion to another dtype changes only the compute dtype."""
        self._dtype = convert(torch.empty(0, dtype=self._dtype, device=self.device)).dtype
        for name, tensor in self._buffers.items():
            assert tensor is not None
            bits = tensor.view(torch.int32) if tensor.is_floating_point() else tensor
            self._buffers[name] = convert(bits).view(tensor.dtype)
        return self

    def product(self, inputs: Tensor, bias: Tensor | None = None) -> Tensor:
        return multiply(inputs, self.dequantize(), bias)

    def transposed_product(self, grads: Tensor) -> Tensor:
        return multiply(grads, self.dequantize().t())

    def dequantize(self) -> Tensor:
        if _has_no_values(self.codes):
            _ = self.absmax.new_empty(self.absmax.shape, dtype=torch.float32)  # the scales, for memory figures
            return self.codes.new_empty(self._shape, dtype=self._dtype)
        kernels = _kernels()
        absmax = kernels.dequantize_blockwise(
            self.absmax, self.nested_absmax, _dynamic_map(self.device), NESTED_BLOCK, torch.float32
        )
        absmax += self.offset
        # Rows of one block, which threads share, not the weight's rows: if these do not end with a block, bitsandbytes'
        # kernel for AVX-512 uses the scales of other blocks.
        size = prod(self._shape)
        rows = [size // BLOCK, BLOCK] if size % BLOCK == 0 else [1, size]
        flat: Tensor = kernels.dequantize_4bit(self.codes, absmax, BLOCK, "nf4", rows, self._dtype)
        return flat.view(self._shape)

    @property
    def dtype(self) -> torch.dtype:
        """The compute dtype: that of the last conversion, or at first that of the original weight."""
        return self._dtype


def form() -> dict[str, object]:
    """Return everything on which the tensors of `Nf4Weight` depend besides the weight. Raises NotFound."""
    _kernels()
    return {
        "version": FORM,
        "torch": torch.__version__,
        "bitsandbytes": version("bitsandbytes"),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),  # the mean of all scales is summed in as many parts
    }


def _has_no_values(tensor: Tensor) -> bool:
    """Whether a tensor has a shape but no values, as in `training.dry_run`, which needs no bitsandbytes."""
    return tensor.is_meta or isinstance(tensor, FakeTensor)


def _empty(weight: Tensor) -> dict[str, Tensor]:
    blocks = -(-weight.numel() // BLOCK)
    return {
        "codes": weight.new_empty(((weight.numel() + 1) // 2, 1), dtype=torch.uint8),
        "absmax": weight.new_empty((blocks,), dtype=torch.uint8),
        "nested_absmax": weight.new_empty((-(-blocks // NESTED_BLOCK),), dtype=torch.float32),
        "offset": weight.new_empty((), dtype=torch.float32),
    }


def _quantized(weight: Tensor) -> dict[str, Tensor]:
    kernels, flat = _kernels(), weight.contiguous().view(-1)
    parts = [kernels.quantize_4bit(part, BLOCK, "nf4", torch.uint8) for part in flat.split(_PART)]
    scales = torch.cat([absmax for _, absmax in parts])
    offset = scales.mean()
    absmax, nested = kernels.quantize_blockwise(scales - offset, _dynamic_map(weight.device), NESTED_BLOCK)
    return {
        "codes": torch.cat([codes for codes, _ in parts]),
        "absmax": absmax,
        "nested_absmax": nested,
        "offset": offset,
    }


@cache
def _kernels() -> Any:
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # as in `afina.methods.peft`
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise problems.BITSANDBYTES_MISSING(extra="quant", package=error.name) from None
    return torch.ops.bitsandbytes


@cache
def _dynamic_map(device: torch.device) -> Tensor:
    """Return bitsandbytes' map from 8-bit codes to scales, float32 [256]."""
    from bitsandbytes.functional import create_dynamic_map

    with torch.inference_mode(False):
        made: Tensor = create_dynamic_map().to(device)
    return made
