"""TanhGELU against transformers' own, values and slopes."""

from __future__ import annotations

import pytest
import torch
from transformers.activations import NewGELUActivation

from afina.models.kernels import elementwise
from afina.models.kernels.elementwise import TanhGELU


def test_the_one_kernel_gelu_is_transformers_own() -> None:
    inputs = torch.linspace(-6, 6, 1001)
    torch.testing.assert_close(TanhGELU()(inputs), NewGELUActivation()(inputs), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gelus_slope_is_its_derivative(dtype: torch.dtype) -> None:
    inputs = torch.linspace(-8, 8, 3001, dtype=dtype, requires_grad=True)
    plain = inputs.detach().clone().requires_grad_()
    TanhGELU()(inputs).sum().backward()
    NewGELUActivation()(plain).sum().backward()
    assert inputs.grad is not None
    assert plain.grad is not None
    torch.testing.assert_close(inputs.grad, plain.grad, rtol=2e-6, atol=2e-6)


def test_gelu_of_more_than_one_piece_is_that_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = torch.randn(7, 13)
    expected = TanhGELU()(inputs)
    monkeypatch.setattr(elementwise, "_PIECE", 10)
    torch.testing.assert_close(TanhGELU()(inputs), expected, rtol=1e-6, atol=1e-6)
