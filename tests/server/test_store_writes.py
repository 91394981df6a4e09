"""A store that cannot be written: the server answers, and says what it cannot do, with the reason in its log."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from afina.errors import CannotWrite, Diverged
from afina.server.versions.store_writes import PAUSE, StoreWrites
from afina.store.adapter_store import AdapterStore
from afina.store.database import Database, engine
from clock import Clock
from servers import Served, logged, within

QUESTION = {"inputs": "a", "model": "acme/reviews@production"}


def sqlite_error(name: str, words: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(words)
    error.sqlite_errorname, error.sqlite_errorcode = name, 0
    return error


class FullDisk:
    """SQLite finds no room: neither to write, nor for the shared memory of a connection that only reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch.context()
        patch = self._patch.__enter__()
        writing = Database.writing

        @contextmanager
        def full(database: Database) -> Iterator[Any]:
            with writing(database) as connection:
                yield connection
                raise CannotWrite("the store", "database or disk is full", full=True)

        def no_room(opened: sqlite3.Connection, patience: float) -> None:
            raise sqlite_error("SQLITE_IOERR_SHMSIZE", "disk I/O error")

        patch.setattr(Database, "writing", full)
        patch.setattr(engine, "write_ahead", no_room)

    def free(self) -> None:
        self._patch.__exit__(None, None, None)


def test_a_full_disk_refuses_changes_with_a_reason_and_the_server_answers_on(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "afina.server")
    served, clock = serve(), Clock()
    served.core.writes._clock = clock
    ready = lambda: served.web.get("/health/ready")  # noqa: E731
    move = lambda: served.web.put(  # noqa: E731
        "/aliases/acme/reviews/production", json={"version": 2}, headers=served.auth("acme-publish")
    )
    assert (ready().status_code, ready().json()) == (200, {"ready": True, "writes": True})
    assert served.post("/predict", QUESTION).status_code == 200
    disk = FullDisk(monkeypatch)
    refused = move()
    assert (refused.status_code, refused.headers["afina-error"]) == (507, "unwritable")
    assert "disk" in refused.json()["error"]
    assert served.store.address.shown not in refused.text
    assert (ready().status_code, ready().json()) == (200, {"ready": True, "writes": False})
    assert "afina_store_writable 0.0" in served.get("/metrics", "acme-admin").text
    assert served.post("/predict", QUESTION).status_code == 200
    assert served.get("/v1/models").status_code == 200
    assert served.store.show("acme/reviews@production").number == 1
    lines = [one for one in logged(caplog) if one["message"] == "the store cannot be written"]
    assert [one["level"] for one in lines] == ["error"]
    assert "disk is full" in lines[0]["problem"]
    disk.free()
    clock.now += PAUSE
    assert within(10, lambda: bool(ready().json()["writes"]))
    assert move().status_code == 200


def test_a_disk_with_little_room_is_tried_before_anybody_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, clock = AdapterStore(tmp_path / "store"), Clock()
    store.make_ready()
    writes = StoreWrites(store, clock=clock)
    tried = list[int]()

    def full() -> None:
        tried.append(1)
        raise CannotWrite("the store", "database or disk is full", full=True)

    monkeypatch.setattr(store, "try_write", full)
    writes.refresh()
    assert within(10, lambda: writes._checking is not None and writes._checking.done())
    assert (writes.possible, tried) == (True, [])
    monkeypatch.setattr(engine.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 4096}))
    writes.refresh()
    assert tried == []
    clock.now += PAUSE
    writes.refresh()
    assert within(10, lambda: not writes.possible)
    assert tried == [1]
    writes.close()


def test_a_write_that_changes_nothing_leaves_the_log_as_it_is(tmp_path: Path) -> None:
    store = AdapterStore(tmp_path / "store")
    store.make_ready()
    before = [one.as_json() for one in store.log()]
    store.try_write()
    assert [one.as_json() for one in store.log()] == before
    assert store.verify() == []


def test_an_error_that_nobody_foresaw_has_a_line_in_the_log(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "afina.server")
    served = serve()

    def unforeseen(*_: Any) -> Any:
        raise Diverged("the words may hold a text")

    monkeypatch.setattr(served.store, "list", unforeseen)
    assert served.get("/v1/models").status_code == 500
    lines = [one for one in logged(caplog) if one["message"] == "failed"]
    assert [(one["what"], one["unforeseen"]) for one in lines] == [("request", "Diverged")]
    assert "may hold" not in str(lines)
