"""Running: a server on a port, until it is told to end; then it finishes what it took."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from afina.server import logs
from afina.server.core import Core
from afina.server.http.app import make_app

CONNECTIONS = 2000
"""That may be open; more are answered with 503."""


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, listening: Callable[[str], None]) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say where, once it listens."""
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._listening(f"http://{f'[{host}]' if ':' in host else host}:{port}")


def serve(core: Core, host: str, port: int, listening: Callable[[str], None] = lambda url: None) -> None:
    """Serve until SIGTERM or SIGINT. port: 0 for any that is free; listening: is told the URL."""
    logs.adopt()
    config = uvicorn.Config(
        make_app(core),
        host=host,
        port=port,
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=int(core.settings.timeout) + 5,
    )
    with suppress(KeyboardInterrupt):  # raised once all is answered, as uvicorn raises what it was told to end by
        _Server(config, listening).run()
