"""Who may pass: every route refuses without a key, and another client's adapter is like one that does not exist."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import pytest

from afina.server.http import gate
from afina.server.http.app import App
from afina.server.routes import ROUTES, id_of, route_of
from afina.store.api_keys import ADMIN, METRICS, PREDICT, PUBLISH
from servers import Served, logged, within

OPEN = {path for one in ROUTES if one.scope is None for path in one.paths}


def routes(app: App) -> Iterator[tuple[str, str]]:
    """Every (method, path) that there is, however it came there, with some name in the place of a parameter."""
    for route in app.routes:
        for one in getattr(getattr(route, "original_router", None), "routes", [route]):
            path = one.path
            named = {"client": "acme", "task": "reviews", "version": "1", "alias": "production", "id:path": "acme/tags"}
            named["key"] = "0" * 16
            for name, value in named.items():
                path = path.replace(f"{{{name}}}", value)
            assert "{" not in path, path
            yield from ((method, path) for method in sorted(one.methods))


def test_every_route_of_the_table_is_answered_and_no_other(served: Any) -> None:
    named = {(one.method, path) for one in ROUTES for path in one.paths if one.method}
    found = {
        (method, one.path)
        for route in served.web.app.routes
        for one in getattr(getattr(route, "original_router", None), "routes", [route])
        for method in one.methods - {"HEAD"}
    }
    assert found == named


def test_every_route_refuses_who_has_no_valid_key(serve: Callable[..., Served], monkeypatch: Any) -> None:
    """Every route without a key, and with one of the keys that are not valid, in turn."""
    monkeypatch.setattr(gate, "REFUSED", 10_000)
    served = serve()
    secret = served.secrets["acme"]
    written = ["", "Bearer", "Bearer x", "Basic x", f"Bearer {secret[:-1]}", f"Basic {secret}"]
    invalid: Iterator[Any] = cycle(
        [
            *({"Authorization": one} for one in (*written, f"Bearer {served.secrets['revoked']}")),
            [("Authorization", f"Bearer {secret}"), ("Authorization", "Bearer x")],
        ]
    )
    for method, path in [*routes(served.web.app), ("GET", "/nothing"), ("DELETE", "/predict"), ("GET", "/docs")]:
        for headers in ({}, next(invalid)):
            response = served.web.request(method, path, headers=headers)
            if path in OPEN:
                assert response.status_code == 200, path
            else:
                assert response.status_code == 401, (method, path)
                assert response.headers["www-authenticate"] == "Bearer"
                assert "afina-receipt" not in response.headers


def test_every_route_refuses_a_key_without_its_scope(served: Any) -> None:
    mine = {"acme": PREDICT, "acme-metrics": METRICS, "acme-admin": ADMIN, "acme-publish": PUBLISH}
    for method, path in routes(served.web.app):
        wanted = {METRICS: (METRICS, ADMIN)}.get(needed := route_of(path).scope, (needed,))
        for who, scope in mine.items():
            status = served.web.request(method, path, headers=served.auth(who)).status_code
            assert (status == 403) == (wanted != (None,) and scope not in wanted), (method, path, who, status)


@pytest.mark.parametrize(
    "path",
    [
        *("/page", "/page/", "/rerank", "/v1/rerank", "/v2/x/y", "/keys/x/y", "/drift/x", "/docs", "/Predict"),
        *("/keys%0a", "/v1/models%0a", "/metrics%0a"),
    ],
)
def test_a_path_without_a_route_is_404_with_every_key_and_401_without(served: Served, path: str) -> None:
    assert served.web.get(path).status_code == 401
    for who in ("acme", "acme-metrics", "acme-admin", "acme-publish"):
        assert (refused := served.web.get(path, headers=served.auth(who))).status_code == 404, who
        assert "No such path." in refused.text, who


TENSOR = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}
ASKED = [
    ("POST", "/predict", {"inputs": "a", "model": "{}"}),
    ("POST", "/classify", {"input": "a", "model": "{}"}),
    ("POST", "/models/{}", {"inputs": "a"}),
    ("POST", "/v2/models/{}/infer", {"inputs": [TENSOR]}),
    ("POST", "/v2/models/{}/versions/1/infer", {"inputs": [TENSOR]}),
    ("GET", "/v2/models/{}", None),
    ("GET", "/v2/models/{}/ready", None),
    ("GET", "/v2/models/{}/config", None),
    ("GET", "/v2/models/{}/stats", None),
    ("POST", "/tasks", {"text": "a", "models": ["acme/reviews", "{}"]}),
    ("POST", "/bulk?model={}", {"text": "a"}),
]


def put(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {key: put(one, name) for key, one in value.items()}
    if isinstance(value, list):
        return [put(one, name) for one in value]
    return value.replace("{}", name) if isinstance(value, str) else value


@pytest.mark.parametrize(("method", "path", "body"), ASKED)
def test_another_clients_adapter_is_like_one_that_does_not_exist(
    served: Any, method: str, path: str, body: Any
) -> None:
    assert served.post("/predict", {"inputs": "a", "model": "bolt/mail"}, "bolt").status_code == 200

    def asked(name: str) -> tuple[int, bytes, list[str]]:
        headers = served.auth("acme")
        response = served.web.request(method, put(path, name), json=put(body, name), headers=headers)
        varying = ("x-request-id", "date")
        return response.status_code, response.content, [name for name in response.headers if name not in varying]

    theirs = asked("bolt/mail")
    assert theirs[0] == (200 if "bulk" in path else 404)
    assert b"no such model" in theirs[1]
    assert b"bolt" not in theirs[1]
    for missing in ("acme/mail", "bolt/nothing", "nobody/mail"):
        assert asked(missing) == theirs, missing


def test_another_clients_adapter_takes_as_long_to_refuse_as_one_that_does_not_exist(served: Any) -> None:
    def took(name: str) -> float:
        started = time.perf_counter()
        served.post("/predict", {"inputs": "a", "model": name})
        return time.perf_counter() - started

    served.post("/predict", {"inputs": "a", "model": "bolt/mail"}, "bolt")
    names = ("bolt/mail", "acme/mail", "bolt/nothing")
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(40):
        for name in names:
            times[name].append(took(name))
    medians = [statistics.median(times[name]) for name in names]
    assert max(medians) < 2 * min(medians), medians


def test_what_is_listed_is_the_callers_own(served: Any) -> None:
    assert [one["id"] for one in served.get("/v1/models", "bolt").json()["data"]] == ["bolt/mail"]
    text = served.get("/openapi.json").text
    assert "bolt" not in text


def test_a_clients_request_id_is_returned_and_logged(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    given = "Root=1-67891233;order_7/a@b:c+d.e-f"
    response = served.post("/predict", {"inputs": "a", "model": "acme/reviews"}, headers={"X-Request-Id": given})
    assert response.headers["x-request-id"] == given
    assert given in [line.get("request") for line in logged(caplog)]


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "caf\xe9", 'a"b', "<b>", "a,b"])
def test_a_request_id_that_is_too_long_or_has_other_characters_is_replaced(served: Served, given: str) -> None:
    response = served.web.get("/health/live", headers={b"X-Request-Id": given.encode("latin-1")})
    assert re.fullmatch("[0-9a-f]{16}", response.headers["x-request-id"])


def test_a_request_id_with_a_key_in_it_is_not_logged(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    secret = served.secrets["acme"]
    for given in (secret, f"Bearer:{secret}"):
        assert secret not in served.web.get("/health/live", headers={"X-Request-Id": given}).headers["x-request-id"]
    assert secret not in str(logged(caplog))


def test_of_two_request_ids_none_is_taken() -> None:
    headers = [(b"x-request-id", b"one"), (b"x-request-id", b"other")]
    assert re.fullmatch("[0-9a-f]{16}", id_of(headers))


@pytest.mark.parametrize(
    ("path", "status"), [("/v1/models", 401), ("/health/live", 200), ("/", 200)], ids=["refused", "health", "page"]
)
def test_requests_without_a_valid_key_are_logged_now_and_then_with_their_number(
    serve: Callable[..., Served],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    status: int,
) -> None:
    monkeypatch.setattr("afina.server.logs_and_traces.RARELY", 0.1)
    caplog.set_level("INFO")
    served = serve()
    for _ in range(9):
        assert served.web.get(path, headers={"Authorization": "Bearer a-wrong-secret"}).status_code == status

    def lines() -> list[dict[str, Any]]:
        return [line for line in logged(caplog) if line.get("status") == status]

    assert within(10, lambda: sum(line["count"] for line in lines()) == 9)
    assert len(lines()) < 5
    assert lines()[0]["peer"] == "testclient"
    assert "a-wrong-secret" not in caplog.text
