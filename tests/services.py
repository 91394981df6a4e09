"""Real services for tests: PostgreSQL as Debian packs it, and moto's S3, each a process of its own on this machine.

A guard, which is this file as a program, starts the service and ends it once nobody holds the guard's standard input
any more. So a service ends with the tests that started it, also where these are interrupted or killed.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

LONGEST_S = 60
"""What a service may take to start on a busy machine."""

PORTS = 5
"""Tries: somebody else may take a free port before the service does."""


class DidNotStart(Exception):
    """With the last of what the service said."""


class Service:
    """A program that listens on a port of 127.0.0.1, in a directory of its own, which goes with it."""

    def __init__(self, command: Callable[[int, Path], list[str]], answers: Callable[[int], bool], **guard: Any) -> None:
        """`command` of a port and the directory; `answers` says whether that port is served. May raise DidNotStart."""
        self.directory = directory = Path(guard.pop("directory", None) or tempfile.mkdtemp(prefix="afina-test-"))
        for _ in range(PORTS):
            self.port = free_port()
            told = {"command": command(self.port, directory), "directory": str(directory), **guard}
            self._guard = subprocess.Popen(
                # In a session of its own, so that Ctrl-C reaches the tests alone, which then end the service.
                [sys.executable, "-IS", __file__, json.dumps(told)],
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
            start = time.monotonic()
            while self._guard.poll() is None and time.monotonic() - start < LONGEST_S:
                if answers(self.port):
                    return
                time.sleep(0.05)
            said = (directory / "log").read_text(errors="replace")[-2000:]
            self._close()
            if "in use" not in said:
                break
        shutil.rmtree(directory, ignore_errors=True)
        raise DidNotStart(said)

    def stop(self) -> None:
        """End it and remove its directory."""
        self._close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _close(self) -> None:
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait(LONGEST_S)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Postgres:
    """PostgreSQL with its own settings, but for where it listens; it runs as a user without privileges.

    It does not wait for the disk: tests kill processes, which lose nothing that the system has, and no machine.
    """

    USER = "afina"

    def __init__(self, programs: Path) -> None:
        self.password = secrets.token_hex(8)
        # Not in pytest's own directory, which nobody but its owner may enter.
        directory = Path(tempfile.mkdtemp(prefix="afina-test-"))
        try:
            self._service = self._start(programs, directory)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise

    def _start(self, programs: Path, directory: Path) -> Service:
        user = unprivileged() if os.geteuid() == 0 else None
        word = directory / "password"
        word.write_text(self.password)
        if user is not None:
            for path in (directory, word):
                os.chown(path, user, -1)
        self.directory = directory
        settings = f"--no-sync --username={self.USER} --auth=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8".split()
        identity = {} if user is None else {"user": user, "group": pwd.getpwuid(user).pw_gid, "extra_groups": []}
        made = subprocess.run(
            [programs / "initdb", *settings, f"--pwfile={word}", "--pgdata", directory / "data"],
            capture_output=True,
            text=True,
            cwd="/",
            **identity,  # type: ignore[call-overload]
        )
        if made.returncode:
            raise DidNotStart(made.stderr)
        own = {"listen_addresses": "127.0.0.1", "unix_socket_directories": directory, "fsync": "off"}
        places = [word for name, value in own.items() for word in ("-c", f"{name}={value}")]
        return Service(
            lambda port, _: [str(programs / "postgres"), "-D", str(directory / "data"), "-p", str(port), *places],
            self._answers,
            directory=directory,
            identity=identity,
            # Ends at once, whoever is connected.
            signal=signal.SIGINT,
        )

    def _url(self, port: int, database: str) -> str:
        return f"postgresql://{self.USER}:{self.password}@127.0.0.1:{port}/{database}"

    def _answers(self, port: int) -> bool:
        import psycopg

        try:
            # The password is this server's alone, so nobody else's is taken for it.
            psycopg.connect(self._url(port, "postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def database(self, like: str = "template1") -> str:
        """The URL of a new database: an empty one, or a copy of the one at a URL, which nobody uses meanwhile."""
        import psycopg

        name = f"test_{secrets.token_hex(6)}"
        with psycopg.connect(self._url(self._service.port, "postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {like.rpartition('/')[2]}")
        return self._url(self._service.port, name)

    def stop(self) -> None:
        self._service.stop()


def postgres_programs() -> Path | None:
    """Where Debian keeps the newest PostgreSQL's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    return found[-1].parent if found else None


def unprivileged() -> int:
    """PostgreSQL refuses to run as root."""
    try:
        return pwd.getpwnam("postgres").pw_uid
    except KeyError:
        return pwd.getpwnam("nobody").pw_uid


class S3:
    """moto's S3. It takes any credentials, and keeps what it is given in memory."""

    def __init__(self) -> None:
        self._service = Service(
            lambda port, _: [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            self._answers,
            signal=signal.SIGTERM,
        )
        self.port = self._service.port

    @property
    def environment(self) -> dict[str, str]:
        """What obstore reads."""
        return {
            "AWS_ACCESS_KEY_ID": "invented",
            "AWS_SECRET_ACCESS_KEY": "invented-secret",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
        }

    @staticmethod
    def _answers(port: int) -> bool:
        try:
            return _asked(port, "GET", "/moto-api/") == 200
        except OSError:
            return False

    def bucket(self) -> str:
        """The address of a prefix in a new bucket."""
        name = f"bucket-{secrets.token_hex(6)}"
        assert _asked(self.port, "PUT", f"/{name}") == 200
        return f"s3://{name}/some/prefix"

    def stop(self) -> None:
        self._service.stop()


def moto_is_there() -> bool:
    return importlib.util.find_spec("moto") is not None and importlib.util.find_spec("flask_cors") is not None


def _asked(port: int, method: str, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        return connection.getresponse().status
    finally:
        connection.close()


def _guard(command: list[str], directory: str, identity: dict[str, Any] | None = None, signal: int = 15) -> int:
    """Run the command until it ends, or until standard input does; then end it and remove its directory."""
    with Path(directory, "log").open("ab") as log:
        running = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", **(identity or {})
        )
    closed = threading.Event()

    def wait() -> None:
        while os.read(0, 1024):
            pass
        closed.set()

    threading.Thread(target=wait, daemon=True).start()
    while running.poll() is None and not closed.wait(0.1):
        pass
    if running.poll() is not None:
        return 1
    running.send_signal(signal)
    try:
        running.wait(20)
    except subprocess.TimeoutExpired:
        running.kill()
        running.wait()
    shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(_guard(**json.loads(sys.argv[1])))
