"""The services of these tests are real, of their own, and end with whoever started them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psycopg
import pytest

from services import Postgres


@pytest.mark.slow
def test_each_database_of_postgres_is_new(postgres: Postgres) -> None:
    first, second = postgres.database(), postgres.database()
    assert first != second
    with psycopg.connect(first) as connection:
        connection.execute("CREATE TABLE kept (a int)")
    with psycopg.connect(second) as connection:
        assert connection.execute("SELECT to_regclass('kept')").fetchone() == (None,)


STARTS_ONE = """
    import sys, time
    from services import Service
    from test_services import listens

    running = Service(lambda port, _: [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"], listens)
    print(running.port, running.directory, flush=True)
    time.sleep(60)
"""


def listens(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_service_ends_with_the_tests_that_started_it_however_these_end(how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STARTS_ONE)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    ) as tests:
        assert tests.stdout is not None
        port, directory = tests.stdout.readline().split()
        assert listens(int(port))
        tests.send_signal(how)
    deadline = time.monotonic() + 30
    while listens(int(port)) or Path(directory).exists():
        assert time.monotonic() < deadline, "the service is still there"
        time.sleep(0.05)
