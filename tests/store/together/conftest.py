"""Stores that several processes use, in SQLite and in PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from storing import Adapters, invent

from services import Postgres

if TYPE_CHECKING:
    from afina.store.adapter_store import AdapterStore
    from fakes import Runs


@pytest.fixture(scope="session")
def adapters(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Adapters:
    directory = tmp_path_factory.mktemp("adapters")
    return Adapters(directory, invent(runs.adapter("gpt2", "lora"), directory, 4, 4))


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where no store is yet: a directory, or an empty database."""
    if request.param == "sqlite":
        return str(tmp_path / "store")
    running: Postgres = request.getfixturevalue("postgres")
    return running.database()


@pytest.fixture
def store(url: str, tmp_path: Path) -> AdapterStore:
    """An empty store: in a directory, or in a database with a directory for its blobs."""
    from afina.store.adapter_store import AdapterStore

    made = AdapterStore(url, who="tester")
    made.init(None if made.address.directory else str(tmp_path / "blobs"))
    return made
