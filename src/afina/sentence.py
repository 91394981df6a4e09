"""Sentence: a message whose references to options are typed, so that each face names the options in its own words.

The declaration of a message writes a reference in backquotes: "Name the right column with `label`." The command line
shows `--label` there, the studio "Column of the label", and the library `label`. A declaration is parsed once; no
program parses a sentence. The module does not know any option.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from functools import lru_cache
from typing import Any, Self, SupportsIndex

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]
"""A JSON value."""

Namer = Callable[[str], str | None]
"""A face's words for an option, by the option's name in the library. None: the name itself, in backquotes."""

_REFERENCE = re.compile(r"`([a-z][a-z0-9_]*|\{[a-z_]+\})`")
"""In a declaration: an option, or the field that has the name of an option."""


class Option(str):
    """The name of an option in the library, as a part of a Sentence."""

    __slots__ = ()


class Sentence(str):
    """A text that remembers which of its parts are options. As a string, it has the options' names in backquotes.

    Attributes:
        parts: plain strings and Options, in order.
    """

    parts: tuple[str, ...]

    def __new__(cls, parts: Iterable[str] = ()) -> Self:
        flat = tuple(_flat(parts))
        made = super().__new__(cls, "".join(f"`{part}`" if isinstance(part, Option) else part for part in flat))
        made.parts = flat
        return made

    @classmethod
    def of(cls, declaration: str, /, **fields: object) -> Self:
        """Return a declaration filled in with its fields. A field that is a Sentence keeps its references.

        The items of a list are joined with commas. `{found!r:.40}` quotes the first 40 characters of a string.
        """
        return cls(part for piece in _pieces(declaration) for part in _filled(piece, fields))

    @classmethod
    def joined(cls, sentences: Iterable[str], between: str = " ") -> Self:
        """Return sentences and plain texts as one sentence; empty ones are left out."""
        parts = [part for sentence in sentences if sentence for part in (between, sentence)]
        return cls(parts[1:])

    @classmethod
    def from_json(cls, parts: Sequence[Json]) -> Self:
        """Return the sentence of which `as_json` made the parts."""
        return cls(Option(part["option"]) if isinstance(part, dict) else str(part) for part in parts)

    def as_json(self) -> list[Json]:
        """Return the parts as JSON values: a text, or {"option": name}."""
        return [{"option": str(part)} if isinstance(part, Option) else part for part in self.parts]

    @property
    def options(self) -> tuple[str, ...]:
        return tuple(str(part) for part in self.parts if isinstance(part, Option))

    def named(self, namer: Namer) -> str:
        """Return the text with the options in the words of a face."""
        return "".join((namer(part) or f"`{part}`") if isinstance(part, Option) else part for part in self.parts)

    def renamed(self, name: Callable[[str], str]) -> Self:
        """Return the sentence with other options in the place of its own."""
        return type(self)(Option(name(part)) if isinstance(part, Option) else part for part in self.parts)

    @property
    def subject(self) -> str | None:
        """The option with which the sentence begins. None: it begins with a text."""
        return str(self.parts[0]) if self.parts and isinstance(self.parts[0], Option) else None

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> Sentence:
        """Return a copy with `old` replaced in the plain parts; references stay."""
        return Sentence(part if isinstance(part, Option) else part.replace(old, new, count) for part in self.parts)

    def removeprefix(self, prefix: str, /) -> Sentence:
        """Return a copy without `prefix`, if the first part is a plain one that begins with it."""
        first, rest = self.parts[:1], self.parts[1:]
        return Sentence([*(part if isinstance(part, Option) else part.removeprefix(prefix) for part in first), *rest])

    def __getnewargs__(self) -> tuple[tuple[str, ...]]:  # type: ignore[override]
        return (self.parts,)


def _flat(parts: Iterable[str]) -> Iterator[str]:
    """Yield the parts of all sentences, with neighbouring plain texts as one part."""
    text = ""
    for part in _each(parts):
        if not isinstance(part, Option):
            text += part
            continue
        if text:
            yield text
        yield part
        text = ""
    if text:
        yield text


def _each(parts: Iterable[str]) -> Iterator[str]:
    for part in parts:
        if isinstance(part, Sentence):
            yield from part.parts
        else:
            yield part


def visible(text: str, kept: str = "") -> str:
    """Return a text with escapes for characters that cannot be seen, except those in `kept`."""
    return "".join(letter if letter.isprintable() or letter in kept else ascii(letter)[1:-1] for letter in text)


class _Quoted(str):
    """A string that is formatted in quotes; a precision, as in `{found!r:.40}`, shortens the string, not the quotes."""

    def __format__(self, spec: str) -> str:
        return repr(self[: int(spec[1:])] if spec else str(self))


class _Fields(string.Formatter):
    """A formatter like `str.format`, which joins the items of a list with commas."""

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        if conversion == "r" and isinstance(value, str):
            return _Quoted(value)
        return super().convert_field(value, conversion)  # type: ignore[arg-type]

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, Mapping | Set | Sequence) and not isinstance(value, str):
            return ", ".join(visible(str(item)) for item in (sorted(value) if isinstance(value, Set) else value))
        return super().format_field(value, format_spec)  # type: ignore[no-any-return]


@lru_cache(maxsize=4096)
def _pieces(declaration: str) -> tuple[str, ...]:
    """Return the text between the references as strings, and the references as Options."""
    pieces = _REFERENCE.split(declaration)
    return tuple(Option(piece) if place % 2 else piece for place, piece in enumerate(pieces))


def _filled(piece: str, fields: Mapping[str, object]) -> Iterator[str]:
    if isinstance(piece, Option):
        yield Option(fields[piece[1:-1]]) if piece.startswith("{") else piece
        return
    for text, name, form, conversion in string.Formatter().parse(piece):
        yield text
        if name is not None:
            value = fields.get(name)
            whole = "{" + name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "") + "}"
            if isinstance(value, Sentence) and not form and not conversion:
                yield value
            else:
                yield _Fields().vformat(whole, (), fields)
