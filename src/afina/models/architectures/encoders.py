"""The architecture entries of encoders, in which each token attends to all tokens of its text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from afina.models.architectures.entry import Architecture, Block, HeadEntry, PostNorm, PreNorm, Sizes, after_dropout

_BERT = Block(
    "encoder.layer",
    "attention.self",
    linear={
        **{f"attention.self.{name}": ("hidden", "hidden") for name in ("query", "key", "value")},
        "attention.output.dense": ("hidden", "hidden"),
        "intermediate.dense": ("hidden", "inner"),
        "output.dense": ("inner", "hidden"),
    },
    norms={"attention.output.LayerNorm": "hidden", "output.LayerNorm": "hidden"},
    final_norm=None,
    post_norm=PostNorm("attention.output", "output", inner="intermediate"),
    mlp="output",
)
_EMBEDDINGS = tuple(f"embeddings.{kind}_embeddings" for kind in ("word", "position", "token_type"))
_PLAIN = {
    "is_decoder": False,
    "add_cross_attention": False,
    "position_embedding_type": "absolute",
    "chunk_size_feed_forward": 0,
}


def _encoder(family: str, block: Block, sizes: Sizes, **parts: Any) -> Architecture:
    """Return the architecture entry of an encoder whose head reads the hidden state of the first token."""
    shared: dict[str, Any] = {
        "mask": "bidirectional",
        "pooling": "first",
        "settings": _PLAIN,
        "language_model": "AutoModelForPreTraining",
        "embeddings": _EMBEDDINGS,
        "embedding_norm": "embeddings.LayerNorm",
        "lora_targets": ("query", "key", "value"),
        "takes_virtual_tokens": False,
        "token_head": after_dropout("classifier"),
    }
    return Architecture(family, block, sizes, **(shared | parts))


def _of_bert(model: Any, pooled: Any) -> Any:
    pooler = model.base_model.pooler
    return model.classifier(model.dropout(pooler.activation(pooler.dense(pooled))))


def _of_first(model: Any, pooled: Any) -> Any:
    return model.classifier(pooled[:, None])  # the head reads the first token of each row


def _of_distilbert(model: Any, pooled: Any) -> Any:
    return model.classifier(model.dropout(model.pre_classifier(pooled).relu()))


def _of_modernbert(model: Any, hidden: Any) -> Any:
    return model.classifier(model.drop(model.head(hidden)))


_MODERNBERT = HeadEntry(("head.dense", "head.norm", "classifier"), "head.norm", "head", _of_modernbert)

_ROBERTA = _encoder(
    "roberta",
    _BERT,
    Sizes(50265, 768, 12, 12, 3072, 512, types=2),
    head=HeadEntry(("classifier.dense", "classifier.out_proj"), logits=_of_first),
    after_padding=True,
    token_types=True,
)

ENCODERS = (
    _encoder(
        "bert",
        _BERT,
        Sizes(30522, 768, 12, 12, 3072, 512, types=2),
        head=HeadEntry(("classifier",), logits=_of_bert),
        pooler="pooler",
        outer={"pooler.dense": ("hidden", "hidden")},
        token_types=True,
    ),
    _ROBERTA,
    replace(_ROBERTA, family="xlm-roberta", sizes=replace(_ROBERTA.sizes, vocabulary=30522)),
    _encoder(
        "distilbert",
        Block(
            "transformer.layer",
            "attention",
            linear={
                **{f"attention.{name}_lin": ("hidden", "hidden") for name in ("q", "k", "v", "out")},
                "ffn.lin1": ("hidden", "inner"),
                "ffn.lin2": ("inner", "hidden"),
            },
            norms={"sa_layer_norm": "hidden", "output_layer_norm": "hidden"},
            final_norm=None,
            post_norm=PostNorm("sa_layer_norm", "output_layer_norm"),
            mlp="ffn",
        ),
        Sizes(
            *(30522, 768, 6, 12, 3072, 512),
            fields={"hidden": "dim", "layers": "n_layers", "heads": "n_heads", "inner": "hidden_dim"},
        ),
        embeddings=_EMBEDDINGS[:2],
        lora_targets=("q_lin", "k_lin", "v_lin"),
        head=HeadEntry(("pre_classifier", "classifier"), logits=_of_distilbert),
    ),
    _encoder(
        "electra",
        _BERT,
        Sizes(30522, 256, 12, 4, 1024, 512, types=2, embedding=128),
        head=HeadEntry(("classifier.dense", "classifier.out_proj"), logits=_of_first),
        outer={"embeddings_project": ("embedding", "hidden")},
        token_types=True,
    ),
    _encoder(
        "modernbert",
        Block(
            "layers",
            "attn",
            linear={
                "attn.Wqkv": ("hidden", "qkv"),
                "attn.Wo": ("hidden", "hidden"),
                "mlp.Wi": ("hidden", "gated"),
                "mlp.Wo": ("inner", "hidden"),
            },
            norms={"attn_norm": "hidden", "mlp_norm": "hidden"},
            final_norm="final_norm",
            pre_norm=PreNorm("attn_norm", "mlp_norm"),
        ),
        Sizes(50368, 768, 22, 12, 1152, 8192),
        language_model="AutoModelForMaskedLM",
        embeddings=("embeddings.tok_embeddings",),
        embedding_norm="embeddings.norm",
        lora_targets=("Wqkv",),
        head=_MODERNBERT,
        token_head=_MODERNBERT,
        pooling_field="classifier_pooling",
        poolings={"cls": "first", "mean": "mean"},
    ),
)

REFUSED = {
    "deberta-v2": "its attention adds scores of relative positions to each pair of tokens itself, so the attention "
    "cannot be computed over packed texts. Choose modernbert, roberta or another encoder",
    "mpnet": "its attention adds a learned score of the distance to each pair of tokens, so the attention cannot be "
    "computed over packed texts. Choose bge, roberta or another encoder",
}
"""Model families that afina does not support, each with the reason."""
