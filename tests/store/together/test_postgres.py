"""A store in PostgreSQL: what goes wrong with a server, in our words, and that nothing is lost by it."""

from __future__ import annotations

import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest
import storing
from storing import Adapters

from afina.errors import AfinaError, Busy, CannotWrite, InvalidName, NotFound, Refused
from afina.store import audit_log
from afina.store.adapter_store import AdapterStore
from afina.store.database import Database
from grid import some_slow
from raises import raises
from services import Postgres, free_port

pytestmark = pytest.mark.slow
"""Making and starting a server takes five seconds of a processor in each worker of pytest."""


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.database()


@pytest.fixture
def filled(store: AdapterStore, adapters: Adapters) -> AdapterStore:
    store.publish(adapters.directory / "b0h0", "acme/reviews", message="a test")
    store.publish(adapters.directory / "b1h0", "acme/reviews", message="a test")
    store.alias("acme/reviews@1")
    return store


def password(url: str) -> str:
    found = re.search(r":([^:@]*)@", url)
    assert found
    return found[1]


def failure(url: str) -> AfinaError:
    with pytest.raises(AfinaError) as raised:
        AdapterStore(url).list()
    assert raised.value.__cause__ is None  # what a traceback would show of the driver
    return raised.value


def test_a_wrong_password_is_told_and_none_is_shown(filled: AdapterStore, url: str) -> None:
    found = failure(url.replace(password(url), "wrong-secret"))
    assert isinstance(found, NotFound)
    assert "password authentication failed" in str(found)
    assert "wrong-secret" not in str(found)
    assert "afina:***@127.0.0.1" in str(found)


def test_no_server_is_told_and_no_password_is_shown(url: str) -> None:
    port = free_port()
    found = failure(re.sub(r":\d+/", f":{port}/", url))
    assert isinstance(found, NotFound)
    assert str(port) in str(found)
    assert password(url) not in str(found)


def test_no_such_database_and_no_store_in_one(url: str) -> None:
    found = failure(f"{url}_of_nobody")
    assert isinstance(found, NotFound)
    assert "does not exist" in str(found)
    assert password(url) not in str(found)
    found = failure(url)
    assert isinstance(found, NotFound)
    assert "afina store init --blobs" in str(found)


@pytest.mark.parametrize(
    "wrong", ["postgresql://u:very-secret@localhost:port/db", "postgresql://u:very-secret@[::1/db"]
)
def test_an_address_that_is_none_is_told_without_its_password(wrong: str) -> None:
    with pytest.raises(InvalidName) as raised:
        AdapterStore(wrong)
    assert "very-secret" not in str(raised.value)


def test_who_holds_the_store_for_long_makes_others_busy_but_no_reader(filled: AdapterStore, url: str) -> None:
    filled._database = Database(filled.address, patience=0.3)
    with psycopg.connect(url) as other:
        other.execute("SELECT * FROM store FOR UPDATE")
        start = time.monotonic()
        with raises(Busy, code="store.busy"):
            filled.alias("acme/reviews@2")
        assert time.monotonic() - start < 10
        assert filled.show("acme/reviews@production").number == 1
    assert filled.alias("acme/reviews@2").before == 1


def test_who_reads_for_long_makes_an_erasure_busy_and_the_same_again_ends_it(filled: AdapterStore, url: str) -> None:
    filled._database = Database(filled.address, patience=0.3)
    with psycopg.connect(url) as other:
        other.execute("SELECT * FROM clients")
        with pytest.raises(Busy):
            filled.erase("acme", reason="a test")
    assert filled.list() == []
    filled.erase("acme", reason="a test")
    assert storing.tables(filled)["clients"] == []
    storing.check_clean(filled)


def end_all_others(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


@pytest.mark.parametrize(
    "step",
    some_slow(
        ["publish: in the transaction", "alias: in the transaction", "gc: in the transaction", "gc: one removed"],
        {"publish: in the transaction"},
    ),
)
def test_a_connection_that_is_cut_in_a_transaction_undoes_it(
    step: str, filled: AdapterStore, url: str, adapters: Adapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.delete("acme/reviews@2", reason="a test")
    before = storing.states(filled)
    cut: list[str] = []

    def reach(name: str) -> None:
        if name == step and not cut:
            cut.append(name)
            end_all_others(url)

    def do() -> None:
        filled.publish(adapters.directory / "b2h2", "acme/reviews", message="a test")
        filled.alias("acme/reviews@3")
        filled.gc()

    monkeypatch.setattr(audit_log, "crash_point", reach)
    if step == "gc: one removed":  # between transactions nothing is cut
        do()
    else:
        with raises(NotFound, code="store.unreachable") as raised:
            do()
        assert password(url) not in str(raised.value)
        if step == "publish: in the transaction":
            assert storing.states(filled) == before
    assert cut
    storing.check_whole(filled, adapters.digests)
    do()
    assert filled.show("acme/reviews@production").number == 3
    storing.check_clean(filled)
    storing.check_whole(filled, adapters.digests)


@pytest.mark.slow
def test_a_server_that_crashes_and_recovers_has_all_that_was_acknowledged(
    filled: AdapterStore, url: str, adapters: Adapters
) -> None:
    before = storing.states(filled)
    with psycopg.connect(url) as connection:
        (backend,) = connection.execute("SELECT pg_backend_pid()").fetchone() or (0,)
        os.kill(backend, signal.SIGKILL)  # the server ends all its sessions then, and reads its log again
        while not connection.broken:
            time.sleep(0.01)
            with suppress(psycopg.OperationalError):
                connection.execute("SELECT 1")
    deadline = time.monotonic() + 120  # it syncs all its files first
    while True:
        try:
            found = storing.states(filled)
            break
        except NotFound:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert found == before
    storing.check_whole(filled, adapters.digests)
    filled.publish(adapters.directory / "b2h2", "acme/reviews", message="a test")


def test_who_may_only_read_may_not_write(filled: AdapterStore, url: str, adapters: Adapters) -> None:
    reader = AdapterStore(f"{url}?options=-c%20default_transaction_read_only%3Don")
    assert reader.show("acme/reviews").number == 2
    with pytest.raises(CannotWrite):
        reader.publish(adapters.directory / "b2h2", "acme/reviews", message="a test")


def test_an_erased_client_is_in_no_file_of_a_table_or_an_index(
    filled: AdapterStore, url: str, postgres: Postgres, adapters: Adapters
) -> None:
    word, why, who = "zanzibar-client", "zanzibar-reason", "zanzibar-person"
    store = AdapterStore(url, who=who)
    for task in ("one", "two"):
        store.publish(adapters.directory / "b0h0", f"{word}/{task}", message=why)
        store.alias(f"{word}/{task}@1", message=why)
    assert files_with(postgres, url, b"zanzibar")
    store.erase(word, reason=why)
    assert files_with(postgres, url, b"zanzibar") == []
    assert list(storing.states(store)) == ["acme"]
    assert store.verify() == []


def files_with(postgres: Postgres, url: str, word: bytes) -> list[Path]:
    """Files of the database that have the word in them."""
    with psycopg.connect(url, autocommit=True) as connection:
        (number,) = connection.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchone() or (
            0,
        )
        connection.execute("CHECKPOINT")
    directory = postgres.directory / "data" / "base" / str(number)
    return [path for path in directory.iterdir() if word in path.read_bytes()]


def test_an_erasure_waits_for_who_may_still_see_what_was_there(filled: AdapterStore, url: str) -> None:
    filled._database.patience = 0.5
    with psycopg.connect(url) as other:
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT count(*) FROM log").fetchone()
        with pytest.raises(Busy):
            filled.erase("acme", reason="asked to")
    filled.erase("acme", reason="asked to")
    assert filled.verify() == []


def test_no_statistics_keep_words(filled: AdapterStore, url: str) -> None:
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("ANALYZE")
        kept = other.execute("SELECT tablename, attname FROM pg_stats WHERE schemaname = 'public'").fetchall()
    wordy = {("said", "who"), ("said", "why"), ("versions", "manifest"), ("clients", "name"), ("names", "task")}
    assert kept
    assert not wordy & set(kept)


def test_writers_do_not_depend_on_the_servers_default(filled: AdapterStore, url: str) -> None:
    name = url.rpartition("/")[2]
    with psycopg.connect(url, autocommit=True) as other:
        other.execute(f'ALTER DATABASE "{name}" SET default_transaction_isolation = "serializable"')
    store = AdapterStore(url)
    with ThreadPoolExecutor(4) as pool:
        moved = [*pool.map(lambda number: store.alias(f"acme/reviews@{1 + number % 2}", f"a{number}"), range(16))]
    assert len(moved) == 16


@pytest.mark.parametrize("table", ["clients", "alembic_version", "wages"])
def test_a_database_of_another_program_is_refused(url: str, tmp_path: Path, table: str) -> None:
    with psycopg.connect(url, autocommit=True) as other:
        other.execute(f"CREATE TABLE {table} (version_num text)")
    with raises(Refused, code="store.foreign"):
        AdapterStore(url).init(str(tmp_path / "blobs"))
