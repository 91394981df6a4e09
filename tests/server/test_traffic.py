"""What a server has answered, from the text of its metrics; and the client that asks for it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from afina.errors import NotFound, Refused
from afina.server.client import ServerClient
from afina.server.metrics import Metrics, Traffic

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
    found = Traffic.of(made.text().decode(), PATHS)
    assert (found.requests, found.refused, found.texts, found.tokens) == (20, 3, 20, 207)
    assert (found.median, found.percentile) == (0.005, 0.05)


def test_without_a_request_and_beyond_the_last_bucket_there_is_no_quantile() -> None:
    none = Traffic.of(observed().text().decode(), PATHS)
    assert (none.requests, none.median, none.percentile) == (0, None, None)
    slow = Traffic.of(observed(0.004, 0.004, 100.0).text().decode(), PATHS)
    assert (slow.median, slow.percentile) == (0.005, None)


@contextmanager
def answering(status: int, body: bytes, **headers: str) -> Iterator[str]:
    """A server that gives one answer to everything; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    made = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{made.server_port}"
    finally:
        made.shutdown()
        thread.join()
        made.server_close()


@pytest.mark.parametrize("said", ["too long.", {"message": "too long."}], ids=["afina", "OpenAI"])
def test_a_refusal_says_the_servers_reason_in_every_protocol(said: Any) -> None:
    with answering(422, json.dumps({"error": said}).encode()) as url, pytest.raises(Refused) as raised:
        ServerClient(url, "key").ask("/tasks", {"text": "a"})
    assert raised.value.code == "server.refused"
    assert raised.value.fields["reason"] == "too long"
    assert raised.value.fields["status"] == 422


@pytest.mark.parametrize("body", [b"[1]", b"{", b"\xff"])
def test_what_is_no_object_comes_from_no_server(body: bytes) -> None:
    with answering(200, body) as url, pytest.raises(NotFound) as raised:
        ServerClient(url, "key").ask("/tasks", {"text": "a"})
    assert raised.value.code == "server.unreachable"


def test_a_redirect_is_not_followed_with_the_key() -> None:
    with answering(307, b"", Location="http://127.0.0.1:9/") as url, pytest.raises(Refused) as raised:
        ServerClient(url, "key").ask("/tasks", {"text": "a"})
    assert raised.value.fields["status"] == 307


def test_a_client_of_this_machine_uses_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with answering(200, b'{"a": 1}') as url:
        assert ServerClient(url, "key", proxies=False).ask("/tasks", {}) == {"a": 1}
        with pytest.raises(NotFound):
            ServerClient(url, "key").ask("/tasks", {})
