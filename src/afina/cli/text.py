"""Text between afina and a terminal: arguments that are none, and characters that an output cannot write."""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import TextIO

from afina.errors import CannotWrite, InvalidData

_EMPTY = re.compile(r"--[a-z-]+=")
"""An option whose value is empty."""

_JSON_ESCAPES = "afina.json"
"""Name of the error handler below."""


def check_arguments(arguments: Sequence[str]) -> None:
    """Raise InvalidData for an option or a place that is empty, or bytes that are no text in the terminal's encoding.

    An empty one is what a variable leaves that was never set. No record could hold the other, and nobody type it again.
    """
    for number, argument in enumerate(arguments, start=1):
        before = arguments[number - 2] if number > 1 else ""
        if _EMPTY.fullmatch(argument) or (not argument and (number <= 2 or before.startswith("--"))):
            option = argument.removesuffix("=") or before
            place = option if option.startswith("--") and "=" not in option else f"argument {number}"
            raise InvalidData(
                f"{place}: is empty. Give a value, or leave it out.", code="argument.invalid", argument=place
            )
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            shown = os.fsencode(argument).decode("utf-8", "backslashreplace")
            raise InvalidData(
                f"argument {number}, {shown}: its bytes are not text in this terminal's encoding. "
                "Give it in UTF-8; rename a file whose name is not.",
                code="argument.invalid",
                argument=number,
            ) from None


def check_streams() -> None:
    """Have something stand where the shell has closed a stream, so that no file of ours is taken for it.

    Raises CannotWrite where standard output is closed: an answer would be lost without a word.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free, so this one
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - open to the end
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        raise CannotWrite("standard output", "it is closed")


def escape_unwritable(*streams: TextIO) -> None:
    """Have each stream write a character that its encoding lacks as JSON does, `\\u00e9`: what is JSON remains so."""
    codecs.register_error(_JSON_ESCAPES, _escaped)
    for stream in streams:
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=_JSON_ESCAPES)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)), error.end


def printable(text: str) -> str:
    """A text that somebody else wrote, on one line and without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
