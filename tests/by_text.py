"""The gradients of a batch in one part, in micro-batches and in the shares of several processes, without processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from afina.data.batch import MicroBatchLimits
from afina.ranks import Ranks
from afina.training.fit import Fit

TOLERANCE = 1e-5


class Whole(Ranks):
    """One of two processes, with all texts of each batch."""

    def share(self, sizes: np.ndarray) -> np.ndarray:
        return np.arange(len(sizes))


WHOLE = [Whole(0, 2)]
PARTS: dict[str, tuple[Sequence[Ranks], dict[str, int]]] = {
    "micro-batches": (WHOLE, {"tokens": 70}),
    "2 ranks": ([Ranks(rank, 2) for rank in range(2)], {}),
    "3 ranks with micro-batches": ([Ranks(rank, 3) for rank in range(3)], {"examples": 2}),
}


def gradients(fit: Fit, ranks: Sequence[Ranks] = WHOLE, **limits: int) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of the first batch and its gradients, summed over the parts of these processes."""
    loss = 0.0
    fit.weights.clear()
    for rank in ranks:
        fit.recipe = replace(fit.recipe, at_once=MicroBatchLimits(ranks=rank, **limits))
        fit.inputs = type(fit.inputs)(fit.classifier, fit.loader, fit.recipe)
        fit.begin()
        batch = next(fit.inputs.batches(0, 1))
        fit.inputs.prepare(0)
        for part in fit.inputs.parts(batch):
            own = fit._loss(part) * (part.learnt / fit.inputs.learnt(batch))
            own.backward()
            loss += own.item()
    return loss, {name: each.grad.cpu().clone() for name, each in fit.weights.trained.items() if each.grad is not None}


Gradients = tuple[float, dict[str, torch.Tensor]]


def assert_close(found: Gradients, expected: Gradients, tolerance: float = TOLERANCE) -> None:
    assert found[0] == pytest.approx(expected[0], rel=tolerance)
    assert found[1].keys() == expected[1].keys()
    scale = max(float(each.abs().max()) for each in expected[1].values())
    assert scale > 1e-4
    for name, each in expected[1].items():
        assert (found[1][name] - each).abs().max() <= tolerance * scale, name


def assert_by_text(fit: Fit) -> None:
    """The parts have the gradients of the whole batch, which masks of another seed change."""
    whole = gradients(fit)
    assert gradients(fit)[0] == whole[0]
    for ranks, limits in PARTS.values():
        assert_close(gradients(fit, ranks, **limits), whole)
    fit.recipe = replace(fit.recipe, seed=1)
    assert gradients(fit)[0] != pytest.approx(whole[0], rel=1e-4)
