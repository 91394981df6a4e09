"""Running: a server on a port, until it is told to end; then it finishes what it took."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from afina.server import logs
from afina.server.core import Core
from afina.server.http.app import make_app
from afina.server.http.connection import Doors, fitting

QUEUE = 2048
"""Connections that may wait to be accepted."""

KEEP_ALIVE = 10
"""Seconds for which a connection may be open between an answer and the next request."""


class Server(uvicorn.Server):
    """Of a core; `run` until it is told to end."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[str], None]) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say where, once it listens."""
        await super().startup(sockets)
        if self.started:
            for one in self.servers[0].sockets:  # `backlog` is how many asyncio accepts in a turn; more may queue
                with socket.fromfd(one.fileno(), one.family, one.type) as same:
                    same.listen(QUEUE)
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._listening(f"http://{f'[{host}]' if ':' in host else host}:{port}")


def server(core: Core, host: str, port: int, listening: Callable[[str], None] = lambda url: None) -> Server:
    """A server that is not begun. port: 0 for any that is free; listening: is told the URL."""
    settings = core.settings
    connections, accepted = fitting(settings.connections)
    doors = Doors(connections, settings.head_seconds, lambda reason: core.figures.closed.labels(reason).inc())
    config = uvicorn.Config(
        make_app(core),
        host=host,
        port=port,
        http=doors.protocol(),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=accepted,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=int(settings.timeout) + 5,
    )
    return Server(config, listening)


def serve(core: Core, host: str, port: int, listening: Callable[[str], None] = lambda url: None) -> None:
    """Serve until SIGTERM or SIGINT. As `server`."""
    logs.adopt()
    with suppress(KeyboardInterrupt):  # raised once all is answered, as uvicorn raises what it was told to end by
        server(core, host, port, listening).run()
