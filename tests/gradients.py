"""Values and gradients of a layer's kernel, against those of the layer itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def compare(kernel: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor], layer: Any, trained: int) -> None:
    """Compare results and gradients, [2, 7, 6] -> [2, 7, 10], of the input and of `trained` parameters of the layer."""
    torch.manual_seed(4)
    inputs, upstream = torch.randn(2, 7, 6), torch.randn(2, 7, 10)

    def found(compute: Callable[[Tensor], Tensor]) -> list[Tensor]:
        torch.manual_seed(9)  # the mask
        given = inputs.clone().requires_grad_()
        layer.zero_grad()
        result = compute(given)
        result.backward(upstream)
        grads = [given.grad, *(parameter.grad for parameter in layer.parameters() if parameter.requires_grad)]
        return [result.detach(), *(grad.clone() for grad in grads if grad is not None)]

    expected = found(plain)
    assert len(expected) == 2 + trained
    for one, other in zip(expected, found(kernel), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5)
