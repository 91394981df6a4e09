"""GELU against transformers' own, values and slopes; dropout's rate, independence and gradients."""

from __future__ import annotations

import pytest
import torch
from transformers.activations import NewGELUActivation

from afina.models.kernels import elementwise
from afina.models.kernels.elementwise import Dropout, TanhGELU, scaled_mask


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


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5])
def test_dropout_drops_at_its_rate_independently_and_keeps_the_expectation(rate: float) -> None:
    torch.manual_seed(11)
    count = 400_000
    mask = scaled_mask((count,), rate, torch.float32, torch.device("cpu"))
    dropped = (mask == 0).double()
    spread = (rate * (1 - rate) / count) ** 0.5
    assert abs(dropped.mean().item() - rate) < 5 * spread + 2**-16
    assert mask.unique().tolist() == pytest.approx([0, 1 / (1 - rate)], abs=1e-4)
    for lag in (1, 2, 3, 4, 5):
        correlation = torch.corrcoef(torch.stack([dropped[:-lag], dropped[lag:]]))[0, 1]
        assert abs(correlation.item()) < 5 / count**0.5


def test_dropout_multiplies_values_and_gradients_by_the_same_mask_and_does_nothing_in_evaluation() -> None:
    torch.manual_seed(5)
    inputs = torch.ones(1000, requires_grad=True)
    layer = Dropout(0.3)
    result = layer(inputs)
    result.sum().backward()
    assert inputs.grad is not None
    assert 0 < (result == 0).sum() < 1000
    torch.testing.assert_close(inputs.grad, result.detach())
    assert layer.eval()(inputs) is inputs
