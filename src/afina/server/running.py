"""The server on a port: sockets, draining, and shutdown within a time limit."""

from __future__ import annotations

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
from typing import Never

import uvicorn

from afina import allocator, meter
from afina.server import logs_and_traces
from afina.server.connections import ConnectionLimit
from afina.server.core import Core
from afina.server.http.app import make_app
from afina.server.logs_and_traces import RareLine
from afina.server.settings import Places

QUEUE = 2048  # the largest number of TCP connections that wait to be accepted (the backlog of the listening socket)
KEEP_ALIVE = 10  # seconds for which a connection stays open between a response and the next request

GIVE_UP, END, CUT = 0.6, 0.9, 0.95
"""Shares of the time between draining and the end of the shutdown.

After the share `GIVE_UP` of this time, waiting requests are refused. After the share `END`, running generations are
ended with an error. After the share `CUT`, unfinished responses are cut off, so that the store and the engine can be
closed.
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
        shares = {GIVE_UP: False, END: True}
        timers = [
            threading.Timer(share * left, partial(self._core.give_up, running=running))
            for share, running in shares.items()
        ]
        for timer in timers:
            timer.daemon = True
            timer.start()
        try:
            await super().shutdown(sockets)
        finally:
            for timer in timers:
                timer.cancel()


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


def _is_logged(record: logging.LogRecord) -> bool:
    """Return False for records about malformed HTTP, because anyone can cause any number of them."""
    return not record.getMessage().startswith("Invalid HTTP request")
