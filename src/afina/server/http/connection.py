"""How many connections there are, and how long a peer may take, before any request is read. Knows no route.

uvicorn times only what follows an answer: a connection that sends nothing, or a byte now and then, it keeps for ever,
and beyond its limit it answers everybody with 503. Here a connection on which nothing is being answered makes room for
a new one, whoever never had a valid key first.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from typing import Any, ClassVar, cast

from h11 import LocalProtocolError
from uvicorn.protocols.http.h11_impl import H11Protocol

LEFT = "afina.left"
"""Of a request's scope: that its connection is gone, for who answers while nothing is read."""

UNREAD = 30.0
"""Seconds for which a peer may read nothing of what waits for it."""

SWEEPS = 8
"""Looks at all connections in the time that a head may take."""


def fitting(most: int) -> tuple[int, int]:
    """Connections that may be open, and that may be accepted in one turn of the loop, as the process may open files.

    Half of its files are for connections. Between being accepted and being read, a connection waits some turns, in
    which it is not to be the oldest of all.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    connections = most if files == resource.RLIM_INFINITY else max(1, min(most, files // 2))
    return connections, max(1, connections // 8)


class Doors:
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

    doors: ClassVar[Doors]
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
