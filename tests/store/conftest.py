"""Stores, what stands between them and their bucket, and processes that use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import Crew
from proxy import Proxy

from afina.store.adapter_store import AdapterStore
from services import S3
from stores import adapter


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


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    """One that is not there yet."""
    return AdapterStore(tmp_path / "store", who="ada")


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., Path]:
    """The directory of an adapter with that body and head, made when first asked for."""

    def make(body: int = 0, head: int = 0) -> Path:
        path = tmp_path / f"adapter-{body}-{head}"
        return path if path.exists() else adapter(path, body, head)

    return make
