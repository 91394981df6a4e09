"""What transformers reads of a directory that `save_pretrained` wrote, and which of those afina supports.

Knows no weights; a backbone's address is only named in messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from afina.errors import InvalidStudy, NotFound
from afina.models.source import check_config, check_family

_UNSTEADY = ("dynamic", "longrope")
"""Kinds of rotary position encoding whose frequencies follow the longest text of a batch."""


def read_config(path: Path, address: str) -> PreTrainedConfig:
    """Its configuration. Raises NotFound, InvalidStudy where afina does not support the model."""
    check_config(path, address)
    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise NotFound(
            f"backbone {address}: config.json cannot be read ({first_line(error)}).",
            code="backbone.unreadable",
            backbone=address,
            file="config.json",
        ) from None
    check_family(config.model_type, address)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in _UNSTEADY:
        raise InvalidStudy(
            f"backbone {address}: its position encoding is {rope['rope_type']!r}, under which a long text changes how "
            "its neighbours in a batch are read. afina does not support that.",
            code="backbone.unsupported",
            backbone=address,
            rope_type=rope["rope_type"],
        )
    return cast(PreTrainedConfig, config)


def read_tokenizer(path: Path, address: str) -> PreTrainedTokenizerBase:
    """Its tokenizer. Raises NotFound, InvalidStudy."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise NotFound(
            f"backbone {address}: its tokenizer cannot be opened ({first_line(error)}).",
            code="backbone.unreadable",
            backbone=address,
            file="tokenizer",
        ) from None
    if not tokenizer.is_fast:
        raise InvalidStudy(
            f"backbone {address}: its tokenizer has no fast (Rust) version, which afina needs.",
            code="backbone.unsupported",
            backbone=address,
            file="tokenizer",
        )
    return tokenizer


def auto_class(name: str) -> Any:
    """The auto class of transformers with that name."""
    return getattr(transformers, name)


def first_line(error: Exception) -> str:
    """What an error says first; those of transformers go on with advice."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and advice off the terminal while a model is opened.

    It reports the head as newly initialised, which is what a classifier starts from.
    """
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
