"""A server on a port: its sockets, its connections, and its end: it drains, finishes what it took, and ends in time.

uvicorn times only what follows an answer: a connection that sends nothing, or a byte now and then, it keeps for ever,
and beyond its limit it answers everybody with 503. Here a connection on which nothing is being answered makes room for
a new one, whoever never had a valid key first.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, ClassVar, Never, cast

import uvicorn
from h11 import LocalProtocolError
from uvicorn.protocols.http.h11_impl import H11Protocol

from afina import meter
from afina.errors import Busy, NotFound, Refused
from afina.server import logs_and_traces
from afina.server.core import Core
from afina.server.http.app import make_app
from afina.server.http.bulk import LEFT

QUEUE = 2048
"""Connections that may wait to be accepted."""

KEEP_ALIVE = 10
"""Seconds for which a connection may be open between an answer and the next request."""

GIVE_UP, CUT = 0.6, 0.9
"""Of the seconds that a shutdown has after draining, the shares after which what waits is refused, and what is still
being sent is cut. The rest is for closing.
"""


def bind(host: str, port: int) -> Sequence[socket.socket]:
    """Return sockets that hold a port on each address of a host, and do not listen yet. port: 0 for any that is free.

    Raises NotFound for a host that is none of this machine's, Busy for a port that is in use, Refused for one that
    this user may not have.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise NotFound(
            f"host {host}: there is no such address. Give one of this machine's with `host`.",
            code="server.host-missing",
            host=host,
        ) from None
    sockets: list[socket.socket] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        one = socket.socket(family, kind, protocol)
        sockets.append(one)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            one.bind((address[0], port, *address[2:]))
        except OSError as error:
            for each in sockets:
                each.close()
            raise _unbound(host, port, error) from None
        port = one.getsockname()[1]
    return sockets


def _unbound(host: str, port: int, error: OSError) -> Exception:
    if error.errno == errno.EADDRINUSE:
        return Busy(
            f"port {port} on {host}: another process listens there. Give another with `port`, or end it.",
            code="server.port-occupied",
            host=host,
            port=port,
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return Refused(
            f"port {port} on {host}: this user may not listen there. Give one above 1023 with `port`.",
            code="server.port-forbidden",
            host=host,
            port=port,
        )
    return NotFound(
        f"host {host}: is no address of this machine. Give one that is with `host`.",
        code="server.host-missing",
        host=host,
    )


class Server(uvicorn.Server):
    """Of a core, on sockets; `run` until it is told to end.

    SIGTERM and SIGHUP drain first: `/health/ready` is 503, and all else is as before. SIGINT, and a second signal, end
    the draining; one more cuts what is still being answered.
    """

    def __init__(
        self, config: uvicorn.Config, core: Core, sockets: Sequence[socket.socket], listening: Callable[[str], None]
    ) -> None:
        super().__init__(config)
        self._core, self._sockets, self._listening = core, [*sockets], listening
        self._settings = core.settings
        self._told: float | None = None
        self._drains, self._signalled = False, threading.Event()

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until it is told to end."""
        super().run(self._sockets if sockets is None else sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say where, once it listens."""
        await super().startup(sockets)
        for one in sockets or []:  # `backlog` is how many asyncio accepts in a turn; more may queue
            one.listen(QUEUE)
        host, port = (sockets or self._sockets)[0].getsockname()[:2]
        self._listening(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Heed a signal. What ends a server so is no failure: unlike uvicorn's, it is not raised again afterwards."""
        drains = sig != signal.SIGINT and self._settings.drain > 0
        if self.should_exit:
            self.force_exit = True
        elif self._told is None and drains:
            self._core.drain()
        else:
            self.should_exit = True
        if self._told is None:
            self._told = meter.now()
            self._signalled.set()

    def limit(self) -> None:
        """Wait for a signal, and end the process in time after it, whatever hangs. For a thread of its own."""
        self._signalled.wait()
        limit = self._settings.shutdown
        threading.Event().wait(limit)
        logs_and_traces.note(f"cut off: not ended {limit:g} seconds after the signal", logging.ERROR)
        os._exit(1)

    async def on_tick(self, counter: int) -> bool:
        """Whether to end; asked ten times a second."""
        if self._told is not None and not (self._drains or self.should_exit):
            self._drains = True
            logs_and_traces.note("draining", seconds=self._settings.drain)
        if self._told is not None and meter.now() - self._told >= self._settings.drain:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no connection more, and finish what was taken: what takes too long is refused, and then cut."""
        self._core.drain()
        told = meter.now() if self._told is None else self._told
        left = max(0.0, told + self._settings.shutdown - meter.now())
        self.config.timeout_graceful_shutdown = CUT * left  # type: ignore[assignment]
        giving_up = threading.Timer(GIVE_UP * left, self._core.give_up)
        giving_up.daemon = True
        giving_up.start()
        try:
            await super().shutdown(sockets)
        finally:
            giving_up.cancel()


def server(core: Core, sockets: Sequence[socket.socket], listening: Callable[[str], None] = lambda url: None) -> Server:
    """A server that is not begun. sockets: of `bind`; listening: is told the URL."""
    settings = core.settings
    connections, accepted = connection_limits(settings.connections)
    doors = ConnectionLimit(connections, settings.head_seconds, lambda reason: core.metrics.closed.labels(reason).inc())
    config = uvicorn.Config(
        make_app(core),
        http=doors.protocol(),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=accepted,
        timeout_keep_alive=KEEP_ALIVE,
    )
    return Server(config, core, sockets, listening)


def settle() -> None:
    """Take all that is in memory out of what Python's garbage collector looks through.

    That is a million objects of libraries and of the model, which stay. To look through them was measured at 0.8 s on a
    busy machine, in which no thread went on: a flood of requests makes so many objects that it comes to that.
    """
    gc.collect()
    gc.freeze()


def serve(core: Core, sockets: Sequence[socket.socket], listening: Callable[[str], None] = lambda url: None) -> Never:
    """Serve until SIGTERM or SIGINT, and end the process. As `server`.

    The interpreter's own end is left out: it waits for threads that look up or load something for nobody any more, and
    takes torch to pieces, which was measured at 0.1 s for the server and 5 s for that on a busy machine.
    """
    logs_and_traces.adopt_loggers()
    made = server(core, sockets, listening)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # not where `nohup` has it ignored
        signal.signal(signal.SIGHUP, made.handle_exit)
    threading.Thread(target=made.limit, name="afina-shutdown", daemon=True).start()
    settle()
    made.run()
    if made.force_exit:
        logs_and_traces.note("cut off: told to end again", logging.WARNING)
    with suppress(OSError):
        sys.stdout.flush()
    logging.shutdown()
    os._exit(1 if made.force_exit else 0)


UNREAD = 30.0
"""Seconds for which a peer may read nothing of what waits for it."""

SWEEPS = 8
"""Looks at all connections in the time that a head may take."""


def connection_limits(most: int) -> tuple[int, int]:
    """Connections that may be open, and that may be accepted in one turn of the loop, as the process may open files.

    Half of its files are for connections. Between being accepted and being read, a connection waits some turns, in
    which it is not to be the oldest of all.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    connections = most if files == resource.RLIM_INFINITY else max(1, min(most, files // 2))
    return connections, max(1, connections // 8)


class ConnectionLimit:
    """Of a server: its connections, on one event loop.

    most     that may be open;  seconds  in which a request's head has to come, from its first byte on, or the first
             request's from when the connection was made
    closed   is told why one was closed: slow, crowded, full, unread
    """

    def __init__(
        self,
        most: int,
        seconds: float,
        closed: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._most, self._closed = most, closed
        self.seconds = seconds
        self._all: set[Connection] = set()
        self._strangers: dict[Connection, None] = {}
        self._known: dict[Connection, None] = {}
        self._sweeper: asyncio.TimerHandle | None = None

    def protocol(self) -> type[asyncio.Protocol]:
        """What uvicorn makes of each connection."""
        return type("Connection", (Connection,), {"doors": self})

    def enter(self, new: Connection) -> None:
        """Let one in, at another's cost where it is too many; a server that answers on all of them refuses it."""
        if len(self._all) >= self._most:
            idle = next(iter(self._strangers or self._known), None)
            if idle is None:
                self.end(new, "full")
                return
            self.end(idle, "crowded")
        self._all.add(new)
        self._strangers[new] = None
        if self._sweeper is None:
            self._sweeper = new.loop.call_later(self.seconds / SWEEPS, self._sweep, new.loop)

    def idle(self, one: Connection, *, known: bool) -> None:
        """Nothing is being answered on it. known: what was last had a valid key."""
        if one in self._all:
            (self._known if known else self._strangers)[one] = None

    def busy(self, one: Connection) -> None:
        """Something is."""
        self._strangers.pop(one, None)
        self._known.pop(one, None)

    def leave(self, one: Connection) -> None:
        """It is gone."""
        self.busy(one)
        self._all.discard(one)

    def end(self, one: Connection, reason: str) -> None:
        """Close it, whatever it was about to send."""
        self.leave(one)
        one.transport.abort()
        self._closed(reason)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for one in [*self._all]:
            if reason := one.overdue(now):
                self.end(one, reason)
        self._sweeper = loop.call_later(self.seconds / SWEEPS, self._sweep, loop) if self._all else None


class Connection(H11Protocol):
    """uvicorn's, behind doors."""

    doors: ClassVar[ConnectionLimit]
    _since: float | None = None
    """When the head that is waited for began; None: not yet, and uvicorn's own limit holds for how long nothing may."""
    _unsent, _unread_since = 0, 0.0

    @property
    def _answers(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio; so are the others."""
        super().connection_made(transport)
        self._since = self.loop.time()
        self.doors.enter(self)

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: whoever likes may ask for it, and is answered in HTTP."""

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self.doors.leave(self)
        if self.scope is not None:
            cast(dict[str, Any], self.scope)[LEFT] = True
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some of a head, or of a body."""
        super().data_received(data)
        if self._answers:
            self._since = None
            self.doors.busy(self)
        elif self._since is None:
            self._since = self.loop.time()

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP; where an answer has begun, or was given, nothing else can be said."""
        try:
            super().send_400_response(msg)
        except LocalProtocolError:
            self.cycle.disconnected = True
            self.transport.abort()

    def on_response_complete(self) -> None:
        """An answer was given, and the next request may be here already."""
        answered: dict[str, Any] = {**self.scope}
        super().on_response_complete()
        if not self._answers:
            self.doors.idle(self, known=answered.get("afina.key") is not None)

    def overdue(self, now: float) -> str | None:
        """Why to close it now, if so."""
        if not self._answers and self._since is not None and now - self._since > self.doors.seconds:
            return "slow"
        unsent = self.transport.get_write_buffer_size()
        waits = unsent and unsent == self._unsent and (self.flow.write_paused or not self._answers)
        if not waits:  # or else nothing is added to what is to be sent, so that it gets less if any of it is read
            self._unsent, self._unread_since = unsent, now
        return "unread" if now - self._unread_since > UNREAD else None
