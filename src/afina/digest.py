"""Compute digests of bytes, files, JSON and tensors (SHA-256, written `sha256:<64 hex digits>`), and derive seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


PREFIX = "sha256:"


def of_bytes(data: bytes) -> str:
    return PREFIX + hashlib.sha256(data).hexdigest()


def of_file(path: Path) -> str:
    with path.open("rb") as file:
        return PREFIX + hashlib.file_digest(file, "sha256").hexdigest()


def of_files(root: Path, names: Iterable[str]) -> str:
    """Return the digest of the names and contents of some files in the directory `root`, in any order."""
    return of_json({name: of_file(root / name) for name in sorted(names)})


def canonical_json(value: Any) -> str:
    """Return the JSON text of a value in canonical form: sorted keys, no spaces. Raises ValueError for NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def of_json(value: Any) -> str:
    return of_bytes(canonical_json(value).encode())


DEFAULTS = 1
"""A number in every digest of settings, which must be raised when the default of a setting changes."""


def of_settings(*settings: Any) -> str:
    """Return the digest of the settings that differ from their defaults, so that a new setting changes no digest.

    Callers pass the values from `non_defaults` for a dataclass, and from `Frozen.non_defaults` for a pydantic model.
    """
    return of_json([DEFAULTS, *settings])


def non_defaults(settings: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that differ from their defaults, by name; tuples become lists."""
    changed = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if value != default:
            changed[field.name] = list(value) if isinstance(value, tuple) else value
    return changed


def of_strings(strings: Iterable[str]) -> str:
    """Return the digest of a sequence of strings in their order; ["ab", "c"] and ["a", "bc"] have different digests."""
    sha = hashlib.sha256()
    for string in strings:
        data = string.encode("utf-8", "surrogatepass")
        sha.update(len(data).to_bytes(8, "little"))
        sha.update(data)
    return PREFIX + sha.hexdigest()


def of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return the digest of named tensors: of the name, dtype, shape and bytes of each tensor, sorted by name."""
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
    """Derive a 63-bit seed for a purpose, such as "order", from a run's seed; equal arguments give equal seeds.

    Each purpose has its own random stream, so that a change of one (another method, a resumed run) changes no other.
    """
    text = ":".join([str(seed), purpose, *map(str, index)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
