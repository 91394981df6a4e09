"""Products in int8 for training: equal to exact integer arithmetic in both directions, for each row alone."""

from __future__ import annotations

import pytest
import torch
from test_int8_products import has_int8
from torch import Tensor, nn

from afina.models.kernels import int8_training
from afina.models.kernels.int8 import Int8Weight, quantize
from afina.models.kernels.int8_calibration import smoothing
from afina.models.kernels.int8_training import ROWS, Int8ProductsWeight, quantize_rows
from afina.models.kernels.linear import PlainWeight, frozen_weight
from afina.models.kernels.patches import multiply_in_int8
from afina.training.dry_run import FakeTensorMode

SHAPES = [(1, 8, 1), (2, 1, 3), (3, 31, 40), (17, 130, 48), (64, 96, 130), (ROWS, 7, 5), (ROWS + 1, 33, 7)]
"""Rows, inputs and outputs, most of them no multiples of a vector's length."""


@pytest.fixture(autouse=True)
def _int8() -> None:
    if not has_int8():
        pytest.skip("the processor has no instructions for int8")


def numbers(*shape: int, seed: int = 0, size: float = 1.0) -> Tensor:
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exact(rows: Tensor, weight: Tensor) -> Tensor:
    """The product of codes and scales in float64: rows [N, K], weight [M, K]."""
    scales = (rows.abs().amax(1, keepdim=True) / 127).to(rows.dtype)
    codes = (rows.float() / scales.float()).round().double()
    own, sizes = quantize(weight)
    return (codes @ own.double().t()) * scales.double() * sizes.double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_both_products_are_those_of_integers(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    count, inputs, outputs = shape
    weight = numbers(outputs, inputs)
    held = Int8ProductsWeight(weight, torch.ones(weight.shape[1]), weight.to(dtype))
    rows, grads = numbers(count, inputs, seed=1).to(dtype), numbers(count, outputs, seed=2, size=1e-6).to(dtype)
    bias = numbers(outputs, seed=3).to(dtype)
    near = {torch.float32: 1e-6, torch.bfloat16: 2 * 2.0**-8}[dtype]  # bfloat16 rounds the sum and the result
    for found, right in [
        (held.product(rows), exact(rows, weight)),
        (held.product(rows, bias), exact(rows, weight) + bias.double()),
        (held.transposed_product(grads), exact(grads, weight.t())),
    ]:
        assert (found.dtype, found.shape) == (dtype, right.shape)
        assert (found.double() - right).norm() <= near * right.norm()
    right = rows.float() @ weight.t()
    assert (held.product(rows).float() - right).norm() < 0.04 * right.norm()


def test_a_rows_result_does_not_depend_on_other_rows() -> None:
    weight, rows = numbers(48, 96), numbers(ROWS + 40, 96, seed=1).bfloat16()
    held = Int8ProductsWeight(weight, torch.ones(weight.shape[1]), rows)
    rows[3] *= 1000
    together = held.product(rows)
    assert torch.equal(together[5:90], held.product(rows[5:90]))
    assert torch.equal(together[-1:], held.product(rows[-1:].clone()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_shows_in_its_own_row_alone(bad: float) -> None:
    rows = numbers(4, 96)
    held = Int8ProductsWeight(numbers(48, 96, seed=1), torch.ones(96), rows)
    rows[2, 7] = bad
    assert held.product(rows).isfinite().all(1).tolist() == [True, True, False, True]
    assert held.transposed_product(rows[:, :48]).isfinite().all(1).tolist() == [True, True, False, True]


def test_rows_of_zeros_and_of_tiny_numbers_are_multiplied() -> None:
    rows = torch.stack([torch.zeros(96), numbers(96, size=1e-20), numbers(96, seed=1, size=1e20)])
    weight = numbers(48, 96, seed=2)
    found, right = (
        Int8ProductsWeight(weight, torch.ones(weight.shape[1]), rows).product(rows).double(),
        rows.double() @ weight.double().t(),
    )
    assert found[0].eq(0).all()
    assert ((found - right)[1:].norm(dim=1) < 0.02 * right[1:].norm(dim=1)).all()


def test_factors_keep_small_channels_beside_large_ones() -> None:
    rows, weight = numbers(40, 96), numbers(48, 96, seed=1)
    rows[:, 5] *= 100
    right = rows @ weight.t()
    factors = smoothing(rows, weight)
    plain, smoothed = (
        (Int8ProductsWeight(weight, one, rows).product(rows) - right).norm() / right.norm()
        for one in (torch.ones(96), factors)
    )
    assert smoothed < plain / 2
    held = Int8ProductsWeight(weight, factors, rows)
    assert (held.transposed_product(right) - right @ weight).norm() < 0.02 * (right @ weight).norm()


def test_layers_that_read_one_tensor_quantise_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    monkeypatch.setattr(int8_training, "quantize_rows", lambda rows: counts.append(len(rows)) or quantize_rows(rows))
    rows = numbers(5, 96)
    factors = torch.ones(96)
    some = [Int8ProductsWeight(numbers(48, 96, seed=seed), factors, rows) for seed in (1, 2)]
    first = [one.product(rows) for one in some]
    assert counts == [5]
    rows.mul_(2)
    assert torch.equal(some[0].product(rows), 2 * first[0]), "a tensor that was changed in place is another one"
    some[0].product(rows[1:])
    some[0].product(rows.clone())
    assert counts == [5, 5, 4, 5]
    other = Int8ProductsWeight(numbers(48, 96, seed=1), 2 * factors, rows)
    assert torch.allclose(other.product(rows.mul_(1)), some[0].product(rows), rtol=1e-6, atol=1e-6)
    assert counts == [5, 5, 4, 5, 5, 5], "other factors are other codes"


def test_a_linear_layer_learns_through_int8_products() -> None:
    layer = nn.Linear(96, 48)
    layer.weight.requires_grad_(False)
    plain, rows = frozen_weight(layer).dequantize().clone(), numbers(7, 96).requires_grad_()
    held = multiply_in_int8(layer)
    (layer(rows) * numbers(7, 48, seed=1)).sum().backward()
    right = numbers(7, 48, seed=1) @ plain
    assert rows.grad is not None
    assert (rows.grad - right).norm() < 0.02 * right.norm()
    assert layer.bias.grad is not None
    assert (held.dequantize() - plain).abs().amax() <= plain.abs().amax() / 127
    assert Int8ProductsWeight.of(PlainWeight(plain), backward=False).turned.numel() == 0


def test_a_weight_in_int8_keeps_its_codes() -> None:
    own = Int8Weight(numbers(48, 96))
    held = Int8ProductsWeight.of(own)
    assert torch.equal(held.dequantize(), own.dequantize())


def test_a_dry_run_has_the_same_shapes_and_bytes() -> None:
    def made() -> tuple[list[int], list[torch.Size]]:
        weight, rows = torch.ones(48, 96), torch.ones(ROWS + 1, 96)
        held = Int8ProductsWeight(weight, torch.ones(weight.shape[1]), weight)
        results = held.product(rows), held.transposed_product(rows[:, :48])
        return [each.nbytes for each in held.tensors], [each.shape for each in results]

    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = made()
    assert fake == made()
