"""The cross-entropy of each token under a language model's head, without storing the logits of all words.

With a head of 49,152 words, the float32 logits of 1,000 tokens take 190 MiB; log-probabilities and the gradient take
the same again. `token_losses` computes the logits of one block of words at a time, for all tokens, and keeps only
running sums (Milakov and Gimelshein 2018, "Online normalizer calculation for softmax"). If logits are computed in
blocks of words, each product reads each row of the head's weight once. If logits were computed in blocks of tokens,
each block would read the whole weight, and oneDNN would convert a bfloat16 weight to its own layout for each block.
`tests/models/kernels/test_token_loss.py` compares losses and gradients with torch's `cross_entropy`. The module
`token_loss` does not know models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from afina.models.kernels.linear import multiply

BLOCK_BYTES = 8 << 20


def token_losses(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return -log softmax(hidden weight^T + bias)[target] of each token in nats, float32 [M].

    The hidden states are [M, width], the weight [V, width] in their dtype, the targets int64 [M]. Products are computed
    in this dtype, everything else in float32. Gradients are those of `hidden`, and of `weight` and `bias` if they
    train. Raises IndexError if a target is not below V (on a CPU).
    """
    if not torch.is_grad_enabled():
        return _forward(hidden, weight, bias, targets, wants_gradient=False)[0]
    losses: Tensor = _TokenLosses.apply(hidden, weight, bias, targets)  # type: ignore[no-untyped-call]
    return losses


class _TokenLosses(torch.autograd.Function):
    """Token losses: with a frozen head, the forward pass also computes the gradient of `hidden`.

    If the head trains, its gradient depends on the incoming gradient of every token, so that the backward pass computes
    the gradients, and the logits a second time.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        ctx.trains = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        losses, total, rest, gradient = _forward(hidden, weight, bias, targets, wants_gradient=not ctx.trains)
        if ctx.trains:
            ctx.save_for_backward(hidden, weight, bias, targets, total, rest)
        else:
            ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.trains:
            return *_backward(ctx.saved_tensors, upstream, ctx.needs_input_grad), None
        (gradient,) = ctx.saved_tensors
        return (gradient * upstream[:, None]).to(gradient.dtype), None, None, None


def _forward(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, wants_gradient: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the losses [M], the log of the softmax's denominator [M], 1 - p(target) [M], and hidden's gradient.

    The target's word is left out of all sums and added last, so that 1 - p(target) has no cancellation where p is
    almost 1.
    """
    at_target = weight.index_select(0, targets)
    own = (hidden.float() * at_target.float()).sum(1)
    if bias is not None:
        own = own + bias.index_select(0, targets).float()
    peak, others = own, torch.zeros_like(own)
    gradient = hidden.new_zeros(hidden.shape, dtype=torch.float32) if wants_gradient else None
    for start, rows, logits in _blocks(hidden, weight, bias):
        _put(logits, targets - start, torch.full_like(own, -torch.inf))
        highest = torch.maximum(peak, logits.amax(1))
        shrink, peak = (peak - highest).exp_(), highest
        scores = logits.sub_(peak[:, None]).exp_()
        others = others * shrink + scores.sum(1)
        if gradient is not None:
            gradient.mul_(shrink[:, None]).add_(multiply(scores.to(hidden.dtype), rows.t()))
    denominator = others + (own - peak).exp()
    rest = others / denominator
    if gradient is not None:
        gradient = gradient.div_(denominator[:, None]).sub_(rest[:, None] * at_target).to(hidden.dtype)
    return denominator.log() - (own - peak), denominator.log() + peak, rest, gradient


def _backward(
    saved: Sequence[Any], upstream: Tensor, wanted: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    hidden, weight, bias, targets, total, rest = saved
    into = torch.zeros_like(hidden, dtype=torch.float32) if wanted[0] else None
    of_weight = torch.empty_like(weight) if wanted[1] else None
    of_bias = torch.empty_like(bias) if bias is not None and wanted[2] else None
    for start, rows, logits in _blocks(hidden, weight, bias):
        scores = logits.sub_(total[:, None]).exp_()
        _put(scores, targets - start, -rest)
        stop, scaled = start + len(rows), scores.mul_(upstream[:, None]).to(hidden.dtype)
        if into is not None:
            into.add_(multiply(scaled, rows.t()))
        if of_weight is not None:
            of_weight[start:stop] = multiply(scaled.t(), hidden.t())
        if of_bias is not None:
            of_bias[start:stop] = scores.sum(0)
    return None if into is None else into.to(hidden.dtype), of_weight, of_bias


def _blocks(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield, for each block of words, the first word, the weight's rows and the logits, float32 [M, words]."""
    words = max(BLOCK_BYTES // (4 * max(len(hidden), 1)), 1)
    for start in range(0, len(weight), words):
        rows = weight[start : start + words]
        logits = multiply(hidden, rows, None if bias is None else bias[start : start + words])
        yield start, rows, logits.float()


def _put(block: Tensor, columns: Tensor, values: Tensor) -> None:
    """Write values [M] into the block [M, words], each at one column of its row, unless it is outside.

    The shapes of all tensors are independent of values, so that a dry run works without values.
    """
    inside = (columns >= 0) & (columns < block.shape[1])
    at = columns.clamp(0, block.shape[1] - 1)[:, None]
    block.scatter_(1, at, torch.where(inside[:, None], values[:, None], block.gather(1, at)))
