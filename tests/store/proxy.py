"""A proxy that passes requests on, and does with them what networks and services do on bad days."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, NamedTuple, Self

Fault = Literal["status", "slow", "hang", "reset", "reset upload", "truncate", "stall", "shorten"]


class Seen(NamedTuple):
    """A request that came, and what was done to it."""

    method: str
    path: str
    fault: Fault | None


@dataclass
class Injected:
    """`left` is None for ever."""

    fault: Fault
    left: int | None
    method: str | None
    holds: str
    status: int
    seconds: float


class Proxy:
    """On a port of 127.0.0.1, for the block."""

    def __init__(self, upstream: int) -> None:
        self.seen: list[Seen] = []
        self._injected: list[Injected] = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        proxy = self

        class Handler(_Handler):
            def handle_one_request(self) -> None:
                self.proxy, self.upstream = proxy, upstream
                super().handle_one_request()

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])

    def inject(
        self,
        fault: Fault,
        times: int | None = None,
        *,
        method: str | None = None,
        holds: str = "",
        status: int = 500,
        seconds: float = 0.5,
    ) -> None:
        """Do this with the next `times` requests, with all where it is None; or only of a method, or of a path that
        holds some word.

        - `status`: answer that status, and do not pass the request on
        - `slow`: pass it on after so many seconds
        - `hang`: take the request and never answer
        - `reset`: reset the connection amid the answer's body; `reset upload`: amid the request's
        - `truncate`: close the connection amid the answer's body
        - `stall`: send nothing more from the middle of the answer's body on
        - `shorten`: leave out half of the answer's body, and say so in its headers
        """
        with self._lock:
            self._injected.append(Injected(fault, times, method, holds, status, seconds))

    def heal(self) -> None:
        """Pass on everything from now on."""
        with self._lock:
            self._injected.clear()

    def met(self, method: str, path: str) -> Injected | None:
        """Count a request, and say what is to be done with it."""
        with self._lock:
            for each in self._injected:
                if each.left != 0 and each.method in (None, method) and each.holds in path:
                    each.left = None if each.left is None else each.left - 1
                    self.seen.append(Seen(method, path, each.fault))
                    return each
            self.seen.append(Seen(method, path, None))
            return None

    def wait(self, seconds: float | None = None) -> None:
        """So long, or until the test is over."""
        self._over.wait(seconds)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A kept connection's thread waits for a next request that nobody will send.
    block_on_close = False

    def shutdown_request(self, request: Any) -> None:
        """Close alone: an orderly end of the connection before it would make a reset of none."""
        request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy
    upstream: int

    def log_message(self, *_: object) -> None:
        pass

    def _pass_on(self) -> None:
        found = self.proxy.met(self.command, self.path)
        fault = found.fault if found else None
        length = int(self.headers.get("Content-Length") or 0)
        if fault == "reset upload":
            self.rfile.read(length // 2)
            return self._reset()
        body = self.rfile.read(length)
        if found and fault == "status":
            return self._answer(found.status, [("Content-Type", "text/plain")], b"injected")
        if found and fault == "slow":
            self.proxy.wait(found.seconds)
        if fault == "hang":
            self.proxy.wait()
            self.close_connection = True
            return None
        status, headers, content = self._ask(body)
        return self._answer(status, headers, content, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, fault: Fault | None = None) -> None:
        half = len(content) // 2
        if fault == "shorten":
            content = content[:half]
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        # The answer to HEAD has no body, and a length all the same.
        stated = next((value for name, value in headers if name.lower() == "content-length"), "0")
        self.send_header("Content-Length", stated if self.command == "HEAD" else str(len(content)))
        self.end_headers()
        if fault in ("reset", "truncate", "stall"):
            self.wfile.write(content[:half])
            self.wfile.flush()
            self.close_connection = True
            if fault == "stall":
                self.proxy.wait()
            if fault == "reset":
                self._reset()
        elif self.command != "HEAD":
            self.wfile.write(content)

    def _reset(self) -> None:
        # With a linger of no seconds, closing sends a reset instead of an end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
