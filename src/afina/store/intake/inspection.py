"""An adapter's directory, looked at before anything of it is read by torch, or kept.

What only names and sizes tell is refused by these, before a file is opened. Knows no store and no model; no torch.
"""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from afina import file_io
from afina.data import leakage
from afina.errors import CorruptAdapter, Refused
from afina.models.adapter import MOST_VOCABULARY, PEFT_SETTINGS, PEFT_TENSORS, VOCABULARY, check_there
from afina.models.manifest import MANIFEST, read_manifest
from afina.store.intake import limits as within
from afina.store.intake.header import PREFIX, Header, check_finite, read_header
from afina.store.intake.limits import Limits

PROGRAMS = (
    *(".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5", ".msgpack", ".dill"),
    *(".zip", ".gz", ".tar", ".tgz", ".py", ".pyc", ".so"),
)
"""Ends of names of files that can run a program when they are read, or that hold others."""

INSTEAD = (
    "Save the weights with save_pretrained, which writes safetensors (safe_serialization=True where that is asked for),"
    " and leave this file out"
)

_PICKLES = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
_MAGIC = {b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "gzip", b"\x93NUMPY": "a NumPy file", b"\x89HDF": "HDF5"}

_BINARY = ".model"
"""SentencePiece's own format; every other file beside the tensors is text."""


@dataclass(frozen=True)
class Inspected:
    """What a directory holds: the tensor file's name and header, the bytes of every file by name, and of all."""

    tensor_file: str
    header: Header
    files: Mapping[str, int]
    bytes: int


def inspect(directory: Path, limits: Limits = Limits(), *, links: bool = False) -> Inspected:  # noqa: B008 - frozen
    """Look at the directory of an adapter of afina or of peft; hidden files are no part of it and not looked at.

    links   take links too, within the directory or to the `blobs` of a snapshot of the Hub's cache

    Raises NotFound where no adapter is; Refused for a file that can run a program, for a link, a folder or a name that
    no adapter has, for more than `limits`, for values that are no numbers; CorruptAdapter for what is damaged.
    """
    check_there(directory)
    files = _files(directory, limits, links)
    tensor_file = _tensor_file(directory, files)
    for name, size in files.items():
        if name == tensor_file:
            continue
        if size > limits.file_bytes:
            raise _too_large(directory / name, size, limits.file_bytes, "file_bytes")
        if name.endswith(within.TENSORS):
            raise Refused(
                f"{directory / name}: an adapter has one tensor file, here {tensor_file}, and this is another. "
                "Move it elsewhere.",
                code="intake.file-unexpected",
                path=directory / name,
            )
        _check_kind(directory / name)
        if not name.endswith(_BINARY):
            _check_text(directory / name)
    _check_settings(directory, files)
    path = directory / tensor_file
    _check_kind(path)
    header = read_header(path, limits)
    check_finite(path, header)
    return Inspected(tensor_file, header, files, sum(files.values()))


def inspect_model(directory: Path, limits: Limits = Limits(), *, links: bool = False) -> None:  # noqa: B008 - frozen
    """Look at the directory of a model that transformers saved, before transformers does. Raises as `inspect` does."""
    for name in _files(directory, limits, links):
        _check_kind(directory / name)
        if name.endswith(within.TENSORS):
            check_finite(directory / name, read_header(directory / name, limits))


def _files(directory: Path, limits: Limits, links: bool) -> dict[str, int]:
    """Bytes by name."""
    try:
        entries = sorted((entry for entry in os.scandir(directory) if entry.name[:1] != "."), key=lambda one: one.name)
    except OSError as error:
        raise CorruptAdapter(
            f"{directory}: cannot be read ({error}). {file_io.AGAIN}", code="adapter.file-unreadable", path=directory
        ) from None
    if len(entries) > limits.files:
        raise Refused(
            f"{directory}: {len(entries):,} files, at most {limits.files:,} are taken. Leave out what is no part of "
            "the adapter, or set another limit, files=..., with `limits`.",
            code="intake.too-large",
            path=directory,
            found=len(entries),
            most=limits.files,
            limit="files",
        )
    found = {entry.name: _size(entry, directory, links) for entry in entries}
    if (total := sum(found.values())) > limits.bytes:
        raise _too_large(directory, total, limits.bytes, "bytes")
    return found


def _size(entry: os.DirEntry[str], directory: Path, links: bool) -> int:
    shown = f"{directory / ascii(entry.name)[1:-1][:160]}"
    if entry.name.lower().endswith(PROGRAMS):
        raise Refused(
            f"{shown}: a file of this kind can run a program when it is read. {INSTEAD}.",
            code="intake.file-unsafe",
            path=shown,
        )
    if entry.is_symlink() and not (links and _stays(entry, directory)):
        raise Refused(
            f"{shown}: a link, expected a file. Put a copy of what it leads to in its place.",
            code="intake.file-unexpected",
            path=shown,
            found="a link",
        )
    status = entry.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device"
        raise Refused(
            f"{shown}: {kind}, expected a file. Move it elsewhere.",
            code="intake.file-unexpected",
            path=shown,
            found=kind,
        )
    if not within.plain(entry.name):
        raise Refused(
            f"{shown}: no adapter has a file of that name, expected letters, digits, . _ and - before one of "
            f"{', '.join(within.SUFFIXES)}. Move it elsewhere.",
            code="intake.file-unexpected",
            path=shown,
        )
    return status.st_size


def _stays(entry: os.DirEntry[str], directory: Path) -> bool:
    """Whether a link leads to what is there, or to where the Hub's cache keeps a snapshot's files."""
    try:
        target = Path(entry.path).resolve(strict=True)
    except (OSError, RuntimeError):
        return False
    at = directory.resolve()
    hub = at.parent.parent / "blobs"
    return target.parent == at or (at.parent.name == "snapshots" and target.parent == hub.resolve())


def _tensor_file(directory: Path, files: Mapping[str, int]) -> str:
    name = read_manifest(directory).tensor_file if MANIFEST in files else PEFT_TENSORS
    if name not in files or not name.endswith(within.TENSORS):
        raise CorruptAdapter(
            f"{directory}: its tensors are to be in {name[:80]!r}, expected a {within.TENSORS} file that is there. "
            f"{file_io.AGAIN}",
            code="adapter.file-missing",
            path=directory,
            file=name[:80],
        )
    return name


def _check_kind(path: Path) -> None:
    """Raise Refused for what a file is really, whatever it is called."""
    with path.open("rb") as file:
        start = file.read(PREFIX + 1)
    # The length of a safetensors header may well begin like a pickle; then a brace follows it.
    if path.name.endswith(within.TENSORS) and start[PREFIX:] == b"{":
        return
    kind = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
    if kind is None and start.startswith(_PICKLES):
        kind = "a pickle"
    if kind is not None:
        runs = "torch.load would run whatever program is in it" if path.name.endswith(within.TENSORS) else "not text"
        raise Refused(
            f"{path}: by its content this is {kind}: {runs}. {INSTEAD}.",
            code="intake.file-unsafe",
            path=path,
            found=kind,
        )


def _check_text(path: Path) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        try:
            while data := file.read(1 << 20):
                if "\0" in decoder.decode(data):
                    raise ValueError
            decoder.decode(b"", final=True)
        except ValueError:
            raise Refused(
                f"{path}: not text in UTF-8, which a file of that name is. Write it again, or leave it out.",
                code="intake.file-unexpected",
                path=path,
            ) from None


def _check_settings(directory: Path, files: Mapping[str, int]) -> None:
    if PEFT_SETTINGS in files:
        file_io.read_object(directory / PEFT_SETTINGS)
    if VOCABULARY in files:
        file_io.read_json(directory / VOCABULARY, MOST_VOCABULARY)
    if leakage.HASHES_FILE in files:
        leakage.TextHashes.read(directory / leakage.HASHES_FILE)


def _too_large(path: Path, size: int, most: int, key: str) -> Refused:
    return Refused(
        f"{path}: {size:,} bytes, at most {most:,} are taken. If it is what you mean to keep, set another limit, "
        f"{key}=..., with `limits`.",
        code="intake.too-large",
        path=path,
        found=size,
        most=most,
        limit=key,
    )
