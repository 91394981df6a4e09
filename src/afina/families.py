"""The supported model families, and what differs between them. Knows names only."""

from __future__ import annotations

from dataclasses import dataclass

HEAD = "score"
"""Name of the classification head in every supported family."""

_SEPARATE = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class Family:
    """lora_targets: the attention input projections, LoRA's default; fan_in_fan_out: weights stored [in, out]."""

    lora_targets: tuple[str, ...]
    fan_in_fan_out: bool = False


FAMILIES: dict[str, Family] = {
    "gpt2": Family(("c_attn",), fan_in_fan_out=True),
    "gptj": Family(_SEPARATE),
    "gpt_neox": Family(("query_key_value",)),
    "llama": Family(_SEPARATE),
    "mistral": Family(_SEPARATE),
    "qwen2": Family(_SEPARATE),
    "qwen3": Family(_SEPARATE),
}
"""By transformers' `model_type`."""
