"""Answer streams: decode an answer's tokens to pieces of text while the tokens arrive.

The pieces together are exactly the answer's text as `afina.generating.answers.text_of` returns it. A piece is held back
while later tokens could still change it: an incomplete character, the beginning of a stop string, whitespace at the
end.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import lru_cache

from afina.data.tokenize import Tokenizer
from afina.generating import problems
from afina.models.decoding import GREEDY, Decoding

_REPLACEMENT = "\ufffd"
"""The character that a decoder writes for bytes that are no character, or not yet."""

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""A token for a single byte, in a vocabulary with byte fallback."""

_SPACE = "\u2581"
"""The character that stands for a space in vocabularies of SentencePiece."""


@lru_cache(maxsize=1)
def _bytes_of_characters() -> dict[str, int]:
    """Return the byte that each character stands for in a byte-level vocabulary (GPT-2's table)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


class TokenTexts:
    """The bytes and the text of single tokens. Thread-safe."""

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
        """Whether later tokens never change the text of earlier ones, except within a character."""

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes of a token; of a token without text, none."""
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
        """Return the token as it stands in the vocabulary; None: the vocabulary has fewer tokens."""
        name = self.tokenizer.convert_ids_to_tokens(token)
        return None if name is None else str(name)

    def shown(self, token: int) -> str:
        r"""Return the text of a token. A part of a character is shown as OpenAI does, such as `bytes:\xe2`."""
        content = self.bytes_of(token)
        try:
            return content.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)

    def is_known(self, token: int) -> bool:
        """Whether the vocabulary has a token; other ids have no text."""
        return self._name(token) is not None

    def is_byte(self, token: int) -> bool:
        """Whether a token is a byte whose run is decoded as a whole (byte fallback)."""
        if not self._fallback:
            return False
        return _BYTE.fullmatch(self._name(token) or "") is not None


class _Decoded:
    """The text of tokens while they arrive, without special tokens. Decodes each token only a few times."""

    def __init__(self, texts: TokenTexts, hidden: Collection[int]) -> None:
        self._texts, self._hidden = texts, hidden
        self._tokens: list[int] = []
        self._from, self._to = 0, 0
        self._known = ""
        """The text of the tokens from `_from` to `_to`, which begin the next window."""

    def add(self, tokens: Sequence[int]) -> str:
        """Return the further text that is certain after these tokens."""
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
    """The text of one answer, in pieces."""

    def __init__(self, texts: TokenTexts, decoding: Decoding = GREEDY) -> None:
        self._decoded, self._stop = _Decoded(texts, texts.special | {*decoding.stop_token_ids}), decoding.stop
        self._sent = ""
        self._begun, self._stopped = False, False
        self._held = ""
        """Text that is certain and was not returned: the beginning of a stop string, or whitespace."""

    @property
    def length(self) -> int:
        """Number of characters of the answer that are certain, including those that are held back."""
        return len(self._sent) + (len(self._held) if self._begun else 0)

    def add(self, tokens: Sequence[int]) -> str:
        """Return the next piece of the answer, which may be empty."""
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
        """Return the last piece of the answer.

        Raises InvalidData if the answer does not begin with the pieces that were returned.
        """
        if not text.startswith(self._sent):
            raise problems.STREAM_DIFFERS()
        rest, self._sent, self._held, self._stopped = text[len(self._sent) :], text, "", True
        return rest

    def _could_stop(self) -> int:
        """Return the length of the longest end of the held text that could begin a stop string."""
        longest = min(len(self._held), max(map(len, self._stop), default=1) - 1)
        ends = (self._held[-size:] for size in range(longest, 0, -1))
        return next((len(end) for end in ends if any(string.startswith(end) for string in self._stop)), 0)
