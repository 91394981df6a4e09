"""The limits on the connections of a server. uvicorn's own would answer 503 to everybody while they are reached.

uvicorn never closes a connection whose client sends nothing or only single bytes. At its limit of connections, afina's
server closes an idle connection for each new one. Connections whose request was not admitted are closed first.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from afina.server.settings import Places

ADMIT = "afina.admit"
"""The key, in a request's ASGI scope, of the method `ConnectionLimit.admit` for the request's connection.

The middleware calls `ConnectionLimit.admit` with the argument `known` (whether the request has a valid key).
`ConnectionLimit.admit` returns False if no connection is left for clients. If a request's scope does not have the key
`ADMIT`, connections are not limited.
"""

LEFT = "afina.left"
"""The key of a flag in a request's ASGI scope; the flag is true once the client's connection was closed.

The flag is needed while a response is sent and nothing is read from the connection.
"""

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


HEAD_BYTES = 1 << 16
"""The largest size in bytes of a request's line and headers, and of all chunk extensions and trailers of its body."""

FRAME_BYTES = 32  # the largest size in bytes of a chunk's size and line ends, which are no extension

_REQUEST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [\x21-\x7e]+ HTTP/1\.[01]\r?")
_PRINTABLE = re.compile(rb"[\x20-\x7e]*\r?")


class Parser(h11.Connection):
    """h11's HTTP parser of a connection, which refuses more, and refuses a line that begins no request at once."""

    _chunks, _size, _extensions = 0, 0, 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        waiting = len(self._receive_buffer)
        event = super().next_event()
        read = waiting - len(self._receive_buffer)
        if isinstance(event, h11.Request):
            self._chunks = self._size = self._extensions = 0
            if read > HEAD_BYTES or event.http_version not in (b"1.0", b"1.1"):
                raise h11.RemoteProtocolError("the head is too large, or not of HTTP/1.1")
        elif event is h11.NEED_DATA and self.their_state is h11.IDLE:
            line, end, _ = bytes(self._receive_buffer).partition(b"\n")
            if not (_REQUEST_LINE if end else _PRINTABLE).fullmatch(line):
                raise h11.RemoteProtocolError("the line begins no request of HTTP/1.1")
        else:
            self._extensions += max(0, read - FRAME_BYTES - (len(event.data) if isinstance(event, h11.Data) else 0))
            if self._extensions > HEAD_BYTES:
                raise h11.RemoteProtocolError("the chunk extensions are too large")
        if isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._size += len(event.data)
            counted = 0 if self.our_state is h11.DONE else self._size  # the request was answered, mostly refused
            if (self._chunks - CHUNKS) * CHUNK_BYTES > counted:
                raise h11.RemoteProtocolError("the chunks of the body are too small")
        return event


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
