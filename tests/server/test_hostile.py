"""Bodies that mean no good are refused, and nobody else notices; and what a publisher may do to aliases."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

BODY = {"inputs": "the soup was bright.", "model": "acme/reviews"}


def raw(served: Any, content: Any, path: str = "/predict", **headers: str) -> Any:
    return served.web.post(
        path, content=content, headers={"Content-Type": "application/json", **served.auth(), **headers}
    )


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b'{"inputs": {"a": "b"}, "model": "acme/reviews"}', 422),
        (b'{"inputs": [["a", "b", "c"]], "model": "acme/reviews"}', 422),
        (b'{"inputs": ["a", ["b"]], "model": "acme/reviews"}', 422),
        (b'{"inputs": "a"}', 422),
        (b'{"inputs": "a", "model": ""}', 422),
        (b'{"inputs": "a", "model": "../../etc/passwd"}', 404),
        (b'{"inputs": "a", "model": "acme/reviews@9999999999999"}', 404),
        (b'{"inputs": "a", "model": "store:acme/reviews"}', 200),
        (b'{"inputs": "a\\u0000b", "model": "acme/reviews"}', 200),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_what_can_be_no_request_is_refused_in_the_protocols_own_words(served: Any, content: bytes, status: int) -> None:
    response = raw(served, content)
    assert response.status_code == status, response.text
    if status != 200:
        assert response.json().keys() == {"error", "error_type"}
    assert served.post("/predict", BODY).status_code == 200


def test_what_is_too_large_is_refused_before_it_is_read(served: Any) -> None:
    limit = served.core.settings.body_bytes
    assert raw(served, b" " * (limit + 1)).status_code == 413
    # without a length, it is counted
    assert raw(served, iter([b" " * 100_000] * 20)).status_code == 413
    assert raw(served, b"{}", **{"Content-Length": "99999999999999999999"}).status_code == 413
    assert raw(served, b"{}", **{"Content-Length": "-1"}).status_code == 413
    long = {**BODY, "inputs": "a" * (served.core.settings.characters + 1)}
    assert served.post("/predict", long).status_code == 422
    many = {**BODY, "inputs": [["a"]] * (served.core.settings.texts + 1)}
    assert served.post("/predict", many).status_code == 422


def test_a_text_of_one_endless_word_is_cut_and_answered(served: Any) -> None:
    assert served.post("/predict", {**BODY, "inputs": "a" * 99_999}).status_code == 200
    assert served.post("/predict", {**BODY, "inputs": "\U0001f4a9" * 20_000}).status_code == 200


def test_a_line_that_is_too_long_ends_the_bulk_in_its_place(serve: Any) -> None:
    served = serve(body_bytes=1000)
    good = json.dumps({"text": "a", "model": "acme/reviews"})
    content = "\n".join([good, "x" * 2000, good])
    found = [json.loads(line) for line in raw(served, content.encode(), "/bulk").text.splitlines()]
    assert [one.get("kind") for one in found] == [None, "too_large"]


def test_who_sends_slowly_is_told_and_nobody_waits_for_it(serve: Any) -> None:
    served = serve(body_seconds=0.3)
    served.post("/predict", BODY)

    messages: list[Any] = []

    async def asked() -> None:
        async def receive() -> Any:  # a byte at a time, without end
            await asyncio.sleep(0.02)
            return {"type": "http.request", "body": b" ", "more_body": True}

        async def send(message: Any) -> None:
            messages.append(message)

        await served.send("/predict", receive, send)

    asyncio.run(asyncio.wait_for(asked(), 10))
    assert messages[0]["status"] == 408
    assert served.post("/predict", BODY).status_code == 200


def test_a_publisher_moves_its_own_aliases_and_the_log_says_which_key(serve: Any) -> None:
    served = serve()

    def put(path: str, body: Any, who: str = "acme-publish") -> Any:
        return served.web.put(f"/aliases/{path}", json=body, headers=served.auth(who))

    moved = put("acme/reviews/production", {"version": 2, "expected": 1, "message": "better"})
    assert moved.json() == {"name": "acme/reviews", "alias": "production", "from": 1, "to": 2}
    (*_, last) = served.store.history("acme/reviews", alias="production")
    (key,) = [one for one in served.store.keys("acme") if one.scopes == ("publish",)]
    assert (last.who, last.why) == (f"key {key.id}", "better")
    assert put("acme/reviews/production", {"version": 1, "expected": 1}).status_code == 409
    assert put("acme/reviews/v3", {"version": 1}).status_code == 422
    assert put("acme/reviews/production", {"version": 0}).status_code == 422
    for missing in ("acme/reviews", "bolt/mail", "bolt/nothing", "acme/mail"):
        refused = put(f"{missing}/production", {"version": 9 if missing == "acme/reviews" else 1})
        assert (refused.status_code, refused.json()["error"]) == (404, "no such model")
    assert put("acme/reviews/production", {"version": 1}, "acme").status_code == 403
    assert served.store.show("acme/reviews@production").number == 2


def test_a_publisher_writes_so_much_a_minute_and_so_long_into_the_log_that_stays(serve: Any) -> None:
    served = serve(writes_per_minute=5)

    def put(version: int, message: str) -> Any:
        body = {"version": version, "message": message}
        return served.web.put("/aliases/acme/reviews/candidate", json=body, headers=served.auth("acme-publish"))

    entries = len(served.store.log())
    assert put(1, "x" * 1001).status_code == 422
    found = [put(1 + one % 2, "why") for one in range(8)]
    assert [one.status_code for one in found] == [200] * 5 + [429] * 3
    assert 1 <= int(found[-1].headers["retry-after"]) <= 60
    assert " 5 " in found[-1].json()["error"]
    assert len(served.store.log()) == entries + 5
    assert served.post("/predict", BODY).status_code == 200
