"""One hidden state of each sequence of a packed row, by a kind of pooling. Knows no model."""

from __future__ import annotations

import torch
from torch import Tensor

from afina.models.architectures import Pooling
from afina.models.kernels.layout import Layout


def pool(hidden: Tensor, layout: Layout, pooling: Pooling) -> Tensor:
    """Hidden states [T, D] -> [B, D]: of each text's own tokens, without the virtual ones before them."""
    if pooling == "last":
        return hidden.index_select(0, layout.bounds[1:].long() - 1)
    if pooling == "first":
        return hidden.index_select(0, layout.bounds[:-1].long() + layout.before)
    places = torch.arange(len(hidden), device=hidden.device)
    bounds = layout.bounds.long()
    sequence = torch.searchsorted(bounds[1:], places, right=True)
    own = places - bounds.index_select(0, sequence) >= layout.before
    total = hidden.new_zeros(len(bounds) - 1, hidden.shape[1], dtype=torch.float32)
    total = total.index_add(0, sequence, hidden.float() * own[:, None])
    return total / (bounds.diff() - layout.before)[:, None]
