"""A safetensors file, looked at before anybody's library reads it: its header, and that its numbers are numbers.

A reader of our own, stricter than the format asks for. Knows no adapter; no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from afina import file_io
from afina.errors import CorruptAdapter, Refused
from afina.store.intake.limits import Limits

PREFIX = 8
"""Bytes before the header, which say how long it is."""

LONGEST_NAME = 512
PIECE = 4 << 20
"""Bytes of a tensor that are looked at in one go."""

DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes of a number. What any method trains is one of these; TF-IDF has float64."""

_EXPONENT: dict[str, tuple[str, int]] = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}
"""The bits that are all ones in an infinity and in what is no number, and in no other value."""

_METADATA = "__metadata__"


@dataclass(frozen=True)
class Entry:
    """A tensor in a file: dtype as the format spells it, shape, and which bytes behind the header are its own."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """Of a file: its tensors by name, in the order of their bytes; its strings; how many bytes the file has."""

    tensors: Mapping[str, Entry]
    metadata: Mapping[str, str]
    data_start: int
    size: int


def read_header(path: Path, limits: Limits = Limits()) -> Header:  # noqa: B008 - frozen
    """The header of a file whose tensors cover what follows it: no gap, no overlap, nothing left over.

    Raises CorruptAdapter where it is not so, Refused where it is more than `limits` allow or of a dtype that no adapter
    has.
    """
    size = file_io.check_plain(path)
    with path.open("rb") as file:
        start = file.read(PREFIX)
        length = int.from_bytes(start, "little")
        if size < PREFIX or length > size - PREFIX:
            raise _corrupt(path, f"it has {size:,} bytes, its header alone would have {length:,}")
        if length > limits.header_bytes:
            raise _too_much(path, "the header", length, "bytes", limits.header_bytes, "header_bytes")
        text = file.read(length)
    if len(text) < length or not text.startswith(b"{"):
        raise _corrupt(path, "its header is no JSON object")
    content = file_io.parse_json(text, f"{path}, its header")
    metadata = content.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _corrupt(path, f"its {_METADATA} is no table of strings")
    if len(content) > limits.tensors:
        raise _too_much(path, "the file", len(content), "tensors", limits.tensors, "tensors")
    found = [(name, _entry(path, name, entry, limits)) for name, entry in content.items()]
    found.sort(key=lambda pair: (pair[1].start, pair[1].end))
    _check_cover(path, found, size - PREFIX - length)
    return Header(dict(found), metadata, PREFIX + length, size)


def check_finite(path: Path, header: Header) -> None:
    """Raise Refused where a value is infinite or no number; reads the file piece by piece."""
    with path.open("rb") as file:
        for name, entry in header.tensors.items():
            (unsigned, exponent), width = _EXPONENT[entry.dtype], DTYPES[entry.dtype]
            file.seek(header.data_start + entry.start)
            left = entry.end - entry.start
            while left:
                data = file.read(min(PIECE, left))
                if not data or len(data) % width:
                    raise _corrupt(path, f"it ends within {name!r}")
                left -= len(data)
                if ((np.frombuffer(data, unsigned) & exponent) == exponent).any():
                    raise Refused(
                        f"{path}: {name!r} has values that are infinite or no numbers, with which every answer is "
                        "wrong. Train the adapter again, at a lower learning rate or in float32.",
                        code="intake.values-not-finite",
                        path=path,
                        tensor=name,
                    )


def _entry(path: Path, name: str, entry: Any, limits: Limits) -> Entry:
    if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
        raise _corrupt(path, f"a tensor is called {name[:40]!r}, expected 1 to {LONGEST_NAME} printable characters")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _corrupt(path, f"its entry for {name[:80]!r} has not exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise Refused(
            f"{path}: {name[:80]!r} has dtype {str(dtype)[:40]!r}, an adapter's tensors have one of "
            f"{', '.join(DTYPES)}. Convert it to one of these and save it again.",
            code="intake.dtype-unsupported",
            path=path,
            tensor=name[:80],
            found=str(dtype)[:40],
        )
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise _corrupt(path, f"shape or data_offsets of {name[:80]!r} are no lists of whole numbers from 0 up")
    if len(shape) > limits.dimensions:
        raise _too_much(path, repr(name[:80]), len(shape), "dimensions", limits.dimensions, "dimensions")
    start, end = offsets
    if (size := math.prod(shape) * DTYPES[dtype]) != end - start:
        raise _corrupt(path, f"{name[:80]!r} of shape {shape} has {size:,} bytes, its data_offsets are {offsets}")
    return Entry(dtype, tuple(shape), start, end)


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_cover(path: Path, found: list[tuple[str, Entry]], size: int) -> None:
    end = 0
    for name, entry in found:
        if entry.start != end:
            gap = "leaves a gap before it" if entry.start > end else "overlaps with another"
            raise _corrupt(path, f"{name[:80]!r} {gap}: it begins at {entry.start:,}, expected {end:,}")
        end = entry.end
    if end != size:
        raise _corrupt(path, f"its tensors have {end:,} bytes, {size:,} follow the header")


def _corrupt(path: Path, found: str) -> CorruptAdapter:
    return CorruptAdapter(
        f"{path}: not a whole safetensors file: {found}. {file_io.AGAIN}", code="adapter.file-malformed", path=path
    )


def _too_much(path: Path, what: str, found: int, unit: str, most: int, key: str) -> Refused:
    return Refused(
        f"{path}: {what} has {found:,} {unit}, at most {most:,} are taken. If it is what you mean to keep, set another "
        f"limit, {key}=..., with `limits`.",
        code="intake.too-large",
        path=path,
        found=found,
        most=most,
        limit=key,
    )
