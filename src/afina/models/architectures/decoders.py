"""The architecture entries of causal language models (decoders)."""

from __future__ import annotations

from dataclasses import replace

from afina.models.architectures.entry import Architecture, Block, DecodingPaths, PreNorm, Size, Sizes, after_dropout

_SCORE = after_dropout("score")
_LAYERNORMS = PreNorm("input_layernorm", "post_attention_layernorm")
_SEPARATE = ("q_proj", "k_proj", "v_proj")
_OLD = {"hidden": "n_embd", "layers": "n_layer", "heads": "n_head", "inner": "n_inner", "positions": "n_positions"}


_PROJECTIONS: dict[str, tuple[Size, Size]] = {
    "self_attn.q_proj": ("hidden", "queries"),
    "self_attn.k_proj": ("hidden", "keys"),
    "self_attn.v_proj": ("hidden", "keys"),
    "self_attn.o_proj": ("queries", "hidden"),
    "mlp.gate_proj": ("hidden", "inner"),
    "mlp.up_proj": ("hidden", "inner"),
    "mlp.down_proj": ("inner", "hidden"),
}


def _llama(window: str = "", head_norms: tuple[()] | tuple[str, str] = ()) -> Block:
    """Return the entry of a LLaMA transformer block; the arguments are those of `DecodingPaths`."""
    q, k, v, o, gate, up, down = _PROJECTIONS
    return Block(
        "layers",
        "self_attn",
        linear=_PROJECTIONS,
        norms={
            "input_layernorm": "hidden",
            "post_attention_layernorm": "hidden",
            **dict.fromkeys(head_norms, "head"),
        },
        final_norm="norm",
        pre_norm=_LAYERNORMS,
        decoding=DecodingPaths((q, k, v, o, gate, up, down), head_norms=head_norms, window=window),
    )


DECODERS = (
    Architecture(
        "gpt2",
        Block(
            "h",
            "attn",
            linear={
                "attn.c_attn": ("hidden", "qkv"),
                "attn.c_proj": ("hidden", "hidden"),
                "mlp.c_fc": ("hidden", "inner"),
                "mlp.c_proj": ("inner", "hidden"),
            },
            norms={"ln_1": "hidden", "ln_2": "hidden"},
            final_norm="ln_f",
            pre_norm=PreNorm("ln_1", "ln_2"),
        ),
        Sizes(50257, 768, 12, 12, None, 1024, fields=_OLD),
        embeddings=("wte", "wpe"),
        lora_targets=("c_attn",),
        token_head=after_dropout("classifier"),
        fan_in_fan_out=True,
        published=True,
    ),
    Architecture(
        "gptj",
        Block(
            "h",
            "attn",
            linear={
                **{f"attn.{name}": ("hidden", "hidden") for name in (*_SEPARATE, "out_proj")},
                "mlp.fc_in": ("hidden", "inner"),
                "mlp.fc_out": ("inner", "hidden"),
            },
            norms={"ln_1": "hidden"},
            final_norm="ln_f",
            pre_norm=PreNorm("ln_1", "ln_1", parallel=True),
        ),
        Sizes(50400, 4096, 28, 16, None, 2048, fields=_OLD),
        embeddings=("wte",),
        lora_targets=_SEPARATE,
    ),
    Architecture(
        "gpt_neox",
        Block(
            "layers",
            "attention",
            linear={
                "attention.query_key_value": ("hidden", "qkv"),
                "attention.dense": ("hidden", "hidden"),
                "mlp.dense_h_to_4h": ("hidden", "inner"),
                "mlp.dense_4h_to_h": ("inner", "hidden"),
            },
            norms={"input_layernorm": "hidden", "post_attention_layernorm": "hidden"},
            final_norm="final_layer_norm",
            pre_norm=replace(_LAYERNORMS, parallel=True),
        ),
        Sizes(50432, 6144, 44, 64, 24576, 2048),
        embeddings=("embed_in",),
        lora_targets=("query_key_value",),
        token_head=after_dropout("classifier"),
        output_embedding="embed_out",
    ),
    Architecture(
        "llama",
        _llama(),
        Sizes(32000, 4096, 32, 32, 11008, 2048),
        ("embed_tokens",),
        _SEPARATE,
        token_head=_SCORE,
    ),
    Architecture(
        "mistral",
        _llama("config.sliding_window"),
        Sizes(32000, 4096, 32, 32, 14336, 131072, 8),
        ("embed_tokens",),
        _SEPARATE,
        token_head=_SCORE,
    ),
    Architecture(
        "qwen2",
        _llama("sliding_window"),
        Sizes(151936, 4096, 32, 32, 22016, 32768, 32),
        ("embed_tokens",),
        _SEPARATE,
        token_head=_SCORE,
    ),
    Architecture(
        "qwen3",
        _llama("sliding_window", ("self_attn.q_norm", "self_attn.k_norm")),
        Sizes(151936, 4096, 32, 32, 22016, 32768, 32, 128),
        ("embed_tokens",),
        _SEPARATE,
        token_head=_SCORE,
    ),
)
