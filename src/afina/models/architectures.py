"""Architectures of families of models: one entry a family, by transformers' `model_type`.

No other module names a family, or a module of one. Knows names and numbers; starts without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from afina.errors import InvalidStudy

Pooling = Literal["first", "last", "mean"]
"""Which of a text's hidden states the head reads: its first or last token's, or the mean of all tokens'."""

Mask = Literal["causal", "bidirectional"]
"""Which tokens of its text a token attends to: itself and those before it, or all."""

Size = Literal["hidden", "inner", "queries", "keys", "qkv", "head"]
"""A dimension of a weight, by what it counts: `queries` and `keys` are heads times the size of one head, `qkv` is three
times `hidden`, `head` the size of one head."""


@dataclass(frozen=True)
class PreNorm:
    """Norms of a block that is h + attention(first(h)), then + mlp(second(...)).

    parallel  both branches read the block's input, as in GPT-J (one norm for both) and GPT-NeoX
    """

    first: str
    second: str
    parallel: bool = False


@dataclass(frozen=True)
class Block:
    """Names of the transformer blocks and of the modules inside one.

    layers      the list of blocks, a path from the body (the model without its head)
    attention, mlp  paths from a block; what `attention` names calls transformers' attention interface
    linear      linear layers: inputs and outputs of each;  norms: width of each
    pre_norm    None: the block is another kind, so that the last one is computed at every token
    final_norm  after the last block, in the body; None: there is none
    """

    layers: str
    attention: str
    linear: Mapping[str, tuple[Size, Size]]
    norms: Mapping[str, Size]
    final_norm: str | None
    pre_norm: PreNorm | None
    mlp: str = "mlp"

    def find(self, name: str) -> tuple[int, str] | None:
        """The block that a parameter is in, counted from 0, and its name there; None: in no block.

        The number may be of a block that the model does not have.
        """
        path, parts = self.layers.split("."), name.split(".")
        for at in range(len(path), len(parts)):
            number = parts[at]
            if parts[at - len(path) : at] == path and number.isascii() and number.isdecimal():
                return int(number[:9]), ".".join(parts[at + 1 :])
        return None

    def index(self, name: str) -> int | None:
        """The block that a parameter is in, counted from 0; None: in no block."""
        found = self.find(name)
        return None if found is None else found[0]


@dataclass(frozen=True)
class Sizes:
    """Default sizes of transformers, where a configuration leaves one out; None: the size follows from others.

    fields  further names of sizes in the configuration, which go before transformers' standard ones
    """

    vocabulary: int
    hidden: int
    layers: int
    heads: int
    inner: int | None
    positions: int
    key_heads: int | None = None
    head: int | None = None
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Architecture:
    """All that afina has to know of a family.

    head                 modules of the classification head, paths from the model; the last one gives the logits
    logits               (model, pooled hidden states [B, width]) -> logits [B, labels], where the head is more than one
                         linear layer; None: it is one
    pooling, mask        as the types say
    position_offset      position of a text's first token
    classifier           transformers' auto class of the sequence classifier
    language_model       transformers' auto class of the language model
    output_embedding     the language model's last layer, as files of weights name it
    embeddings           modules before the blocks that hold embeddings, paths from the body: of tokens, of positions if
                         there are any, then others
    embedding_norm       the norm of their sum, a path from the body; None: there is none
    lora_targets         the attention's input projections: LoRA's default
    fan_in_fan_out       whether linear layers store their weights [in, out]
    takes_virtual_tokens whether rows and keys that stand before a text have a meaning
    published            whether the published study is about this family
    """

    family: str
    block: Block
    sizes: Sizes
    embeddings: tuple[str, ...]
    lora_targets: tuple[str, ...]
    head: tuple[str, ...] = ("score",)
    logits: Callable[[Any, Any], Any] | None = None
    pooling: Pooling = "last"
    mask: Mask = "causal"
    position_offset: int = 0
    classifier: str = "AutoModelForSequenceClassification"
    language_model: str = "AutoModelForCausalLM"
    output_embedding: str = "lm_head"
    fan_in_fan_out: bool = False
    takes_virtual_tokens: bool = True
    published: bool = False
    embedding_norm: str | None = None

    @property
    def norms(self) -> frozenset[str]:
        """Names of all norms, without the path to them."""
        paths = (*self.block.norms, self.block.final_norm, self.embedding_norm)
        return frozenset(path.rpartition(".")[2] for path in paths if path is not None)


_LAYERNORMS = PreNorm("input_layernorm", "post_attention_layernorm")
_SEPARATE = ("q_proj", "k_proj", "v_proj")
_OLD = {"hidden": "n_embd", "layers": "n_layer", "heads": "n_head", "inner": "n_inner", "positions": "n_positions"}


def _llama(**norms: Size) -> Block:
    """A block of LLaMA's, and norms inside its attention."""
    return Block(
        "layers",
        "self_attn",
        linear={
            "self_attn.q_proj": ("hidden", "queries"),
            "self_attn.k_proj": ("hidden", "keys"),
            "self_attn.v_proj": ("hidden", "keys"),
            "self_attn.o_proj": ("queries", "hidden"),
            "mlp.gate_proj": ("hidden", "inner"),
            "mlp.up_proj": ("hidden", "inner"),
            "mlp.down_proj": ("inner", "hidden"),
        },
        norms={
            "input_layernorm": "hidden",
            "post_attention_layernorm": "hidden",
            **{f"self_attn.{name}": size for name, size in norms.items()},
        },
        final_norm="norm",
        pre_norm=_LAYERNORMS,
    )


_ENTRIES = (
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
        output_embedding="embed_out",
    ),
    Architecture(
        "llama",
        _llama(),
        Sizes(32000, 4096, 32, 32, 11008, 2048),
        ("embed_tokens",),
        _SEPARATE,
    ),
    Architecture(
        "mistral",
        _llama(),
        Sizes(32000, 4096, 32, 32, 14336, 131072, 8),
        ("embed_tokens",),
        _SEPARATE,
    ),
    Architecture(
        "qwen2",
        _llama(),
        Sizes(151936, 4096, 32, 32, 22016, 32768, 32),
        ("embed_tokens",),
        _SEPARATE,
    ),
    Architecture(
        "qwen3",
        _llama(q_norm="head", k_norm="head"),
        Sizes(151936, 4096, 32, 32, 22016, 32768, 32, 128),
        ("embed_tokens",),
        _SEPARATE,
    ),
)

ARCHITECTURES: dict[str, Architecture] = {entry.family: entry for entry in _ENTRIES}
"""By transformers' `model_type`."""


def supported(family: object, where: str) -> Architecture:
    """The entry of that family. Raises InvalidStudy where there is none; `where` begins the message."""
    entry = ARCHITECTURES.get(family) if isinstance(family, str) else None
    if entry is None:
        said = family if family is None else str(family)[:40]
        raise InvalidStudy(
            f"{where}: models of type {said!r} are not supported. Supported: {', '.join(ARCHITECTURES)}.",
            code="backbone.unsupported",
            family=said,
        )
    return entry


def architecture_of(model: Any) -> Architecture:
    """The entry of a model of transformers', of its body or of one of its attentions."""
    return ARCHITECTURES[model.config.model_type]


def blocks_of(body: Any) -> Any:
    """The transformer blocks of a model without its head, from the first to the last."""
    return body.get_submodule(architecture_of(body).block.layers)


def head_of(model: Any) -> list[Any]:
    """Modules of a sequence classifier's head; the last one gives the logits."""
    return [model.get_submodule(path) for path in architecture_of(model).head]


def head_names() -> list[str]:
    """Names under which the heads of all families stand in a sequence classifier."""
    return sorted({path.partition(".")[0] for entry in ARCHITECTURES.values() for path in entry.head})


def is_head(name: str) -> bool:
    """Whether the layer or tensor of that name belongs to a classification head, of any family."""
    return not set(head_names()).isdisjoint(name.split("."))


def is_output(name: str) -> bool:
    """Whether the tensor of that name belongs to the layer that gives logits, where a row is a label's."""
    return any(f".{entry.head[-1]}." in f".{name}." for entry in ARCHITECTURES.values())
