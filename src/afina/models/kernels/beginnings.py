"""Attention of several texts to the same beginning, whose keys and values were computed once.

The texts of a padding-free row are the rests of longer texts. A token attends to the beginning and to earlier tokens of
its own text. Both parts are computed apart and then merged by their softmax normalizers, so that the beginning's keys
are copied for no text. The module `beginnings` does not know models, and computes no gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from afina.models.kernels.layout import Layout

TILE = 256
"""Number of queries whose scores are computed at a time, so that the scores stay in the processor's cache."""


def attend_after(
    query: Tensor, key: Tensor, value: Tensor, columns: tuple[Tensor, Tensor], layout: Layout, scale: float
) -> Tensor:
    """Return the attention [T, H, D] of the tokens of a row to a common beginning and to their own texts.

    The queries are [H, T, D], key and value [G, T, D], and `columns` the beginning's keys and values, each [G, P, D],
    where G divides H and `layout.prefix` is P.
    """
    before, weight = _to_beginning(query, *columns, scale)
    own, own_weight = _to_own_text(query, key, value, layout, scale)
    share = torch.sigmoid(own_weight - weight.transpose(0, 1))
    return torch.lerp(before.transpose(0, 1), own, share).to(value.dtype).contiguous()


def _to_beginning(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return softmax(scale q k^T) v, float32 [H, T, D], and the logarithm of the normalizer, float32 [H, T, 1]."""
    groups, (heads, count, width) = key.shape[0], query.shape
    rows = (query * scale).reshape(groups, -1, width)
    mixed = rows.new_empty(rows.shape, dtype=torch.float32)
    weight = rows.new_empty(*rows.shape[:2], 1, dtype=torch.float32)
    for group in range(groups):
        for start in range(0, rows.shape[1], TILE):
            tile = slice(start, start + TILE)
            shares, weight[group, tile] = _softmax((rows[group, tile] @ key[group].t()).float())
            mixed[group, tile] = (shares.to(value.dtype) @ value[group]).float()
    return mixed.view(heads, count, width), weight.view(heads, count, 1)


def _to_own_text(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> tuple[Tensor, Tensor]:
    """Return each token's attention to its own text, float32 [T, H, D], and the normalizer's logarithm, [T, H, 1]."""
    grid, heads = layout.shared, query.shape[0]

    def lines(rows: Tensor) -> Tensor:  # [G or H, T, D] -> [H * N, L, D]
        filled = grid.fill(rows)
        if rows.shape[0] != heads:
            filled = filled.repeat_interleave(heads // rows.shape[0], 0)
        return filled.view(-1, grid.length, rows.shape[2])

    q, k, v = lines(query), lines(key), lines(value)
    scores = torch.bmm(q, k.transpose(1, 2)).float().mul_(scale)
    hidden = layout.hidden(None)[:, :, layout.prefix :]
    scores.view(heads, grid.lines, grid.length, -1).masked_fill_(hidden, float("-inf"))
    shares, weight = _softmax(scores)
    mixed = torch.bmm(shares.to(v.dtype), v).float()
    whole = (heads, grid.lines, grid.length, -1)
    return grid.read(mixed.view(whole)), grid.read(weight.view(whole))


def _softmax(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the softmax of scores [..., K], and the logarithm of its normalizer, [..., 1]."""
    shares = torch.softmax(scores, -1)
    # The largest share is exp(largest score - normalizer), and at least 1 / K.
    return shares, scores.amax(-1, keepdim=True) - shares.amax(-1, keepdim=True).log()
