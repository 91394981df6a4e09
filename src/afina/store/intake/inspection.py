"""Inspect an adapter's directory strictly, before torch reads a file or a store keeps a file.

Files with forbidden names or sizes are refused without opening them. safetensors files are read by afina's own reader,
which is stricter than the format: the reader checks sizes before it allocates memory, and refuses NaN and infinite
values. This module can be imported without torch.
"""

from __future__ import annotations

import codecs
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from afina import file_io
from afina.data import text_hashes
from afina.errors import CorruptAdapter, Refused
from afina.models.adapter import MOST_VOCABULARY, PEFT_SETTINGS, PEFT_TENSORS, VOCABULARY, check_there
from afina.models.manifest import MANIFEST, Manifest, read_manifest
from afina.problems import FILE_MALFORMED, FILE_UNREADABLE
from afina.store import problems
from afina.store.intake import SUFFIXES, TENSORS, IntakeLimits, is_plain_name

PROGRAMS = (
    *(".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5", ".msgpack", ".dill"),
    *(".zip", ".gz", ".tar", ".tgz", ".py", ".pyc", ".so"),
)
"""Suffixes of forbidden files: files that can run code when they are opened, and archives of other files."""

_PICKLES = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
_MAGIC = {b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "gzip", b"\x93NUMPY": "a NumPy file", b"\x89HDF": "HDF5"}

_BINARY = ".model"
"""The suffix of SentencePiece models. All other files of an adapter, except the tensor file, must be text files."""

PREFIX = 8
"""The number of bytes at the start of a safetensors file that state the length of the header."""

LONGEST_NAME = 512
PIECE = 4 << 20
"""The number of bytes of a tensor that are read and checked at a time."""

DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""The allowed dtypes of an adapter's tensors, with their sizes in bytes. The tensors of TF-IDF adapters are float64."""

_EXPONENT: dict[str, tuple[str, int]] = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}
"""For each dtype, the exponent bits of a float: all these bits are 1 only for infinity and NaN."""

_METADATA = "__metadata__"


@dataclass(frozen=True)
class Inspected:
    """The result of inspecting an adapter's directory."""

    manifest: Manifest | None  # None: peft made the adapter
    header: Header  # of the tensor file
    files: Mapping[str, int]  # the size in bytes of each file, by name


def inspect(directory: Path, limits: IntakeLimits = IntakeLimits(), *, links: bool = False) -> Inspected:  # noqa: B008 - frozen
    """Inspect all files, except hidden files, in the directory of an adapter of afina or peft.

    Args:
        links: whether symbolic links to files in the directory or in the Hub's cache are accepted.

    Raises:
        NotFound: the directory has no adapter.
        Refused: a file can run code; a link, folder or file name is not allowed; a limit is exceeded; or a value is NaN
            or infinite.
        CorruptAdapter: a file is damaged.
    """
    check_there(directory)
    files = _files(directory, limits, links)
    manifest = read_manifest(directory) if MANIFEST in files else None
    tensor_file = manifest.tensor_file if manifest is not None else PEFT_TENSORS
    if tensor_file not in files or not tensor_file.endswith(TENSORS):
        raise problems.TENSOR_FILE_MISSING(expected=TENSORS, path=directory, file=tensor_file[:80])
    for name, size in files.items():
        if name == tensor_file:
            continue
        if size > limits.file_bytes:
            raise _too_large(directory / name, f"{size:,} bytes", size, limits.file_bytes, "file_bytes")
        if name.endswith(TENSORS):
            raise problems.SECOND_TENSOR_FILE(expected=tensor_file, path=directory / name)
        _check_kind(directory / name)
        if not name.endswith(_BINARY):
            _check_text(directory / name)
    _check_settings(directory, files)
    path = directory / tensor_file
    _check_kind(path)
    header = read_header(path, limits)
    check_finite(path, header)
    return Inspected(manifest, header, files)


def inspect_model(directory: Path, limits: IntakeLimits = IntakeLimits(), *, links: bool = False) -> None:  # noqa: B008 - frozen
    """Inspect the directory of a transformers model before transformers opens it. Raises the errors of `inspect`."""
    for name in _files(directory, limits, links):
        _check_kind(directory / name)
        if name.endswith(TENSORS):
            check_finite(directory / name, read_header(directory / name, limits))


def _files(directory: Path, limits: IntakeLimits, links: bool) -> dict[str, int]:
    """Return the size in bytes of each file in a directory, by name."""
    try:
        entries = sorted(
            (entry for entry in os.scandir(directory) if entry.name[:1] != "."), key=lambda entry: entry.name
        )
    except OSError as error:
        raise FILE_UNREADABLE(reason=error, path=directory) from None
    if len(entries) > limits.files:
        raise _too_large(directory, f"{len(entries):,} files", len(entries), limits.files, "files")
    sizes = {entry.name: _size(entry, directory, links) for entry in entries}
    if (total := sum(sizes.values())) > limits.bytes:
        raise _too_large(directory, f"{total:,} bytes", total, limits.bytes, "bytes")
    return sizes


def _size(entry: os.DirEntry[str], directory: Path, links: bool) -> int:
    shown = f"{directory / ascii(entry.name)[1:-1][:160]}"
    if entry.name.lower().endswith(PROGRAMS):
        raise problems.FILE_UNSAFE(path=shown, reason="a file of this kind can run code when it is opened")
    if entry.is_symlink() and not (links and _stays(entry, directory)):
        raise problems.NO_FILE(path=shown, found="a link")
    status = entry.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device"
        raise problems.NO_FILE(path=shown, found=kind)
    if not is_plain_name(entry.name):
        raise problems.FILE_NAME_NOT_ALLOWED(known=SUFFIXES, path=shown)
    return status.st_size


def _stays(entry: os.DirEntry[str], directory: Path) -> bool:
    """Return whether a symbolic link points into its directory or, in a snapshot of the Hub's cache, to a blob."""
    try:
        target = Path(entry.path).resolve(strict=True)
    except (OSError, RuntimeError):
        return False
    at = directory.resolve()
    hub = at.parent.parent / "blobs"
    return target.parent == at or (at.parent.name == "snapshots" and target.parent == hub.resolve())


def _check_kind(path: Path) -> None:
    """Raise Refused if a file, whatever its name, has the beginning of a forbidden format such as pickle."""
    with path.open("rb") as file:
        start = file.read(PREFIX + 1)
    # The length of a safetensors header may look like the beginning of a pickle; then a brace follows it.
    if path.name.endswith(TENSORS) and start[PREFIX:] == b"{":
        return
    kind = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
    if kind is None and start.startswith(_PICKLES):
        kind = "a pickle"
    if kind is not None:
        runs = "torch.load would run any code in this file" if path.name.endswith(TENSORS) else "not text"
        raise problems.FILE_UNSAFE(path=path, reason=f"by its content this is {kind}: {runs}", found=kind)


def _check_text(path: Path) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        try:
            while data := file.read(1 << 20):
                if "\0" in decoder.decode(data):
                    raise ValueError
            decoder.decode(b"", final=True)
        except ValueError:
            raise problems.FILE_NOT_TEXT(path=path) from None


def _check_settings(directory: Path, files: Mapping[str, int]) -> None:
    if PEFT_SETTINGS in files:
        file_io.read_object(directory / PEFT_SETTINGS)
    if VOCABULARY in files:
        file_io.read_json(directory / VOCABULARY, MOST_VOCABULARY)
    if text_hashes.HASHES_FILE in files:
        text_hashes.TextHashes.read(directory / text_hashes.HASHES_FILE)


def _too_large(path: Path, what: str, found: int, most: int, key: str) -> Refused:
    return problems.ADAPTER_TOO_LARGE(_found=what, path=path, found=found, most=most, limit=key)


@dataclass(frozen=True)
class TensorEntry:
    """The entry of a tensor in the header of a safetensors file; `start` and `end` are bytes after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file."""

    tensors: Mapping[str, TensorEntry]  # in the order of the tensors' bytes in the file
    metadata: Mapping[str, str]
    data_start: int  # the number of bytes in the file before the tensors' data
    size: int  # of the file in bytes


def read_header(path: Path, limits: IntakeLimits = IntakeLimits()) -> Header:  # noqa: B008 - frozen
    """Read the header of a safetensors file, and check that the tensors cover all data without gap or overlap.

    Raises:
        CorruptAdapter: the file is damaged, or is not a safetensors file.
        Refused: a limit is exceeded, or a tensor's dtype is not allowed.
    """
    size = file_io.check_plain(path)
    with path.open("rb") as file:
        start = file.read(PREFIX)
        length = int.from_bytes(start, "little")
        if size < PREFIX or length > size - PREFIX:
            raise _not_whole(path, f"the file has {size:,} bytes, its header alone would have {length:,}")
        if length > limits.header_bytes:
            raise _too_large(path, f"the header has {length:,} bytes", length, limits.header_bytes, "header_bytes")
        text = file.read(length)
    if len(text) < length or not text.startswith(b"{"):
        raise _not_whole(path, "its header is not a JSON object")
    content = file_io.parse_json(text, f"{path}, its header")
    metadata = content.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _not_whole(path, f"its {_METADATA} is not a table of strings")
    if len(content) > limits.tensors:
        raise _too_large(path, f"the file has {len(content):,} tensors", len(content), limits.tensors, "tensors")
    entries = [(name, _entry(path, name, entry, limits)) for name, entry in content.items()]
    entries.sort(key=lambda pair: (pair[1].start, pair[1].end))
    _check_cover(path, entries, size - PREFIX - length)
    return Header(dict(entries), metadata, PREFIX + length, size)


def check_finite(path: Path, header: Header) -> None:
    """Raise Refused if a value in a safetensors file is NaN or infinite; the file is read in pieces."""
    with path.open("rb") as file:
        for name, entry in header.tensors.items():
            (unsigned, exponent), width = _EXPONENT[entry.dtype], DTYPES[entry.dtype]
            file.seek(header.data_start + entry.start)
            left = entry.end - entry.start
            while left:
                data = file.read(min(PIECE, left))
                if not data or len(data) % width:
                    raise _not_whole(path, f"the file ends within {name!r}")
                left -= len(data)
                if ((np.frombuffer(data, unsigned) & exponent) == exponent).any():
                    raise problems.VALUES_NOT_FINITE(path=path, tensor=name)


def _entry(path: Path, name: str, entry: Any, limits: IntakeLimits) -> TensorEntry:
    if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
        raise _not_whole(path, f"a tensor is called {name[:40]!r}, expected 1 to {LONGEST_NAME} printable characters")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _not_whole(path, f"its entry for {name[:80]!r} must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise problems.DTYPE_UNSUPPORTED(known=list(DTYPES), path=path, tensor=name[:80], found=str(dtype)[:40])
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise _not_whole(path, f"shape and data_offsets of {name[:80]!r} must be lists of whole numbers of at least 0")
    if len(shape) > limits.dimensions:
        raise _too_large(
            path, f"{name[:80]!r} has {len(shape):,} dimensions", len(shape), limits.dimensions, "dimensions"
        )
    start, end = offsets
    if (size := math.prod(shape) * DTYPES[dtype]) != end - start:
        raise _not_whole(path, f"{name[:80]!r} of shape {shape} has {size:,} bytes, its data_offsets are {offsets}")
    return TensorEntry(dtype, tuple(shape), start, end)


def _naturals(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_cover(path: Path, entries: list[tuple[str, TensorEntry]], size: int) -> None:
    end = 0
    for name, entry in entries:
        if entry.start != end:
            gap = "leaves a gap before it" if entry.start > end else "overlaps with another"
            raise _not_whole(path, f"{name[:80]!r} {gap}: it begins at {entry.start:,}, expected {end:,}")
        end = entry.end
    if end != size:
        raise _not_whole(path, f"its tensors have {end:,} bytes, {size:,} follow the header")


def _not_whole(path: Path, reason: str) -> CorruptAdapter:
    return FILE_MALFORMED(path=path, reason=f"damaged, or not a safetensors file: {reason}")
