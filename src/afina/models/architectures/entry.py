"""Architecture: the entry of a model family: names of modules, sizes, pooling. The module does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Pooling = Literal["first", "last", "mean"]
"""The hidden state of a text that the head reads: the first token's, the last token's, or the mean of all tokens'."""

Mask = Literal["causal", "bidirectional"]
"""The tokens that a token attends to: itself and earlier ones, or all tokens of its text."""

Size = Literal["hidden", "inner", "gated", "queries", "keys", "qkv", "head", "embedding"]
"""A dimension of a weight. `queries` and `keys` are the number of heads times the size of a head, `qkv` is three times
`hidden`, `gated` is twice `inner`, `head` is the size of a head, `embedding` is the width of the embeddings."""


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
class PostNorm:
    """Norms of a block that computes x = first(h + attention(h)), then second(x + mlp(x)).

    Attributes:
        first: Path from the block to the norm after the attention.
        second: Path from the block to the norm after the MLP.
        inner: Path from the block to the first part of the MLP. Then `first` and `second` are modules that project, add
            and normalise: x = first(attention(h), h), then second(inner(x), x). None: both are only norms.
    """

    first: str
    second: str
    inner: str | None = None


@dataclass(frozen=True)
class Block:
    """Names of the transformer blocks and of the modules inside a block.

    Attributes:
        layers: Path from the body (the model without its head) to the list of blocks.
        attention: Path from a block to the module that calls transformers' attention interface.
        linear: Input and output size of each linear layer, by path from a block.
        norms: Width of each norm, by path from a block.
        final_norm: Path from the body to the norm after the last block. None: no such norm.
        pre_norm: The block's norms, if they come before attention and MLP.
        post_norm: The block's norms, if they come after. With neither, the last block is computed at every token.
        mlp: Path from a block to the MLP, or to `post_norm.second` if that is more than a norm.
    """

    layers: str
    attention: str
    linear: Mapping[str, tuple[Size, Size]]
    norms: Mapping[str, Size]
    final_norm: str | None
    pre_norm: PreNorm | None = None
    post_norm: PostNorm | None = None
    mlp: str = "mlp"

    @property
    def attended(self) -> str:
        """Path from a block to the module that returns what the attention adds, or the sum with it."""
        return self.attention if self.post_norm is None or self.post_norm.inner is None else self.post_norm.first

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
    """transformers' default sizes, used if a configuration has no value; None: computed from other sizes.

    Attributes:
        vocabulary: Tokens in the vocabulary.
        hidden: Width of the hidden states.
        layers: Number of blocks.
        heads: Query heads of an attention.
        inner: Width of the MLP's hidden layer.
        positions: Maximum number of positions.
        key_heads: Key and value heads of an attention.
        head: Width of a head.
        types: Token types. None: the family has no embedding of token types.
        embedding: Width of the token embeddings. None: always `hidden`.
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
    types: int | None = None
    embedding: int | None = None
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Architecture:
    """The entry of a model family: names, sizes and properties that differ between families.

    Attributes:
        family: transformers' `model_type`.
        block: Names of the blocks and of the modules inside.
        sizes: Default sizes.
        embeddings: Paths from the body to the embeddings of tokens, of positions and of token types, in this order; a
            family may have only the first ones.
        lora_targets: The attention's input projections, LoRA's default targets.
        head: Paths of the classification head's modules; the last module returns the logits.
        head_norm: The path among `head` that is a norm.
        pretrained_head: Path of head modules that pretraining trains too: weights in the files are kept.
        logits: (model, pooled hidden states [B, width]) -> logits [B, labels]. None: the head is one linear layer.
        pooler: Path from the body to pretrained layers that only the pooled hidden states pass through. `logits` calls
            them. Weights that the files lack are drawn.
        pooling: The hidden state that the head reads.
        poolings: Pooling by value of the configuration's field `pooling_field`; a family may leave this to the field.
        pooling_field: Name of the configuration's field for the pooling. None: the pooling is always `pooling`.
        mask: The tokens that a token attends to.
        after_padding: Whether the position ids of a text begin after the padding token's id instead of at 0.
        token_types: Whether the body takes token types.
        classifier: transformers' auto class of the sequence classifier.
        language_model: transformers' auto class of the language model; of an encoder: of the pretrained model.
        output_embedding: Name of the language model's last layer in the weight files.
        embedding_norm: Path from the body to the norm of the summed embeddings. None: no such norm.
        outer: Input and output size of each linear layer of the body outside the blocks, by path from the body; a model
            may lack one.
        settings: Values that fields of a configuration must have, if the configuration has the fields.
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
    head_norm: str | None = None
    pretrained_head: str | None = None
    logits: Callable[[Any, Any], Any] | None = None
    pooler: str | None = None
    pooling: Pooling = "last"
    poolings: Mapping[str, Pooling] = field(default_factory=dict)
    pooling_field: str | None = None
    mask: Mask = "causal"
    after_padding: bool = False
    token_types: bool = False
    classifier: str = "AutoModelForSequenceClassification"
    language_model: str = "AutoModelForCausalLM"
    output_embedding: str = "lm_head"
    embedding_norm: str | None = None
    outer: Mapping[str, tuple[Size, Size]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    fan_in_fan_out: bool = False
    takes_virtual_tokens: bool = True
    published: bool = False

    @property
    def is_encoder(self) -> bool:
        """Whether each token attends to all tokens of its text, so the model cannot continue a text."""
        return self.mask == "bidirectional"

    def takes_chunks(self, pooling: Pooling) -> bool:
        """Whether a text can be computed in chunks, under a head that reads this pooling.

        A chunk attends to the kept keys and values of earlier tokens. So no token may attend to a later one, and the
        head may read the last chunk only.
        """
        return self.mask == "causal" and pooling == "last"

    @property
    def norms(self) -> frozenset[str]:
        """Names of all norms, without the path before them."""
        paths = (*self.block.norms, self.block.final_norm, self.embedding_norm)
        return frozenset(path.rpartition(".")[2] for path in paths if path is not None)

    def pooling_of(self, config: Any) -> Pooling:
        """Return the pooling of a model with this configuration of transformers."""
        return self.pooling if self.pooling_field is None else self.poolings[getattr(config, self.pooling_field)]

    def position_offset(self, config: Any) -> int:
        """Return the position id of a text's first token in a model with this configuration of transformers."""
        return int(config.pad_token_id) + 1 if self.after_padding else 0

    def is_above(self, name: str) -> bool:
        """Whether a parameter of the body comes after the last block: in the final norm or in the pooler."""
        parts = name.split(".")
        return self.block.final_norm in parts or self.pooler in parts
