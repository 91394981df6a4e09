"""Prompt templates of text-to-text tasks: the user's template, a default for the input columns, or the chat template.

A chat template is code that comes with the backbone: the code may raise, run forever or ask for the date. jinja's
sandbox does not limit its time. afina removes the date function `strftime_now`, so that a prompt is the same every day.
Without it, templates such as that of Llama 3.2 write a fixed date.

This module does not import models, and can be imported without transformers.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from afina.data import problems
from afina.data.template import PAIR, TEXT, Template

if TYPE_CHECKING:
    from afina.data.tokenize import Tokenizer

SECONDS = 20.0
"""The largest number of seconds in which a chat template must be rendered; usual templates take milliseconds."""

_NO_CLOCK = "{% set strftime_now = no_clock %}{{ '' }}"
"""The text put before a chat template: it replaces the date function with the undefined name `no_clock`."""

CHAT = "chat"
"""The value of the option `template` that selects the tokenizer's own chat template."""

USUAL = {
    ("question", None): "Question: {text}\nAnswer:",
    ("context", "question"): "{text}\n\nQuestion: {text_pair}\nAnswer:",
    ("document", None): "{text}\n\nSummary:",
    ("mr", None): "{text}\n\nDescription:",
}
"""Default prompt templates, by the names of the input's first and second column (None: the input has one column)."""

OTHERWISE = "{text}\n\nOutput:"
OTHERWISE_PAIR = "{text}\n{text_pair}\n\nOutput:"

_IN_BRACES = re.compile(r"\{[^{}]+\}")

_ANSWER = "\x1fanswer\x1f"
"""A placeholder for the answer while a chat template is examined; texts do not contain its control characters."""


def prompt_of(asked: str | None, columns: Mapping[str, str], *, pairs: bool, tokenizer: Tokenizer) -> Template:
    """Return the prompt template of a text-to-text task. Raises InvalidStudy.

    Args:
        asked: A template, in which the names of the input columns in braces may replace `{text}` and `{text_pair}`.
            "chat": the tokenizer's chat template. None: the default template for the input columns.
        columns: The names of the task's columns by role, as in `Task.columns`.
    """
    if asked == CHAT:
        return chat_template(tokenizer, pairs=pairs)
    return input_template(asked, columns, pairs=pairs)


def input_template(asked: str | None, columns: Mapping[str, str], *, pairs: bool) -> Template:
    """Return the prompt template of a text-to-text task, from a template or by the input columns as in `prompt_of`."""
    if asked is None:
        first, second = (columns.get(role, "").strip().casefold() for role in ("text", "text_pair"))
        asked = USUAL.get((first, second or None), OTHERWISE_PAIR if pairs else OTHERWISE)
    # A column's own name goes before the mark that is spelled alike: a second column may be called `text`.
    marks = {f"{{{columns[role]}}}": mark for role, mark in (("text", TEXT), ("text_pair", PAIR)) if role in columns}
    named = _IN_BRACES.sub(lambda found: marks.get(found[0], found[0]), asked)
    made = Template(named)
    made.check_pairs(pairs)
    made.check_fields(list(marks))
    return made


def chat_template(tokenizer: Tokenizer, *, pairs: bool) -> Template:
    """Return the tokenizer's chat template as a prompt template: a user's message and the start of an answer.

    Raises InvalidStudy if the tokenizer has no chat template. Raises InvalidStudy if the chat template does not put an
    answer directly after the prompt and an end-of-sequence token directly after the answer.
    """
    if not tokenizer.chat_template:
        raise problems.CHAT_TEMPLATE_MISSING()
    asked = {"role": "user", "content": f"{TEXT}\n\n{PAIR}" if pairs else TEXT}
    chat = [asked, {"role": "assistant", "content": _ANSWER}]
    try:
        prompt, whole = rendered(tokenizer, [asked], prompt=True), rendered(tokenizer, chat, prompt=False)
    except ChatRefused as error:
        raise problems.CHAT_TEMPLATE_BROKEN(_error=error) from None
    end = str(tokenizer.eos_token)
    if not whole.startswith(f"{prompt}{_ANSWER}{end}"):
        problem = f"it does not continue a prompt with the answer and the end-of-sequence token {end!r}"
        raise problems.CHAT_TEMPLATE_BROKEN(end=end, _error=problem)
    made = Template(prompt, special_tokens=False)
    made.check_pairs(pairs)
    return made


def rendered_chat(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
) -> str:
    """Return the prompt, with special tokens, that the tokenizer's chat template makes of the messages of a chat.

    Raises InvalidData if a message contains a special token, which could imitate another message, or if the template
    raises an error or leaves out the text of a message or the name of a function that a message calls.
    """
    for number, message in enumerate(messages, start=1):
        values = [one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in message.values()]
        if forged := [token for token in tokenizer.all_special_tokens if any(token in value for value in values)]:
            raise problems.MESSAGE_SPECIAL_TOKEN(token=forged[0], number=number)
    try:
        made = rendered(tokenizer, messages, prompt=True, tools=tools)
    except ChatRefused as error:
        raise problems.MESSAGES_REFUSED_BY_TEMPLATE(_error=error) from None
    for number, message in enumerate(messages, start=1):
        called = [one["function"]["name"] for one in message.get("tool_calls", ())]
        content = message["content"].strip()
        shown = content in made or json.dumps(content, ensure_ascii=False) in made  # Llama 3 writes results as JSON
        if not shown or any(name not in made for name in called):
            raise problems.MESSAGE_LEFT_OUT(role=message["role"], number=number)
    return made


def rendered(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    prompt: bool,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """Return the text that the tokenizer's chat template makes of messages with the keys `role` and `content`.

    `tools`: the functions that the answer may call, as in OpenAI's protocol. With `prompt`, the start of an answer is
    appended. Raises ChatRefused if the template raises an error, needs the date, or takes more than SECONDS.
    """
    found: list[str | Exception] = []

    def render() -> None:
        given = [dict(one) for one in messages]
        try:
            offered: Any = None if tools is None else [dict(one) for one in tools]
            source = f"{_NO_CLOCK}{tokenizer.get_chat_template(tools=offered)}"
            made = tokenizer.apply_chat_template(
                given, tools=offered, chat_template=source, tokenize=False, add_generation_prompt=prompt
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
