"""A bundle is the same bytes for the same content, and is read whole or not at all."""

from __future__ import annotations

import gzip
import json
import random
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from afina import digest
from afina.errors import AfinaError, CannotWrite, CorruptStore, InvalidName, NotFound, Refused
from afina.store.exchange import bundle
from afina.store.exchange.bundle import BLOCK, INDEX, read, write
from afina.store.intake import IntakeLimits
from raises import raises

ABOUT = {"name": "acme/reviews", "version": 3, "manifest": {"seed": 0, "metrics": {"accuracy": 0.9}}, "ü": [None, True]}
FILES = {"b.json": b"{}", "a": b"x" * 1000, "empty": b"", "block": b"y" * BLOCK}


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def refused(path: Path, into: Path, limits: IntakeLimits = IntakeLimits()) -> str:  # noqa: B008 - frozen
    """The message; nothing may have appeared."""
    before = sorted(into.parent.iterdir())
    with pytest.raises((Refused, CorruptStore, NotFound)) as raised:
        read(path, into, limits)
    assert sorted(into.parent.iterdir()) == before
    assert str(raised.value).startswith(f"{path}: ")
    return str(raised.value)


@pytest.fixture
def into(tmp_path: Path) -> Path:
    (tmp_path / "there").mkdir()
    return tmp_path / "there" / "read"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "b.tar", FILES, ABOUT)
    return tmp_path / "b.tar"


def test_the_same_content_is_the_same_bytes(tmp_path: Path) -> None:
    other = tmp_path / "file"
    other.write_bytes(FILES["a"])
    other.chmod(0o600)
    first = write(tmp_path / "1.tar", FILES, ABOUT)
    turned = {name: other if name == "a" else data for name, data in reversed(FILES.items())}
    assert write(tmp_path / "2.tar", turned, dict(reversed(ABOUT.items()))) == first
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()
    assert write(tmp_path / "3.tar", FILES, ABOUT | {"version": 4}) != first


def test_any_tar_program_lists_it_index_first(path: Path) -> None:
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        index = json.load(tar.extractfile(INDEX))  # type: ignore[arg-type]
    assert [member.name for member in members] == [INDEX, *sorted(FILES)]
    assert {(member.mtime, member.uid, member.gid, member.uname, member.mode) for member in members} == {
        (0, 0, 0, "", 0o644)
    }
    assert index["files"]["a"] == {"sha256": digest.of_bytes(FILES["a"]), "size": 1000}
    assert index["about"] == ABOUT


@pytest.mark.parametrize(
    "name", ["../a", "a/b", "/a", "", ".", "..", ".hidden", INDEX, "a b", "ü", "a\n", "-a", "a" * 101]
)
def test_a_name_that_is_no_plain_one_is_not_written(name: str, tmp_path: Path) -> None:
    with raises(InvalidName, code="bundle.file-name", path="x.tar"):
        write(tmp_path / "x.tar", {name: b""}, {})
    assert not (tmp_path / "x.tar").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**70, "\ud800", object(), b"", {1, 2}])
def test_what_is_no_json_is_not_written(value: object, tmp_path: Path) -> None:
    with raises(Refused, code="bundle.refused", path="x.tar"):
        write(tmp_path / "x.tar", {}, {"a": value})
    deep: Any = 0
    for _ in range(40):
        deep = [deep]
    with raises(Refused, code="bundle.refused", path="x.tar"):
        write(tmp_path / "x.tar", {}, {"a": deep})
    assert not (tmp_path / "x.tar").exists()


def test_a_file_that_is_not_there_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    with raises(NotFound, code="file.unreadable", file="a", path="x.tar"):
        write(tmp_path / "x.tar", {"a": tmp_path / "absent"}, {})
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_there_is_left_as_it_is(path: Path, into: Path) -> None:
    into.mkdir()
    (into / "mine").write_text("mine")
    with raises(CannotWrite, code="file.cannot-write", path="read"):
        read(path, into)
    (into.parent / "leads nowhere").symlink_to("absent")
    with raises(CannotWrite, code="file.cannot-write", path="leads nowhere"):
        read(path, into.parent / "leads nowhere")
    assert contents(into) == {"mine": b"mine"}
    assert "not a bundle" in refused(path.parent / "absent", into.parent / "other")
    assert "not a bundle" in refused(path.parent, into.parent / "other")


# Crafted


def index_of(held: dict[str, bytes], about: object = None, **changes: Any) -> bytes:
    entries = {name: {"sha256": digest.of_bytes(data), "size": len(data)} for name, data in held.items()}
    content = {"format": 1, "files": entries, "about": {} if about is None else about} | changes
    return digest.canonical_json(content | {"digest": digest.of_json(content)}).encode()


def member(name: str, data: bytes = b"", **changes: Any) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    for key, value in changes.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % BLOCK)


def tar(*members: bytes, end: bytes = bytes(2 * BLOCK)) -> bytes:
    return b"".join(members) + end


A = {"a": b"x"}
GOOD = tar(member(INDEX, index_of(A)), member("a", b"x"))
LINK = index_of({"a": b""})

CRAFTED: dict[str, tuple[bytes, str]] = {
    "a symbolic link": (
        tar(member(INDEX, LINK), member("a", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
        "'a' in the bundle is a link",
    ),
    "a folder": (tar(member(INDEX, LINK), member("a", type=tarfile.DIRTYPE)), "is a folder"),
    "a long name": (tar(member(INDEX, index_of(A)), member("a" * 150, b"x")), "expected"),
    "pax": (tar(member(INDEX, index_of(A)), member("a", b"x", type=tarfile.XHDTYPE)), "type b'x'"),
    "a link first": (tar(member(INDEX, type=tarfile.SYMTYPE, linkname="/etc/passwd")), "is a link"),
    "a path upwards": (tar(member(INDEX, index_of(A)), member("../a", b"x")), "'../a' in the bundle is a path"),
    "a path upwards that is indexed": (
        tar(member(INDEX, index_of({"../a": b"x"})), member("../a", b"x")),
        "'../a' in the bundle is not an allowed file name",
    ),
    "the index in the index": (
        tar(member(INDEX, index_of({INDEX: b"x"})), member(INDEX, b"x")),
        f"'{INDEX}' in the bundle is not an allowed file name",
    ),
    "a file twice": (tar(member(INDEX, index_of(A)), member("a", b"x"), member("a", b"x")), "expected"),
    "one instead": (
        tar(member(INDEX, index_of(A)), member("b", b"x")),
        "'b' in the bundle is a file, where bundle.json has 'a'",
    ),
    "none": (tar(member(INDEX, index_of(A))), "expected"),
    "one less": (tar(member(INDEX, index_of(A)), end=bytes(4 * BLOCK)), "not a plain tar"),
    "another order": (
        tar(member(INDEX, index_of({"a": b"x", "b": b"y"})), member("b", b"y"), member("a", b"x")),
        "'b' in the bundle is a file, where",
    ),
    "another content": (tar(member(INDEX, index_of(A)), member("a", b"y")), "a has sha256"),
    "another size": (tar(member(INDEX, index_of(A)), member("a", b"xy")), "a has 2 bytes, bundle.json states 1"),
    "a size beyond the end": (
        tar(member(INDEX, index_of(A, files={"a": {"sha256": "", "size": 10**9}})), member("a", b"x")),
        "expected 1,000,",
    ),
    "a size below 0": (tar(member(INDEX, index_of(A, files={"a": {"sha256": "", "size": -1}}))), "size or sha256"),
    "an index with a size below 0": (member(INDEX, size=-1), "has -1 bytes"),
    "files that are a list": (tar(member(INDEX, index_of(A, files=["a"]))), "no table of files"),
    "something about that is a list": (
        tar(member(INDEX, index_of(A, about=[]))),
        "must have exactly the fields format",
    ),
    "no digest": (tar(member(INDEX, b'{"about":{},"files":{},"format":1}')), "must have exactly the fields format"),
    "another digest": (
        tar(member(INDEX, b'{"about":{},"digest":"","files":{},"format":1}')),
        "the computed digest differs from the stated digest",
    ),
    "a later format": (tar(member(INDEX, index_of(A, format=2))), "has format '2', this version of afina reads 1"),
    "an index that is a list": (tar(member(INDEX, b"[]")), "has format"),
    "an index that is no JSON": (tar(member(INDEX, b"{")), "not valid JSON"),
    "a key twice": (tar(member(INDEX, b'{"format":1,"format":1}')), "occurs twice"),
    "no index": (tar(member("a", b"x")), "its first file is 'a', expected bundle.json"),
    "an index as large as can be": (
        tar(member(INDEX, b" " * (bundle.MOST_INDEX + 1))),
        "more than the limit of 8,388,608",
    ),
    "a time": (
        tar(member(INDEX, index_of(A)), member("a", b"x", mtime=1)),
        "the header of a is not in afina's canonical form",
    ),
    "garbage at the end": (GOOD + b"x", "expected"),
    "garbage as the end": (
        tar(member(INDEX, index_of(A)), member("a", b"x"), end=b"x" * 2 * BLOCK),
        "not the end of a tar",
    ),
    "something between": (GOOD[: -2 * BLOCK - 1] + b"x" + bytes(2 * BLOCK), "or has bytes between"),
    "gzip": (gzip.compress(GOOD), r"compressed \(gzip\)"),
    "text": (b"hello" * 1000, "not a plain tar"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_bundle_is_refused_and_nothing_appears(name: str, tmp_path: Path, into: Path) -> None:
    (tmp_path / "b.tar").write_bytes(GOOD)
    read(tmp_path / "b.tar", into)
    data, said = CRAFTED[name]
    (tmp_path / "b.tar").write_bytes(data)
    message = refused(tmp_path / "b.tar", into.parent / "other")
    assert re.search(said, message), message


def test_sizes_beyond_the_limits_are_refused_before_anything_is_written(
    path: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "_extract", lambda *given: pytest.fail("it wrote a file"))
    assert "the bundle has 4 files, more than the limit of 3" in refused(path, into, IntakeLimits(files=3))
    assert "the bundle has 1,514 bytes, more than the limit of 1,513" in refused(path, into, IntakeLimits(bytes=1513))
    monkeypatch.undo()
    assert read(path, into, IntakeLimits(files=4, bytes=1514)) == ABOUT


def test_a_bundle_that_is_cut_anywhere_is_refused(path: Path, into: Path) -> None:
    whole = path.read_bytes()
    places = {0, 1, BLOCK - 1, BLOCK, BLOCK + 1, len(whole) - 1, len(whole) - BLOCK, len(whole) - 2 * BLOCK}
    for place in sorted(places | set(random.Random(0).sample(range(len(whole)), 40))):
        path.write_bytes(whole[:place])
        refused(path, into)


def test_a_changed_bit_anywhere_is_found(path: Path, into: Path) -> None:
    whole = path.read_bytes()
    index = range(BLOCK, BLOCK + whole[BLOCK:].index(b"\0"))
    for place in [*index[::4], *random.Random(1).sample(range(len(whole)), 80)]:
        data = bytearray(whole)
        data[place] ^= 1 << (place % 8)
        path.write_bytes(data)
        refused(path, into)


def _moved(data: bytes, start: int, length: int, to: int) -> bytes:
    cut, rest = data[start : start + length], data[:start] + data[start + length :]
    return rest[:to] + cut + rest[to:]


CHANGES: list[Callable[[bytes, int, int, int], bytes]] = [
    _moved,
    lambda data, start, length, to: data[:start] + data[start + length :],
    lambda data, start, length, to: data[:start] + data[to : to + length] + data[start:],
    lambda data, start, length, to: data[:start] + bytes(length) + data[start + length :],
]


@settings(max_examples=100, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    change=st.sampled_from(CHANGES),
    start=st.one_of(st.integers(0, 8), st.integers(0, 4600).map(lambda place: -place)),
    length=st.integers(1, 6),
    to=st.integers(0, 8),
    blocks=st.booleans(),
)
def test_blocks_and_bytes_that_are_moved_cut_or_doubled_are_refused_or_change_nothing(
    change: Callable[[bytes, int, int, int], bytes],
    start: int,
    length: int,
    to: int,
    blocks: bool,
    path: Path,
    tmp_path: Path,
) -> None:
    whole = (tmp_path / "whole").read_bytes() if (tmp_path / "whole").exists() else path.read_bytes()
    (tmp_path / "whole").write_bytes(whole)
    unit = BLOCK if blocks else 1
    data = change(whole, abs(start) * unit % len(whole), length * unit, to * unit)
    path.write_bytes(data)
    (tmp_path / "to").mkdir(exist_ok=True)
    if data == whole:
        return
    refused(path, tmp_path / "to" / "read")


@settings(max_examples=70, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=3 * BLOCK))
@example(data=member(INDEX, b"{}"))
def test_bytes_of_any_kind_are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "b.tar").write_bytes(data)
    (tmp_path / "to").mkdir(exist_ok=True)
    refused(tmp_path / "b.tar", tmp_path / "to" / "read")


@settings(max_examples=30, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    files=st.dictionaries(
        st.from_regex(r"[a-z0-9_][a-z0-9_.-]{0,20}[a-z0-9]", fullmatch=True), st.binary(max_size=1100), max_size=5
    ),
    about=st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**63), 2**63 - 1)
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(max_size=9),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=5,
        ),
        max_size=4,
    ),
)
def test_whatever_is_written_is_read(
    files: dict[str, bytes], about: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("any")
    try:
        write(place / "x.tar", files, about)
    except AfinaError:
        assert INDEX in files
        return
    assert read(place / "x.tar", place / "into") == about
    assert contents(place / "into") == files
