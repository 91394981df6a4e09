"""StudioServer: the server of a studio's store, `afina serve` in a process that goes on when the studio ends.

The studio's own pages ask the server with a key that only this user can read. The module does not know the pages.
"""

from __future__ import annotations

import re
import shlex
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from afina import file_io, meter
from afina.errors import Refused
from afina.sentence import Sentence
from afina.server.client import ServerClient
from afina.store.adapter_store import AdapterStore
from afina.store.api_keys import METRICS, PREDICT, PUBLISH
from afina.studio import problems
from afina.studio.command_process import CommandProcess
from afina.studio.folder import CLIENT, StudioFolder
from afina.studio.run_queue import INTERRUPTED

HOST = "127.0.0.1"

PORTS = range(8000, 8020)
"""The ports that are tried if the user names none; the port of last time comes first."""

SHUTDOWN = 5
"""Seconds in which the server answers the requests that it has accepted, after it was told to end."""

STOP_SECONDS = 15.0
"""Seconds after which the server is killed that was told to end."""

KEY_SECONDS = 5.0
"""Seconds within which a running server accepts a new key."""

KEY_NAME = "pages of the studio"
"""The name of the studio's own key."""

_KEY = re.compile(r"afina_([0-9a-f]{16})_")

_lock = threading.Lock()

State = Literal["off", "starting", "running", "failed"]


@dataclass(frozen=True)
class StudioServer:
    """The one server of a studio."""

    folder: StudioFolder

    @property
    def process(self) -> CommandProcess:
        return self.folder.server

    @property
    def state(self) -> State:
        process = self.process
        if process.is_running:
            return "running" if self.url else "starting"
        return "failed" if process.status not in (None, 0, *INTERRUPTED) else "off"

    @property
    def url(self) -> str:
        """The address of the server; empty before it listens, which it says in a line."""
        with suppress(OSError):
            return f"http://{HOST}:{self.port}" if (self.process.directory / "output").stat().st_size else ""
        return ""

    def _option(self, name: str) -> str:
        given = self.process.arguments
        return given[given.index(name) + 1] if name in given else ""

    @property
    def backbone(self) -> str:
        """The address of the backbone that the server was last started with; empty if it never was."""
        return self._option("--backbone")

    @property
    def port(self) -> int | None:
        """The port that the server was last started with."""
        return int(self._option("--port")) if self._option("--port") else None

    @property
    def problem(self) -> Sentence:
        """Why the server did not start or has ended; empty if it runs or was stopped."""
        return self.process.problem if self.state == "failed" else Sentence()

    def command(self, backbone: str, port: int | None = None) -> str:
        """Return the command line that starts this server."""
        return shlex.join(["afina", *self._arguments(backbone, port or self.port or PORTS[0])])

    def _arguments(self, backbone: str, port: int) -> list[str]:
        where = ["--store", str(self.folder.store.absolute()), "--backbone", backbone, "--host", HOST]
        return ["serve", *where, "--port", str(port), "--shutdown", str(SHUTDOWN), "--log-format", "text"]

    def start(self, backbone: str, port: int | None = None) -> None:
        """Start the server, unless it runs. Without a port: that of last time if it is free, else another free one.

        Raises Busy if the port is in use, Conflict for a server with another backbone, and NotFound without a store.
        """
        with _lock:
            if self.process.is_running:
                if self.backbone != backbone:
                    raise problems.SERVER_RUNS(backbone=self.backbone)
                return
            chosen = self._free_port(port)
            self._ready_key(AdapterStore(self.folder.store))
            (self.process.directory / "log").unlink(missing_ok=True)
            self.process.start(self._arguments(backbone, chosen))

    def _free_port(self, port: int | None) -> int:
        if port is not None:
            if not _is_free(port):
                raise problems.SERVER_PORT_OCCUPIED(port=port)
            return port
        wished = [self.port] if self.port else []
        found: int | None = next((one for one in (*wished, *PORTS) if _is_free(one)), None)
        if found is not None:
            return found
        with socket.create_server((HOST, 0)) as any_port:
            return int(any_port.getsockname()[1])

    def stop(self) -> None:
        """Let the server answer what it has accepted, and end."""
        process, until, told = self.process, meter.now() + STOP_SECONDS, False
        pause = threading.Event()
        while process.is_running and meter.now() < until:
            if not told and process.pid is not None:
                process.interrupt()
                told = True
            pause.wait(0.05)
        process.kill()

    @property
    def _key_file(self) -> Path:
        return self.folder.own / "key"

    @property
    def key_id(self) -> str:
        """The id of the studio's own key; empty if there is none."""
        with suppress(OSError, UnicodeDecodeError):
            found = _KEY.match(self._key_file.read_text(encoding="utf-8"))
            return found[1] if found else ""
        return ""

    def _ready_key(self, store: AdapterStore) -> str:
        """Return the studio's own key: that of the file if it is valid, or a new one."""
        if any(one.id == self.key_id and one.is_valid for one in store.keys(CLIENT)):
            return self._key_file.read_text(encoding="utf-8").strip()
        self._key_file.unlink(missing_ok=True)
        with file_io.private(self._key_file) as file:
            made = store.create_key(CLIENT, [PREDICT, PUBLISH, METRICS], name=KEY_NAME)
            file.write(made.secret)
        return made.secret

    def client(self, patience: float) -> ServerClient:
        """Return what asks the server with the studio's own key. Raises Conflict if the server does not run.

        `patience`: seconds for an answer.
        """
        url = self.url
        if not url or not self.process.is_running:
            raise problems.SERVER_OFF()
        with _lock:
            known, key = self.key_id, self._ready_key(AdapterStore(self.folder.store))
            made = ServerClient(url, key, patience, proxies=False)
            if self.key_id != known:  # within the lock: no other request takes the key before the server knows it
                _wait_for_key(made)
        return made


def _wait_for_key(client: ServerClient) -> None:
    """Wait until a running server accepts a new key, for which it looks again and again."""
    until, pause = meter.now() + KEY_SECONDS, threading.Event()
    while meter.now() < until:
        try:
            client.read("/v1/models")
        except Refused:
            pause.wait(0.1)
        else:
            return


def _is_free(port: int) -> bool:
    with suppress(OSError), socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((HOST, port))
        return True
    return False
