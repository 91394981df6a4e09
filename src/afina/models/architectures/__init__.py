"""Architectures: an entry for each family of models that afina supports, by transformers' `model_type`.

All names of model families and of their modules are in this package. `afina.models.architectures` knows only names and
numbers, and does not import torch.
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
    "Mask",
    "Pooling",
    "PostNorm",
    "PreNorm",
    "Size",
    "Sizes",
]

ARCHITECTURES: dict[str, Architecture] = {entry.family: entry for entry in (*DECODERS, *ENCODERS)}
"""The entries of all supported model families, by transformers' `model_type`."""


def supported(family: object, where: str) -> Architecture:
    """Return the entry of a model family; error messages begin with `where`.

    Raises:
        InvalidStudy: afina does not support the model family.
    """
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


def architecture_of(model: Any) -> Architecture:
    """Return the architecture entry of a transformers model, of its body, or of one of its attention modules."""
    return ARCHITECTURES[model.config.model_type]


def blocks_of(body: Any) -> Any:
    """Return the transformer blocks of a model without its head, from the first to the last."""
    return body.get_submodule(architecture_of(body).block.layers)


def head_of(model: Any) -> list[Any]:
    """Return the modules of a sequence classifier's head; the last module returns the logits.

    The result is empty for a language model, whose output embedding belongs to the pretrained model.
    """
    return [model.get_submodule(path) for path in architecture_of(model).head] if has_head(model) else []


def has_head(model: Any) -> bool:
    """Whether a model, possibly wrapped by peft, has a classification head."""
    return any(is_head(name) for name, _ in model.named_modules())


def output_embedding_of(model: Any) -> Any:
    """Return a language model's layer that computes the logits; None for a classifier."""
    return None if has_head(model) else model.get_output_embeddings()


def head_names() -> list[str]:
    """Return the names that modules of classification heads have in all model families."""
    return sorted({path.partition(".")[0] for entry in ARCHITECTURES.values() for path in entry.head})


def is_head(name: str) -> bool:
    """Whether a layer or tensor with this name belongs to a classification head of any family."""
    return not set(head_names()).isdisjoint(name.split("."))


def is_after_pooling(name: str) -> bool:
    """Whether a layer or tensor with this name comes after the pooling: in a head, or in a body's pooler."""
    return is_head(name) or not _POOLERS.isdisjoint(name.split("."))


_POOLERS = frozenset(entry.pooler for entry in ARCHITECTURES.values() if entry.pooler)


def is_output(name: str) -> bool:
    """Whether a tensor with this name belongs to a head's last layer, which has one row for each label.

    The last layer of one family's head may have the name of a module that contains layers in another family's head. The
    longest path of a head module within `name` decides.
    """
    heads = [entry.head for entry in ARCHITECTURES.values()]
    found = [path for head in heads for path in head if f".{path}." in f".{name}."]
    return bool(found) and max(found, key=len) in {head[-1] for head in heads}
