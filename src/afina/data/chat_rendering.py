"""Render a tokenizer's chat template with a limit of time and without the date.

A chat template is code that comes with the backbone: the code may raise, run forever or ask for the date. jinja's
sandbox does not limit its time. afina removes the date function `strftime_now`, so that a prompt is the same every
day. Without it, templates such as that of Llama 3.2 write a fixed date.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from afina.data.tokenize import Tokenizer

SECONDS = 20.0
"""The largest number of seconds in which a chat template must be rendered; usual templates take milliseconds."""

_NO_CLOCK = "{% set strftime_now = no_clock %}{{ '' }}"
"""The text put before a chat template: it replaces the date function with the undefined name `no_clock`."""


def rendered(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], *, prompt: bool) -> str:
    """Return the text that the tokenizer's chat template makes of messages with the keys `role` and `content`.

    With `prompt`, the start of an answer is appended. Raises ChatRefused if the template raises an error, needs the
    date, or takes more than SECONDS.
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
    """Raised if a chat template cannot render messages; the error's text completes the sentence of the caller."""
