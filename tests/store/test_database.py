"""How a database of a store comes to be, and what is said of one of another format."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect
from sqlalchemy.pool import NullPool

from afina.errors import CorruptStore, NotFound, Refused
from afina.store.adapter_store import AdapterStore
from afina.store.database.engine import write_ahead
from afina.store.database.tables import metadata
from raises import raises


@pytest.fixture
def begun(store: AdapterStore) -> AdapterStore:
    store.init()
    return store


def test_the_tables_that_are_made_are_those_that_are_read(begun: AdapterStore) -> None:
    with create_engine(f"sqlite:///{begun.address.url}", poolclass=NullPool).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        # What Alembic does not compare on SQLite
        found = inspect(connection)
        for table in metadata.sorted_tables:
            primary = found.get_pk_constraint(table.name)["constrained_columns"]
            assert primary == [column.name for column in table.primary_key.columns]
            foreign = {
                (key["constrained_columns"][0], key["referred_table"]) for key in found.get_foreign_keys(table.name)
            }
            assert foreign == {(key.parent.name, key.column.table.name) for key in table.foreign_keys}
            nullable = {column["name"]: column["nullable"] for column in found.get_columns(table.name)}
            assert nullable == {column.name: column.nullable for column in table.columns}


def test_a_store_begins_with_one_entry(begun: AdapterStore) -> None:
    assert [(entry.event, entry.payload) for entry in begun.log()] == [("create", {"blobs": "beside"})]
    assert begun.list() == begun.verify() == []
    assert begun.size() == 0


def test_one_that_is_there_is_not_begun_again(begun: AdapterStore) -> None:
    with raises(Refused, code="store.exists"):
        AdapterStore(begun.address.directory).init()


@pytest.mark.parametrize("content", [None, b""])
def test_where_nobody_came_to_an_end_a_store_can_be_begun(
    store: AdapterStore, made: Callable[..., Path], content: bytes | None
) -> None:
    """Killed after the file was made, before the tables were."""
    path = Path(store.address.url)
    path.parent.mkdir()
    if content is not None:
        path.write_bytes(content)
    with raises(NotFound, code="store.missing"):
        store.list()
    assert store.publish(made(), "acme/reviews", message="first").version.number == 1
    assert store.verify() == []


def _stated(store: AdapterStore, found: object) -> AdapterStore:
    with closing(sqlite3.connect(store.address.url)) as raw:
        if found is None:
            raw.execute("DELETE FROM alembic_version")
        else:
            raw.execute("UPDATE alembic_version SET version_num = ?", (found,))
        raw.commit()
    return AdapterStore(store.address.directory)


@pytest.mark.parametrize("found", ["0003", "0999"])
def test_another_format_is_refused_and_left_as_it_is(
    begun: AdapterStore, made: Callable[..., Path], found: str
) -> None:
    other = _stated(begun, found)
    content = Path(begun.address.url).read_bytes()
    place = begun.address.directory
    for act in (
        *(other.list, other.verify, other.gc, other.init),
        lambda: other.publish(made(), "acme/reviews", message="first"),
    ):
        with raises(Refused, code="store.format-unknown", path=place.name, found=found, expected="0004"):
            act()
    assert Path(begun.address.url).read_bytes() == content


@pytest.mark.parametrize("found", [None, "", "one", b"\xff"])
def test_a_format_that_no_afina_made_is_damage(begun: AdapterStore, found: object) -> None:
    store = _stated(begun, found)
    with pytest.raises(CorruptStore):
        store.list()
    with pytest.raises(CorruptStore):
        store.init()


def test_a_database_of_somebody_else_is_left_alone(store: AdapterStore) -> None:
    path = Path(store.address.url)
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("CREATE TABLE store (id INTEGER)")
        raw.commit()
    content = path.read_bytes()
    with raises(CorruptStore, code="store.database-damaged"):
        store.init()
    assert path.read_bytes()[100:] == content[100:]  # but for the header, which says how it is written


def test_who_is_refused_at_once_tries_again_until_the_other_ends(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    # no timeout of its own: SQLite refuses it at once, as it does two connections that turn the log on together
    mine = sqlite3.connect(file, timeout=0, isolation_level=None)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        mine.execute("PRAGMA journal_mode = WAL")
    ending = threading.Timer(0.2, other.execute, ["COMMIT"])
    ending.start()
    write_ahead(mine, patience=30)
    ending.join()
    assert mine.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    mine.close()
    other.close()
