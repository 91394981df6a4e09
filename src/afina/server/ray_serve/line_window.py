"""Flow control for `/bulk` requests: the proxy limits the number of lines that are read but not answered yet.

Without a limit on unanswered lines, Ray Serve's proxies and replicas would queue everything that a client sends.
"""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.types import Message, Receive, Send

from afina.server.ray_serve.affinity import RequestLimits

AHEAD = 4  # times `Settings.window` unanswered lines; above 1, so that the replica never waits for lines


class LineWindow:
    """The ASGI functions `receive` and `send` of a `/bulk` request, with a limit on the lines that are not answered.

    The response has one line for each non-empty line of the request's body.
    """

    def __init__(self, receive: Receive, send: Send, limits: RequestLimits) -> None:
        self._receive, self._send = receive, send
        self._lines_ahead, self._bytes = AHEAD * limits.window, limits.body_bytes
        self._lines: deque[int] = deque()
        self._rest = b""
        self._room = asyncio.Event()
        self.gone = False

    @property
    def _full(self) -> bool:
        return len(self._lines) >= self._lines_ahead or (bool(self._lines) and sum(self._lines) >= self._bytes)

    async def receive(self) -> Message:
        """Return the next ASGI message of the request, once fewer lines than the limit are unanswered."""
        while self._full:
            self._room.clear()
            await self._room.wait()
        message = await self._receive()
        self.gone = message["type"] == "http.disconnect"
        *lines, self._rest = (self._rest + message.get("body", b"")).split(b"\n")
        if not message.get("more_body", False):
            lines.append(self._rest)
            self._rest = b""
        self._lines.extend(len(line) for line in lines if line.strip())
        if len(self._rest) > self._bytes:  # the replica refuses such a line and reads no further
            self._rest = b"-"
        return message

    async def send(self, message: Message) -> None:
        for _ in range(message.get("body", b"").count(b"\n")):
            if self._lines:
                self._lines.popleft()
        self._room.set()
        await self._send(message)
