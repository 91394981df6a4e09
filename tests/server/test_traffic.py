"""What a server has answered, from the text of its metrics; and the client that asks for it."""

from __future__ import annotations

from typing import Any

import pytest

from afina.errors import NotFound, Refused
from afina.server.client import ServerClient
from afina.server.metrics import Metrics, Traffic
from chat_servers import Answered, chat_server

PATHS = {"/tasks", "/v1/completions"}


def observed(*seconds: float) -> Metrics:
    """Metrics of a server that has answered requests that took so long, and is monitored."""
    made = Metrics()
    for one in seconds:
        made.requests.labels("/tasks", "200").inc()
        made.latency.labels("/tasks").observe(one)
    for _ in range(100):
        made.requests.labels("/metrics", "200").inc()
        made.latency.labels("/metrics").observe(25.0)
    return made


def test_requests_and_their_quantiles_are_counted_without_monitoring() -> None:
    made = observed(*[0.004] * 18, 0.03, 0.4)
    made.texts.inc(20)
    made.tokens.inc(200)
    made.generated.inc(7)
    made.refused.labels("invalid").inc(3)
    text = made.text().decode() + 'afina_drift_p{version="acme/reviews@1"} NaN\n'
    found = Traffic.of(text, PATHS)
    assert (found.requests, found.refused, found.texts, found.tokens) == (20, 3, 20, 207)
    assert (found.median, found.percentile) == (0.005, 0.05)


def test_without_a_request_and_beyond_the_last_bucket_there_is_no_quantile() -> None:
    none = Traffic.of(observed().text().decode(), PATHS)
    assert (none.requests, none.median, none.percentile) == (0, None, None)
    slow = Traffic.of(observed(0.004, 0.004, 100.0).text().decode(), PATHS)
    assert (slow.median, slow.percentile) == (0.005, None)


@pytest.mark.parametrize("said", ["too long.", {"message": "too long."}], ids=["afina", "OpenAI"])
def test_a_refusal_says_the_servers_reason_in_every_protocol(said: Any) -> None:
    answer = Answered({"error": said}, 422)
    with chat_server(lambda _: answer) as server, pytest.raises(Refused) as raised:
        ServerClient(server.url, "key").ask("/tasks", {"text": "a"})
    assert raised.value.code == "server.refused"
    assert raised.value.fields["reason"] == "too long"
    assert raised.value.fields["status"] == 422


@pytest.mark.parametrize("body", [b"[1]", b"{", b"\xff"])
def test_what_is_no_object_comes_from_no_server(body: bytes) -> None:
    with chat_server(lambda _: Answered(body)) as server, pytest.raises(NotFound) as raised:
        ServerClient(server.url, "key").ask("/tasks", {"text": "a"})
    assert raised.value.code == "server.unreachable"


def test_a_redirect_is_not_followed_with_the_key() -> None:
    answer = Answered(b"", 307, {"Location": "http://127.0.0.1:9/"})
    with chat_server(lambda _: answer) as server, pytest.raises(Refused) as raised:
        ServerClient(server.url, "key").ask("/tasks", {"text": "a"})
    assert raised.value.fields["status"] == 307


def test_a_client_of_this_machine_uses_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with chat_server(lambda _: Answered({"a": 1})) as server:
        assert ServerClient(server.url, "key", proxies=False).ask("/tasks", {}) == {"a": 1}
        with pytest.raises(NotFound):
            ServerClient(server.url, "key").ask("/tasks", {})
