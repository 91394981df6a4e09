"""Attention over padding-free rows of several texts, for all models with transformers' `AttentionInterface`.

Each text of a row attends only to itself, causally or in both directions. On a CPU, the row is arranged as a grid of
lines (`layout.py`), so that the cost depends on the lengths of the texts and not on the square of the number of all
tokens. On a CUDA device, torch's kernel for sequences of varying length computes the row directly, if the kernel
supports the dtype and the sizes. The module `attention` does not know models.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface

from afina.models.added_modules import prefix_of
from afina.models.kernels.beginnings import attend_after
from afina.models.kernels.dropout_masks import by_text, weights_mask
from afina.models.kernels.key_values import KeyValueRow, RowSegment
from afina.models.kernels.layout import Layout, insert, take_out

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # the oldest torch that afina allows does not have it
    varlen_attn = None  # type: ignore[assignment]

NAME = "afina_packed"

SHORT = 256
"""Length of the longest text for which computing the whole score matrix on a CPU is faster than torch's tiled kernel;
the matrix is then also small."""


class _ShortAttention(torch.autograd.Function):
    """Computes softmax(scale q k^T) v for short texts arranged as a grid, with its backward pass.

    The head is the first axis of every tensor, so that no tensor is copied only to transpose it. Scores are normalised
    in float32, because softmax in bfloat16 is several times slower on a CPU, and less accurate. Empty cells of the grid
    attend only to each other and are never read, so their values and gradients have no effect. A prefix is put before
    the keys of every line of the grid, once for all texts in the line.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        first_key: Tensor | None,
        first_value: Tensor | None,
        layout: Layout,
        window: int | None,
        causal: bool,
        scale: float,
        rate: float,
    ) -> Tensor:
        """Compute [T, H, D] from query [H, T, D], key and value [G, T, D], and the prefix [G, P, D] or None."""
        grid = layout.shared
        heads, length, width = query.shape[0], grid.length, query.shape[2]

        def lines(rows: Tensor, first: Tensor | None = None) -> Tensor:  # [G or H, T, D] -> [H * N, P + L, D]
            filled = grid.fill(rows)
            if first is not None:
                filled = torch.cat([first[:, None].expand(-1, grid.lines, -1, -1), filled], 2)
            if rows.shape[0] != heads:
                filled = filled.repeat_interleave(heads // rows.shape[0], 0)
            return filled.view(-1, filled.shape[2], width)

        q, k, v = lines(query), lines(key, first_key), lines(value, first_value)
        scores = torch.bmm(q, k.transpose(1, 2)).float().mul_(scale)
        scores.view(heads, grid.lines, length, -1).masked_fill_(layout.hidden(window, causal=causal), float("-inf"))
        weights = torch.softmax(scores, dim=-1).to(q.dtype)
        mask = weights_mask(weights.shape, layout, rate, q.dtype, q.device) if rate else None
        mixed = torch.bmm(weights if mask is None else weights * mask, v)
        ctx.save_for_backward(q, k, v, weights, mask)
        ctx.grid, ctx.scale, ctx.groups = grid, scale, key.shape[0]
        return grid.read(mixed.view(heads, grid.lines, length, width))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weights, mask = ctx.saved_tensors
        grid, groups = ctx.grid, ctx.groups
        heads, length, width = q.shape[0] // grid.lines, grid.length, q.shape[2]

        upstream = grid.fill(grads[0].transpose(0, 1)).view(-1, length, width)
        mixing = weights if mask is None else weights * mask
        grad_v = torch.bmm(mixing.transpose(1, 2), upstream)
        grad_mixing = torch.bmm(upstream, v.transpose(1, 2))
        grad_weights = (grad_mixing if mask is None else grad_mixing.mul_(mask)).float()
        full = weights.float()
        grad_scores = torch._softmax_backward_data(grad_weights, full, -1, torch.float32).mul_(ctx.scale).to(q.dtype)
        grad_q = torch.bmm(grad_scores, k)
        grad_k = torch.bmm(grad_scores.transpose(1, 2), q)

        def rows(lines: Tensor, count: int) -> tuple[Tensor, Tensor | None]:
            filled = lines.view(heads, grid.lines, -1, width)
            if count != heads:
                filled = filled.view(count, heads // count, *filled.shape[1:]).sum(1)
            prefix = filled.shape[2] - length
            row: Tensor = grid.read(filled[:, :, prefix:])
            return row.transpose(0, 1), filled[:, :, :prefix].sum(1) if prefix else None

        (key, first_key), (value, first_value) = rows(grad_k, groups), rows(grad_v, groups)
        return rows(grad_q, heads)[0], key, value, first_key, first_value, None, None, None, None, None


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
    causal: bool = True,
    keep: dict[nn.Module, tuple[Tensor, Tensor]] | None = None,
    segments: Sequence[RowSegment] | None = None,
    cached: KeyValueRow | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Compute the attention of each text of a padding-free row to itself, and to the prefix of `module`, if any.

    Args:
        query: The queries [1, H, T, D]; key and value are [1, G, T, D], and G divides H.
        attention_mask: Ignored, because the layout determines which tokens attend to which.
        sliding_window: Number of tokens in each direction, itself included, that a token attends to besides a prefix.
        keep: A dictionary that receives the computed key and value by module, if given.
        segments: Parts of the row with an own prefix or computed as chunks, which together cover the row in order.
        cached: The cache in which keys and values are kept, and to which tokens that continue running texts attend.

    Returns:
        The attention's output [1, T, H, D], and None in place of attention weights.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key = query.to(value.dtype), key.to(value.dtype)  # rotary embeddings may have returned float32
    row = query.squeeze(0), key.squeeze(0), value.squeeze(0)
    if keep is not None:
        keep[module] = key, value
    if cached is not None:
        cached.write(module, row[1], row[2])
        if cached.read:
            return cached.attend(module, row[0], scale, sliding_window)[None], None
    if segments is None:
        columns = prefix.columns() if (prefix := prefix_of(module)) else None
        if cached is not None:
            cached.write_prefix(module, columns)
        return _attend(*row, columns, layout, scale, dropout, sliding_window, causal=causal)[None], None
    parts = [
        _attend_segment(module, row, segment, cached, scale, dropout, sliding_window, causal=causal)
        for segment in segments
    ]
    return torch.cat(parts)[None], None


def _attend_segment(
    module: nn.Module,
    row: tuple[Tensor, Tensor, Tensor],
    segment: RowSegment,
    cached: KeyValueRow | None,
    scale: float,
    dropout: float,
    window: int | None,
    *,
    causal: bool,
) -> Tensor:
    """Compute the output [T, H, D] of a segment with T cells of a row: query [H, ..., D], key and value [G, ..., D]."""
    cells, layout, prefixes, chunk, begins = segment
    query, key, value = (states[:, cells] for states in row)
    columns = None if prefixes is None else prefixes[module]
    if chunk is not None:
        return chunk.attend(module, (query, key, value), columns, scale, window)
    if cached is not None:
        cached.write_prefix(module, columns, cells)
    if begins:
        return _attend_after(query, key, value, columns, layout, scale, dropout, window)
    return _attend(query, key, value, columns, layout, scale, dropout, window, causal=causal)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    columns: tuple[Tensor, Tensor] | None,
    layout: Layout,
    scale: float,
    dropout: float,
    window: int | None,
    *,
    causal: bool,
) -> Tensor:
    row = query, key, value
    if window is not None and layout.longest <= window:
        window = None
    if _is_own(query, layout, dropout):
        first = columns or (None, None)
        mixed: Tensor = _ShortAttention.apply(*row, *first, layout, window, causal, scale, dropout)  # type: ignore[no-untyped-call]
        return mixed
    if columns is None:
        return _by_torch(*row, layout, scale, dropout, window, causal=causal)
    return _with_inserted(*row, columns, layout, scale, dropout, window, layout.prefix, causal=causal)


def _is_own(query: Tensor, layout: Layout, dropout: float) -> bool:
    """Whether `_ShortAttention` computes a row: short texts on a CPU, and all texts with dropout masks of afina's."""
    if query.device.type == "cuda":
        return bool(dropout) and by_text()
    return bool(dropout) or layout.longest <= SHORT


def _attend_after(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    columns: tuple[Tensor, Tensor] | None,
    layout: Layout,
    scale: float,
    dropout: float,
    window: int | None,
) -> Tensor:
    """Compute [T, H, D] for the rests of texts whose beginning has the keys and values `columns`; causal."""
    assert columns is not None
    assert not dropout
    if window is not None and layout.prefix + layout.longest <= window:
        window = None
    if query.device.type != "cuda" and layout.longest <= SHORT and window is None:
        return attend_after(query, key, value, columns, layout, scale)
    return _with_inserted(query, key, value, columns, layout, scale, 0.0, window, 0, causal=True)


def _with_inserted(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    columns: tuple[Tensor, Tensor],
    layout: Layout,
    scale: float,
    dropout: float,
    window: int | None,
    always: int,
    *,
    causal: bool,
) -> Tensor:
    longer = layout.extended
    unread = query.new_zeros(query.shape[0], layout.prefix, query.shape[2])
    q, k, v = (insert(rows, first, longer) for rows, first in zip((query, key, value), (unread, *columns), strict=True))
    return take_out(_by_torch(q, k, v, longer, scale, dropout, window, always, causal=causal), longer)


def _by_torch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    scale: float,
    dropout: float,
    window: int | None,
    always: int = 0,
    *,
    causal: bool,
) -> Tensor:
    """Compute [T, H, D] with torch's kernels; `always` as in `Grid.visible`."""
    if query.device.type == "cuda" and serves_varlen(query, dropout) and not (always and window):
        return _varlen(query, key, value, layout, scale, window, causal=causal)
    if not causal and window is not None and not always and 3 * window < layout.longest:
        return _by_blocks(query, key, value, layout, scale, dropout, window)
    grid = layout.single
    q, k, v = (grid.fill(states).transpose(0, 1) for states in (query, key, value))
    plain = causal and window is None
    mask = None
    if not causal and window is None:
        mask = None if grid.filled is None else grid.filled[:, None, None]  # no mask of the length's square
    elif not plain:
        mask = grid.visible(window, always, causal=causal)[:, None]
    mixed = scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=plain,
        scale=scale,
        enable_gqa=query.shape[0] != key.shape[0],
    )
    return grid.read(mixed.transpose(0, 1).contiguous())


def _by_blocks(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, dropout: float, window: int
) -> Tensor:
    """Compute the output [T, H, D] for a window in both directions, in time proportional to T times the window.

    The row is cut into blocks of `window` tokens. Each token attends only to tokens of its own block and of the two
    neighbouring blocks.
    """
    visible = layout.in_blocks(window)
    count, total = len(visible), query.shape[1]
    rest = count * window - total
    blocks = pad(query, (0, 0, 0, rest)).unflatten(1, (count, window)).transpose(0, 1)
    k, v = (pad(each, (0, 0, window, window + rest)).unfold(1, 3 * window, window) for each in (key, value))
    mixed = scaled_dot_product_attention(
        blocks,
        k.permute(1, 0, 3, 2),
        v.permute(1, 0, 3, 2),
        attn_mask=visible[:, None],
        dropout_p=dropout,
        scale=scale,
        enable_gqa=query.shape[0] != key.shape[0],
    )
    return mixed.transpose(1, 2).flatten(0, 1)[:total].contiguous()


def serves_varlen(query: Tensor, dropout: float) -> bool:
    """Whether torch's kernel for texts of varying length supports the input: half precision and no dropout."""
    if varlen_attn is None or "enable_gqa" not in inspect.signature(varlen_attn).parameters:
        return False
    half = query.dtype in (torch.bfloat16, torch.float16)
    width = query.shape[-1]
    new_enough = torch.cuda.get_device_capability(query.device) >= (8, 0)  # conditions of flash attention
    return half and not dropout and width <= 256 and width % 8 == 0 and new_enough


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float, window: int | None, *, causal: bool
) -> Tensor:
    bounds, longest = layout.bounds, layout.longest
    reach = -1 if window is None else window - 1
    mixed = varlen_attn(
        query.transpose(0, 1),
        key.transpose(0, 1),
        value.transpose(0, 1),
        bounds,
        bounds,
        longest,
        longest,
        scale=scale,
        window_size=(reach, 0 if causal else reach),
        enable_gqa=query.shape[0] != key.shape[0],
    )
    assert isinstance(mixed, Tensor)
    return mixed


AttentionInterface.register(NAME, packed_attention)
