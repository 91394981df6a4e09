"""Attention over a packed row, for every model that goes through transformers' AttentionInterface.

Each sequence attends to itself only, causally. The row is gathered into a grid of one sequence a
line, so the cost follows the longest text of the batch, not the square of all its tokens. Cells past
a sequence's end repeat its last token; causality hides them from every real token, so they need no
mask and change nothing. Knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from afina.dropout import scaled_mask

NAME = "afina_packed"

SHORT = 256
"""Up to this length the whole score matrix is cheaper on a CPU than torch's tiled kernel, and small."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each token of a packed row of T tokens sits in the grid of B sequences by L positions.

    tokens  int64 [B * L]  the row's token in each cell
    cells   int64 [T]      the cell of each token
    last    int64 [B]      each sequence's last token
    hidden  bool [L, L]    what `unseen` has made, by window
    """

    tokens: Tensor
    cells: Tensor
    last: Tensor
    batch: int
    longest: int
    hidden: dict[int | None, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, bounds: Tensor) -> Layout:
        """From the boundaries, int [B + 1]."""
        starts, ends = bounds[:-1].long(), bounds[1:].long()
        lengths = ends - starts
        longest = int(lengths.max())
        offsets = torch.arange(longest, device=bounds.device)
        tokens = torch.minimum(starts[:, None] + offsets, ends[:, None] - 1)
        real = offsets < lengths[:, None]
        return cls(tokens.reshape(-1), real.reshape(-1).nonzero()[:, 0], ends - 1, len(starts), longest)

    def grid(self, rows: Tensor) -> Tensor:
        """[H, T, D] -> [H, B, L, D], contiguous."""
        return rows.index_select(1, self.tokens).view(rows.shape[0], self.batch, self.longest, rows.shape[2])

    def rows(self, grid: Tensor) -> Tensor:
        """[H, B, L, D] -> [T, H, D], contiguous."""
        return grid.view(grid.shape[0], -1, grid.shape[-1]).transpose(0, 1).index_select(0, self.cells)

    def unseen(self, window: int | None) -> Tensor:
        """The opposite of `visible`, made once for all layers of a batch."""
        if window not in self.hidden:
            self.hidden[window] = ~self.visible(window)
        return self.hidden[window]

    def visible(self, window: int | None) -> Tensor:
        """Whether a query (line) sees a key (column), bool [L, L]."""
        steps = torch.arange(self.longest, device=self.tokens.device)
        distance = steps[:, None] - steps
        return (distance >= 0) & (distance < (window or self.longest))


class _ShortAttention(torch.autograd.Function):
    """softmax(scale q k^T) v on the grid, with its backward pass.

    Batches are ordered by head first, so that the products need no copy but the gathering. Scores are normalised in
    float32: softmax of bfloat16 is several times slower on a CPU, and worse.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, hidden: Tensor, scale: float, rate: float
    ) -> Tensor:
        """query [H, T, D]; key, value [G, T, D]; hidden [L, L], the cells that no query sees; returns [T, H, D]."""
        heads, groups = query.shape[0], key.shape[0]
        length, width = layout.longest, query.shape[2]

        def lines(rows: Tensor) -> Tensor:  # [G or H, T, D] -> [H * B, L, D]
            grid = layout.grid(rows)
            if rows.shape[0] != heads:
                grid = grid.repeat_interleave(heads // rows.shape[0], 0)
            return grid.view(-1, length, width)

        q, k, v = lines(query), lines(key), lines(value)
        scores = torch.bmm(q, k.transpose(1, 2)).float().mul_(scale).masked_fill_(hidden, float("-inf"))
        weights = torch.softmax(scores, dim=-1)
        weights = weights.to(q.dtype)
        mask = scaled_mask(weights.shape, rate, q.dtype, q.device) if rate else None
        mixed = torch.bmm(weights if mask is None else weights * mask, v)
        ctx.save_for_backward(q, k, v, weights, mask)
        ctx.layout, ctx.scale, ctx.groups = layout, scale, groups
        return layout.rows(mixed.view(heads, layout.batch, length, width))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, mask = ctx.saved_tensors
        layout, groups = ctx.layout, ctx.groups
        length, width = layout.longest, q.shape[2]
        heads = q.shape[0] // layout.batch

        upstream = q.new_zeros(heads, layout.batch * length, width)
        upstream.index_copy_(1, layout.cells, grads[0].transpose(0, 1))
        upstream = upstream.view(-1, length, width)
        mixing = weights if mask is None else weights * mask
        grad_v = torch.bmm(mixing.transpose(1, 2), upstream)
        grad_mixing = torch.bmm(upstream, v.transpose(1, 2))
        grad_weights = (grad_mixing if mask is None else grad_mixing * mask).float()
        full = weights.float()
        grad_scores = torch._softmax_backward_data(grad_weights, full, -1, torch.float32).mul_(ctx.scale).to(q.dtype)
        grad_q = torch.bmm(grad_scores, k)
        grad_k = torch.bmm(grad_scores.transpose(1, 2), q)

        def rows(lines: Tensor, count: int) -> Tensor:  # [H * B, L, D] -> [G or H, T, D]
            grid = lines.view(heads, layout.batch, length, width)
            if count != heads:
                grid = grid.view(count, heads // count, *grid.shape[1:]).sum(1)
            row: Tensor = layout.rows(grid)
            return row.transpose(0, 1)

        return rows(grad_q, heads), rows(grad_k, groups), rows(grad_v, groups), None, None, None, None


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
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key = query.to(value.dtype), key.to(value.dtype)  # rotary embeddings may have widened them
    if query.device.type == "cpu" and (layout.longest <= SHORT or dropout):
        hidden = layout.unseen(sliding_window)
        mixed = _ShortAttention.apply(query[0], key[0], value[0], layout, hidden, scale, dropout)  # type: ignore[no-untyped-call]
        return mixed[None], None
    windowed = sliding_window is not None and layout.longest > sliding_window
    q, k, v = (layout.grid(states[0]).transpose(0, 1) for states in (query, key, value))
    grid = scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=layout.visible(sliding_window) if windowed else None,
        dropout_p=dropout,
        is_causal=not windowed,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return layout.rows(grid.transpose(0, 1).contiguous())[None], None


AttentionInterface.register(NAME, packed_attention)
