"""Whatever byte of a store changes: it is found and named, or nothing that the store shows is different."""

from __future__ import annotations

import json
import random
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from afina.errors import AfinaError, CorruptStore, NotFound
from afina.store.adapter_store import AdapterStore
from afina.store.database.tables import metadata
from raises import raises
from stores import adapter, seen

DATABASE = "store.db"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which every table has a row."""
    root = tmp_path_factory.mktemp("whole")
    store = AdapterStore(root / "store", who="ada")
    for index, (name, body, head) in enumerate(
        [("acme/reviews", 0, 0), ("acme/reviews", 0, 1), ("acme/reviews", 1, 1), ("bolt/mail", 0, 0)]
    ):
        path = adapter(root / f"adapter-{index}", body, head)
        store.publish(path, name, message=f"reason {index}", source="somewhere" if index == 3 else None)
    store.alias("acme/reviews@1", "production", message="first")
    store.alias("acme/reviews@2", "production")
    store.rollback("acme/reviews")
    store.delete("acme/reviews@3", reason="not needed")
    store.gc()
    store.create_key("acme", ["predict"], rate=5, text_tokens=7, message="for their router")
    store.revoke_key(store.create_key("bolt", ["admin"], rate=6).key.id)
    with closing(sqlite3.connect(root / "store" / DATABASE)) as raw:
        raw.execute("INSERT INTO leases VALUES ('somebody', 'sha256:ab', 'acme', 4e9)")
        raw.execute("INSERT INTO garbage VALUES ('sha256-ab-cd', 'sha256:ab')")
        raw.commit()
    assert store.verify() == []
    return root / "store"


@pytest.fixture(scope="module")
def before(whole: Path) -> dict[str, Any]:
    return seen(AdapterStore(whole))


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> AdapterStore:
    shutil.copytree(whole, tmp_path / "copy")
    return AdapterStore(tmp_path / "copy", who="ada")


def outcome(store: AdapterStore, before: dict[str, Any]) -> str:
    """What comes of a damage: `found`, an error that says so, or `unchanged`; anything else fails the test."""
    store._database._ready = False  # as if it were opened anew, which takes SQLAlchemy as long as all the rest
    store.__dict__.pop("_blobs", None)
    refused, after = None, None
    try:
        found = [f"{one.kind} {one.id} {one.versions} {one.problem}" for one in store.verify()]
    except AfinaError as error:
        refused, found = error, [str(error)]
    try:
        after = seen(store)
        for client in ("acme", "bolt"):
            store.list(client)
        json.dumps(after)
    except AfinaError as error:
        assert found
        assert "\n" not in str(error)  # noqa: PT017 - either may come of it
    # A store that is damaged is never said to be missing, busy, or somebody's to write to.
    assert isinstance(refused, CorruptStore | None) or refused.code == "store.format-unknown", repr(refused)
    assert "\n" not in "".join(found)
    assert found or after == before
    return " | ".join(found) or "unchanged"


def cells(root: Path) -> Iterator[tuple[str, int, str, Any]]:
    """Every column of every row."""
    with closing(sqlite3.connect(root / DATABASE)) as raw:
        for table in (*(table.name for table in metadata.sorted_tables), "alembic_version"):
            asked = raw.execute(f"SELECT rowid, * FROM {table}")
            columns = [column[0] for column in asked.description][1:]
            rows = asked.fetchall()
            assert rows, f"{table} is empty: damage to it would not be looked at"
            for row in rows:
                for column, value in zip(columns, row[1:], strict=True):
                    yield table, row[0], column, value


def changes(value: Any) -> list[Any]:
    """What a cell may hold afterwards: another of its kind, another kind, what cannot be read."""
    if value is None:
        return ["x", b"\xff\x00"]
    if isinstance(value, int | float):
        return [value + 1, "x", b"\xff"]
    changed = f"{value[:-1]}{'0' if value[-1:] != '0' else '1'}"
    others = [changed, "", None, b"\xff\x00", value.swapcase()]
    return [other for other in others if other != value]


HARMLESS = {
    ("leases", "holder"),
    ("leases", "digest"),
    ("leases", "client"),
    ("leases", "until"),
    ("garbage", "digest"),
    ("garbage", "place"),
}
HARMLESS |= {("store", "id"), ("versions", "method"), ("log", "payload"), ("alembic_version", "version_num")}
"""Where a change may show in nothing: what is about no version, an id that nothing refers to, the method of a version
that is deleted, spaces in JSON."""


@pytest.mark.slow
def test_a_cell_of_each_column_that_changes_is_found_and_named(
    whole: Path, before: dict[str, Any], tmp_path: Path
) -> None:
    path, drawn, columns = tmp_path / "copy", random.Random(0), {}
    for cell in cells(whole):
        columns.setdefault((cell[0], cell[2]), []).append(cell)
    shutil.copytree(whole, path)
    store = AdapterStore(path)
    for table, rowid, column, value in map(drawn.choice, columns.values()):
        other = drawn.choice(changes(value))
        shutil.copyfile(whole / DATABASE, path / DATABASE)
        with closing(sqlite3.connect(path / DATABASE)) as raw:
            try:
                raw.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (other, rowid))
            except sqlite3.IntegrityError:
                continue
            raw.commit()
        said = outcome(store, before)
        where = f"{table}.{column} of row {rowid}: {value!r} -> {other!r}"
        if said == "unchanged":
            assert (table, column) in HARMLESS, where
        else:
            assert named(table, said), f"{where}: {said}"


def named(table: str, said: str) -> bool:
    """Whether what is said is about the right kind of thing."""
    kinds = {
        "store": "database|log|blob",
        "clients": "client",
        "names": "client|version",  # whose names are another's now
        "versions": "version|manifest|client",
        "blobs": "blob",
        "parts": "version|blob",
        "aliases": "alias",
        "log": "log",
        "said": "log|database",
        "keys": "key",
        "alembic_version": "format",
    }
    return bool(re.search(rf"\b({kinds.get(table, 'nothing')})\b", said)) or "its database is damaged" in said


def test_an_entry_of_the_log_whose_payload_is_bytes_is_found(
    whole: Path, before: dict[str, Any], tmp_path: Path
) -> None:
    """A single bit makes text bytes, of the same content: readers refuse it, so `verify` must find it."""
    path = tmp_path / "copy"
    shutil.copytree(whole, path)
    with closing(sqlite3.connect(path / DATABASE)) as raw:
        raw.execute("UPDATE log SET payload = CAST(payload AS BLOB) WHERE seq = 6")
        raw.commit()
    assert outcome(AdapterStore(path), before).startswith("log 6 ")


def test_every_row_that_is_lost_is_found(whole: Path, before: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(whole, path)
    store = AdapterStore(path)
    rows = {(table, rowid) for table, rowid, *_ in cells(whole) if table not in ("leases", "garbage")}
    drawn = random.Random(0)
    for table, rowid in drawn.sample(sorted(rows), 8):
        shutil.copyfile(whole / DATABASE, path / DATABASE)
        with closing(sqlite3.connect(path / DATABASE)) as raw:
            raw.execute(f"DELETE FROM {table} WHERE rowid = ?", (rowid,))
            raw.commit()
        said = outcome(store, before)
        assert named(table, said), (table, rowid, said)


def flipped(path: Path, offset: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.chmod(0o644)
    path.write_bytes(content)


@pytest.mark.slow
def test_bits_of_the_database_that_flip_are_found_or_show_in_nothing(
    whole: Path, before: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "copy"
    shutil.copytree(whole, path)
    size, drawn = (whole / DATABASE).stat().st_size, random.Random(1)
    # Bytes that hold something, half of the time: most of a page is empty.
    content = (whole / DATABASE).read_bytes()
    full = [offset for offset, byte in enumerate(content) if byte]
    store, outcomes = AdapterStore(path), set()
    for turn in range(20):
        for leftover in path.glob(f"{DATABASE}-*"):
            leftover.unlink()
        shutil.copyfile(whole / DATABASE, path / DATABASE)
        offset = drawn.randrange(100) if turn % 8 == 0 else drawn.choice(full) if turn % 2 else drawn.randrange(size)
        bit = drawn.randrange(8)
        flipped(path / DATABASE, offset, bit)
        try:
            outcomes.add(outcome(store, before)[:9])
        except BaseException as error:
            error.add_note(f"bit {bit} of byte {offset} of {size}")
            raise
    assert "unchanged" in outcomes  # an empty part of a page
    assert len(outcomes) > 1


def blobs(store: AdapterStore) -> list[Path]:
    assert store.address.directory
    return sorted(store.address.directory.glob("blobs/??/sha256-*"))


def holders(store: AdapterStore, file: Path) -> list[str]:
    digest = f"sha256:{file.name.split('-')[1]}"
    versions = [version for one in store.list() for version in store.versions(one.name)]
    return [f"{version}" for version in versions if digest in {part.digest for part in version.parts.values()}]


def test_a_bit_that_flips_in_any_part_of_a_blob_names_it_and_its_versions(copy: AdapterStore) -> None:
    drawn = random.Random(0)
    for file in blobs(copy):
        mine = holders(copy, file)
        content = file.read_bytes()
        for region in range(3):  # the length, the header, the numbers
            start, end = region * len(content) // 3, (region + 1) * len(content) // 3
            flipped(file, drawn.randrange(start, end), drawn.randrange(8))
            found = copy.verify()
            (one,) = found
            assert (one.kind, list(one.versions)) == ("blob", mine)
            assert file.name.split("-")[1] in one.id
            assert "was changed" in one.problem
            with raises(CorruptStore, code="store.content-changed"):
                copy.adapter(mine[0])
            file.write_bytes(content)
    assert copy.verify() == []


def test_a_blob_that_is_missing_or_cut_short_names_its_versions(copy: AdapterStore) -> None:
    for file in blobs(copy):
        mine, content = holders(copy, file), file.read_bytes()
        file.chmod(0o644)
        for change, problem in [
            (lambda file=file, content=content: file.write_bytes(content[:-1]), "bytes, but the database says"),
            (lambda file=file: file.write_bytes(b""), "has 0 bytes, but the database says"),
            (lambda file=file: file.unlink(), "is missing"),
            (lambda file=file: file.mkdir(), "the file"),
        ]:
            change()
            (one,) = copy.verify()
            assert (one.kind, list(one.versions)) == ("blob", mine)
            assert problem in one.problem
            with pytest.raises(CorruptStore):
                copy.adapter(mine[0])
        file.rmdir()
        file.write_bytes(content)
    assert copy.verify() == []


def test_a_database_that_is_missing_empty_or_cut_short(whole: Path, before: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(whole, path)
    content = (path / DATABASE).read_bytes()
    for length in [1, 15, 50, 100, 101, 1000, 4095, 4096, 8192, len(content) // 2, len(content) - 4096]:
        (path / DATABASE).write_bytes(content[:length])
        assert outcome(AdapterStore(path), before) != "unchanged", length
    asks = (AdapterStore.list, AdapterStore.verify, AdapterStore.log, AdapterStore.init)
    for change in (lambda: (path / DATABASE).write_bytes(b""), lambda: (path / DATABASE).unlink()):
        change()
        for ask in asks:
            with raises(CorruptStore, code="store.database-damaged"):
                ask(AdapterStore(path))
    shutil.rmtree(path / "blobs")
    for ask in asks[:-1]:
        with raises(NotFound, code="store.missing"):
            ask(AdapterStore(path))


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_text("This is a letter to the editor.\n" * 100)
    with raises(CorruptStore, code="store.database-damaged"):
        AdapterStore(tmp_path).list()


def test_a_manifest_of_another_version_is_not_taken_for_this_ones(copy: AdapterStore) -> None:
    """Each row is whole in itself, so only the two together say it."""
    with closing(sqlite3.connect(copy.address.url)) as raw:
        raw.execute("UPDATE versions SET manifest = (SELECT manifest FROM versions WHERE id = 2) WHERE id = 1")
        raw.commit()
    with raises(CorruptStore, code="store.content-changed", where="store:acme/reviews@1", what="manifest"):
        copy.adapter("acme/reviews@1")
    (one,) = copy.verify()
    assert (one.kind, one.id) == ("manifest", "acme/reviews@1")
