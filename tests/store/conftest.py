"""Services that stores are kept in, each started once for all tests of a worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from processes import Crew
from proxy import Proxy
from services import S3, Postgres, moto_is_there, postgres_programs

if TYPE_CHECKING:
    from afina.store.adapter_store import AdapterStore
    from fakes import Runs


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL of these tests' own: `postgres.database()` is the URL of a new and empty database."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    running = Postgres(programs)
    yield running
    running.stop()


@pytest.fixture(scope="session")
def _s3() -> Iterator[S3]:
    if not moto_is_there():
        pytest.skip("moto is not installed (pip install 'moto[server]')")
    running = S3()
    yield running
    running.stop()


@pytest.fixture
def s3(_s3: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """An S3 of these tests' own, in the environment: `s3.bucket()` is an address in a new bucket."""
    for name, value in _s3.environment.items():
        monkeypatch.setenv(name, value)
    return _s3


@pytest.fixture
def proxy(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Stands between this test and `s3`, in the environment: `proxy.inject("hang")` and the like."""
    with Proxy(s3.port) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{running.port}")
        yield running


@pytest.fixture(scope="session")
def _crew() -> Iterator[Crew]:
    with Crew() as crew:
        yield crew


@pytest.fixture
def crew(_crew: Crew) -> Iterator[Crew]:
    """Starts processes: `crew.start(function, count, *arguments)`. None outlives the test."""
    yield _crew
    _crew.kill_all()


class Adapters(NamedTuple):
    """Small adapters that share bodies and heads: `b0h1` is a directory there, and has that digest."""

    directory: Path
    digests: dict[str, str]


@pytest.fixture(scope="session")
def adapters(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Adapters:
    from storing import invent

    directory = tmp_path_factory.mktemp("adapters")
    return Adapters(directory, invent(runs.adapter("gpt2", "lora"), directory, 4, 4))


@pytest.fixture(params=["sqlite", "postgres"])
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
