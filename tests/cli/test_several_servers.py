"""Several `afina serve` on one store, in PostgreSQL and a bucket: they agree, and none takes another with it."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path

import httpx2
import pytest

from afina import Adapter, AdapterStore, Backbone, Predictor
from crowd import adapter
from servers import started, within
from services import S3, Postgres

TEXT = "the soup was bright."
WITHIN = 1.0
"""Seconds after which an alias that moved has moved everywhere: the best of three moves, for other tests run beside."""


def score(made: Adapter, backbone: Backbone) -> float:
    """Of the first label, as an adapter computes it alone."""
    (answer,) = Predictor.of(made, backbone)([TEXT])
    found: float = answer["probabilities"]["bad"]
    return found


@pytest.mark.slow
def test_servers_agree_within_a_second_and_one_that_is_killed_loses_nothing_of_another(
    gpt2: Backbone, postgres: Postgres, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AFINA_STORE", postgres.database())
    store = AdapterStore()
    store.init(s3.bucket())
    expected = []
    for seed in range(2):
        made = adapter(gpt2, "lora", {"r": 2}, seed=seed)
        made.save(tmp_path / str(seed))
        store.publish(tmp_path / str(seed), "acme/reviews", message="why")
        expected.append(score(made, gpt2))
    assert abs(expected[0] - expected[1]) > 1e-3
    store.alias("acme/reviews@1")
    headers = {"Authorization": f"Bearer {store.create_key('acme', ['predict']).secret}"}
    body = {"model": "acme/reviews@production", "inputs": TEXT, "raw_scores": False}

    def version(url: str) -> int:
        """Which answers there; what it answers is that version's."""
        response = httpx2.post(f"{url}/predict", json=body, headers=headers, timeout=30)
        assert response.status_code == 200, response.text
        said = {one["label"]: one["score"] for one in response.json()}
        near = [abs(said["bad"] - one) < 1e-5 for one in expected]
        assert sum(near) == 1, (said, expected)
        return near.index(True) + 1

    with started(gpt2) as (first, here), started(gpt2) as (second, there):
        took = []
        for target in (2, 1, 2):  # the first time, what it moves to has to be loaded from the bucket
            store.alias(f"acme/reviews@{target}")
            moved = time.monotonic()
            assert within(10, lambda target=target: version(here) == version(there) == target)  # type: ignore[misc]
            took.append(time.monotonic() - moved)
        assert min(took) < WITHIN
        lines = 3000
        answered: list[str] = []

        def bulk() -> None:
            text = "".join(json.dumps({"text": f"{TEXT} {index}"}) + "\n" for index in range(lines))
            url = f"{there}/bulk?model=acme/reviews@production"
            answered.append(httpx2.post(url, content=text.encode(), headers=headers, timeout=120).text)

        accepted = threading.Thread(target=bulk)
        accepted.start()
        assert within(20, lambda: version(there) == 2)
        first.kill()
        assert first.wait(10) == -signal.SIGKILL
        assert all(version(there) == 2 for _ in range(20))
        store.alias("acme/reviews@1")
        assert within(10, lambda: version(there) == 1)
        accepted.join(120)
        (text,) = answered
        versions = [json.loads(line)["receipt"]["version"] for line in text.splitlines()]  # an error has no receipt
        assert len(versions) == lines
        assert set(versions) <= {"acme/reviews@1", "acme/reviews@2"}
        second.send_signal(signal.SIGTERM)
        _, errors = second.communicate(timeout=60)
        assert second.returncode in (0, -signal.SIGTERM), errors
        assert [one for one in map(json.loads, errors.splitlines()) if one.get("level") in ("warning", "error")] == []
