"""An autoscaling policy by the replicas' load: waiting tokens, and the share of time spent computing.

Serve pickles this module by value into its controller, which does not import torch or the engine.
"""

from __future__ import annotations

from typing import Any

from ray.serve.config import AutoscalingContext

QUEUED, BUSY = "queued_tokens", "busy"
"""Names of a replica's statistics."""

FULL = 0.8
"""Share of time in which a replica may compute before another one is needed."""


class ByWaitingTokens:
    """An autoscaling policy of Ray Serve.

    The policy returns the number of replicas with which each has at most `tokens` waiting tokens and computes at most
    `FULL` of the time. Without the second condition, busy replicas without a queue would be removed. Ray Serve keeps
    the number within its limits, and delays changes.

    Args:
        tokens: largest number of waiting tokens of a replica.
    """

    def __init__(self, tokens: int = 2048) -> None:
        self._tokens = tokens

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """Return the wanted number of replicas, and an empty state."""
        found = context.aggregated_metrics or {}
        queued, busy = found.get(QUEUED, {}), found.get(BUSY, {})
        if not busy:
            return context.target_num_replicas, {}
        needed = max(sum(queued.values()) / self._tokens, sum(busy.values()) / FULL)
        if context.total_queued_requests > 0:  # requests that no replica accepts
            needed = max(needed, context.current_num_replicas + 1)
        return needed, {}
