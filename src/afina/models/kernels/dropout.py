"""Dropout whose masks cost little: kept where a 16-bit random word is at least rate x 2^16.

`bernoulli_` took a fifth of a plain packed step on two cores; raw words of the same seeded generator take a
tenth of that. The rate is a multiple of 2^-16 and the scale is that rate's, so the expectation is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_WORDS = 1 << 16


def scaled_mask(shape: Sequence[int], rate: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of that shape: 0 with probability `rate`, else 1 / (1 - rate), from the device's default generator."""
    dropped = min(round(rate * _WORDS), _WORDS - 1)
    count = 1
    for size in shape:
        count *= size
    words = torch.empty(-(-count // 4), dtype=torch.int64, device=device).random_(-(2**63), None)
    mask = torch.empty(*shape, dtype=dtype, device=device)
    # Written in the wanted dtype at once: comparing to bool and converting takes four times as long on a CPU.
    torch.ge(words.view(torch.int16)[:count].view(*shape), dropped - _WORDS // 2, out=mask)
    return mask.mul_(_WORDS / (_WORDS - dropped))


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return inputs * mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return grads[0] * mask, None


class Dropout(nn.Module):
    """In place of `nn.Dropout`: the same distribution, other numbers.

    p  probability that an element becomes 0
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, inputs: Tensor) -> Tensor:
        """Any shape."""
        if not self.training or self.p == 0:
            return inputs
        mask = scaled_mask(inputs.shape, self.p, inputs.dtype, inputs.device)
        result: Tensor = _Masked.apply(inputs, mask)  # type: ignore[no-untyped-call]
        return result
