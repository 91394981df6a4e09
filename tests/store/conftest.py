from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from afina.store.adapter_store import AdapterStore
from stores import adapter


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
