"""SQLite's write-ahead log is turned on while others use a new file: that is waited for."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from afina.store.database.engine import write_ahead


def _mode(connection: sqlite3.Connection) -> str:
    return str(connection.execute("PRAGMA journal_mode").fetchone()[0])


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
    assert _mode(mine) == "wal"
    mine.close()
    other.close()
