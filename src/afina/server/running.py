"""The server on a port: sockets, limits on connections, draining, and shutdown within a time limit.

uvicorn never closes a connection whose client sends nothing or only single bytes, and it answers 503 to all clients
when its limit of connections is reached. At its limit of connections, afina's server instead closes an idle connection
for each new one. Connections that have not sent a valid API key are closed first.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any, ClassVar, Never, cast

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from afina import allocator, meter
from afina.server import logs_and_traces
from afina.server.core import Core
from afina.server.http.app import make_app
from afina.server.http.calls import LEFT
from afina.server.http.gate import ADMIT
from afina.server.logs_and_traces import RareLine
from afina.server.settings import Places

QUEUE = 2048  # the largest number of TCP connections that wait to be accepted (the backlog of the listening socket)
KEEP_ALIVE = 10  # seconds for which a connection stays open between a response and the next request

GIVE_UP, CUT = 0.6, 0.9
"""Shares of the time between draining and the end of the shutdown.

After the share `GIVE_UP` of this time, waiting requests are refused. After the share `CUT` of this time, unfinished
responses are cut off, so that the store and the engine can be closed.
"""


class Server(uvicorn.Server):
    """A uvicorn server that serves a core on given sockets. `run` returns after a signal has ended the server.

    If `Settings.drain` is not 0, SIGTERM or SIGHUP starts draining: `/health/ready` answers 503, and all other requests
    are still answered. SIGINT or a second signal starts the shutdown. A further signal cuts off unfinished responses.
    """

    def __init__(
        self, config: uvicorn.Config, core: Core, sockets: Sequence[socket.socket], listening: Callable[[str], None]
    ) -> None:
        super().__init__(config)
        self._core, self._sockets, self._listening = core, [*sockets], listening
        self._settings = core.settings
        self._signalled_at: float | None = None
        self._drains, self._signalled = False, threading.Event()

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        super().run(self._sockets if sockets is None else sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:  # uvicorn's `backlog` also limits asyncio's accepts per turn; more may queue
            listener.listen(QUEUE)
        host, port = (sockets or self._sockets)[0].getsockname()[:2]
        self._listening(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start draining, start the shutdown, or cut off responses.

        Uvicorn's own method would raise the signal again.
        """
        drains = sig != signal.SIGINT and self._settings.drain > 0
        if self.should_exit:
            self.force_exit = True
        elif self._signalled_at is None and drains:
            self._core.drain()
        else:
            self.should_exit = True
        if self._signalled_at is None:
            self._signalled_at = meter.now()
            self._signalled.set()

    def limit(self) -> None:
        """End the process, from a thread, if it still runs `Settings.shutdown` seconds after the first signal."""
        self._signalled.wait()
        limit = self._settings.shutdown
        threading.Event().wait(limit)
        logs_and_traces.note(
            f"shutdown: the process did not end within {limit:g} seconds of the signal, and was stopped", logging.ERROR
        )
        os._exit(1)

    async def on_tick(self, counter: int) -> bool:
        """Return whether the server must end. uvicorn calls this method ten times a second."""
        if self._signalled_at is not None and not (self._drains or self.should_exit):
            self._drains = True
            logs_and_traces.note("draining", seconds=self._settings.drain)
        if self._signalled_at is not None and meter.now() - self._signalled_at >= self._settings.drain:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more connections, and finish the open requests. Late ones are refused first, and then cut off."""
        self._core.drain()
        signalled_at = meter.now() if self._signalled_at is None else self._signalled_at
        left = max(0.0, signalled_at + self._settings.shutdown - meter.now())
        self.config.timeout_graceful_shutdown = CUT * left  # type: ignore[assignment]
        giving_up = threading.Timer(GIVE_UP * left, self._core.give_up)
        giving_up.daemon = True
        giving_up.start()
        try:
            await super().shutdown(sockets)
        finally:
            giving_up.cancel()


def server(core: Core, sockets: Sequence[socket.socket], listening: Callable[[str], None] = lambda url: None) -> Server:
    """Return a server, not started yet, on sockets of `bind`. `listening` is called with its URL when it listens."""
    settings = core.settings
    places = Places.of(settings.connections)
    if places.all < settings.connections:
        logs_and_traces.note(
            f"{places.all} connections instead of {settings.connections}: half of the files that the process may "
            f"open. Raise the limit: `ulimit -n {2 * settings.connections}`",
            logging.WARNING,
            connections=places.all,
        )
    doors = ConnectionLimit(places, settings.head_seconds, ClosedConnections(core))
    logging.getLogger("uvicorn.error").addFilter(_is_logged)
    config = uvicorn.Config(
        make_app(core),
        http=doors.protocol(),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=places.accepted,
        timeout_keep_alive=KEEP_ALIVE,
    )
    return Server(config, core, sockets, listening)


def serve(core: Core, sockets: Sequence[socket.socket], listening: Callable[[str], None] = lambda url: None) -> Never:
    """Serve on sockets of `bind` until SIGTERM, SIGHUP or SIGINT, then end the process.

    The process ends by `os._exit`, without the shutdown of the Python interpreter, which would wait for threads whose
    store lookups hang, and would clean up torch. On a busy machine, the end of the process took 0.1 s without it and 5
    s with it.
    """
    logs_and_traces.adopt_loggers()
    uvicorn_server = server(core, sockets, listening)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # `nohup` makes the process ignore SIGHUP
        signal.signal(signal.SIGHUP, uvicorn_server.handle_exit)
    threading.Thread(target=uvicorn_server.limit, name="afina-shutdown", daemon=True).start()
    allocator.collect_as_usual()
    uvicorn_server.run()
    if uvicorn_server.force_exit:
        logs_and_traces.note("shutdown: a further signal stopped the process at once", logging.WARNING)
    with suppress(OSError):
        sys.stdout.flush()
    logging.shutdown()
    os._exit(1 if uvicorn_server.force_exit else 0)


class ClosedConnections:
    """Counts and logs each connection that the server closes, with the reason."""

    def __init__(self, core: Core) -> None:
        self._metrics = core.metrics
        self._lines: dict[str, RareLine] = {}

    def __call__(self, reason: str, peer: str | None) -> None:
        self._metrics.closed.labels(reason).inc()
        self._lines.setdefault(reason, RareLine("connections were closed", reason=reason)).note(peer=peer)


UNREAD = 30.0  # seconds after which a connection is closed because its client reads nothing of the response that waits
SWEEPS = 8  # the number of times that all connections are checked within `Settings.head_seconds`


class ConnectionLimit:
    """The open connections of a server, with limits. For one event loop.

    A connection is a client's if its last request had a valid API key, otherwise a stranger's. To make room for a new
    connection, the server may close a stranger's connection at any time, and a client's while it is idle.

    Args:
        seconds: the time limit for the arrival of a request's headers. It starts with the first byte of the request;
            for the first request of a connection, with the connection.
        closed: called when a connection is closed, with the reason (slow, crowded, full, unread or malformed) and the
            client's address.
    """

    def __init__(
        self,
        places: Places,
        seconds: float,
        closed: Callable[[str, str | None], None] = lambda reason, peer: None,
    ) -> None:
        self._places, self._closed = places, closed
        self.seconds = seconds
        self._strangers: dict[Connection, None] = {}
        self._idle: dict[Connection, None] = {}
        self._busy: set[Connection] = set()
        self._sweeper: asyncio.TimerHandle | None = None

    @property
    def _all(self) -> list[Connection]:
        return [*self._strangers, *self._idle, *self._busy]

    def protocol(self) -> type[asyncio.Protocol]:
        """Return the asyncio protocol class that uvicorn instantiates for each connection."""
        return type("Connection", (Connection,), {"doors": self})

    def enter(self, new: Connection) -> None:
        """Add a new connection. At the limit, a stranger's or an idle one is closed, or else the new one."""
        if len(self._strangers) + len(self._idle) + len(self._busy) >= self._places.all:
            oldest = next(iter(self._strangers or self._idle), None)
            if oldest is None:
                self.end(new, "full")
                return
            self.end(oldest, "crowded")
        self._strangers[new] = None
        if self._sweeper is None:
            self._sweeper = new.loop.call_later(self.seconds / SWEEPS, self._sweep, new.loop)

    def admit(self, connection: Connection, *, known: bool) -> bool:
        """Record whether a request has a valid key (`known`). False: clients have no connection left."""
        if connection in self._strangers and known:
            if len(self._idle) + len(self._busy) >= self._places.clients:
                oldest = next(iter(self._idle), None)
                if oldest is None:
                    self._closed("full", connection.peer)
                    return False
                self.end(oldest, "crowded")
            del self._strangers[connection]
            self._busy.add(connection)
        elif connection in self._busy and not known:
            self._busy.discard(connection)
            self._strangers[connection] = None
        return True

    def idle(self, connection: Connection) -> None:
        if connection in self._busy:
            self._busy.discard(connection)
            self._idle[connection] = None

    def begin(self, connection: Connection) -> None:
        if connection in self._idle:
            del self._idle[connection]
            self._busy.add(connection)

    def leave(self, connection: Connection) -> None:
        self._strangers.pop(connection, None)
        self._idle.pop(connection, None)
        self._busy.discard(connection)

    def end(self, connection: Connection, reason: str) -> None:
        """Close a connection at once, without sending the output that is still buffered."""
        self.leave(connection)
        connection.transport.abort()
        self._closed(reason, connection.peer)

    def refuse(self, connection: Connection) -> None:
        self._closed("malformed", connection.peer)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for connection in self._all:
            if reason := connection.overdue(now):
                self.end(connection, reason)
        self._sweeper = loop.call_later(self.seconds / SWEEPS, self._sweep, loop) if self._all else None


CHUNK_BYTES, CHUNKS = 16, 1024
"""A body with more than `CHUNKS` HTTP chunks is refused if its chunks have on average less than `CHUNK_BYTES` bytes.

Each chunk takes time of the event loop, so very many tiny chunks would slow the server down.
"""


class Parser(h11.Connection):
    """h11's HTTP parser of a connection, which also refuses a body of very many tiny chunks."""

    _chunks, _size = 0, 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._size = 0
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._size += len(event.data)
            counted = 0 if self.our_state is h11.DONE else self._size  # the request was answered, mostly refused
            if (self._chunks - CHUNKS) * CHUNK_BYTES > counted:
                raise h11.RemoteProtocolError("the chunks of the body are too small")
        return event


def _is_logged(record: logging.LogRecord) -> bool:
    """Return False for records about malformed HTTP, because anyone can cause any number of them."""
    return not record.getMessage().startswith("Invalid HTTP request")


class Connection(H11Protocol):
    doors: ClassVar[ConnectionLimit]
    _since: float | None = None
    """Time at which the wait for the headers of a request began. `_since` is None if a request is being answered, or
    the connection is idle and uvicorn's keep-alive limit applies."""
    _unsent, _unread_since = 0, 0.0

    @property
    def peer(self) -> str | None:
        return None if self.client is None else self.client[0]

    @property
    def _answers(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.conn = Parser(h11.SERVER)
        self._since = self.loop.time()
        self.doors.enter(self)

    def _unsupported_upgrade_warning(self) -> None:
        """Log no warning if a client asks for a protocol upgrade, which is answered in HTTP/1.1."""

    def connection_lost(self, exc: Exception | None) -> None:
        self.doors.leave(self)
        if self.scope is not None:
            cast(dict[str, Any], self.scope)[LEFT] = True
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._answers:
            self._since = None
            self._begin()
        elif self._since is None:
            self._since = self.loop.time()

    def send_400_response(self, msg: str) -> None:
        """Answer malformed HTTP with status 400. If a response was already started or sent, close the connection."""
        self.doors.refuse(self)
        try:
            super().send_400_response(msg)
        except h11.LocalProtocolError:
            self.cycle.disconnected = True
            self.transport.abort()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._answers:
            self._begin()
        else:
            self.doors.idle(self)

    def _begin(self) -> None:
        """Mark the connection as busy, and give the middleware a function that records if a request's key is valid."""
        self.doors.begin(self)
        cast(dict[str, Any], self.scope)[ADMIT] = partial(self.doors.admit, self)

    def overdue(self, now: float) -> str | None:
        """Return the reason why the connection must be closed now ("slow" or "unread"), or None."""
        if not self._answers and self._since is not None and now - self._since > self.doors.seconds:
            return "slow"
        unsent = self.transport.get_write_buffer_size()
        waits = unsent and unsent == self._unsent and (self.flow.write_paused or not self._answers)
        if not waits:  # otherwise nothing is added to the output, so the output shrinks if the peer reads
            self._unsent, self._unread_since = unsent, now
        return "unread" if now - self._unread_since > UNREAD else None
