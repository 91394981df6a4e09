"""Lines: computed for as long as somebody waits for them, as fast as the key's rate allows, in bounded memory."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from afina.errors import Overloaded
from afina.server.requests import Text
from servers import Listening, accepting, within

LINE = {"text": "the soup was bright.", "model": "acme/reviews"}


def lines(count: int, **more: Any) -> bytes:
    return b"".join(
        json.dumps(LINE | {"text": f"{LINE['text']} {one}"} | more).encode() + b"\n" for one in range(count)
    )


def waiting(server: Listening) -> bool:
    return server.core.batching.waiting[1] > 0


def computed(server: Listening) -> float:
    return float(server.core.metrics.texts._value.get())


@pytest.mark.parametrize("whole", [True, False], ids=["all lines sent", "in the midst of them"])
def test_what_a_client_that_has_gone_sent_is_not_computed(listen: Callable[..., Listening], whole: bool) -> None:
    server = listen(batch_tokens=8, shared_tokens=8)
    with accepting(server.core, server.core.tenants.key_of(server.secrets["acme"]), LINE["model"], [Text("a")]):
        pass  # its golden test is done
    before = computed(server)
    compute = server.core.batching.computer.compute
    slow = 0.01

    def slowly(works: Any) -> Any:
        time.sleep(slow)
        return compute(works)

    server.core.batching.computer.compute = slowly
    content = lines(400)
    with server.connect() as connection:
        head = server.head(len(content) + (0 if whole else 1_000_000), "/bulk")
        connection.sendall(head + content)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        assert within(10, lambda: computed(server) > before + 3)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset, as one that died
    gone = server.core.metrics.refused.labels("gone")
    assert within(10, lambda: gone._value.get() == 1 and not waiting(server))
    at = computed(server)
    time.sleep(10 * slow)
    assert computed(server) <= at + 1
    assert at < before + 200


def test_lines_wait_for_the_keys_rate_in_their_order(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    served = serve()
    tenants, spent, refused = served.core.tenants, list[int](), list[int]()

    reserve = tenants.reserve

    def reserved(key: Any, tokens: int, *more: Any) -> Any:
        if len(spent) % 3 == 2 and len(refused) < 10:  # every third is too early, and comes again
            refused.append(tokens)
            if len(refused) % 2:
                raise Overloaded("the key's limit of 1 tokens a minute is used up. Try again later.", 0.01)
        spent.append(tokens)
        return reserve(key, tokens, *more)

    monkeypatch.setattr(tenants, "reserve", reserved)
    found = served.web.post("/bulk", content=lines(40), headers=served.auth()).text.splitlines()
    assert [json.loads(one).get("error") for one in found] == [None] * 40
    assert refused


def test_a_line_that_is_larger_than_the_rate_is_refused_and_the_next_is_answered(serve: Any) -> None:
    served = serve(tokens_per_minute=100)
    content = lines(1, text="soup " * 3000) + lines(1)
    found = [
        json.loads(one) for one in served.web.post("/bulk", content=content, headers=served.auth()).text.splitlines()
    ]
    assert [one.get("kind") for one in found] == ["invalid", None]
    assert "tokens a minute" in found[0]["error"]


def test_who_waits_for_the_rate_is_told_when_the_server_ends(serve: Any) -> None:
    served = serve(tokens_per_minute=1000)
    served.core.tenants.reserve(served.key(), 1000)
    served.core.give_up(running=False)
    found = [
        json.loads(one) for one in served.web.post("/bulk", content=lines(2), headers=served.auth()).text.splitlines()
    ]
    assert found[-1]["kind"] == "unavailable"
    assert "shutting down" in found[-1]["error"]


def test_no_more_lines_wait_than_have_room_in_a_request(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    served = serve(body_bytes=50_000, texts=10)
    asking, most = set[str](), 0
    pool = served.web.app.state.pool
    accept = pool.accept

    async def accepted(how: Any, asked: Any) -> Any:
        nonlocal most
        text = asked[0].texts[0].text
        asking.add(text)
        most = max(most, len(asking))
        await asyncio.sleep(0.01)
        try:
            return await accept(how, asked)
        finally:
            asking.discard(text)

    monkeypatch.setattr(pool, "accept", accepted)
    content = b"".join(json.dumps(LINE | {"text": f"{one} {'soup ' * 4000}"}).encode() + b"\n" for one in range(12))
    found = served.web.post("/bulk", content=content, headers=served.auth()).text.splitlines()
    assert [json.loads(one)["truncated"] for one in found] == [True] * 12
    assert most <= 3
