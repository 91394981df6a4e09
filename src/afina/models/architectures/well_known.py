"""Configurations of well-known models, so that afina can count parameters and plan runs without a network."""

from __future__ import annotations

from typing import Any


def _gpt2(layers: int, heads: int, width: int) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "vocab_size": 50257,
        "n_positions": 1024,
        "n_layer": layers,
        "n_head": heads,
        "n_embd": width,
    }


def _llama(layers: int, heads: int, width: int, inner: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "hidden_size": width,
        "intermediate_size": inner,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    }


def _small_bert(layers: int) -> dict[str, Any]:
    return {
        "model_type": "bert",
        "vocab_size": 30522,
        "type_vocab_size": 2,
        "max_position_embeddings": 512,
        "num_hidden_layers": layers,
        "num_attention_heads": 12,
        "hidden_size": 384,
        "intermediate_size": 1536,
        "pad_token_id": 0,
    }


WELL_KNOWN: dict[str, dict[str, Any]] = {
    "embedded": {
        **_llama(30, 9, 576, 1536),
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
        "num_key_value_heads": 3,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    },
    "bge": _small_bert(12),
    "minilm": _small_bert(6),
    "gpt2": _gpt2(12, 12, 768),
    "gpt2-medium": _gpt2(24, 16, 1024),
    "gpt2-large": _gpt2(36, 20, 1280),
    "gpt2-xl": _gpt2(48, 25, 1600),
    "EleutherAI/gpt-j-6b": {
        "model_type": "gptj",
        "vocab_size": 50400,
        "n_positions": 2048,
        "n_layer": 28,
        "n_head": 16,
        "n_embd": 4096,
        "rotary_dim": 64,
    },
    "huggyllama/llama-7b": _llama(32, 32, 4096, 11008),
    "huggyllama/llama-13b": _llama(40, 40, 5120, 13824),
    "meta-llama/Llama-2-7b-hf": {**_llama(32, 32, 4096, 11008), "max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
}
"""Published configurations of well-known models by address, with only the fields that determine weight shapes."""
