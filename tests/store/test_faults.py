"""A disk that takes no more, a directory that may only be read, and one that may not: an error that says so."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from afina import file_io
from afina.errors import CannotWrite, NotFound
from afina.store.adapter_store import AdapterStore
from full_disk import no_file_above
from raises import raises
from stores import adapter, seen

Make = Callable[..., Path]


@pytest.fixture
def filled(store: AdapterStore, made: Make) -> AdapterStore:
    store.publish(made(0, 0), "acme/reviews", message="first")
    store.publish(made(0, 1), "acme/reviews", message="second")
    store.alias("acme/reviews@1")
    return store


def files(store: AdapterStore) -> set[Path]:
    assert store.address.directory
    return {path for path in store.address.directory.rglob("*") if path.is_file()}


def test_where_a_blob_finds_no_room_nothing_is_left(
    filled: AdapterStore, made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, there = seen(filled), files(filled)
    new = made(1, 2)
    sync = file_io.sync

    def refused(path: Path) -> None:
        if "blobs" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(path)

    monkeypatch.setattr(file_io, "sync", refused)
    with raises(CannotWrite, code="file.cannot-write", reason="the disk is full"):
        filled.publish(new, "acme/reviews", message="third")
    monkeypatch.undo()
    assert (seen(filled), files(filled)) == (before, there)
    assert filled.verify() == []
    assert filled.publish(new, "acme/reviews", message="third").version.number == 3


@pytest.mark.parametrize("size", [0, 100, 10_000])
def test_where_the_database_finds_no_room_it_is_as_it_was(filled: AdapterStore, size: int) -> None:
    before = seen(filled)
    acts: list[Callable[[], object]] = [
        lambda: filled.alias("acme/reviews@2", message="x" * 9_000),
        lambda: filled.delete("acme/reviews@2", reason="x" * 9_000),
    ]
    for act in acts:
        with no_file_above(size), pytest.raises(CannotWrite, match=r"cannot be written \((disk|database)"):
            act()
    assert seen(filled) == before
    assert filled.verify() == []
    assert filled.alias("acme/reviews@2").before == 1


@pytest.mark.parametrize("size", [0, 100, 10_000])
def test_where_a_store_finds_no_room_to_begin_it_can_be_begun_later(store: AdapterStore, made: Make, size: int) -> None:
    new = made()
    with no_file_above(size), pytest.raises(CannotWrite):
        store.publish(new, "acme/reviews", message="first")
    with pytest.raises(NotFound, match="there is no store"):
        AdapterStore(store.address.directory).list()
    assert AdapterStore(store.address.directory).publish(new, "acme/reviews", message="first").version.number == 1


@pytest.mark.parametrize("size", [0, 10_000])
def test_where_there_is_no_room_for_shared_memory_a_store_is_read(filled: AdapterStore, size: int) -> None:
    before = seen(filled)
    with no_file_above(size):
        assert seen(filled) == before
        assert filled.verify() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root; the test above is like it")
def test_a_store_on_a_disk_without_a_free_byte_is_read_verified_and_copied_elsewhere(
    tmp_path: Path, made: Make
) -> None:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=1m", "tmpfs"):
        store = AdapterStore(tmp_path / "small" / "store", who="ada")
        store.publish(made(), "acme/reviews", message="first")
        before = seen(store)
        with (tmp_path / "small" / "fill").open("wb", buffering=0) as rest:
            while rest.write(b"x" * 4096) == 4096 and shutil.disk_usage(tmp_path / "small").free:
                pass
        with ThreadPoolExecutor(8) as pool:  # each reads alone, one after the other
            assert {str(found) for found in pool.map(lambda _: store.list(), range(40))} == {str(store.list())}
        assert seen(store) == before
        assert store.verify() == []
        store.backup(tmp_path / "copy")
        with raises(CannotWrite, code="file.cannot-write", reason="database or disk is full"):
            store.alias("acme/reviews@1", "beta")
        assert seen(store) == before
        copy = AdapterStore(tmp_path / "recovered", who="ada")
        copy.recover(tmp_path / "copy")
        assert seen(copy)["list"] == before["list"]
        (tmp_path / "small" / "fill").unlink()
        assert store.alias("acme/reviews@1", "beta").after == 1


@contextmanager
def mounted(at: Path, *arguments: str) -> Iterator[None]:
    at.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *arguments, str(at)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(at)], check=True)


# What may only be read

WRITES: dict[str, Callable[[AdapterStore, Path], object]] = {
    "publish": lambda store, new: store.publish(new, "acme/reviews", message="third"),
    "alias": lambda store, new: store.alias("acme/reviews@2"),
    "rollback": lambda store, new: store.rollback("acme/reviews"),
    "delete": lambda store, new: store.delete("acme/reviews@2", reason="not needed"),
    "gc": lambda store, new: store.gc(),
    "erase": lambda store, new: store.erase("acme", reason="asked to"),
}


def check_read_only(path: Path, before: dict[str, object], new: Path) -> None:
    store = AdapterStore(path, who="ada")
    there = {file: file.read_bytes() for file in files(store)}
    assert seen(store) == before
    assert store.verify() == []
    for what, write in WRITES.items():
        with pytest.raises(CannotWrite) as caught:
            write(store, new)
        assert re.search("read-only", str(caught.value)), (what, str(caught.value))
    assert {file: file.read_bytes() for file in files(store)} == there


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """A file system of its own, which takes nothing: to root, a directory's mode means nothing."""
    if os.geteuid() != 0:
        modes = {item: item.stat().st_mode for item in [path, *path.rglob("*")] if item.is_dir()}
        for item in modes:
            item.chmod(0o555)
        try:
            yield
        finally:
            for item, mode in modes.items():
                item.chmod(mode)
        return
    with mounted(path, "--bind", str(path)):
        done = subprocess.run(["mount", "-o", "remount,ro,bind", str(path)], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("no file system can be mounted read-only here")
        yield


def test_a_store_that_may_only_be_read_is_read(filled: AdapterStore, made: Make) -> None:
    before, new = seen(filled), made(1, 2)
    assert filled.address.directory
    with read_only(filled.address.directory):
        check_read_only(filled.address.directory, before, new)


@pytest.mark.parametrize("shared", [False, True])
def test_what_is_in_the_write_ahead_log_is_read_too(
    filled: AdapterStore, made: Make, tmp_path: Path, shared: bool
) -> None:
    """A killed process, or a copy of the files, leaves it beside the database; with its index, or without."""
    path, new = tmp_path / "left", made(1, 2)
    with closing(sqlite3.connect(filled.address.url)) as raw:
        raw.execute("SELECT count(*) FROM versions").fetchone()  # an open reader keeps the log
        filled.alias("acme/reviews@2", "staging", message="only in the log")
        before = seen(filled)
        shutil.copytree(filled.address.directory or "", path)
    if not shared:
        (path / "store.db-shm").unlink()
    assert (path / "store.db-wal").stat().st_size
    with read_only(path):
        check_read_only(path, before, new)
    assert seen(AdapterStore(path)) == before  # and where it may be written again


PROBE = """
import os, sys
from afina.errors import AfinaError
from afina.store.adapter_store import AdapterStore
AdapterStore(sys.argv[1]).list()  # imports what somebody else may not be able to read
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    store = AdapterStore(sys.argv[1], who="ada")
    print([one.name for one in store.list()])
    getattr(store, sys.argv[2])(*sys.argv[3:])
except AfinaError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming somebody else takes root; `read_only` is like it for others")
@pytest.mark.parametrize(
    ("what", "mode", "said"),
    [
        ("store", 0o700, r"^NotFound store .*: cannot be read \(permission denied\)"),
        (
            "store",
            0o755,
            r"^\['acme/reviews'\]\nCannotWrite .*/store: cannot be written \(read-only file system or directory\)",
        ),
        (
            "store/store.db",
            0o600,
            r"^NotFound store .*: cannot be read \(.*store\.db cannot be opened\)\. Check its permissions",
        ),
    ],
)
def test_a_place_that_others_own(made: Make, what: str, mode: int, said: str) -> None:
    root = Path(tempfile.mkdtemp(prefix="afina-owned-"))
    try:
        root.chmod(0o755)
        AdapterStore(root / "store").publish(adapter(root / "made"), "acme/reviews", message="first")
        for file in (root / "store").glob("store.db*"):
            file.chmod(0o644)  # as somebody does who lets others read it: it is made for its owner alone
        (root / what).chmod(mode)
        command = [sys.executable, "-c", PROBE, str(root / "store"), "alias", "acme/reviews@1"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert re.search(said, done.stdout), done.stdout
    finally:
        shutil.rmtree(root)


def test_a_database_that_is_a_directory(tmp_path: Path) -> None:
    (tmp_path / "store.db").mkdir()
    with raises(NotFound, code="store.unreachable"):
        AdapterStore(tmp_path).list()
