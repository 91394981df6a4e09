"""Architectures: an entry for each family of models that afina supports, by transformers' `model_type`.

All names of families and of their modules are in this package, which does not import torch.
"""

from __future__ import annotations

from typing import Any

from afina.models import problems
from afina.models.architectures.decoders import DECODERS
from afina.models.architectures.encoders import ENCODERS, REFUSED
from afina.models.architectures.entry import (
    Architecture,
    Block,
    DecodingPaths,
    HeadEntry,
    Mask,
    Pooling,
    PostNorm,
    PreNorm,
    Size,
    Sizes,
)

__all__ = [
    "REFUSED",
    "Architecture",
    "Block",
    "DecodingPaths",
    "HeadEntry",
    "Mask",
    "Pooling",
    "PostNorm",
    "PreNorm",
    "Size",
    "Sizes",
]

ARCHITECTURES: dict[str, Architecture] = {entry.family: entry for entry in (*DECODERS, *ENCODERS)}


def supported(family: object, where: str) -> Architecture:
    """Return the entry of a model family, or raise InvalidStudy, whose message begins with `where`."""
    entry = ARCHITECTURES.get(family) if isinstance(family, str) else None
    if entry is None:
        said = family if family is None else str(family)[:40]
        if said in REFUSED:
            raise problems.FAMILY_REFUSED(where=where, reason=REFUSED[said], family=said)
        raise problems.FAMILY_UNKNOWN(where=where, known=list(ARCHITECTURES), family=said)
    return entry


def check_can_be_asked(entry: Architecture, where: str) -> None:
    """Raise InvalidStudy if a model of this family cannot predict label words. The message begins with `where`."""
    if entry.is_encoder:
        raise problems.ENCODER_ASKED_IN_WORDS(where=where, family=entry.family)


def check_can_write(entry: Architecture, where: str) -> None:
    """Raise InvalidStudy if a model of this family cannot generate text. The message begins with `where`."""
    if entry.is_encoder:
        raise problems.ENCODER_GENERATES(where=where, family=entry.family)


def check_classifies_tokens(entry: Architecture, where: str) -> None:
    """Raise InvalidStudy if transformers has no token classifier of this family. The message begins with `where`."""
    if entry.token_head is None:
        known = [family for family, one in ARCHITECTURES.items() if one.token_head is not None]
        raise problems.FAMILY_WITHOUT_TOKEN_CLASSIFIER(where=where, family=entry.family, known=known)


def architecture_of(model: Any) -> Architecture:
    """Return the architecture entry of a transformers model, of its body, or of one of its attention modules."""
    return ARCHITECTURES[model.config.model_type]


def blocks_of(body: Any) -> Any:
    """Return the transformer blocks of a model without its head, from the first to the last."""
    return body.get_submodule(architecture_of(body).block.layers)


_TOKEN_CLASSIFIER = "ForTokenClassification"


def classifies_tokens(model: Any) -> bool:
    """Whether a transformers model, which peft may have wrapped, is a token classifier."""
    unwrap = getattr(model, "get_base_model", None)
    return type(unwrap() if unwrap else model).__name__.endswith(_TOKEN_CLASSIFIER)


def head_entry_of(model: Any) -> HeadEntry:
    """Return the entry of a classifier's head, for a transformers model that peft may have wrapped."""
    entry = architecture_of(model)
    return entry.token_head if entry.token_head is not None and classifies_tokens(model) else entry.head


def head_of(model: Any) -> list[Any]:
    """Return the modules of a classifier's head, of which the last returns the logits; empty for a language model."""
    return [model.get_submodule(path) for path in head_entry_of(model).modules] if has_head(model) else []


def has_head(model: Any) -> bool:
    """Whether a model, possibly wrapped by peft, has a classification head."""
    return any(is_head(name) for name, _ in model.named_modules())


def output_embedding_of(model: Any) -> Any:
    """Return a language model's layer that computes the logits; None for a classifier."""
    return None if has_head(model) else model.get_output_embeddings()


def head_names() -> list[str]:
    """Return the names that modules of classification heads have in all model families."""
    return sorted({path.partition(".")[0] for entry in ARCHITECTURES.values() for path in _modules(entry)})


def is_head(name: str) -> bool:
    """Whether a layer or tensor with this name belongs to a classification head of any family."""
    return not set(head_names()).isdisjoint(name.split("."))


def is_after_pooling(name: str) -> bool:
    """Whether a layer or tensor with this name comes after the pooling: in a head, or in a body's pooler."""
    return is_head(name) or not _POOLERS.isdisjoint(name.split("."))


_POOLERS = frozenset(entry.pooler for entry in ARCHITECTURES.values() if entry.pooler)


def is_output(name: str) -> bool:
    """Whether a tensor with this name belongs to a head's last layer, which has one row for each label.

    One family's last layer may have the name of a module that contains layers elsewhere: the longest head path decides.
    """
    heads = [head for entry in ARCHITECTURES.values() for head in entry.heads]
    found = [path for head in heads for path in head.modules if f".{path}." in f".{name}."]
    return bool(found) and max(found, key=len) in {head.output for head in heads}


def _modules(entry: Architecture) -> set[str]:
    """Return the paths of the modules of all heads of a family."""
    return {path for head in entry.heads for path in head.modules}
