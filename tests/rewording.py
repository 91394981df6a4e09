"""`reworded`: every message of the library has another word, so that a program that reads sentences is found out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from afina.errors import AfinaError
from afina.sentence import Sentence

WORD = "really"


@contextmanager
def reworded() -> Iterator[None]:
    """Add WORD to the beginning, the middle and the end of each declared sentence and of each error's message."""
    of, make = Sentence.of.__func__, AfinaError.__init__  # type: ignore[attr-defined]

    def of_other_words(cls: type[Sentence], declaration: str, /, **fields: object) -> Sentence:
        first, *rest = declaration.split(". ")
        return of(cls, f". {WORD} ".join([f"{WORD} {first}", *rest]) + f" {WORD}", **fields)  # type: ignore[no-any-return]

    def make_other(error: AfinaError, message: str = "", /, **more: Any) -> None:
        make(error, Sentence([f"{WORD}: ", message, f" {WORD}"]), **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sentence, "of", classmethod(of_other_words))
        patch.setattr(AfinaError, "__init__", make_other)
        yield


def in_both_words(ask: Callable[[], Any]) -> tuple[Any, Any]:
    """Return an answer in the words of the library, and the same answer in other words."""
    plain = ask()
    with reworded():
        return plain, ask()
