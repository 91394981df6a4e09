"""Whether an evaluation text was trained on: in the same task, or by the hashes that stay beside an adapter's tensors.

The hashes tell whether a text was among the training texts, without keeping these. A text is hashed as it is compared
(`afina.data.split.key`), under a salt, to 64 bits: of a million texts, two that differ are taken for the same with a
chance below one in ten million. The salt follows from the texts, so the same training gives the same file; it keeps one
table of hashes from serving for several adapters, and no more. Whoever has the hashes can test whether a text that they
already have was trained on. Knows no adapter.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from afina import digest, file_io
from afina.data.split import Example, Split, key
from afina.errors import CorruptAdapter, Leakage

HASHES_FILE = "training_texts.json"
FORMAT = 1
MOST_BYTES = 256 << 20
"""Of the file, at most: those of 24 million texts."""

_BYTES = 8
_SALT = re.compile(r"[0-9a-f]{32}", re.ASCII)
_AGAIN = "Copy the adapter again, or remove this file: then it is not known which texts the adapter was trained on."


@dataclass(frozen=True, eq=False)
class TextHashes:
    """salt: 32 hexadecimal digits;  hashes: uint64 [N], rising, each once."""

    salt: str
    hashes: np.ndarray

    def __len__(self) -> int:
        return len(self.hashes)

    @classmethod
    def of(cls, examples: Iterable[Example]) -> Self:
        """Those of examples, whatever their labels; one without letters and digits has none."""
        keys = sorted({key(example) for example in examples} - {""})
        salt = digest.of_strings(keys).removeprefix(digest.PREFIX)[:32]
        return cls(salt, np.unique(_hashed(keys, salt)))

    def among(self, examples: Iterable[Example]) -> np.ndarray:
        """Of each example whether it is one of these, bool [N]."""
        keys = [key(example) for example in examples]
        found: np.ndarray = np.isin(_hashed(keys, self.salt), self.hashes) & np.array([bool(one) for one in keys], bool)
        return found

    def write(self, path: Path) -> None:
        """Write the file, always the same for the same hashes."""
        content = self._content()
        path.write_text(json.dumps(content | {"digest": digest.of_json(content)}) + "\n", encoding="ascii")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Those in a file. Raises CorruptAdapter."""
        content = file_io.read_object(path, MOST_BYTES)
        if content.get("format") != FORMAT or type(content["format"]) is not int:
            raise CorruptAdapter(
                f"{path}: its format is {str(content.get('format'))[:40]!r}, this afina reads {FORMAT}. {_AGAIN}",
                code="adapter.format-unknown",
                path=path,
            )
        salt, text = content.get("salt"), content.get("hashes")
        if not isinstance(salt, str) or not _SALT.fullmatch(salt) or not isinstance(text, str):
            raise CorruptAdapter(
                f"{path}: expected a salt of 32 hexadecimal digits, and hashes in base64. {_AGAIN}",
                code="adapter.file-malformed",
                path=path,
            )
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise CorruptAdapter(
                f"{path}: its hashes are not base64. {_AGAIN}", code="adapter.file-malformed", path=path
            ) from None
        if len(data) % _BYTES:
            raise CorruptAdapter(
                f"{path}: its hashes have {len(data):,} bytes, no multiple of {_BYTES}. {_AGAIN}",
                code="adapter.file-malformed",
                path=path,
                bytes=len(data),
            )
        made = cls(salt, np.frombuffer(data, "<u8"))
        if content != made._content() | {"digest": digest.of_json(made._content())} or not made._rises():
            raise CorruptAdapter(
                f"{path}: it was changed: it states another digest than it has. {_AGAIN}",
                code="adapter.changed",
                path=path,
            )
        return made

    def _content(self) -> dict[str, object]:
        data = self.hashes.astype("<u8").tobytes()
        return {"format": FORMAT, "salt": self.salt, "hashes": base64.b64encode(data).decode("ascii")}

    def _rises(self) -> bool:
        return bool((self.hashes[1:] > self.hashes[:-1]).all())


def _hashed(keys: Iterable[str], salt: str) -> np.ndarray:
    """uint64 [N]."""
    seed = bytes.fromhex(salt)
    hashed = (
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_BYTES, key=seed).digest() for text in keys
    )
    return np.frombuffer(b"".join(hashed), "<u8").astype(np.uint64)


LEAKAGE_LIMIT = 0.01
"""Share of evaluation texts that may occur in the training split."""


def count_leaked(train: Iterable[Example], evaluation: Split) -> int:
    """How many evaluation examples occur in the training split; those without letters or digits do not count."""
    seen = {key(example) for example in train} - {""}
    return sum(key(example) in seen for example in evaluation)


def check_leakage(address: str, train: Split, evaluation: Split, *, allow: bool) -> int:
    """Count leaked examples; raise `Leakage` above `LEAKAGE_LIMIT` unless allowed."""
    leaked = count_leaked(train, evaluation)
    check_leaked(address, leaked, len(evaluation), allow=allow)
    return leaked


def check_leaked(address: str, leaked: int, examples: int, *, allow: bool) -> None:
    """Raise `Leakage` where more than LEAKAGE_LIMIT of the evaluation examples are leaked, unless allowed."""
    if leaked > LEAKAGE_LIMIT * examples and not allow:
        raise Leakage(
            f"task {address}: {leaked} of {examples} evaluation texts also occur in the training split, "
            f"at most {LEAKAGE_LIMIT:.0%} may. Remove the duplicates, or pass `allow_leakage` to go on.",
            task=address,
            leaked=leaked,
            evaluation=examples,
        )
