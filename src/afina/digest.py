"""The one definition of every digest, sha256, written `sha256:<64 hex digits>`; and seeds, which are derived by one.

Knows bytes, JSON and tensors; does not know what they mean.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


PREFIX = "sha256:"


def of_bytes(data: bytes) -> str:
    """Digest of the bytes as they are."""
    return PREFIX + hashlib.sha256(data).hexdigest()


def of_file(path: Path) -> str:
    """Digest of a file's content, read in pieces."""
    with path.open("rb") as file:
        return PREFIX + hashlib.file_digest(file, "sha256").hexdigest()


def of_files(root: Path, names: Iterable[str]) -> str:
    """Digest of named files below `root`: names and contents, in the order of the names."""
    return of_json({name: of_file(root / name) for name in sorted(names)})


def canonical_json(value: Any) -> str:
    """The one spelling of a JSON value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def of_json(value: Any) -> str:
    """Digest of a JSON value in its canonical spelling."""
    return of_bytes(canonical_json(value).encode())


def of_strings(strings: Iterable[str]) -> str:
    """Digest of a sequence of strings, in order; each is length-prefixed, so no joining is ambiguous."""
    sha = hashlib.sha256()
    for string in strings:
        data = string.encode("utf-8", "surrogatepass")
        sha.update(len(data).to_bytes(8, "little"))
        sha.update(data)
    return PREFIX + sha.hexdigest()


def of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Digest of a tensor set: (name, dtype, shape, bytes) of each, sorted by name."""
    import torch

    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        dtype = str(tensor.dtype).removeprefix("torch.")
        sha.update(canonical_json([name, dtype, list(tensor.shape)]).encode())
        if tensor.numel():
            sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return PREFIX + sha.hexdigest()


def derive_seed(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit seed for `purpose` at `index`, fixed for ever by its arguments.

    Initialisation, order and dropout each draw from a stream of their own, so that a change in one (another method, a
    resumed run) leaves the others as they were.
    """
    text = ":".join([str(seed), purpose, *map(str, index)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
