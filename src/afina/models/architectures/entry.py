"""`Architecture`: the entry of a model family: names of its modules, sizes, and pooling, without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any, Literal

Pooling = Literal["first", "last", "mean"]
"""The hidden state of a text that the head of a sequence classifier reads: that of the first token, of the last token,
or the mean over all tokens."""

Mask = Literal["causal", "bidirectional"]
"""Which tokens a token attends to: itself and earlier tokens, or all tokens of its text."""

Size = Literal["hidden", "inner", "gated", "queries", "keys", "qkv", "head", "embedding"]
"""A dimension of a model's weight. In `Size`, `queries` and `keys` are the number of query or key heads times the width
of a head, `qkv` is three times `hidden`, `gated` is twice `inner`, `head` is the width of a head, and `embedding` is
the width of the embeddings."""


@dataclass(frozen=True)
class PreNorm:
    """Names of the norms in a transformer block that computes h + attention(first(h)), then adds mlp(second(...)).

    `parallel`: attention and MLP both read the block's input, as in GPT-NeoX and GPT-J (where both use one norm).
    """

    first: str
    second: str
    parallel: bool = False

    @property
    def norms(self) -> tuple[str, str]:
        """Names of both norms."""
        return self.first, self.second


@dataclass(frozen=True)
class DecodingPaths:
    """The modules of a LLaMA block whose kernels a decoding step calls directly, by path from the block.

    Attributes:
        linear: The projections to queries, keys and values, the attention's output, and the MLP's gate, upper and lower
            layer, in this order.
        activation: The activation function of the MLP's gate.
        head_norms: The norms of each query head and each key head. Empty: no such norms.
        window: Path from the attention to its sliding window; "": the attention has no sliding window.
        rotary: Path from the body to the rotary embedding.
    """

    linear: tuple[str, str, str, str, str, str, str]
    activation: str = "mlp.act_fn"
    head_norms: tuple[()] | tuple[str, str] = ()
    window: str = ""
    rotary: str = "rotary_emb"

    def window_of(self, attention: Any) -> int | None:
        """Return the sliding window of an attention; None: a token attends to all earlier tokens."""
        found: int | None = attrgetter(self.window)(attention) if self.window else None
        return found


@dataclass(frozen=True)
class PostNorm:
    """Names of the norms in a transformer block that computes x = first(h + attention(h)), then second(x + mlp(x)).

    `inner`: the first part of the MLP, if `first` and `second` are modules that project, add and normalise (x =
    first(attention(h), h), then second(inner(x), x)). None: `first` and `second` are norms.
    """

    first: str
    second: str
    inner: str | None = None


@dataclass(frozen=True)
class Block:
    """Names of a model's transformer blocks and of the modules inside a block.

    Attributes:
        layers: Path from the body (the model without its head) to the list of transformer blocks.
        attention: Path from a block to the module that calls transformers' attention interface.
        linear: Input and output size of each linear layer in a block, by path from the block.
        norms: Width of each norm in a block, by path from the block.
        final_norm: Path from the body to the norm after the last block. None: the body has no such norm.
        post_norm: If both `pre_norm` and `post_norm` are None, the last block is computed at every token.
        mlp: Path from a block to the MLP, or to `post_norm.second` if that module also projects and adds.
        decoding: The modules that a decoding step calls directly. None: decoding calls the body's own forward.
    """

    layers: str
    attention: str
    linear: Mapping[str, tuple[Size, Size]]
    norms: Mapping[str, Size]
    final_norm: str | None
    pre_norm: PreNorm | None = None
    post_norm: PostNorm | None = None
    mlp: str = "mlp"
    decoding: DecodingPaths | None = None

    @property
    def attended(self) -> str:
        """Path from a block to the module that returns the attention's output, possibly plus the block's input."""
        return self.attention if self.post_norm is None or self.post_norm.inner is None else self.post_norm.first

    def find(self, name: str) -> tuple[int, str] | None:
        """Return a parameter's block, by its name alone, and its name inside; None if it is outside all blocks."""
        path, parts = self.layers.split("."), name.split(".")
        for at in range(len(path), len(parts)):
            number = parts[at]
            if parts[at - len(path) : at] == path and number.isascii() and number.isdecimal():
                return int(number[:9]), ".".join(parts[at + 1 :])
        return None

    def index(self, name: str) -> int | None:
        """Return the index of the block (from 0) that a parameter is in; None if it is outside all blocks."""
        found = self.find(name)
        return None if found is None else found[0]


@dataclass(frozen=True)
class Sizes:
    """transformers' default sizes of a family, for fields that a configuration leaves out.

    Attributes:
        inner: Width of the MLP's hidden layer. None: it follows from other sizes, as for the next ones.
        head: Width of an attention head.
        types: Number of token types. None: the family has no embedding of token types.
        embedding: Width of the token embeddings. None: the width is always `hidden`.
        fields: The family's own names of size fields in a configuration; they take precedence over the standard names.
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
class HeadEntry:
    """The head of a classifier in a model family: its modules, and how they compute the logits.

    Attributes:
        modules: Paths of the head's modules; the last module computes the logits.
        norm: The path in `modules` that is a norm.
        pretrained: Path of modules that pretraining has also trained, so that their weights are read from the files.
        logits: Function (model, hidden states [N, width]) -> logits [N, labels]. None: the head is one linear layer.
    """

    modules: tuple[str, ...]
    norm: str | None = None
    pretrained: str | None = None
    logits: Callable[[Any, Any], Any] | None = None

    @property
    def output(self) -> str:
        """Path of the module that computes the logits."""
        return self.modules[-1]


def after_dropout(output: str) -> HeadEntry:
    """Return the head of a token classifier that is one linear layer, `output`, after transformers' dropout."""
    return HeadEntry((output,), logits=partial(_after_dropout, output))


def _after_dropout(output: str, model: Any, hidden: Any) -> Any:
    return model.get_submodule(output)(model.dropout(hidden))


@dataclass(frozen=True)
class Architecture:
    """The entry of a model family: the names, sizes and properties that differ between families.

    Attributes:
        family: The value of `model_type` in transformers' configurations.
        block: Names of the transformer blocks and of the modules inside.
        sizes: transformers' default sizes of the family.
        embeddings: Paths from the body to the embeddings of tokens, of positions and of token types, in this order. A
            family may lack the last one or two.
        lora_targets: Names of the attention's input projections, which are LoRA's default targets.
        head: The head of a sequence classifier, which reads pooled hidden states.
        token_head: The head of a token classifier, which reads the hidden state of each token. None: transformers has
            no token classifier of the family.
        pooler: Path from the body to pretrained layers that read only the pooled hidden states, and that `head.logits`
            calls. Weights that the files lack are drawn. The body of a token classifier has no pooler.
        pooling: The hidden state of a text that the head reads.
        poolings: The pooling by value of the configuration's field `pooling_field`, for families whose configuration
            selects it.
        pooling_field: Name of the configuration's field that selects the pooling. None: the pooling is always
            `pooling`.
        mask: Which tokens a token attends to.
        after_padding: Whether the position ids of a text begin after the padding token's id instead of at 0.
        token_types: Whether the body has token types, which tell the two texts of a pair apart.
        classifier: Name of the auto class of transformers for sequence classifiers.
        token_classifier: Name of the auto class of transformers for token classifiers.
        language_model: Name of the auto class of transformers for language models; for encoders, for the pretrained
            model.
        output_embedding: Name of the language model's last layer in the weight files.
        embedding_norm: Path from the body to the norm of the summed embeddings. None: the body has no such norm.
        outer: Input and output size of each linear layer of the body outside the transformer blocks, by path from the
            body; some models of the family may lack a layer.
        settings: Values that fields of a configuration must have, if the configuration has these fields.
        fan_in_fan_out: Whether linear layers store their weights as [in, out].
        takes_virtual_tokens: Whether prompt tuning and prefix tuning support the family.
        published: Whether the published study that afina repeats includes the family.
    """

    family: str
    block: Block
    sizes: Sizes
    embeddings: tuple[str, ...]
    lora_targets: tuple[str, ...]
    head: HeadEntry = HeadEntry(("score",))
    token_head: HeadEntry | None = None
    pooler: str | None = None
    pooling: Pooling = "last"
    poolings: Mapping[str, Pooling] = field(default_factory=dict)
    pooling_field: str | None = None
    mask: Mask = "causal"
    after_padding: bool = False
    token_types: bool = False
    classifier: str = "AutoModelForSequenceClassification"
    token_classifier: str = "AutoModelForTokenClassification"
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
        """Whether each token attends to all tokens of its text, so that the model cannot continue a text."""
        return self.mask == "bidirectional"

    def takes_chunks(self, pooling: Pooling) -> bool:
        """Whether a text can be computed in chunks if the head reads this pooling.

        A chunk attends to the cached keys and values of earlier tokens, and the head reads only the last chunk.
        """
        return self.mask == "causal" and pooling == "last"

    @property
    def heads(self) -> tuple[HeadEntry, ...]:
        """The heads of all classifiers of the family."""
        return (self.head,) if self.token_head is None else (self.head, self.token_head)

    @property
    def norms(self) -> frozenset[str]:
        """Names of all norms of the family, without the path before each name."""
        paths = (*self.block.norms, self.block.final_norm, self.embedding_norm)
        return frozenset(path.rpartition(".")[2] for path in paths if path is not None)

    def pooling_of(self, config: Any) -> Pooling:
        """Return the pooling of a model with the transformers configuration `config`."""
        return self.pooling if self.pooling_field is None else self.poolings[getattr(config, self.pooling_field)]

    def position_offset(self, config: Any) -> int:
        """Return the position id of a text's first token in a model with the transformers configuration `config`."""
        return int(config.pad_token_id) + 1 if self.after_padding else 0

    def is_above(self, name: str) -> bool:
        """Whether a parameter of the body comes after the last block: in the final norm or in the pooler."""
        parts = name.split(".")
        return self.block.final_norm in parts or self.pooler in parts
