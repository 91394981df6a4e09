"""Cheaper equivalents of what a model computes needlessly. Each gives the plain module's result, but for rounding.

Nothing here adds, renames or moves a parameter: modules without parameters are exchanged, and the
forward of some others is replaced on the instance. `tests/test_lean.py` holds each to the plain one.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from afina.dropout import Dropout
from afina.families import FAMILIES, Block


def lean(model: Any, body: Any) -> None:
    """Exchange, in place, what has a cheaper equivalent. May be called again after a wrap.

    model  everything, perhaps wrapped by peft;  body  the transformer in it, without the head
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p).train(child.training))
            elif type(child).__name__ == "NewGELUActivation":
                setattr(parent, name, TanhGELU())
        if hasattr(parent, "lora_A") and isinstance(getattr(parent, "base_layer", None), nn.Module):
            _lean_lora(parent)
    family = FAMILIES[body.config.model_type]
    last = getattr(body, family.block.layers)[-1]
    last.forward = partial(last_block, last, family.block)


class TanhGELU(nn.Module):
    """transformers' `gelu_new` in one kernel instead of eight."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Any shape."""
        return gelu(inputs, approximate="tanh")


def _lean_lora(layer: Any) -> None:
    names = list(layer.lora_A)
    plain = (
        len(names) == 1
        and names == list(layer.active_adapters)
        and not layer.disable_adapters
        and not layer.merged
        and not any(layer.use_dora.values())
        and not getattr(layer, "lora_variant", {})
        and not any(layer.lora_bias.values())
        and isinstance(layer.lora_A[names[0]], nn.Linear)
    )
    if plain:
        layer.forward = partial(lora_layer, layer, names[0])


def lora_layer(layer: Any, name: str, inputs: Tensor) -> Tensor:
    """peft's LoRA layer: W x + b + scaling B A dropout(x), the last product and the sum in one kernel."""
    result: Tensor = layer.base_layer(inputs)
    low_rank = layer.lora_A[name](layer.lora_dropout[name](inputs))
    weight = layer.lora_B[name].weight
    flat = result.view(-1, result.shape[-1])
    flat = torch.addmm(flat, low_rank.view(-1, low_rank.shape[-1]), weight.t(), alpha=layer.scaling[name])
    return flat.view(result.shape)


def last_block(block: Any, names: Block, hidden: Tensor, *_: Any, layout: Any, **options: Any) -> Tensor:
    """The last block, whose output is read at each sequence's last token only: 0 elsewhere.

    Keys and values need every token; the residual stream and the MLP, two thirds of the block, only those.
    hidden [1, T, width] -> [1, T, width].
    """
    options.pop("cache", None)
    first, second = getattr(block, names.first_norm), getattr(block, names.second_norm)
    normed = first(hidden)
    options["attention_mask"] = None
    attended = getattr(block, names.attention)(normed, layout=layout, **options)[0].index_select(1, layout.last)
    stream = hidden.index_select(1, layout.last)
    after_attention = getattr(block, "post_attention_dropout", nn.Identity())
    after_mlp = getattr(block, "post_mlp_dropout", nn.Identity())
    attended = after_attention(attended)
    if names.parallel and getattr(block, "use_parallel_residual", True):
        stream = stream + attended + after_mlp(block.mlp(second(stream)))
    else:
        stream = stream + attended
        stream = stream + after_mlp(block.mlp(second(stream)))
    return hidden.new_zeros(hidden.shape).index_copy(1, layout.last, stream)
