"""The number of replicas by their load."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray.serve", reason="needs the extra afina[ray]")

from afina.server.ray_serve.autoscaling import BUSY, FULL, QUEUED, ByWaitingTokens


def context(queued: list[float], busy: list[float], pending: float = 0.0) -> Any:
    names = [str(number) for number in range(len(busy))]
    found = {QUEUED: dict(zip(names, queued, strict=True)), BUSY: dict(zip(names, busy, strict=True))}
    return SimpleNamespace(
        aggregated_metrics=found,
        target_num_replicas=len(busy),
        current_num_replicas=len(busy),
        total_queued_requests=pending,
    )


@pytest.mark.parametrize(
    ("queued", "busy", "pending", "replicas"),
    [
        ([6000.0, 0.0], [0.1, 0.1], 0.0, 3.0),  # of 2,000 tokens each
        ([0.0, 0.0], [FULL, FULL], 0.0, 2.0),  # works without a queue: needed all the same
        ([0.0, 0.0], [FULL / 2, FULL / 2], 0.0, 1.0),
        ([0.0], [0.0], 1.0, 2.0),  # a request that no replica accepts
    ],
)
def test_replicas_follow_waiting_tokens_and_the_share_of_time_that_is_computed(
    queued: list[float], busy: list[float], pending: float, replicas: float
) -> None:
    needed, state = ByWaitingTokens(2000)(context(queued, busy, pending))
    assert needed == pytest.approx(replicas)
    assert state == {}


def test_without_statistics_the_number_stays() -> None:
    found = context([], [])
    found.aggregated_metrics, found.target_num_replicas = None, 3
    assert ByWaitingTokens(2000)(found) == (3, {})
