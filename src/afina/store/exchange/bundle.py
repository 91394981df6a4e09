"""Bundles: a bundle is a version of an adapter as one file, for machines without a network.

A bundle is a plain tar file. The first member of a bundle, `bundle.json`, has the size and SHA-256 of every other
member, and its own digest. The content determines every byte of a bundle, and a bundle in another form is refused, so
every changed bit is detected. The files extracted from a bundle appear only after all files are checked. A bundle does
not prove who wrote it.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from afina import digest, file_io
from afina.errors import CannotWrite, CorruptAdapter, CorruptStore
from afina.store import problems
from afina.store.intake import IntakeLimits
from afina.store.problems import INDEX

FORMAT = 1
BLOCK = tarfile.BLOCKSIZE
PIECE = 1 << 20
MOST_INDEX = file_io.MOST_BYTES
"""The largest size in bytes of `bundle.json`, the first member of a bundle."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,98}[A-Za-z0-9_]|[A-Za-z0-9_]", re.ASCII)
_END = 2 * BLOCK
"""The number of zero bytes at the end of a tar file."""

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"(\xb5/\xfd": "zstd", b"PK\x03\x04": "zip"}


class _Member(NamedTuple):
    name: str
    size: int
    digest: str


def write(path: Path, entries: Mapping[str, Path | bytes], about: Mapping[str, Any]) -> str:
    """Write a bundle atomically; return the bundle's digest.

    Args:
        entries: the members of the bundle by name: paths of files, or bytes.
        about: JSON values that are stored in `bundle.json`, such as the manifest, name and version.

    Raises:
        InvalidName: the name of a member is not allowed in a bundle.
        Refused: `about` cannot be represented in JSON, or is too large.
        NotFound: a file of `entries` does not exist.
        CannotWrite: the bundle cannot be written to `path`.
    """
    for name in entries:
        if not _NAME.fullmatch(name) or name == INDEX:
            raise problems.BUNDLE_FILE_NAME(path=path, file=name[:80])
    members = _measured(path, entries)
    index = _index(path, members, about)
    with file_io.replacing(path) as fresh, fresh.open("wb") as file:
        _append(file, INDEX, len(index), io.BytesIO(index))
        for member in members:
            with _opened(entries[member.name]) as source:
                _append(file, member.name, member.size, source)
        file.write(bytes(_END))
    return digest.of_file(path)


def read(path: Path, into: Path, limits: IntakeLimits = IntakeLimits()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Extract a bundle atomically into the new directory `into`; return the JSON values in `bundle.json`.

    Raises:
        NotFound: there is no file at `path`.
        Refused: the bundle has a link or another forbidden member, or exceeds `limits`.
        CorruptStore: a byte of the bundle is missing, changed or added.
        CannotWrite: `into` exists already, or cannot be written to.
    """
    if os.path.lexists(into):
        raise CannotWrite(into, "the path exists already")
    try:
        size = file_io.check_plain(path)
    except CorruptAdapter as error:
        reason = f"not a bundle: {error.fields.get('reason', 'the file is missing')}"
        raise problems.SOURCE_MISSING(reason=reason, path=path) from None
    with path.open("rb") as file:
        index, members = _read_index(path, file, limits)
        _check_sizes(path, members, limits)
        expected = file.tell() + sum(BLOCK + _padded(member.size) for member in members) + _END
        if size != expected:
            raise _corrupt(path, f"it has {size:,} bytes, expected {expected:,}")
        with file_io.replacing(into) as fresh:
            fresh.mkdir()
            for member in members:
                _extract(path, file, member, fresh / member.name)
            if file.read(_END) != bytes(_END):
                raise _corrupt(path, "the end of the file is not the end of a tar archive")
    about: dict[str, Any] = index["about"]
    return about


def _measured(path: Path, entries: Mapping[str, Path | bytes]) -> list[_Member]:
    """Return the size and SHA-256 digest of each member of a bundle, in the order of the names."""
    found = []
    for name, entry in sorted(entries.items()):
        if isinstance(entry, bytes):
            found.append(_Member(name, len(entry), digest.of_bytes(entry)))
            continue
        try:
            found.append(_Member(name, file_io.check_plain(entry), digest.of_file(entry)))
        except (OSError, CorruptAdapter) as error:
            raise problems.FILE_NOT_READABLE(reason=error, path=path, file=str(name)) from None
    return found


def _index(path: Path, members: list[_Member], about: Mapping[str, Any]) -> bytes:
    """Return the content of `bundle.json`, the first member of a bundle."""
    files = {member.name: {"sha256": member.digest, "size": member.size} for member in members}
    content: dict[str, Any] = {"format": FORMAT, "files": files, "about": dict(about)}
    try:
        text = digest.canonical_json(content | {"digest": digest.of_json(content)}).encode()
        file_io.parse_json(text, INDEX)
    except (CorruptAdapter, TypeError, ValueError, RecursionError) as error:
        raise problems.ABOUT_UNUSABLE(reason=error, path=path) from None
    if len(text) > MOST_INDEX:
        reason = f"{INDEX} would have {len(text):,} bytes, more than the limit of {MOST_INDEX:,}"
        raise problems.ABOUT_UNUSABLE(path=path, reason=reason, bytes=len(text), most=MOST_INDEX)
    return text


def _opened(entry: Path | bytes) -> BinaryIO:
    return io.BytesIO(entry) if isinstance(entry, bytes) else entry.open("rb")


def _append(file: BinaryIO, name: str, size: int, source: BinaryIO) -> None:
    file.write(_header(name, size))
    start = file.tell()
    shutil.copyfileobj(source, file, PIECE)
    if (copied := file.tell() - start) != size:
        raise problems.FILE_BEING_WRITTEN(found=copied, expected=size, path=name)
    file.write(bytes(_padded(size) - size))


def _header(name: str, size: int) -> bytes:
    """Return the tar header of a member of a bundle, without time and owner, in GNU's format for sizes above 8 GiB."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.GNU_FORMAT)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _read_index(path: Path, file: BinaryIO, limits: IntakeLimits) -> tuple[dict[str, Any], list[_Member]]:
    start = file.read(BLOCK)
    compressed = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
    if compressed is not None:
        reason = f"the file is compressed ({compressed}), unpack it first"
        raise problems.NOT_OF_AFINA(path=path, reason=reason, found=compressed)
    name, size = _parsed(path, start)
    if name != INDEX:
        reason = f"its first file is {name[:80]!r}, expected {INDEX}"
        raise problems.NOT_OF_AFINA(path=path, reason=reason, file=name[:80])
    if size > MOST_INDEX:
        raise problems.BUNDLE_INDEX_TOO_LARGE(path=path, file=INDEX, found=size, most=MOST_INDEX)
    _check_header(path, start, INDEX, size)
    text = b"".join(_data(path, file, size))
    try:
        index = file_io.parse_json(text, INDEX)
    except CorruptAdapter as error:
        raise _corrupt(path, str(error)) from None
    if not isinstance(index, dict) or index.get("format") != FORMAT or type(index["format"]) is not int:
        found = str(index.get("format") if isinstance(index, dict) else index)[:40]
        raise _corrupt(path, f"its {INDEX} has format {found!r}, this version of afina reads {FORMAT}")
    if index.keys() != {"format", "files", "about", "digest"} or not isinstance(index["about"], dict):
        raise _corrupt(path, f"its {INDEX} must have exactly the fields format, files, about and digest")
    if digest.canonical_json(index).encode() != text:
        raise _corrupt(path, f"its {INDEX} is not in afina's canonical form")
    if digest.of_json({key: value for key, value in index.items() if key != "digest"}) != index["digest"]:
        raise _corrupt(path, f"its {INDEX} was changed: the computed digest differs from the stated digest")
    if not isinstance(files := index["files"], dict):
        raise _corrupt(path, f"its {INDEX} has no table of files")
    return index, [_member(path, name, files[name]) for name in sorted(files)]


def _member(path: Path, name: str, entry: Any) -> _Member:
    if not _NAME.fullmatch(name) or name == INDEX:
        raise problems.BUNDLE_FILE_REFUSED(path=path, file=name[:80], found="not an allowed file name")
    if not isinstance(entry, dict) or entry.keys() != {"sha256", "size"}:
        raise _corrupt(path, f"its {INDEX} must have exactly sha256 and size of {name!r}")
    stated, size = entry["sha256"], entry["size"]
    if type(size) is not int or size < 0 or not isinstance(stated, str):
        raise _corrupt(path, f"its {INDEX} has an invalid size or sha256 of {name!r}")
    return _Member(name, size, stated)


def _check_sizes(path: Path, members: list[_Member], limits: IntakeLimits) -> None:
    total = sum(member.size for member in members)
    for found, most, unit, key in (
        (len(members), limits.files, "files", "files"),
        (total, limits.bytes, "bytes", "bytes"),
    ):
        if found > most:
            what = f"the bundle has {found:,} {unit}"
            raise problems.ADAPTER_TOO_LARGE(_found=what, path=path, found=found, most=most, limit=key)


def _parsed(path: Path, block: bytes) -> tuple[str, int]:
    """Parse the tar header of a member of a bundle; return the member's name and size.

    Raises Refused for a member that is not a file, and CorruptStore for a damaged header.
    """
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        raise _corrupt(path, f"not a plain tar, or cut short ({error})") from None
    if info.type != tarfile.REGTYPE:
        kinds = {tarfile.DIRTYPE: "a folder", tarfile.SYMTYPE: "a link", tarfile.LNKTYPE: "a link"}
        kind = kinds.get(info.type, f"a member of type {info.type!r}")
        raise problems.BUNDLE_FILE_REFUSED(path=path, file=info.name[:80], found=f"{kind}, expected a plain file")
    if info.size < 0:
        raise _corrupt(path, f"a file in it has {info.size} bytes")
    return info.name.encode("utf-8", "surrogateescape").decode("ascii", "backslashreplace"), info.size


def _check_header(path: Path, block: bytes, name: str, size: int) -> None:
    """Raise an error if a tar header differs from the header that `write` makes for a member of this name and size."""
    found = _parsed(path, block)
    if found[0] != name:
        kind = "a path" if "/" in found[0] or "\\" in found[0] else "a file"
        where = f"{kind}, where {INDEX} has {name!r}"
        raise problems.BUNDLE_FILE_REFUSED(path=path, file=found[0][:80], found=where, expected=name)
    if found[1] != size:
        raise _corrupt(path, f"{name} has {found[1]:,} bytes, {INDEX} states {size:,}")
    if block != _header(name, size):
        raise _corrupt(path, f"the header of {name} is not in afina's canonical form")


def _extract(path: Path, file: BinaryIO, member: _Member, to: Path) -> None:
    _check_header(path, file.read(BLOCK), member.name, member.size)
    hashed = hashlib.sha256()
    with to.open("xb") as target:
        for data in _data(path, file, member.size):
            hashed.update(data)
            target.write(data)
    if (found := digest.PREFIX + hashed.hexdigest()) != member.digest:
        raise _corrupt(path, f"{member.name} has sha256 {found[:19]}, {INDEX} states {member.digest[:19]}")


def _data(path: Path, file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the bytes of a member of a bundle in pieces, and check the padding after them."""
    left = size
    while left:
        if not (data := file.read(min(PIECE, left))):
            raise _corrupt(path, "it is cut short")
        yield data
        left -= len(data)
    rest = _padded(size) - size
    if file.read(rest) != bytes(rest):
        raise _corrupt(path, "the file is cut short, or has bytes between its members")


def _corrupt(path: Path, found: str) -> CorruptStore:
    return problems.BUNDLE_DAMAGED(found=found, path=path)
