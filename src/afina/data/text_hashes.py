"""TextHashes: hashes of an adapter's training texts, stored in a file beside the adapter's tensors.

A text is hashed in the normalised form in which texts are compared (`afina.data.split.key`), with a salt, to 64 bits.
Among a million texts, two different texts have the same hash with a chance below one in ten million. The salt is
computed from the texts, so the same training texts give the same file. The salt only prevents that one table of
precomputed hashes works for several adapters. Whoever has the file can test whether a given text was a training text.
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
from afina.data import problems
from afina.data.split import Example, key

HASHES_FILE = "training_texts.json"
FORMAT = 1
MOST_BYTES = 256 << 20
"""The largest size in bytes of a file of hashes: that of the hashes of 24 million texts."""

_BYTES = 8
_SALT = re.compile(r"[0-9a-f]{32}", re.ASCII)


@dataclass(frozen=True, eq=False)
class TextHashes:
    """The salted hashes of an adapter's training texts, uint64 [N], ascending, without duplicates."""

    salt: str
    hashes: np.ndarray

    def __len__(self) -> int:
        return len(self.hashes)

    @classmethod
    def of(cls, examples: Iterable[Example]) -> Self:
        """Return the hashes of the texts of examples; a text without letters and digits has no hash."""
        keys = sorted({key(example) for example in examples} - {""})
        salt = digest.of_strings(keys).removeprefix(digest.PREFIX)[:32]
        return cls(salt, np.unique(_hashed(keys, salt)))

    def among(self, examples: Iterable[Example]) -> np.ndarray:
        keys = [key(example) for example in examples]
        found: np.ndarray = np.isin(_hashed(keys, self.salt), self.hashes) & np.array([bool(one) for one in keys], bool)
        return found

    def write(self, path: Path) -> None:
        """Write the hashes to the file `path`; equal hashes give equal bytes."""
        content = self._content()
        path.write_text(json.dumps(content | {"digest": digest.of_json(content)}) + "\n", encoding="ascii")

    @classmethod
    def read(cls, path: Path) -> Self:
        content = file_io.read_object(path, MOST_BYTES)
        if content.get("format") != FORMAT or type(content["format"]) is not int:
            raise problems.HASHES_FORMAT_UNKNOWN(found=str(content.get("format"))[:40], expected=FORMAT, path=path)
        salt, text = content.get("salt"), content.get("hashes")
        if not isinstance(salt, str) or not _SALT.fullmatch(salt) or not isinstance(text, str):
            raise problems.HASHES_MALFORMED(path=path)
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise problems.HASHES_MALFORMED(path=path) from None
        if len(data) % _BYTES:
            raise problems.HASHES_MALFORMED(path=path, bytes=len(data))
        made = cls(salt, np.frombuffer(data, "<u8"))
        if content != made._content() | {"digest": digest.of_json(made._content())} or not made._rises():
            raise problems.HASHES_CHANGED(path=path)
        return made

    def _content(self) -> dict[str, object]:
        data = self.hashes.astype("<u8").tobytes()
        return {"format": FORMAT, "salt": self.salt, "hashes": base64.b64encode(data).decode("ascii")}

    def _rises(self) -> bool:
        return bool((self.hashes[1:] > self.hashes[:-1]).all())


def _hashed(keys: Iterable[str], salt: str) -> np.ndarray:
    seed = bytes.fromhex(salt)
    hashed = (
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_BYTES, key=seed).digest() for text in keys
    )
    return np.frombuffer(b"".join(hashed), "<u8").astype(np.uint64)
