"""So much a second and no more: of a client's bodies, and of refusals to those without a valid key."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from afina.server.http import gate
from afina.server.http.gate import TokenBucket
from clock import Clock

BODY = {"inputs": "the soup was bright.", "model": "acme/reviews"}


def test_what_comes_at_once_passes_and_what_is_more_waits_its_turn() -> None:
    clock = Clock(100.0)
    pace = TokenBucket(10, 20, 3.0, clock)
    assert [pace.wait(10) for _ in range(4)] == [0.0, 0.0, 1.0, 2.0]
    clock.now += 1.0
    assert pace.wait(0) == 1.0
    assert [pace.wait(10) for _ in range(9)][-1] == 3.0  # nobody waits longer
    clock.now += 5.0
    assert (pace.rested, pace.wait(10)) == (True, 0.0)


@pytest.mark.slow
def test_a_client_that_sends_too_many_bytes_is_read_later_and_another_at_once(serve: Any) -> None:
    served = serve(bytes_a_second=100_000)
    served.post("/predict", BODY)
    served.post("/predict", {**BODY, "model": "bolt/mail"}, "bolt")
    large = json.dumps({**BODY, "inputs": [1], "padding": "x" * 150_000}).encode()
    with ThreadPoolExecutor(2) as pool:
        began = time.perf_counter()
        asked = [pool.submit(served.web.post, "/predict", content=large, headers=served.auth()) for _ in range(2)]
        other = served.post("/predict", {**BODY, "model": "bolt/mail"}, "bolt")
        assert (other.status_code, all(one.done() for one in asked)) == (200, False)
        assert [one.result().status_code for one in asked] == [422] * 2
    assert time.perf_counter() - began > 0.75  # 300,000 bytes, of which 200,000 at once


@pytest.mark.slow
def test_wrong_keys_beyond_some_a_second_wait_and_valid_ones_do_not(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "REFUSED", 4)
    served = serve()
    wrong = {"Authorization": "Bearer wrong"}
    began = time.perf_counter()
    assert {served.web.post("/predict", json=BODY, headers=wrong).status_code for _ in range(6)} == {401}
    assert time.perf_counter() - began > 0.3
    slowed = 1.0 / 4
    began = time.perf_counter()
    for _ in range(3):
        assert served.get("/v1/models").status_code == 200
    assert time.perf_counter() - began < 3 * slowed + 0.7
    assert served.web.get("/health/live").status_code == 200


@pytest.mark.slow
def test_who_is_refused_again_and_again_is_answered_later_and_another_at_once(serve: Any) -> None:
    served = serve(refusals_a_second=2)
    assert served.post("/predict", {**BODY, "model": "bolt/mail"}, "bolt").status_code == 200
    assert served.post("/predict", BODY).status_code == 200
    began = time.perf_counter()
    with ThreadPoolExecutor(10) as pool:
        refused = [pool.submit(served.post, "/predict", {**BODY, "model": "acme/none"}) for _ in range(10)]
        assert served.post("/predict", {**BODY, "model": "bolt/mail"}, "bolt").status_code == 200
        assert served.post("/predict", BODY).status_code == 200  # nor does it wait for what is answered
        assert time.perf_counter() - began < 1.5
        assert {one.result().status_code for one in refused} == {404}
    assert 0.9 < time.perf_counter() - began < 5
