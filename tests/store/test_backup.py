"""Backups: where one may be, what is in it, and what is said where it is not whole."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from afina.errors import CannotWrite, CorruptStore, NotFound, Refused
from afina.store import backup
from afina.store.adapter_store import AdapterStore
from raises import raises
from stores import kept, seen

Make = Callable[..., Path]


@pytest.fixture
def two(store: AdapterStore, made: Make) -> AdapterStore:
    store.publish(made(0, 0), "acme/reviews", message="first")
    store.publish(made(0, 1), "acme/reviews", message="second")
    store.alias("acme/reviews@1")
    store.create_key("acme", ["predict"])
    return store


def test_what_comes_back_is_what_was_there_and_the_log_says_that_it_was_recovered(
    two: AdapterStore, tmp_path: Path
) -> None:
    before, keys = seen(two), two.keys()
    made = two.backup(tmp_path / "backup")
    assert (made.versions, made.blobs, made.copied, made.last) == (2, 3, 3, two.log()[-1].hash)
    assert json.loads((tmp_path / "backup" / "backup.json").read_text())["last"] == made.last
    assert seen(two) == before
    assert (tmp_path / "backup" / "store.db").stat().st_mode & 0o777 == 0o600
    again = AdapterStore(tmp_path / "again")
    again.recover(tmp_path / "backup")
    assert again.verify(last=made.last) == []
    assert [*again.log()][:-1] == [*two.log()]
    assert again.log()[-1].event == "recover"
    assert again.keys() == keys
    assert again.show("acme/reviews@production").number == 1
    assert {**seen(again), "log": None} == {**before, "log": None}


def test_an_earlier_backup_is_brought_up_to_date_and_what_was_removed_is_gone_from_it(
    two: AdapterStore, made: Make, tmp_path: Path
) -> None:
    two.backup(tmp_path / "backup")
    two.delete("acme/reviews@2", reason="wrong")
    two.gc()
    two.publish(made(1, 1), "acme/reviews", message="third")
    done = two.backup(tmp_path / "backup")
    assert (done.versions, done.blobs, done.copied) == (2, 4, 2)
    copy = AdapterStore(tmp_path / "backup")
    assert copy.verify() == []
    assert len(kept(copy)) == 4


def test_its_bytes_are_its_own(two: AdapterStore, tmp_path: Path) -> None:
    two.backup(tmp_path / "backup")
    mine = {path.stat().st_ino for path in Path(two.address.directory or "").rglob("sha256-*")}
    assert not mine & {path.stat().st_ino for path in (tmp_path / "backup").rglob("sha256-*")}


def test_a_place_that_is_none_is_refused_and_nothing_is_touched(two: AdapterStore, made: Make, tmp_path: Path) -> None:
    other = AdapterStore(tmp_path / "other")
    other.publish(made(2, 2), "globex/films", message="pilot")
    (tmp_path / "file").write_text("mine")
    two.backup(tmp_path / "used")
    AdapterStore(tmp_path / "used").publish(made(2, 2), "acme/elsewhere", message="went on there")
    two.backup(tmp_path / "theirs")
    for place, told in (
        (tmp_path / "other", "not a backup"),
        (tmp_path / "store" / "backup", "is inside the store"),
        (tmp_path / "store", "is inside the store"),
        (tmp_path / "file", "cannot be read as a directory"),
        (tmp_path, "has files that are not a backup"),
        (tmp_path / "used", "or a backup that was changed later"),
    ):
        with pytest.raises(Refused, match=told):
            two.backup(place)
    with raises(Refused, code="backup.place-unusable", path="theirs"):
        other.backup(tmp_path / "theirs")
    assert other.verify() == AdapterStore(tmp_path / "used").verify() == []
    with pytest.raises(CannotWrite):
        two.backup("/proc/backup")
    with raises(NotFound, code="store.missing"):
        AdapterStore(tmp_path / "nowhere").backup(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_store_that_is_damaged_has_no_backup_and_the_earlier_one_stays(two: AdapterStore, tmp_path: Path) -> None:
    good = two.backup(tmp_path / "backup")
    two.alias("acme/reviews@2", "staging")
    blob = next(Path(two.address.directory or "").rglob("sha256-*"))
    blob.chmod(0o644)
    blob.unlink()
    with raises(CorruptStore, code="store.blobs-missing", blobs=1):
        two.backup(tmp_path / "fresh")
    assert AdapterStore(tmp_path / "backup").log()[-1].hash == good.last


@pytest.mark.slow
@pytest.mark.parametrize("always", [False, True])
def test_bytes_that_others_remove_and_publish_again_during_a_copy_are_not_called_lost(
    two: AdapterStore, made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, always: bool
) -> None:
    copied, source, others = backup._snapshot, made(5, 5), []

    def beside_another(*rest: Any) -> None:
        if others and not always:
            return copied(*rest)
        third = two.publish(source, "acme/reviews", message="third")
        copied(*rest)
        two.delete(str(third.version), reason="wrong")
        two.gc()
        if not always:
            two.publish(source, "acme/reviews", message="again")  # the same bytes, in a file of another name
        others.append(third)

    monkeypatch.setattr(backup, "_snapshot", beside_another)
    if always:
        with raises(Refused, code="backup.store-changed", tries=20):
            two.backup(tmp_path / "backup")
    else:
        assert two.backup(tmp_path / "backup").versions == 3
        assert AdapterStore(tmp_path / "backup").verify() == []
    assert len(others) == (20 if always else 1)


def test_what_is_damaged_is_not_recovered_and_a_store_is_not_replaced(two: AdapterStore, tmp_path: Path) -> None:
    two.backup(tmp_path / "backup")
    with raises(Refused, code="store.exists"):
        two.recover(tmp_path / "backup")
    with raises(NotFound, code="backup.missing", path="nothing"):
        AdapterStore(tmp_path / "again").recover(tmp_path / "nothing")
    with raises(Refused, code="backup.place-unusable"):
        AdapterStore(tmp_path / "backup" / "in").recover(tmp_path / "backup")
    blob = next((tmp_path / "backup").rglob("sha256-*"))
    blob.chmod(0o644)
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1] + b"!")
    with raises(CorruptStore, code="backup.damaged", path="backup"):
        AdapterStore(tmp_path / "again").recover(tmp_path / "backup")
    assert not (tmp_path / "again" / "store.db").exists()
    blob.write_bytes(whole)
    again = AdapterStore(tmp_path / "again")
    again.recover(tmp_path / "backup")  # over what the attempt before has left
    assert again.verify() == []


def test_a_backup_of_another_format_is_refused_and_stays_as_it_is(two: AdapterStore, tmp_path: Path) -> None:
    two.backup(tmp_path / "backup")
    file = tmp_path / "backup" / "store.db"
    with closing(sqlite3.connect(file)) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '0002'")
        raw.commit()
    before = file.read_bytes()
    again = AdapterStore(tmp_path / "again")
    with raises(Refused, code="store.format-unknown", path="store.db", found="0002"):
        again.recover(tmp_path / "backup")
    assert not again.exists()
    assert file.read_bytes() == before
