"""`ForkServer`: a process that has imported torch and the other libraries of a run, and forks a worker for each run.

A fork saves the time of the imports, 3 to 5 s. A forked worker gives the same results as a new process (`worker.py`),
because the server computes nothing and has one thread. Libraries read environment variables when they are loaded, so
each set of environment variables has its own server. A server ends with the process that started it, and after `IDLE`
seconds without a worker. Fork servers need Linux. On other operating systems, and if no server can be started, each
worker is a new process. The module can be imported without torch.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from afina import allocator, openmp
from afina.errors import AfinaError

MOST = 2
"""The largest number of fork servers that one process has at the same time."""

IDLE = 60.0
"""A fork server ends after this number of seconds without a worker."""

_POLL = 0.05
"""The seconds between two checks, while a server starts, whether the worker is still needed."""

_READY = b"r"

_FORKS = sys.platform.startswith("linux") and hasattr(os, "pidfd_open")


@contextmanager
def ctrl_c_later() -> Iterator[None]:
    """Block SIGINT and SIGTERM until the `with` block ends, and for good in processes that are started in the block.

    Ctrl-C sends a signal to the whole process group, and stopping a service sends a signal to all its processes.
    Workers block SIGINT and SIGTERM, so that only the study's process decides what happens to a run.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# The client


class ForkedWorker:
    """A forked worker with what afina uses of `subprocess.Popen`; `returncode` is -9 also if the server was killed."""

    def __init__(self, pid: int, handle: int, link: socket.socket, pipes: tuple[int, int]) -> None:
        self.pid, self._handle, self._link = pid, handle, link
        self.stdin = open(pipes[0], "w", encoding="utf-8")  # noqa: SIM115 - the user of the worker closes it
        self.stdout = open(pipes[1], encoding="utf-8")  # noqa: SIM115
        self.returncode: int | Any = None  # as Popen's is typed
        self._lock = threading.Lock()

    def kill(self) -> None:
        with self._lock, suppress(ProcessLookupError):
            if self.returncode is None:
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def wait(self) -> int:
        """Wait until the worker has ended, and return its exit status, or minus the signal that ended it."""
        if self.returncode is None:
            status = self._link.recv(16)  # empty: the server was killed
            if not status:
                with selectors.DefaultSelector() as ended:
                    ended.register(self._handle, selectors.EVENT_READ)
                    ended.select()
            with self._lock:
                self.returncode = int(status or -signal.SIGKILL)
                os.close(self._handle)
            self._link.close()
        return self.returncode


class ForkServer:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, tempfile.TemporaryFile() as said, ctrl_c_later():
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "afina.studies.executors.fork_server"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=said,
                env=environment,
            )

    def is_ready(self, wanted: Callable[[], bool]) -> bool | None:
        """Wait for the end of the imports; False: the server has ended. None: `wanted()` is False before that."""
        while wanted():
            with selectors.DefaultSelector() as heard:
                heard.register(self.control, selectors.EVENT_READ)
                if heard.select(_POLL):
                    return self._peek() == _READY
        return None

    def _peek(self) -> bytes:
        try:
            return self.control.recv(1, socket.MSG_PEEK)  # several threads may wait
        except ConnectionError:
            return b""

    def fork(self, module: str, errors: int) -> ForkedWorker | None:
        """Fork a worker that runs `main` of a module; None if the server has ended. `errors`: a file descriptor."""
        link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        requests, to_worker = os.pipe()
        from_worker, answers = os.pipe()
        folder = os.open(".", os.O_PATH)
        try:
            with theirs:
                socket.send_fds(self.control, [module.encode()], [theirs.fileno(), requests, answers, errors, folder])
            pid, handles, _, _ = socket.recv_fds(link, 16, 1)
        except OSError:
            pid = b""
        finally:
            for descriptor in (requests, answers, folder):
                os.close(descriptor)
        if not pid:
            os.close(to_worker)
            os.close(from_worker)
            link.close()
            return None
        return ForkedWorker(int(pid), handles[0], link, (to_worker, from_worker))

    def close(self) -> None:
        """Let the server end when its workers have ended; a thread that waits for it starts its worker alone."""
        self.control.shutdown(socket.SHUT_WR)


class _Servers:
    """The fork servers of this process, by the environment variables and other state that workers inherit."""

    def __init__(self) -> None:
        self.lock, self.owner = threading.Lock(), os.getpid()
        self.by_surroundings: dict[object, ForkServer] = {}
        self.closed: list[ForkServer] = []
        self.refused: set[object] = set()

    def of(self, environment: Mapping[str, str]) -> ForkServer | None:
        """Return the server for this environment, and start it if necessary; None if no server can be started."""
        surroundings = _surroundings(environment)
        with self.lock:
            if surroundings in self.refused:
                return None
            for ended in [one for one in self.closed if one.process.poll() is not None]:
                ended.control.close()
                self.closed.remove(ended)
            server = self.by_surroundings.pop(surroundings, None)
            if server is not None and server.process.poll() is not None:  # it was idle, or was killed
                server.control.close()
                server = None
            self.by_surroundings[surroundings] = server = server or ForkServer(environment)  # the latest comes last
            for oldest in [*self.by_surroundings][:-MOST]:
                self.closed.append(self.by_surroundings.pop(oldest))
                self.closed[-1].close()
            return server

    def end(self) -> None:
        """Kill the servers at the end of this process; the workers end by themselves."""
        if os.getpid() != self.owner:  # a fork of this process that ends
            return
        for server in (*self.by_surroundings.values(), *self.closed):
            server.control.close()
            server.process.kill()
            server.process.wait()


_servers = _Servers()
atexit.register(_servers.end)


def prepare(environment: Mapping[str, str]) -> None:
    """Start the fork server for an environment, if possible, without waiting for the server's imports."""
    _server(environment)


def start(
    module: str, environment: Mapping[str, str], wanted: Callable[[], bool], errors: IO[bytes] | None = None
) -> subprocess.Popen[str] | ForkedWorker:
    """Start a process that runs the function `main` of a module, with pipes for its standard input and output.

    The process is forked by a fork server if possible, and started by `python -m` otherwise. `wanted` is called while a
    server starts; if it returns False, the process is started without a server.
    """
    server = server_for(environment, wanted)
    with ctrl_c_later():
        forked = server and server.fork(module, 2 if errors is None else errors.fileno())
        return forked or subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            stderr=errors,
            env=environment,
        )


def server_for(environment: Mapping[str, str], wanted: Callable[[], bool]) -> ForkServer | None:
    """Return a fork server that has finished its imports; None if no server can start, or `wanted` returned False."""
    server = _server(environment)
    ready = server and server.is_ready(wanted)
    if ready is False:
        _servers.refused.add(_surroundings(environment))
    return server if ready else None


def _server(environment: Mapping[str, str]) -> ForkServer | None:
    try:
        return _servers.of(environment) if _FORKS else None
    except OSError:
        return None


def _surroundings(environment: Mapping[str, str]) -> object:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_AS)
    return frozenset(environment.items()), frozenset(os.sched_getaffinity(0)), limits


# The server

_OPENBLAS = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS")
"""The environment variables for the number of OpenBLAS's threads; OpenBLAS uses the first that is set."""

_ALONE = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""The environment variables with which imports start no thread of OpenBLAS (NumPy, SciPy) or jemalloc (pyarrow)."""


def import_libraries() -> None:
    """Import torch and the other libraries that a run needs, without starting a thread and without computing."""
    before = {name: os.environ.get(name) for name in _ALONE}
    os.environ.update(_ALONE)
    try:
        import peft  # noqa: F401
        import sklearn.metrics  # noqa: F401

        import afina.studies.runs.execute  # noqa: F401
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def use_threads() -> None:
    """Set the number of OpenBLAS's threads in a forked process to the number that a new process would have."""
    from threadpoolctl import ThreadpoolController

    stated = (re.match(r"\s*0*([1-9]\d*)", os.environ.get(name, "")) for name in _OPENBLAS)
    processors = len(os.sched_getaffinity(0))
    threads = next((int(found[1]) for found in stated if found), processors)
    ThreadpoolController().select(internal_api="openblas").limit(limits=min(threads, processors))


def threads() -> list[str]:
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]


_GPUS = ("/dev/nvidia", "/dev/kfd")
"""The beginnings of the device files of GPU drivers, which cannot be used after a fork."""


def can_fork() -> bool:
    """Return whether this process can be forked safely: the process has one thread, and uses no GPU driver."""
    files = (os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd"))
    return len(threads()) == 1 and not any(file.startswith(_GPUS) for file in files)


class _Server:
    """The loop of the fork server's process, which forks workers until the client has ended."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.heard = selectors.DefaultSelector()
        self.heard.register(control, selectors.EVENT_READ)
        self.workers: dict[int, tuple[int, socket.socket]] = {}

    def serve(self) -> str | None:
        """Fork workers until the client and all workers have ended; return the module to run in a forked worker."""
        listening = True
        while listening or self.workers:
            ready = self.heard.select(IDLE)
            listening = listening and bool(ready or self.workers)
            for key, _ in ready:
                if key.fileobj is not self.control:
                    self._tell_end(key.fd)
                elif (given := self._asked()) is None:
                    listening = False
                    self.heard.unregister(self.control)
                elif not self._fork(socket.socket(fileno=given[1][0]), given[1][1:]):
                    return given[0]
        return None

    def _asked(self) -> tuple[str, list[int]] | None:
        try:
            module, given, _, _ = socket.recv_fds(self.control, 256, 5)
        except ConnectionError:
            return None
        return (module.decode(), given) if given else None

    def _tell_end(self, handle: int) -> None:
        self.heard.unregister(handle)
        os.close(handle)
        pid, link = self.workers.pop(handle)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with link, suppress(OSError):  # the client has ended
            link.send(str(status).encode())

    def _fork(self, link: socket.socket, given: list[int]) -> bool:
        """Fork a worker; return False in the worker's process, and True in the server's process."""
        pid = os.fork()
        if not pid:
            self._become_worker(link, given)
            return False
        for descriptor in given:
            os.close(descriptor)
        handle = os.pidfd_open(pid)
        self.workers[handle] = pid, link
        self.heard.register(handle, selectors.EVENT_READ)
        with suppress(OSError):
            socket.send_fds(link, [str(pid).encode()], [handle])
        return True

    def _become_worker(self, link: socket.socket, given: list[int]) -> None:
        said = os.pread(2, 1 << 20, 0)  # a process that imports by itself writes it, too
        *streams, folder = given
        for descriptor, place in zip(streams, (0, 1, 2), strict=True):
            os.dup2(descriptor, place)
        os.fchdir(folder)
        with suppress(OSError):  # the disk of standard error is full
            os.write(2, said)
        self.heard.close()
        for one in (self.control, link, *(other for _, other in self.workers.values())):
            one.close()
        for descriptor in (*given, *self.workers):
            os.close(descriptor)
        use_threads()


def main() -> int:
    allocator.collect_seldom()
    openmp.wait_briefly()
    control = socket.socket(fileno=os.dup(0))
    try:
        allocator.check_address_space()
        with allocator.memory_errors():
            import_libraries()
        os.close(os.pidfd_open(os.getpid()))
    except (AfinaError, OSError):
        return 1  # a worker that is started alone says what is wrong, if anything is
    if not can_fork():
        return 1
    gc.freeze()
    control.send(_READY)
    module = _Server(control).serve()
    return importlib.import_module(module).main() if module else 0


if __name__ == "__main__":
    allocator.end_at_once(main())
