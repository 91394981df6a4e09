"""A Ray cluster on this machine: a head without processors and three nodes, each like another machine."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from raylets import Raylets

NODES = 3


@pytest.fixture(scope="session")
def _running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Raylets]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed (pip install 'afina[ray]')")
    folder = tmp_path_factory.mktemp("cluster")
    with Raylets(folder, folder / "driver") as running:
        yield running


@pytest.fixture
def cluster(_running: Raylets) -> Iterator[Raylets]:
    """The cluster, with three nodes; `hidden` is the driver's folder and empty, and so is `storage`.

    After the test, the nodes have no process of it, and no file but those of their caches.
    """
    _running.keep(NODES)
    yield _running
    try:
        _running.assert_tidy()
    finally:
        for path in (_running.storage, _running.sleeping):
            shutil.rmtree(path, ignore_errors=True)
        for path in _running.hidden.iterdir():
            if path.is_dir():
                shutil.rmtree(path)


@pytest.fixture
def place(cluster: Raylets, request: pytest.FixtureRequest) -> Path:
    """An empty directory of the driver, which no node can see."""
    path = cluster.hidden / "work"
    path.mkdir()
    return path
