"""How a server begins to listen, and how it ends: draining, refusing what waits, and within its time."""

from __future__ import annotations

import gc
import json
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import Any

import httpx2
import pytest

from afina.errors import Busy, InvalidStudy, NotFound
from afina.server import running
from afina.server.protocols import bulk
from afina.server.settings import Settings
from afina.server.sockets import bind
from raises import raises
from servers import Held, Listening, logged, within

BODY = {"inputs": "the soup was bright.", "model": "acme/reviews"}


def ready(server: Listening) -> int:
    return httpx2.get(f"http://127.0.0.1:{server.port}/health/ready", timeout=10).status_code


def predict(server: Listening) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {server.secrets['acme']}"}
    return httpx2.post(f"http://127.0.0.1:{server.port}/predict", json=BODY, headers=headers, timeout=20)


def ended(server: Listening) -> bool:
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_after_a_signal_it_is_not_ready_and_answers_as_before_until_it_has_drained(
    listen: Any, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    caplog.set_level("INFO", "afina.server")
    server = listen(drain=0.5)
    assert (ready(server), predict(server).status_code) == (200, 200)
    server.server.handle_exit(number, None)
    told = time.perf_counter()
    assert (ready(server), predict(server).status_code) == (503, 200)
    assert within(10, lambda: ended(server))
    assert time.perf_counter() - told >= 0.5
    assert [one["seconds"] for one in logged(caplog) if one["message"] == "draining"] == [0.5]


@pytest.mark.parametrize("again", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_draining(listen: Any, again: int) -> None:
    server = listen(drain=20.0)
    server.server.handle_exit(signal.SIGTERM, None)
    assert ready(server) == 503
    server.server.handle_exit(again, None)
    assert within(10, lambda: ended(server))
    assert not server.server.force_exit
    server.server.handle_exit(signal.SIGTERM, None)
    assert server.server.force_exit


def test_who_types_ctrl_c_waits_for_no_draining(listen: Any) -> None:
    server = listen(drain=20.0)
    server.server.handle_exit(signal.SIGINT, None)
    assert within(10, lambda: ended(server))


def test_whatever_hangs_the_process_ends_in_time(
    listen: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left: list[int] = []
    monkeypatch.setattr(running.os, "_exit", left.append)
    server = listen(shutdown=0.1)
    server.server.handle_exit(signal.SIGTERM, None)
    server.server.limit()
    assert left == [1]
    assert [one["message"] for one in logged(caplog) if one["level"] == "error"] == [
        "shutdown: the process did not end within 0.1 seconds of the signal, and was stopped"
    ]


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time to refuse what waits comes soon, and the time to cut connections late. A bulk ends soon after it."""
    monkeypatch.setattr(running, "GIVE_UP", 0.01)
    monkeypatch.setattr(bulk, "LINGER", 0.2)


@pytest.mark.usefixtures("early")
def test_what_still_waits_late_in_a_shutdown_is_refused_in_words(listen: Any) -> None:
    """A batch is held up, as one that takes long; the requests behind it are told to ask elsewhere."""
    server = listen()
    assert predict(server).status_code == 200
    held = Held(server.core)
    found: list[httpx2.Response] = []
    asking = [threading.Thread(target=lambda: found.append(predict(server))) for _ in range(3)]
    asking[0].start()
    assert held.began.wait(10)
    for one in asking[1:]:
        one.start()
    assert within(10, lambda: server.core.batching.waiting[1] == 2)
    server.server.handle_exit(signal.SIGTERM, None)
    for one in asking[1:]:
        one.join(10)
    held.go.set()
    asking[0].join(10)
    assert sorted(one.status_code for one in found) == [200, 503, 503]
    assert {one.headers.get("Retry-After") for one in found if one.status_code == 503} == {"1"}


def test_a_shutdown_refuses_what_waits_before_it_ends_what_runs(listen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = listen()
    monkeypatch.setattr(running, "GIVE_UP", 0.01)
    monkeypatch.setattr(running, "END", 0.02)
    ends_running = list[bool]()
    monkeypatch.setattr(server.core, "give_up", lambda *, running: ends_running.append(running))
    held, asking = Held(server.core), threading.Thread(target=predict, args=(server,))
    asking.start()
    assert held.began.wait(10)
    server.server.handle_exit(signal.SIGTERM, None)
    assert within(10, lambda: ends_running == [False, True])
    held.go.set()
    asking.join(10)


@pytest.mark.slow
@pytest.mark.usefixtures("early")
@pytest.mark.parametrize("sends", [True, False], ids=["lines without end", "nothing more"])
def test_a_bulk_under_way_late_in_a_shutdown_ends_with_a_line_that_says_so(listen: Any, sends: bool) -> None:
    server = listen()
    line = json.dumps({"text": "the soup was bright."}).encode() + b"\n"
    answered = bytearray()
    with server.connect() as connection:
        connection.sendall(server.head(path="/bulk?model=acme/reviews"))

        def send() -> None:
            with suppress(OSError):
                while sends or b"label" not in answered:
                    connection.sendall(b"%x\r\n%s\r\n" % (len(line), line))
                    time.sleep(0.01)

        threading.Thread(target=send, daemon=True).start()
        while b"label" not in answered:
            answered += connection.recv(65536)
        server.server.handle_exit(signal.SIGTERM, None)
        told = time.perf_counter()
        with suppress(ConnectionError):  # what came beyond the last line that was read
            while more := connection.recv(65536):
                answered += more
    assert time.perf_counter() - told < 8
    lines = [json.loads(one) for one in answered.splitlines() if one.startswith(b"{")]
    assert "label" in lines[0]
    assert lines[-1]["kind"] == "unavailable"
    assert "shutting down" in lines[-1]["error"]


def test_a_port_that_is_in_use_and_a_host_that_is_not_here_are_said() -> None:
    (one,) = bind("127.0.0.1", 0)
    one.listen()
    port = one.getsockname()[1]
    for host, wanted, error, said in (
        ("127.0.0.1", port, Busy, f"port {port} on 127.0.0.1: another process listens there"),
        ("192.0.2.1", 0, NotFound, "host 192.0.2.1: not an address of this machine"),
        ("no.such.host.invalid", 0, NotFound, "host no.such.host.invalid: unknown address"),
    ):
        with pytest.raises(error, match=said):
            bind(host, wanted)
    one.close()


def test_a_name_of_several_addresses_is_listened_to_on_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    two = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("127.0.0.1", "127.0.0.2")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: two)
    sockets = bind("both", 0)
    assert len({one.getsockname()[1] for one in sockets}) == 1
    for one in sockets:
        one.close()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"drain": 25, "shutdown": 25}, {"code": "option.invalid", "options": ["drain", "shutdown"]}),
        ({"drain": -1}, {"code": "option.invalid", "options": ["drain", "shutdown"]}),
        ({"drain": float("nan")}, {"code": "option.invalid", "option": "drain"}),
        ({"shutdown": float("inf")}, {"code": "option.invalid", "option": "shutdown"}),
        ({"timeout": float("nan")}, {"code": "option.invalid", "option": "timeout"}),
    ],
)
def test_draining_is_shorter_than_the_shutdown_and_both_are_numbers(settings: Any, said: dict[str, Any]) -> None:
    with raises(InvalidStudy, **said):
        Settings(**settings)


@pytest.mark.slow
def test_what_is_in_memory_when_a_server_begins_is_not_looked_through_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended(Exception):
        pass

    class Fake:
        def limit(self) -> None:
            pass

        def handle_exit(self, *_: Any) -> None:
            pass

        def run(self) -> None:
            assert gc.get_freeze_count() > 10_000
            raise Ended

    monkeypatch.setattr(running, "server", lambda *given: Fake())
    monkeypatch.setattr(running.logs_and_traces, "adopt_loggers", lambda: None)
    before = signal.getsignal(signal.SIGHUP)
    try:
        with pytest.raises(Ended):
            running.serve(Any, [])
    finally:
        signal.signal(signal.SIGHUP, before)
        gc.unfreeze()
