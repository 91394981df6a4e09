"""The supported model families, and what differs between them. Knows names only."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

HEAD = "score"
"""Name of the classification head in every supported family."""

_SEPARATE = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class Block:
    """Names of the transformer blocks and inside one: h + attention(first_norm(h)), then + mlp(second_norm(...)).

    final_norm  after the last block
    parallel    both branches read the block's input, as in GPT-J (one norm for both) and GPT-NeoX
    """

    layers: str
    attention: str
    first_norm: str
    second_norm: str
    final_norm: str
    parallel: bool = False

    def index(self, name: str) -> int | None:
        """Which block the parameter of that name is in, counted from the first; None: none."""
        parts = name.split(".")
        for layers, number in pairwise(parts):
            if layers == self.layers and number.isdecimal():
                return int(number)
        return None


@dataclass(frozen=True)
class Family:
    """What differs.

    lora_targets      the attention input projections, LoRA's default
    output_embedding  the language model's last layer, as files of weights name it
    fan_in_fan_out    weights stored [in, out]
    """

    lora_targets: tuple[str, ...]
    block: Block
    output_embedding: str = "lm_head"
    fan_in_fan_out: bool = False


_LLAMA = Block("layers", "self_attn", "input_layernorm", "post_attention_layernorm", "norm")

FAMILIES: dict[str, Family] = {
    "gpt2": Family(("c_attn",), Block("h", "attn", "ln_1", "ln_2", "ln_f"), fan_in_fan_out=True),
    "gptj": Family(_SEPARATE, Block("h", "attn", "ln_1", "ln_1", "ln_f", parallel=True)),
    "gpt_neox": Family(
        ("query_key_value",),
        Block("layers", "attention", "input_layernorm", "post_attention_layernorm", "final_layer_norm", parallel=True),
        output_embedding="embed_out",
    ),
    "llama": Family(_SEPARATE, _LLAMA),
    "mistral": Family(_SEPARATE, _LLAMA),
    "qwen2": Family(_SEPARATE, _LLAMA),
    "qwen3": Family(_SEPARATE, _LLAMA),
}
"""By transformers' `model_type`."""


def is_head(name: str) -> bool:
    """Whether the layer or tensor of that name belongs to the classification head."""
    return HEAD in name.split(".")
