"""Virtual rows put before those of each sequence of a packed row, and taken out again. Knows no model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from afina.models.kernels.layout import Layout


def insert(rows: Tensor, virtual: Tensor, layout: Layout) -> Tensor:
    """The texts' rows [..., T - B K, D], and before each sequence the same K others [..., K, D]: [..., T, D].

    layout  of the T rows, in which K are `before` each sequence
    """
    result: Tensor = _Insert.apply(rows, virtual, *layout.cells)  # type: ignore[no-untyped-call]
    return result


def take_out(rows: Tensor, layout: Layout) -> Tensor:
    """Of rows [T, ...], the texts' alone."""
    result: Tensor = _TakeOut.apply(rows, layout.cells[0])  # type: ignore[no-untyped-call]
    return result


class _Insert(torch.autograd.Function):
    """By copies in both directions: torch's `index_select` adds up its gradient row by row, on a CPU one at a time."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, virtual: Tensor, own: Tensor, others: Tensor) -> Tensor:
        ctx.save_for_backward(own, others)
        ctx.count = virtual.shape[-2]
        repeats = len(others) // ctx.count
        whole = rows.new_empty(*rows.shape[:-2], len(own) + len(others), rows.shape[-1])
        whole.index_copy_(-2, own, rows)
        return whole.index_copy_(-2, others, virtual.repeat(*(1 for _ in rows.shape[:-2]), repeats, 1))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        own, others = ctx.saved_tensors
        rows = grad.index_select(-2, own) if ctx.needs_input_grad[0] else None
        virtual = None
        if ctx.needs_input_grad[1]:
            each = grad.index_select(-2, others)
            virtual = each.view(*each.shape[:-2], -1, ctx.count, each.shape[-1]).sum(-3)
        return rows, virtual, None, None


class _TakeOut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, own: Tensor) -> Tensor:
        ctx.save_for_backward(own)
        ctx.shape = rows.shape
        return rows.index_select(0, own)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (own,) = ctx.saved_tensors
        return grads[0].new_zeros(ctx.shape).index_copy_(0, own, grads[0]), None
