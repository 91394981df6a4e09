"""What every kernel asks of a layer of peft's before it takes its place. Knows no formula."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def is_alone(layer: Any, names: Sequence[str]) -> bool:
    """Whether a peft layer has one adapter, of `names`, which is active and not merged into the frozen weight."""
    return len(names) == 1 and names == list(layer.active_adapters) and not layer.disable_adapters and not layer.merged
