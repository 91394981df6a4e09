"""A product's norm, distance from another and spaces, from the factors alone, are those of the whole product."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from afina.store.diff.weights import LowRankProduct, principal_angles

SHAPES = [(7, 5, 2), (5, 40, 3), (40, 5, 8), (6, 6, 9)]
"""Outputs, inputs, rank; among them a rank that neither side is as wide as."""


def drawn(outputs: int, inputs: int, rank: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> LowRankProduct:
    source = torch.Generator().manual_seed(seed)
    left = torch.randn(outputs, rank, generator=source, dtype=torch.float64)
    right = torch.randn(rank, inputs, generator=source, dtype=torch.float64)
    return LowRankProduct(left.to(dtype), right.to(dtype), scale=0.5 + seed)


def dense(product: LowRankProduct) -> torch.Tensor:
    return product.scale * product.left.double() @ product.right.double()


@pytest.mark.parametrize(("outputs", "inputs", "rank"), SHAPES)
def test_norm_and_distance_are_those_of_the_whole_product(outputs: int, inputs: int, rank: int) -> None:
    first, second = drawn(outputs, inputs, rank), drawn(outputs, inputs, rank + 1, seed=1)
    assert first.norm == pytest.approx(float(dense(first).norm()), rel=1e-12)
    assert first.distance(second) == pytest.approx(float((dense(first) - dense(second)).norm()), rel=1e-12)
    assert first.rank == min(outputs, inputs, rank)


@pytest.mark.parametrize(("outputs", "inputs", "rank"), SHAPES)
def test_angles_are_scipys(outputs: int, inputs: int, rank: int) -> None:
    first, second = drawn(outputs, inputs, rank), drawn(outputs, inputs, 2, seed=1)
    for place, turned in enumerate((lambda p: dense(p), lambda p: dense(p).T)):
        if rank <= min(outputs, inputs):  # scipy takes the columns as they are, dependent ones too
            factor = (first.left, first.right.T)[place], (second.left, second.right.T)[place]
            expected = np.sort(np.rad2deg(subspace_angles(*(each.numpy() for each in factor))))
            assert principal_angles(first.spaces[place], second.spaces[place]) == pytest.approx(expected, abs=1e-6)
        basis = first.spaces[place]
        assert torch.allclose(basis @ (basis.T @ turned(first)), turned(first))


def test_angles_tell_what_is_shared_from_what_is_not() -> None:
    whole = torch.eye(6, dtype=torch.float64)
    assert principal_angles(whole[:, :3], whole[:, 2:4]) == pytest.approx((0.0, 90.0), abs=1e-6)
    for degrees in (1e-5, 1.0, 44.9, 45.1, 89.9):
        at = np.deg2rad(degrees)
        leaning = whole[:, :1] * np.cos(at) + whole[:, 1:2] * np.sin(at)
        assert principal_angles(whole[:, :1], leaning) == pytest.approx((degrees,), rel=1e-9)
