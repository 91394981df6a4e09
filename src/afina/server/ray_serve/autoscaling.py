"""An autoscaling policy for replicas, by the number of waiting tokens and the share of time that replicas compute.

Ray Serve pickles this module by value into its controller, which does not import torch or the engine.
"""

from __future__ import annotations

from typing import Any

from ray.serve.config import AutoscalingContext

QUEUED, BUSY = "queued_tokens", "busy"  # the statistics that a replica reports for autoscaling
FULL = 0.8  # the share of its time for which a replica may be computing before further replicas are needed


class ByWaitingTokens:
    """An autoscaling policy of Ray Serve that depends on the number of waiting tokens.

    With the returned number of replicas, each has at most `tokens` waiting tokens and computes at most the share `FULL`
    of the time. Without the limit `FULL`, replicas that compute but have no queue would be removed.
    """

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        statistics = context.aggregated_metrics or {}
        queued, busy = statistics.get(QUEUED, {}), statistics.get(BUSY, {})
        if not busy:
            return context.target_num_replicas, {}
        needed = max(sum(queued.values()) / self._tokens, sum(busy.values()) / FULL)
        if context.total_queued_requests > 0:  # requests that no replica accepts
            needed = max(needed, context.current_num_replicas + 1)
        return needed, {}
