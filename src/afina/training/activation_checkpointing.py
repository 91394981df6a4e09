"""Activation checkpointing: a block keeps its input for the backward pass, and is computed again there.

By torch's own `checkpoint` around each transformer block, whatever its forward is, with the same dropout masks: its
random state is restored for the second time. Knows no method.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from afina.models.architectures import blocks_of
from afina.models.kernels.patches import Patch, call_of, patch


def recompute(body: Any) -> None:
    """Checkpoint every block of `body`, a transformer without head, in place; in training only.

    Not through transformers' switch: its name changes between versions, and it passes by a forward that is replaced.
    """
    for block in blocks_of(body):
        patch(block, Patch.CHECKPOINT, _forward, call_of(block))


def _forward(block: nn.Module, forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    if block.training and torch.is_grad_enabled():
        return checkpoint(forward, *inputs, use_reentrant=False, **options)
    return forward(*inputs, **options)
