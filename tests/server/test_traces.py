"""What OpenTelemetry is told: a span a request, one a batch with links, and nothing that somebody said or made up."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from afina.server import logs_and_traces
from afina.server.requests import Text
from servers import Held, accepted

BODY = {"inputs": "the soup was bright.", "model": "acme/reviews@production"}


@pytest.fixture
def told() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traced(serve: Any, told: InMemorySpanExporter) -> Any:
    served = serve()
    served.post("/predict", BODY)  # loads it, and replays its probe
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(told))
    served.core.traces = logs_and_traces.Traces(provider)
    return served


def spans(told: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [one for one in told.get_finished_spans() if one.name == name]


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def test_a_request_and_its_batch_are_a_span_each_and_the_batch_links_to_it(
    traced: Any, told: InMemorySpanExporter
) -> None:
    response = traced.post("/predict", {**BODY, "inputs": [["a"], ["the soup"]]})
    assert response.status_code == 200
    (request,), (batch, *more) = spans(told, "POST /predict"), spans(told, "batch")
    assert request.kind == SpanKind.SERVER
    found = attributes(request)
    wait, compute = found.pop("afina.wait_seconds"), found.pop("afina.compute_seconds")
    tokens = sum(attributes(one)["afina.tokens"] for one in (batch, *more))
    assert found == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "afina.tokens": tokens,
        "afina.request": response.headers["x-request-id"],
    }
    assert tokens == sum(len(traced.backbone.tokenizer(text)["input_ids"]) for text in ("a", "the soup"))
    assert request.start_time is not None
    assert request.end_time is not None
    assert 0 <= wait < (request.end_time - request.start_time) / 1e9
    assert 0 < compute < (request.end_time - request.start_time) / 1e9
    for one in (batch, *more):
        assert [link.context for link in one.links] == [request.get_span_context()]
        assert one.parent is None
        assert one.start_time is not None
        assert one.end_time is not None
    assert sum(one.end_time - one.start_time for one in (batch, *more)) / 1e9 == pytest.approx(compute, abs=1e-3)


@pytest.mark.slow
def test_lines_are_of_their_request_whichever_batch_they_are_in(traced: Any, told: InMemorySpanExporter) -> None:
    lines = "".join(json.dumps({"text": "a", "model": "acme/reviews@1"}) + "\n" for _ in range(80))
    assert traced.web.post("/bulk", content=lines, headers=traced.auth()).text.count("receipt") == 80
    (request,), batches = spans(told, "POST /bulk"), spans(told, "batch")
    assert attributes(request)["afina.tokens"] == 80
    assert len(batches) > 1
    assert {link.context.span_id for one in batches for link in one.links} == {request.get_span_context().span_id}


def test_a_batch_of_several_requests_links_to_each(traced: Any, told: InMemorySpanExporter) -> None:
    key = traced.key()
    begun = []
    held, futures = Held(traced.core), []
    for _ in range(3):
        begun.append(traced.core.traces.begin("order-7"))
        one = accepted(traced.core, key, BODY["model"], [Text("a")], traced=begun[-1])
        futures += traced.core.submit(one)
    held.go.set()
    assert all(future.result(10) for future in futures)
    linked = [link.context for one in spans(told, "batch") for link in one.links]
    assert sorted(one.span_id for one in linked) == sorted(one.span.get_span_context().span_id for one in begun)
    assert len(spans(told, "batch")) < 3


def test_a_span_has_the_id_of_its_request(traced: Any, told: InMemorySpanExporter) -> None:
    traced.post("/predict", BODY, headers={"X-Request-Id": "order-7"})
    (request,) = spans(told, "POST /predict")
    assert attributes(request)["afina.request"] == "order-7"


def test_no_text_client_model_path_or_header_that_somebody_made_up_is_told(
    traced: Any, told: InMemorySpanExporter
) -> None:
    parent = {"traceparent": "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01", "user-agent": "windmill"}
    traced.post("/predict", BODY, headers=parent)
    traced.post("/models/acme/quixotic", {"inputs": "windmill"})
    traced.get("/windmill?giants=1", "acme-admin")
    traced.web.request("WINDMILL", "/predict", headers=traced.auth())
    traced.web.get("/predict")
    written = "".join(one.to_json() for one in told.get_finished_spans())
    for word in ("soup", "acme", "reviews", "quixotic", "windmill", "WINDMILL", "giants", "0123456789abcdef"):
        assert word not in written, word
    names = [one.name for one in told.get_finished_spans() if one.name != "batch"]
    assert names == ["POST /predict", "POST /models/{client}/{task}", "GET none", "_OTHER /predict", "GET none"]


def test_what_fails_is_an_error_and_a_refusal_is_none(
    traced: Any, told: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced.post("/predict", {"inputs": 7})

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError("the soup was bright.")

    monkeypatch.setattr(traced.core, "submit", broken)
    traced.post("/predict", BODY)
    refused, failed = spans(told, "POST /predict")
    assert (attributes(refused)["http.response.status_code"], refused.status.status_code) == (422, StatusCode.UNSET)
    assert (attributes(failed)["http.response.status_code"], failed.status.status_code) == (500, StatusCode.ERROR)
    assert (failed.events, "soup" in failed.to_json()) == ((), False)


class Collector(BaseHTTPRequestHandler):
    got: list[tuple[str, bytes]]

    def do_POST(self) -> None:
        self.got.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    got: list[tuple[str, bytes]] = []
    with HTTPServer(("127.0.0.1", 0), type("Told", (Collector,), {"got": got})) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", got
        server.shutdown()
        thread.join()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_SERVICE_NAME", *logs_and_traces.ENDPOINTS):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.slow
def test_they_are_sent_to_where_the_environment_says_when_the_server_ends_at_the_latest(
    serve: Any, environment: pytest.MonkeyPatch, collector: tuple[str, list[tuple[str, bytes]]]
) -> None:
    url, got = collector
    environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    served = serve()
    served.core.traces = logs_and_traces.make_traces()
    assert served.post("/predict", BODY).status_code == 200
    served.core.traces.close()
    assert {path for path, _ in got} == {"/v1/traces"}
    sent = b"".join(content for _, content in got)
    assert b"POST /predict" in sent
    assert b"afina" in sent
    for word in (b"soup", b"acme", b"reviews"):
        assert word not in sent


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "console,otlp"}, True),
    ],
)
def test_there_are_traces_only_where_opentelemetrys_variables_say_so(
    environment: pytest.MonkeyPatch, given: dict[str, str], expected: bool
) -> None:
    for name, value in given.items():
        environment.setenv(name, value)
    assert logs_and_traces.traces_wanted() == expected
    assert expected or logs_and_traces.make_traces() is None


def test_without_the_package_nothing_is_traced_and_a_line_says_how_it_would(
    environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    for name in [one for one in sys.modules if one.partition(".")[0] == "opentelemetry"]:
        environment.delitem(sys.modules, name)
    environment.setitem(sys.modules, "opentelemetry", None)
    assert logs_and_traces.make_traces() is None
    assert [(one.levelno, "afina[traces]" in one.getMessage()) for one in caplog.records] == [(logging.WARNING, True)]
