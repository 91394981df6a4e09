"""Render a tokenizer's chat template, which is code of the backbone: it may raise, not end, or ask for the date.

transformers renders chat templates in jinja's sandbox, which limits what the code can access, but not its time. The
date function `strftime_now` is undefined here, so that a prompt is the same every day. Templates such as that of Llama
3.2 then write a fixed date.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from afina.data.tokenize import Tokenizer

SECONDS = 20.0
"""Most seconds of one rendering; usual templates take milliseconds."""

_NO_CLOCK = "{% set strftime_now = no_clock %}{{ '' }}"
"""Stands before a template, and makes its function of the date undefined, as `no_clock` is."""


def rendered(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], *, prompt: bool) -> str:
    """Return the text that the tokenizer's chat template makes of messages.

    Args:
        tokenizer: A tokenizer with a chat template.
        messages: The messages of a chat, each with `role` and `content`.
        prompt: Whether to append the start of an answer (`add_generation_prompt`).

    Raises:
        ChatRefused: The template raises, needs the date, or takes more than SECONDS.
    """
    found: list[str | Exception] = []

    def render() -> None:
        given = [dict(one) for one in messages]
        try:
            source = f"{_NO_CLOCK}{tokenizer.get_chat_template()}"
            made = tokenizer.apply_chat_template(
                given, chat_template=source, tokenize=False, add_generation_prompt=prompt
            )
        except Exception as error:  # noqa: BLE001 - the template's code may raise anything
            found.append(error)
        else:
            found.append(str(made))

    thread = threading.Thread(target=render, daemon=True)  # one that does not end is left behind
    thread.start()
    thread.join(SECONDS)
    if not found:
        raise ChatRefused(f"it is not rendered after {SECONDS:g} seconds")
    if isinstance(found[0], Exception):
        why = " ".join(str(found[0]).split())[:200]
        if "no_clock" in why:
            raise ChatRefused("it writes the date into the prompt, which would change from day to day")
        raise ChatRefused(f"it refuses a message: {why}")
    return found[0]


class ChatRefused(Exception):
    """Raised if a chat template does not render messages; its text is the end of a sentence."""
