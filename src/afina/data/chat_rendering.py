"""Render a tokenizer's chat template, which is code of the backbone: it may raise, not end, or read the date.

transformers renders it in jinja's sandbox, which limits what the code can reach, but not its time.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from afina.data.tokenize import Tokenizer
from afina.errors import InvalidStudy

SECONDS = 20.0
"""Most seconds of one rendering; usual templates take milliseconds."""

_NO_CLOCK = {"strftime_now": ""}
"""Replaces the template's function of the date by a value that is no function, so that a call of it raises."""


def rendered_template(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], *, prompt: bool) -> str:
    """Return what the tokenizer's chat template makes of messages.

    Args:
        tokenizer: A tokenizer with a chat template.
        messages: Each with `role` and `content`.
        prompt: Whether the start of an answer follows.

    Raises:
        InvalidStudy: The template raises, takes more than SECONDS, or depends on the date.
    """
    made = _within_seconds(tokenizer, messages, prompt, {})
    if isinstance(made, Exception):
        raise _unusable(f"it refuses a message of the user: {' '.join(str(made).split())[:200]}")
    if made is None:
        raise _unusable(f"it is not rendered after {SECONDS:g} seconds")
    if _within_seconds(tokenizer, messages, prompt, _NO_CLOCK) != made:
        raise _unusable("it writes the date into the prompt, which would change from day to day")
    return made


def _unusable(why: str) -> InvalidStudy:
    return InvalidStudy(
        f"`template` chat: the tokenizer's chat template cannot be used: {why}. Give a template of your own.",
        code="template.chat-unusable",
    )


def _within_seconds(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], prompt: bool, more: Mapping[str, Any]
) -> str | Exception | None:
    """Return the rendering, or what it raised; None if it does not end. A thread that does not end is left behind."""
    found: list[str | Exception] = []

    def render() -> None:
        given = [dict(one) for one in messages]
        try:
            made = tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=prompt, **more)
        except Exception as error:  # noqa: BLE001 - the template's code may raise anything
            found.append(error)
        else:
            found.append(str(made))

    thread = threading.Thread(target=render, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return found[0] if found else None
