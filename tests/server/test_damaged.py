"""A version that is damaged: named, 503 with a reason, and not read again and again."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from afina import AdapterStore
from afina.errors import Busy, CorruptAdapter
from afina.server.metrics import Metrics
from afina.server.versions.served_versions import LONGEST, PAUSE, SHORT, ServedVersions
from afina.store.versions import Reference
from clock import Clock
from servers import Served, followed, logged
from stores import versioned

BODY = {"inputs": "the soup was bright.", "model": "acme/reviews@2"}


def spoil(store: AdapterStore) -> list[Path]:
    """Change a byte of every blob; where they are."""
    directory = store.address.directory
    assert directory is not None
    found = [one for one in (directory / "blobs").rglob("sha256-*") if one.is_file()]
    for one in found:
        one.chmod(0o644)
        with one.open("r+b") as file:  # not shortened at any time: a server may have the file mapped
            middle = one.stat().st_size // 2
            file.seek(middle)
            (byte,) = file.read(1)
            file.seek(middle)
            file.write(bytes([byte ^ 1]))
    return found


def test_a_damaged_version_is_503_and_named_in_log_and_figures(
    serve: Callable[..., Served], caplog: pytest.LogCaptureFixture
) -> None:
    served = serve()
    spoil(served.store)
    for _ in range(3):
        response = served.post("/predict", BODY)
        assert response.status_code == 503, response.text
        assert response.headers["afina-error"] == "unservable"
        assert "damaged" in response.json()["error"]
        assert served.post("/bulk", None, content='{"text": "a"}').status_code == 200
    lines = [one for one in logged(caplog) if one["message"] == "version not served"]
    assert [(one["version"], one["level"], one["tries"]) for one in lines] == [("acme/reviews@2", "error", 1)]
    assert "sha256" in lines[0]["problem"]
    assert served.figure('afina_probes_total{outcome="damaged"}') == 1
    assert served.figure('afina_probes_total{outcome="failed"}') == 0
    assert served.figure('afina_version_not_served{version="acme/reviews@2"}') == 1
    assert served.figure("afina_versions_not_served") == 1


def test_one_that_is_damaged_while_it_is_served_is_not_read_each_time_and_is_back_once_it_is_mended(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()
    clock = Clock()
    monkeypatch.setattr(served.core.current, "_clock", clock)
    assert served.post("/predict", BODY).status_code == 200
    (version,) = [one for one in served.core.current._served.values() if str(one) == BODY["model"]]
    served.core.engine.evict(f"store:{version}")
    spoiled = spoil(served.store)
    loads = served.core.engine.counts.loads
    assert [served.post("/predict", BODY).status_code for _ in range(5)] == [503] * 5
    assert served.core.engine.counts.loads == loads + 1
    spoil(served.store)  # the same byte again: they are as they were
    assert len(spoiled) > 0
    assert served.post("/predict", BODY).status_code == 503
    clock.now += PAUSE
    assert served.post("/predict", BODY).status_code == 200
    assert served.figure("afina_versions_not_served") == 0


@pytest.mark.parametrize(
    ("error", "longest"),
    [(CorruptAdapter("its probe differs"), LONGEST), (Busy("late"), SHORT)],
)
def test_what_could_not_be_served_is_tried_again_after_pauses_that_double(
    tmp_path: Path, error: Exception, longest: float
) -> None:
    store, clock, tried = versioned(tmp_path, 2), Clock(), list[float]()

    class Tests:
        def demand_backbone(self, version: Any) -> None:
            pass

        def run(self, version: Any) -> None:
            if version.number == 2:
                tried.append(clock.now)
                raise error

    current = ServedVersions(store, Tests(), Metrics(), clock=clock)
    production = Reference.parse("acme/reviews@production")
    assert current.find(production).number == 1
    store.alias("acme/reviews@2")
    for _ in range(int(16 * longest)):
        followed(current) if current._due or not tried else None
        clock.now += 0.25
    pauses = [round(after - before, 1) for before, after in itertools.pairwise(tried)]
    assert pauses[:3] == pytest.approx([PAUSE, 2 * PAUSE, 4 * PAUSE], abs=0.26)
    assert max(pauses) == pytest.approx(longest, abs=0.26)
    assert (current.find(production).number, current.behind) == (1, 1)
    # news of something else does not have it read again
    tried.clear()
    current._damaged = {name: one.again(clock.now) for name, one in current._damaged.items()}
    store.create_key("bolt", ["predict"])
    current.refresh()
    assert tried == []
