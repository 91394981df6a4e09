"""The last transformer block, computed where its output is read. Knows the names inside a block of every family."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from afina.models.architectures import Block, PreNorm


def last_block(
    block: Any, names: Block, norms: PreNorm, hidden: Tensor, *_: Any, layout: Any, **options: Any
) -> Tensor:
    """The last block, whose output is read at each sequence's last token only: 0 elsewhere.

    Keys and values need every token; the residual stream and the MLP, two thirds of the block, only those.
    hidden [1, T, width] -> [1, T, width].
    """
    options.pop("cache", None)
    first, second = getattr(block, norms.first), getattr(block, norms.second)
    normed = first(hidden)
    options["attention_mask"] = None
    attended = block.get_submodule(names.attention)(normed, layout=layout, **options)[0].index_select(1, layout.last)
    stream = hidden.index_select(1, layout.last)
    mlp = block.get_submodule(names.mlp)
    after_attention = getattr(block, "post_attention_dropout", nn.Identity())
    after_mlp = getattr(block, "post_mlp_dropout", nn.Identity())
    attended = after_attention(attended)
    if norms.parallel and getattr(block, "use_parallel_residual", True):
        stream = stream + attended + after_mlp(mlp(second(stream)))
    else:
        stream = stream + attended
        stream = stream + after_mlp(mlp(second(stream)))
    return hidden.new_zeros(hidden.shape).index_copy(1, layout.last, stream)
