"""Peers that take their time, or come by the thousand, lose their connections, and others are answered meanwhile."""

from __future__ import annotations

import json
import logging
import resource
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from afina import Adapter, Backbone
from afina.server.connections import CHUNK_BYTES, CHUNKS, HEAD_BYTES, ConnectionLimit
from afina.server.http import gate
from afina.server.protocols import bulk
from afina.server.settings import Places
from servers import Listening, listening, logged, within

BODY = json.dumps({"inputs": "the soup was bright.", "model": "acme/reviews"}).encode()


def answered(server: Listening) -> str:
    """The first line of what a client gets that asks as it should, on a connection of its own."""
    with server.connect() as connection:
        return asked(server, connection)


def asked(server: Listening, connection: socket.socket, body: bytes = BODY, path: str = "/predict") -> str:
    connection.sendall(server.head(len(body), path) + body)
    head, _, rest = received(connection).partition(b"\r\n\r\n")
    lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    while len(rest) < int(lines.get(b"content-length", b"0")):
        rest += connection.recv(1 << 16)
    return head.split(b"\r\n")[0].decode()


def received(connection: socket.socket) -> bytes:
    found = b""
    while b"\r\n\r\n" not in found and (more := connection.recv(1 << 16)):
        found += more
    return found


OK = "HTTP/1.1 200 OK"


def probed(server: Listening) -> str:
    """The first line of what a load balancer gets, on a connection of its own."""
    with server.connect() as connection:
        connection.sendall(b"GET /health/ready HTTP/1.1\r\nHost: test\r\n\r\n")
        return received(connection).split(b"\r\n")[0].decode()


def ended(connection: socket.socket) -> bool:
    """Whether the server has closed it, or does within the time of the socket."""
    with suppress(ConnectionError):
        while connection.recv(1 << 16):
            pass
    return True


def closed(server: Listening, reason: str) -> float:
    return server.core.metrics.closed.labels(reason)._value.get()


def dripped(connection: socket.socket, content: bytes, every: float, seconds: float) -> float:
    """Send a byte now and then; after how many seconds the other side had closed."""
    began = time.perf_counter()
    for byte in content:
        try:
            connection.sendall(bytes([byte]))
            connection.settimeout(every)
            if not connection.recv(1 << 16):
                break
        except TimeoutError:
            pass
        except ConnectionError:
            break
        assert time.perf_counter() - began < seconds, "it is still open"
    return time.perf_counter() - began


@pytest.fixture(scope="module")
def server(gpt2: Backbone, crowd: dict[str, Adapter], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    """One for tests that leave it as it is."""
    with listening(gpt2, crowd, tmp_path_factory.mktemp("connections")) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nX: ", None])
def test_a_head_that_does_not_come_is_not_waited_for_and_others_are_answered(
    listen: Callable[..., Listening], begun: bytes | None
) -> None:
    server = listen(head_seconds=0.4)
    assert answered(server) == OK
    with server.connect() as slow, server.connect() as quick, ThreadPoolExecutor(1) as pool:
        assert asked(server, quick) == OK
        if begun is None:  # the second head of a connection, after an answer
            assert asked(server, slow) == OK
        content = begun if begun == b"" else (begun or b"GET / HTTP/1.1\r\nX: ") + b"y" * 1000
        waiting = pool.submit(dripped, slow, content, 0.05, 5.0) if content else pool.submit(ended, slow)
        while not waiting.done():
            assert answered(server) == OK
        assert waiting.result()
        assert closed(server, "slow") == 1
        assert asked(server, quick) == OK  # which had waited, too, but owed nothing


def test_lines_that_never_end_are_given_up_though_something_comes(
    listen: Callable[..., Listening], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "LINGER", 0.1)
    server = listen(body_seconds=0.4)
    assert answered(server) == OK
    line = json.dumps({"text": "a", "model": "acme/reviews"}).encode() + b"\n"
    with server.connect() as slow:
        slow.sendall(server.head(None, "/bulk") + b"%x\r\n%s\r\n" % (len(line), line))
        found, until = b"", time.perf_counter() + 8
        slow.settimeout(0.05)
        while b"0\r\n\r\n" not in found and time.perf_counter() < until:
            with suppress(TimeoutError):
                slow.sendall(b"1\r\nx\r\n")
                found += slow.recv(1 << 16)
        answers = [json.loads(one) for one in found.split(b"\r\n") if one.startswith(b"{")]
        assert [one.get("kind") for one in answers] == [None, "slow"]


@pytest.mark.slow
def test_who_does_not_read_what_it_asked_for_is_let_go(listen: Callable[..., Listening], monkeypatch: Any) -> None:
    monkeypatch.setattr("afina.server.connections.UNREAD", 0.3)
    enter = ConnectionLimit.enter

    def with_little_room(doors: ConnectionLimit, new: Any) -> None:
        new.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        enter(doors, new)

    monkeypatch.setattr(ConnectionLimit, "enter", with_little_room)
    server = listen(head_seconds=0.4)
    assert answered(server) == OK
    lines = b"{}\n" * 1000
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", server.port))
        deaf.settimeout(0.2)
        deaf.sendall(server.head(None, "/bulk"))
        until, left = time.perf_counter() + 20, b""
        while not closed(server, "unread"):
            assert time.perf_counter() < until
            assert answered(server) == OK
            left = left or b"%x\r\n%s\r\n" % (len(lines), lines)
            with suppress(TimeoutError, ConnectionError):
                left = left[deaf.send(left) :]


@pytest.mark.parametrize("path", ["/bulk", "/nothing"])
def test_what_is_no_http_after_an_answer_has_begun_ends_that_connection_alone(
    server: Listening, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    with server.connect() as wrong:
        wrong.sendall(server.head(None, path) + b"3\r\n{}\n\r\n")  # the answer to /bulk begins after a line
        assert received(wrong).startswith(b"HTTP/1.1 ")
        wrong.sendall(b"no chunk\r\n")
        assert ended(wrong)
    assert answered(server) == OK
    assert [one.levelname for one in caplog.records if one.levelno > logging.WARNING] == []


def flood(server: Listening, count: int, stack: ExitStack) -> None:
    """So many connections that say a little and wait."""
    for _ in range(count):
        one = stack.enter_context(server.connect())
        with suppress(ConnectionError):  # closed already
            one.sendall(b"GET / HT")


@pytest.mark.parametrize(("count", "most"), [(1000, 100), pytest.param(10_000, 2000, marks=pytest.mark.slow)])
def test_connections_that_say_nothing_keep_nobody_out(listen: Callable[..., Listening], count: int, most: int) -> None:
    """Asked meanwhile as clients do: by one that has a connection, and by one that makes one each time."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = Places.of(most).all
    count = min(count, files - 2 * most - 1000)
    if count < 1000:
        pytest.skip(f"this process may open {files} files, too few for a flood")
    server = listen(connections=most, head_seconds=60.0)
    assert answered(server) == OK
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool, server.connect() as kept:
        assert asked(server, kept) == OK
        flooding = pool.submit(flood, server, count, stack)
        found = set()
        while not flooding.done():
            found |= {answered(server), asked(server, kept)}
        flooding.result()
        found |= {answered(server), asked(server, kept)}
        assert found == {OK}
        assert closed(server, "crowded") >= count - most
        assert closed(server, "full") == 0
        began = time.perf_counter()
        assert answered(server) == OK
        assert time.perf_counter() - began < 2


def test_where_all_are_being_answered_no_more_are_taken_and_none_is_lost(listen: Callable[..., Listening]) -> None:
    """A health probe has a place of its own."""
    server = listen(connections=5, body_seconds=5.0)
    with ExitStack() as stack:
        full = [stack.enter_context(server.connect()) for _ in range(4)]
        for one in full:
            one.sendall(server.head(len(BODY)) + BODY[:5])
            time.sleep(0.1)
        for _ in range(3):
            assert probed(server) == OK
        with server.connect() as late:
            assert asked(server, late) == "HTTP/1.1 503 Service Unavailable"
            assert ended(late)
        assert closed(server, "full") == 1
        for one in full:
            one.sendall(BODY[5:])
            assert received(one).startswith(OK.encode())
    assert closed(server, "crowded") == 0


STRANGER = b"POST /predict HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer no\r\nContent-Length: 2\r\n\r\n{}"
HOME = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.mark.slow
@pytest.mark.parametrize("sent", [STRANGER, HOME * 100], ids=["waits for its refusal", "reads no answer"])
def test_strangers_that_are_answered_keep_nobody_out(
    listen: Callable[..., Listening], monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(gate, "REFUSED", 1)
    server = listen(connections=16)
    with ExitStack() as stack, server.connect() as kept:
        assert asked(server, kept) == OK
        for _ in range(4):
            for _ in range(30):
                with suppress(ConnectionError):
                    stack.enter_context(server.connect()).sendall(sent)
            assert (asked(server, kept), answered(server), probed(server)) == (OK, OK, OK)
    assert closed(server, "full") == 0
    assert closed(server, "crowded") >= 100


def test_an_idle_client_makes_room_for_a_client_that_asks(listen: Callable[..., Listening]) -> None:
    server = listen(connections=4)  # three of them for clients
    with ExitStack() as stack:
        for _ in range(6):
            assert asked(server, stack.enter_context(server.connect())) == OK
    assert (closed(server, "crowded"), closed(server, "full")) == (3, 0)


def test_a_client_that_loses_its_key_on_a_connection_is_a_stranger_again(listen: Callable[..., Listening]) -> None:
    server = listen(connections=2)
    with server.connect() as one, server.connect() as other:
        assert asked(server, one) == OK
        one.sendall(STRANGER)
        assert received(one).startswith(b"HTTP/1.1 401 ")
        assert asked(server, other) == OK
        assert probed(server) == OK
        assert ended(one)


@pytest.mark.parametrize(("connections", "expected"), [(2000, [("warning", 256)]), (256, [])])
def test_a_low_limit_of_open_files_is_a_warning_at_the_start(
    listen: Callable[..., Listening],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    connections: int,
    expected: list[tuple[str, int]],
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (512, 512))
    listen(connections=connections)
    assert [(one["level"], one["connections"]) for one in logged(caplog) if "connections" in one] == expected


def test_a_client_has_so_many_requests_open_and_another_does_not_notice(listen: Callable[..., Listening]) -> None:
    server = listen(at_once=3, body_seconds=5.0)
    with ExitStack() as stack:
        held = [stack.enter_context(server.connect()) for _ in range(3)]
        for one in held:
            one.sendall(server.head(len(BODY)) + BODY[:5])
            time.sleep(0.1)
        assert answered(server) == "HTTP/1.1 429 Too Many Requests"
        mine, server.secrets["acme"] = server.secrets["acme"], server.secrets["bolt"]
        assert answered(server) == "HTTP/1.1 404 Not Found"  # as it is for bolt
        server.secrets["acme"] = mine
        for one in held:
            one.sendall(BODY[5:])
            assert received(one).startswith(OK.encode())
    assert answered(server) == OK


def test_a_head_is_not_as_long_as_somebody_likes(server: Listening) -> None:
    with server.connect() as long:
        with suppress(ConnectionError):
            long.sendall(b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: %s\r\n" % (one, b"y" * 900) for one in range(80)))
        assert received(long).startswith(b"HTTP/1.1 400 ")
    assert answered(server) == OK


def test_a_body_in_very_many_tiny_chunks_is_refused_before_it_takes_much_time(
    server: Listening,
) -> None:
    with server.connect() as many:
        many.sendall(server.head() + b"1\r\n \r\n" * 2 * CHUNKS)
        assert received(many).startswith(b"HTTP/1.1 400 ")
        assert ended(many)
    assert answered(server) == OK


def test_many_chunks_after_a_refusal_end_the_connection(server: Listening) -> None:
    chunk = b"%x\r\n%s\r\n" % (CHUNK_BYTES, b" " * CHUNK_BYTES)
    with server.connect() as many:
        many.sendall(server.head().replace(b"Bearer ", b"Bearer x"))
        assert received(many).startswith(b"HTTP/1.1 401 ")
        began = time.perf_counter()
        with suppress(ConnectionError):
            many.sendall(chunk * 3 * CHUNKS)
        assert ended(many)
        assert time.perf_counter() - began < server.core.settings.head_seconds / 2


def test_many_chunks_of_a_short_line_each_are_answered(server: Listening) -> None:
    line = json.dumps({"inputs": "a", "model": "acme/reviews"}).encode()
    spaces = b"%x\r\n%s\r\n" % (CHUNK_BYTES, b" " * CHUNK_BYTES)
    with server.connect() as many:
        many.sendall(server.head() + spaces * 2 * CHUNKS + b"%x\r\n%s\r\n0\r\n\r\n" % (len(line), line))
        assert received(many).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (1024, Places(all=512, clients=448, accepted=16)),
        (100_000, Places(all=2000, clients=1750, accepted=62)),
        (64, Places(all=32, clients=28, accepted=1)),
        (2, Places(all=2, clients=1, accepted=1)),
        (resource.RLIM_INFINITY, Places(all=2000, clients=1750, accepted=62)),
    ],
)
def test_connections_are_as_many_as_the_process_may_open_files_for(
    monkeypatch: pytest.MonkeyPatch, files: int, expected: Places
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (files, files))
    assert Places.of(2000) == expected


def test_closed_connections_are_logged_with_their_number_and_an_address(
    listen: Callable[..., Listening], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afina.server.logs_and_traces.RARELY", 0.3)
    caplog.set_level("INFO")
    server = listen(connections=4)
    with ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(server.connect())

        def lines() -> list[dict[str, Any]]:
            return [line for line in logged(caplog) if line.get("reason") == "crowded"]

        assert within(10, lambda: sum(line["count"] for line in lines()) == 8)
    assert len(lines()) < 5
    assert {line["peer"] for line in lines()} == {"127.0.0.1"}


@pytest.mark.parametrize(
    "sent",
    [
        b"hello\r\n",
        b"GET / HTTP/2.0\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: test\r\n\r\n",
        b"\x7f\xfe\x00",
        b"GET / HTTP/1.1\r\nHost: test\r\nA: " + b"a" * HEAD_BYTES + b"\r\n\r\n",
        b"5;a=" + b"a" * HEAD_BYTES,
        b"5;a=" + b"a" * HEAD_BYTES + b"\r\nhello\r\n0\r\n\r\n",
        (b"5;a=" + b"a" * 10_000 + b"\r\nhello\r\n") * 7,
    ],
    ids=["line", "line of HTTP/2", "preface", "head of HTTP/2", "bytes", "head", "open chunk", "chunk", "chunks"],
)
def test_what_begins_no_request_or_has_too_much_around_it_gets_400_at_once(server: Listening, sent: bytes) -> None:
    with server.connect() as wrong:
        wrong.sendall((server.head() if sent.startswith(b"5;") else b"") + sent)
        assert received(wrong).startswith(b"HTTP/1.1 400 ")


def test_a_request_that_arrives_in_bytes_with_short_extensions_is_answered(server: Listening) -> None:
    with server.connect() as connection:
        for byte in b"GET /health/ready HTTP/1.1\r\nHost: test\r\n":
            connection.sendall(bytes([byte]))
            time.sleep(0.001)
        connection.sendall(b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n")
        assert received(connection).startswith(b"HTTP/1.1 200 ")


def test_malformed_http_is_logged_with_its_number_and_not_line_by_line(
    listen: Callable[..., Listening], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afina.server.logs_and_traces.RARELY", 0.3)
    caplog.set_level("INFO")
    server = listen()
    for _ in range(20):
        with server.connect() as wrong:
            wrong.sendall(b"NOT HTTP\r\n\r\n")
            assert received(wrong).startswith(b"HTTP/1.1 400 ")

    def lines() -> list[dict[str, Any]]:
        return [line for line in logged(caplog) if line.get("reason") == "malformed"]

    assert within(10, lambda: sum(line["count"] for line in lines()) == 20)
    assert len(lines()) < 5
    assert not [one for one in caplog.records if "Invalid HTTP" in one.getMessage()]
