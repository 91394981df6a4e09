"""Classes that decode the tokens of an answer to pieces of text while the tokens arrive.

The pieces joined are exactly the text that `afina.generating.answers.text_of` returns for the answer. A piece is not
returned yet while later tokens could still change it, such as an incomplete character, the beginning of a stop string,
or whitespace at the end.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import lru_cache

from afina.data.tokenize import Tokenizer
from afina.generating import problems
from afina.models.decoding import GREEDY, Decoding

_REPLACEMENT = "\ufffd"
"""The character that a decoder writes for bytes that are not a character, or not a complete character yet."""

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""Pattern of the name of a token for a single byte, such as `<0x0A>`, in a vocabulary with byte fallback."""

_SPACE = "\u2581"
"""The character that stands for a space in vocabularies of SentencePiece."""


@lru_cache(maxsize=1)
def _bytes_of_characters() -> dict[str, int]:
    """Return the table of a byte-level vocabulary (as GPT-2's): the byte that each character stands for."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


class TokenTexts:
    """A class that returns the bytes and the text of single tokens of a tokenizer. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        decoder = tokenizer.backend_tokenizer.decoder
        state = "" if decoder is None else decoder.__getstate__().decode()
        self._byte_level, self._fallback = '"ByteLevel"' in state, '"ByteFallback"' in state
        self._spaced = _SPACE in state or '"Metaspace"' in state
        self._added = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}
        self.special = frozenset(number for number, token in tokenizer.added_tokens_decoder.items() if token.special)
        is_bpe = type(tokenizer.backend_tokenizer.model).__name__ == "BPE"
        self.is_steady = is_bpe or not getattr(tokenizer, "clean_up_tokenization_spaces", False)
        """Whether later tokens never change the text of earlier tokens, except within an incomplete character."""

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes of a token's text. A token without text has no bytes."""
        if token in self._added:
            return self._added[token].encode()
        name = self._name(token)
        if name is None:
            return b""
        if self._byte_level and all(character in _bytes_of_characters() for character in name):
            return bytes(_bytes_of_characters()[character] for character in name)
        if self._fallback and (byte := _BYTE.fullmatch(name)):
            return bytes([int(byte[1], 16)])
        if self._spaced:
            return name.replace(_SPACE, " ").encode()
        return str(self.tokenizer.decode([token])).encode()

    def _name(self, token: int) -> str | None:
        """Return a token's name in the vocabulary, or None if the vocabulary does not have the token id."""
        name = self.tokenizer.convert_ids_to_tokens(token)
        return None if name is None else str(name)

    def shown(self, token: int) -> str:
        r"""Return the text of a token. A part of a character is written as OpenAI does, such as `bytes:\xe2`."""
        content = self.bytes_of(token)
        try:
            return content.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)

    def is_known(self, token: int) -> bool:
        """Return whether the vocabulary has a token id. Token ids that are not in the vocabulary have no text."""
        return self._name(token) is not None

    def is_byte(self, token: int) -> bool:
        """Return whether a token stands for a single byte (byte fallback). Runs of such tokens are decoded together."""
        if not self._fallback:
            return False
        return _BYTE.fullmatch(self._name(token) or "") is not None


class _Decoded:
    """A decoder of tokens that arrive one by one. It leaves out special tokens. Each token is decoded a few times."""

    def __init__(self, texts: TokenTexts, hidden: Collection[int]) -> None:
        self._texts, self._hidden = texts, hidden
        self._tokens: list[int] = []
        self._from, self._to = 0, 0
        self._known = ""
        """The text of the tokens from `_from` to `_to`, with which the next decoded window begins."""

    def add(self, tokens: Sequence[int]) -> str:
        """Add tokens, and return the further text that later tokens cannot change."""
        self._tokens += [token for token in tokens if token not in self._hidden and self._texts.is_known(token)]
        if not self._texts.is_steady or self._to == len(self._tokens) or self._texts.is_byte(self._tokens[-1]):
            return ""
        window = str(self._texts.tokenizer.decode(self._tokens[self._from :], skip_special_tokens=True))
        if window.endswith(_REPLACEMENT) or len(window) <= len(self._known) or not window.startswith(self._known):
            return ""
        piece = window[len(self._known) :]
        self._from, self._to = self._to, len(self._tokens)
        self._known = str(self._texts.tokenizer.decode(self._tokens[self._from :], skip_special_tokens=True))
        return piece


class AnswerStream:
    """A stream of one answer's text, in pieces."""

    def __init__(self, texts: TokenTexts, decoding: Decoding = GREEDY) -> None:
        self._decoded, self._stop = _Decoded(texts, texts.special | {*decoding.stop_token_ids}), decoding.stop
        self._sent = ""
        self._begun, self._stopped = False, False
        self._held = ""
        """Text that later tokens cannot change but that was not returned yet: possibly the beginning of a stop string,
        or whitespace at the end."""

    @property
    def length(self) -> int:
        """The number of the answer's characters that later tokens cannot change, including those not returned yet."""
        return len(self._sent) + (len(self._held) if self._begun else 0)

    def add(self, tokens: Sequence[int]) -> str:
        """Add tokens, and return the next piece of the answer's text, which may be empty."""
        piece = self._decoded.add(tokens)
        if self._stopped or not piece:
            return ""
        self._held += piece
        ends = [place for string in self._stop if (place := self._held.find(string)) >= 0]
        self._stopped = bool(ends)
        upto = min(ends) if ends else len(self._held) - self._could_stop()
        ready = self._held[:upto]
        if not self._begun:
            ready, dropped = ready.lstrip(), len(ready) - len(ready.lstrip())
            self._held = self._held[dropped:]
            self._begun = bool(ready)
        ready = ready.rstrip()
        self._held = self._held[len(ready) :]
        self._sent += ready
        return ready

    def end(self, text: str) -> str:
        """Return the last piece of the answer's text, given the whole text.

        Raises InvalidData if the text does not begin with the pieces that were returned before.
        """
        if not text.startswith(self._sent):
            raise problems.STREAM_DIFFERS()
        rest, self._sent, self._held, self._stopped = text[len(self._sent) :], text, "", True
        return rest

    def _could_stop(self) -> int:
        """Return the number of characters at the end of the text in `_held` that could begin a stop string."""
        longest = min(len(self._held), max(map(len, self._stop), default=1) - 1)
        ends = (self._held[-size:] for size in range(longest, 0, -1))
        return next((len(end) for end in ends if any(string.startswith(end) for string in self._stop)), 0)
