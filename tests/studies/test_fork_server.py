"""Workers that a server forks: they have what a process of its own start has, and a server's end ends no run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from afina import Backbone, Study
from afina.events import Progress, ignore
from afina.studies.executors import fork_server, worker_memory
from afina.studies.executors.fork_server import ForkedWorker, ForkServer
from afina.studies.executors.local_executor import LocalExecutor
from afina.studies.executors.worker import Foresee
from afina.studies.executors.worker_process import WorkerProcess
from afina.studies.runs.run import Run
from raises import raises

FACTS = """
import gc, json, os, signal, subprocess, sys
import numpy, torch
from threadpoolctl import threadpool_info

def facts():
    torch.ones(64, 64) @ torch.ones(64, 64)
    numpy.ones((64, 64)) @ numpy.ones((64, 64))
    pools = sorted((pool["prefix"], pool["num_threads"]) for pool in threadpool_info())
    left = {"LC_CTYPE"}
    print(json.dumps({
        "pools": pools,
        "threads": torch.get_num_threads(),
        "environment": {name: value for name, value in os.environ.items() if name not in left},
        "masked": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))),
        "handlers": [str(signal.getsignal(one)) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
        "folder": os.getcwd(),
        "files": sorted(int(name) for name in os.listdir("/proc/self/fd")),
        "collected": gc.get_threshold(),
        "flags": [sys.flags.safe_path, sys.path],
    }), flush=True)
    return 3
"""

ALONE = (
    FACTS
    + """
from afina import allocator, openmp
allocator.collect_seldom()
openmp.wait_briefly()
from afina.studies.executors import fork_server
import peft, sklearn.metrics, afina.studies.runs.execute
sys.exit(facts())
"""
)

FORKED = """
from afina.studies.executors import fork_server
serve = fork_server._Server.serve
def instead(server):
    if module := serve(server):
        from afina.studies.executors import worker
        space = {}
        exec(FACTS, space)
        worker.main = space["facts"]
    return module
fork_server._Server.serve = instead
sys.exit(fork_server.main())
"""

pytestmark = pytest.mark.skipif(not fork_server._FORKS, reason="workers are forked on Linux only")


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[fork_server._Servers]:
    """No server yet."""
    fresh = fork_server._Servers()
    monkeypatch.setattr(fork_server, "_servers", fresh)
    yield fresh
    fresh.end()


@pytest.fixture
def run(gpt2: Backbone, toy: str) -> Run:
    train = {"max_steps": 3, "batch_size": 4, "dtype": "float32"}
    content = {"name": "small", "backbone": gpt2.address, "task": toy, "train": train, "methods": {"lora": {}}}
    return Study.parse(content, "small").runs()[0]


def environment(threads: str | None) -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if "THREADS" not in name}
    return found if threads is None else found | {"OMP_NUM_THREADS": threads}


@pytest.mark.slow
def test_the_imports_start_no_thread_compute_nothing_and_look_at_no_gpu() -> None:
    code = """
import torch
def asked(*_):
    raise AssertionError("CUDA cannot be used after a fork")
torch.cuda.is_available = torch.cuda.device_count = torch.cuda._lazy_init = asked
from afina.studies.executors import fork_server
before = torch.get_rng_state()
fork_server.import_libraries()
assert torch.equal(before, torch.get_rng_state())
print(fork_server.threads())
"""
    code = code.replace("import torch\n", "from afina.studies.executors import fork_server\nimport torch\n", 1)
    alone = {**environment(None), **fork_server._ALONE}
    done = subprocess.run([sys.executable, "-c", code], env=alone, capture_output=True, text=True, check=True)
    assert done.stdout == "['python']\n"


@pytest.mark.slow
@pytest.mark.parametrize("threads", [None, "1"])
def test_a_forked_worker_has_what_a_process_of_its_own_start_has(
    threads: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = environment(threads)
    with fork_server.ctrl_c_later():
        alone = subprocess.run([sys.executable, "-P", "-c", ALONE], env=given, stdout=subprocess.PIPE, cwd=tmp_path)
    popen = subprocess.Popen

    def instead(command: list[str], **rest: Any) -> Any:
        return popen([*command[:2], "-c", f"import sys\nFACTS = {FACTS!r}\n{FORKED}"], **rest)

    monkeypatch.setattr(subprocess, "Popen", instead)
    server = ForkServer(given)
    assert server.is_ready(lambda: True)
    monkeypatch.chdir(tmp_path)
    worker = server.fork("afina.studies.executors.worker", 2)
    assert worker is not None
    with worker.stdin, worker.stdout:
        forked = json.loads(worker.stdout.read())
    assert worker.wait() == alone.returncode == 3
    expected = json.loads(alone.stdout)
    assert forked == expected
    server.control.close()
    assert server.process.wait() == 0


def test_a_process_with_threads_or_with_a_gpu_driver_in_use_is_not_forked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fork_server, "threads", lambda: ["python"])
    assert fork_server.can_fork()
    with (tmp_path / "nvidia-uvm").open("w"):
        monkeypatch.setattr(fork_server, "_GPUS", (str(tmp_path),))
        assert not fork_server.can_fork()
    assert fork_server.can_fork()
    monkeypatch.setattr(fork_server, "threads", lambda: ["python", "jemalloc_bg_thd"])
    assert not fork_server.can_fork()


@pytest.mark.slow
def test_a_forked_worker_makes_the_record_of_one_started_alone(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def carried_out(place: str) -> Any:
        (tmp_path / place).mkdir()
        return LocalExecutor().carry_out(run, tmp_path / place, "small", ignore)

    forked = carried_out("forked")
    monkeypatch.setattr(fork_server, "_FORKS", False)
    alone = carried_out("alone")
    measured = {"seconds", "memory", "tokens_per_second", "content_digest"}
    assert forked.model_dump(exclude=measured) == alone.model_dump(exclude=measured)
    same = {"state_bytes", "activation_bytes", "activation_tokens"}
    assert forked.memory.model_dump(include=same) == alone.memory.model_dump(include=same)
    assert forked.memory.rss_peak == pytest.approx(alone.memory.rss_peak, rel=0.25)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_the_memory_of_a_worker_is_measured_in_one_of_the_server_that_is_prepared(
    monkeypatch: pytest.MonkeyPatch, servers: fork_server._Servers
) -> None:
    worker_memory.prepare()
    (server,) = servers.by_surroundings.values()
    measured = worker_memory.worker_memory.__wrapped__()
    assert [*servers.by_surroundings.values()] == [server]
    monkeypatch.setattr(fork_server, "_FORKS", False)
    alone = worker_memory.worker_memory.__wrapped__()  # with the pages that only the imports have read
    assert measured < alone < 1.5 * measured


def test_each_environment_has_a_server_of_its_own_and_two_at_most_stay(
    servers: fork_server._Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, str]] = []

    class Fake:
        def __init__(self, environment: dict[str, str]) -> None:
            started.append(environment)
            self.process = self

        def poll(self) -> None:
            return None

        def is_ready(self, wanted: Callable[[], bool]) -> bool:
            return wanted()

        def close(self) -> None:
            started.remove({})

    monkeypatch.setattr(fork_server, "ForkServer", Fake)
    one, two, three = ({}, {"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "2"})
    first = fork_server.server_for(one, lambda: True)
    assert fork_server.server_for(one, lambda: True) is first
    assert fork_server.server_for(two, lambda: False) is None
    assert started == [one, two]
    fork_server.server_for(three, lambda: True)
    assert started == [two, three]
    servers.by_surroundings.clear()
    servers.closed.clear()


@pytest.mark.slow
@pytest.mark.usefixtures("servers")
def test_where_a_server_cannot_start_each_worker_is_started_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    popen = subprocess.Popen

    def instead(command: list[str], **rest: Any) -> Any:
        if "afina.studies.executors.fork_server" not in command:
            return popen(command, **rest)
        with started.open("a") as lines:
            lines.write("a server\n")
        return popen([*command[:2], "-c", "import sys; sys.exit(1)"], **rest)

    monkeypatch.setattr(subprocess, "Popen", instead)
    for _ in range(2):
        with WorkerProcess(Foresee(runs=()), None, None) as worker:
            assert isinstance(worker.process, popen)
        assert worker.process.returncode == 1
    assert started.read_text() == "a server\n", "it was tried again"


@pytest.mark.slow
def test_a_run_goes_on_where_its_server_is_killed_and_the_next_has_another(
    run: Run, tmp_path: Path, servers: fork_server._Servers
) -> None:
    killed: list[int] = []

    def kill(progress: Progress) -> None:
        if progress.phase == "train" and not killed:
            (server,) = servers.by_surroundings.values()
            os.kill(server.process.pid, signal.SIGKILL)
            server.process.wait()
            killed.append(server.process.pid)

    first = LocalExecutor().carry_out(run, tmp_path, "small", kill)
    assert killed
    again = Path(tempfile.mkdtemp(dir=tmp_path))
    assert LocalExecutor().carry_out(run, again, "small", ignore).digest == first.digest
    (server,) = servers.by_surroundings.values()
    assert server.process.poll() is None
    assert server.process.pid != killed[0]


@pytest.mark.slow
def test_a_worker_that_is_killed_says_its_signal_also_where_its_server_was_killed_before(
    servers: fork_server._Servers,
) -> None:
    for with_server in (False, True):
        with WorkerProcess(Foresee(runs=()), None, None) as worker:
            assert isinstance(worker.process, ForkedWorker)
            (server,) = servers.by_surroundings.values()
            if with_server:
                server.process.kill()
                server.process.wait()
            worker.process.kill()
            worker.process.kill()
        assert worker.process.returncode == -signal.SIGKILL
        with raises(Exception, code="run.killed", signal=9, run="memory forecast"):
            raise worker.failure()


@pytest.mark.slow
def test_an_idle_server_ends_and_an_ended_client_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from afina.studies.executors import fork_server as server; server.IDLE = 0.1; raise SystemExit(server.main())"
    )
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **rest: popen([*command[:2], "-c", code], **rest))
    server = ForkServer(dict(os.environ))
    assert server.process.wait(60) == 0
    assert server.fork("afina.studies.executors.worker", 2) is None
    server.control.close()
