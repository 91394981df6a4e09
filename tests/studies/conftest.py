"""No test of studies waits for a worker that it does not use; slow tests start workers as a user's commands do."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _without_workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    from command import without_workers

    if not request.node.get_closest_marker("slow"):
        without_workers(monkeypatch)
