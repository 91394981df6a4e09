"""Architectures: one entry for each family of models, by transformers' `model_type`.

No other module names a family or a module inside one. Knows only names and numbers, and does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from afina.errors import InvalidStudy

Pooling = Literal["first", "last", "mean"]
"""The hidden state of a text that the head reads: the first token's, the last token's, or the mean of all tokens'."""

Mask = Literal["causal", "bidirectional"]
"""The tokens that a token attends to: itself and earlier ones, or all tokens of its text."""

Size = Literal["hidden", "inner", "queries", "keys", "qkv", "head"]
"""A dimension of a weight. `queries` and `keys` are the number of heads times the size of a head, `qkv` is three times
`hidden`, `head` is the size of a head."""


@dataclass(frozen=True)
class PreNorm:
    """Norms of a block that computes h + attention(first(h)), then adds mlp(second(...)).

    Attributes:
        first: Name of the norm before the attention.
        second: Name of the norm before the MLP.
        parallel: Whether both branches read the block's input, as in GPT-NeoX and GPT-J (where both use one norm).
    """

    first: str
    second: str
    parallel: bool = False


@dataclass(frozen=True)
class Block:
    """Names of the transformer blocks and of the modules inside a block.

    Attributes:
        layers: Path from the body (the model without its head) to the list of blocks.
        attention: Path from a block to the module that calls transformers' attention interface.
        linear: Input and output size of each linear layer, by path from a block.
        norms: Width of each norm, by path from a block.
        final_norm: Path from the body to the norm after the last block. None: no such norm.
        pre_norm: The block's norms. None: another kind of block, so the last block is computed at every token.
        mlp: Path from a block to the MLP.
    """

    layers: str
    attention: str
    linear: Mapping[str, tuple[Size, Size]]
    norms: Mapping[str, Size]
    final_norm: str | None
    pre_norm: PreNorm | None
    mlp: str = "mlp"

    def find(self, name: str) -> tuple[int, str] | None:
        """Return the block (from 0) that a parameter is in, and its name inside the block; None: outside all blocks.

        The index is read from the name and is not checked against the model's number of blocks.
        """
        path, parts = self.layers.split("."), name.split(".")
        for at in range(len(path), len(parts)):
            number = parts[at]
            if parts[at - len(path) : at] == path and number.isascii() and number.isdecimal():
                return int(number[:9]), ".".join(parts[at + 1 :])
        return None

    def index(self, name: str) -> int | None:
        """Return the block (from 0) that a parameter is in; None: outside all blocks."""
        found = self.find(name)
        return None if found is None else found[0]


@dataclass(frozen=True)
class Sizes:
    """transformers' default sizes, used where a configuration leaves a size out; None: computed from other sizes.

    Attributes:
        vocabulary: Tokens in the vocabulary.
        hidden: Width of the hidden states.
        layers: Number of blocks.
        heads: Query heads of an attention.
        inner: Width of the MLP's hidden layer.
        positions: Maximum number of positions.
        key_heads: Key and value heads of an attention.
        head: Width of a head.
        fields: Further names of sizes in a configuration; they take precedence over transformers' standard names.
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
    """The entry of a family of models: names, sizes and properties that differ between families.

    Attributes:
        family: transformers' `model_type`.
        block: Names of the blocks and of the modules inside.
        sizes: Default sizes.
        head: Paths of the classification head's modules; the last module returns the logits.
        logits: (model, pooled hidden states [B, width]) -> logits [B, labels]. None: the head is one linear layer.
        pooling: The hidden state that the head reads.
        mask: The tokens that a token attends to.
        position_offset: Position id of a text's first token.
        classifier: transformers' auto class of the sequence classifier.
        language_model: transformers' auto class of the language model.
        output_embedding: Name of the language model's last layer in the weight files.
        embeddings: Paths from the body to the embedding modules: of tokens, of positions if the model has any, others.
        embedding_norm: Path from the body to the norm of the summed embeddings. None: no such norm.
        lora_targets: The attention's input projections, LoRA's default targets.
        fan_in_fan_out: Whether linear layers store their weights as [in, out].
        takes_virtual_tokens: Whether the family can use prompts and prefixes.
        published: Whether the published study includes this family.
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
        """Names of all norms, without the path before them."""
        paths = (*self.block.norms, self.block.final_norm, self.embedding_norm)
        return frozenset(path.rpartition(".")[2] for path in paths if path is not None)


_LAYERNORMS = PreNorm("input_layernorm", "post_attention_layernorm")
_SEPARATE = ("q_proj", "k_proj", "v_proj")
_OLD = {"hidden": "n_embd", "layers": "n_layer", "heads": "n_head", "inner": "n_inner", "positions": "n_positions"}


def _llama(**norms: Size) -> Block:
    """Return a LLaMA block with `norms` inside its attention."""
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
"""Architectures by transformers' `model_type`."""


def supported(family: object, where: str) -> Architecture:
    """Return the entry of a family; `where` begins the error message.

    Raises:
        InvalidStudy: The family is not supported.
    """
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
    """Return the entry of a transformers model, of its body, or of one of its attentions."""
    return ARCHITECTURES[model.config.model_type]


def blocks_of(body: Any) -> Any:
    """Return the transformer blocks of a model without its head, from the first to the last."""
    return body.get_submodule(architecture_of(body).block.layers)


def head_of(model: Any) -> list[Any]:
    """Return the modules of a sequence classifier's head; the last module returns the logits.

    Empty for a language model, whose output embedding belongs to the pretrained model.
    """
    return [model.get_submodule(path) for path in architecture_of(model).head] if has_head(model) else []


def has_head(model: Any) -> bool:
    """Whether a model, possibly wrapped by peft, has a classification head."""
    return any(is_head(name) for name, _ in model.named_modules())


def output_embedding_of(model: Any) -> Any:
    """Return the layer of a language model, possibly wrapped by peft, that returns the logits; None: a classifier."""
    return None if has_head(model) else model.get_output_embeddings()


def head_names() -> list[str]:
    """Return the names that the heads of all families have in a sequence classifier."""
    return sorted({path.partition(".")[0] for entry in ARCHITECTURES.values() for path in entry.head})


def is_head(name: str) -> bool:
    """Whether a layer or tensor with this name belongs to a classification head of any family."""
    return not set(head_names()).isdisjoint(name.split("."))


def is_output(name: str) -> bool:
    """Whether a tensor with this name belongs to the layer that returns the logits, one row for each label."""
    return any(f".{entry.head[-1]}." in f".{name}." for entry in ARCHITECTURES.values())
