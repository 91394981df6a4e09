"""Attention over a packed row, for every model that goes through transformers' AttentionInterface.

Each sequence attends to itself only, causally. The row is gathered into a grid of one sequence a
line, so the cost follows the longest text of the batch, not the square of all its tokens. Cells past
a sequence's end repeat its last token; causality hides them from every real token, so they need no
mask and change nothing. Knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

NAME = "afina_packed"


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each token of a packed row of T tokens sits in the grid of B sequences by L positions.

    tokens  int64 [B * L]  the row's token in each cell
    cells   int64 [T]      the cell of each token
    """

    tokens: Tensor
    cells: Tensor
    batch: int
    longest: int

    @classmethod
    def of(cls, bounds: Tensor) -> Layout:
        """From the boundaries, int [B + 1]."""
        starts, ends = bounds[:-1].long(), bounds[1:].long()
        lengths = ends - starts
        longest = int(lengths.max())
        offsets = torch.arange(longest, device=bounds.device)
        tokens = torch.minimum(starts[:, None] + offsets, ends[:, None] - 1)
        real = offsets < lengths[:, None]
        return cls(tokens.reshape(-1), real.reshape(-1).nonzero()[:, 0], len(starts), longest)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each sequence of a packed row.

    query [1, H, T, D]; key, value [1, G, T, D] with G dividing H; returns [1, T, H, D].
    """

    def grid(states: Tensor) -> Tensor:  # [1, H, T, D] -> [B, H, L, D]
        rows = states[0].transpose(0, 1).index_select(0, layout.tokens)
        return rows.view(layout.batch, layout.longest, *rows.shape[1:]).transpose(1, 2)

    mask = None
    if sliding_window is not None and layout.longest > sliding_window:
        steps = torch.arange(layout.longest, device=query.device)
        distance = steps[:, None] - steps
        mask = (distance >= 0) & (distance < sliding_window)
    mixed = scaled_dot_product_attention(
        grid(query),
        grid(key),
        grid(value),
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    rows = mixed.transpose(1, 2).reshape(layout.batch * layout.longest, *query.shape[1::2])
    return rows.index_select(0, layout.cells)[None], None


AttentionInterface.register(NAME, packed_attention)
