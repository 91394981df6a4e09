"""RunHost: executes runs on a node of a cluster, one after another, for an executor on another machine.

The executor calls the methods of a host from afar. A run is the same process as on the executor's machine
(`WorkerProcess`). Its inputs are files by digest in the node's cache, and its scratch directory is in that cache too. A
host that ends leaves its scratch directory if it is killed; the next host on the node removes the directory. The module
does not know Ray: `host_pool.py` makes an actor of the class.
"""

from __future__ import annotations

import queue
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from afina import assets, file_io, meter
from afina.cluster.pieces import NodeFiles, OpenFiles, write_piece
from afina.errors import AfinaError
from afina.events import Progress
from afina.studies.executors.shared_storage import SharedStorage
from afina.studies.runs.inputs import Located, RunInputs
from afina.studies.runs.output_directory import ADAPTERS, PREDICTIONS, OutputDirectory
from afina.studies.runs.worker import CarryOut, Message, Progressed, TryOut
from afina.studies.runs.worker_process import Cancelled, Overrun, WorkerProcess

INLINE = 1 << 20
"""The largest size in bytes of all files of a run together that are returned with its end, and not in pieces."""

TAIL = 2000
"""Characters of a process's standard error that a message about its end contains."""

GATHER = 0.05
"""Seconds for which progress is gathered before it is returned."""


@dataclass(frozen=True)
class RunEnd:
    """The end of a run's process on a node.

    Attributes:
        outcome: "done", "failed", "fault" (a bug), "killed", "overrun" or "cancelled".
        error: The message of an error; empty without an error.
        cause, of_cause: Code and fields of the error.
        sizes: The size in bytes of each file that the run left, by its path in the output directory.
        content: The content of these files, if they are small.
    """

    outcome: str
    error: str = ""
    cause: str = ""
    of_cause: Mapping[str, object] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    content: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckpointWritten:
    """A run's process has written its checkpoint."""


@dataclass(frozen=True)
class StorageFailed:
    """A checkpoint could not be written to the shared storage, or not be read from there."""

    error: str


HostEvent = Message | CheckpointWritten | StorageFailed | RunEnd


class HostError(Exception):
    """An error that the user can correct, raised on a node: its message, its code and its fields.

    Not every AfinaError can be sent to another process.
    """


@contextmanager
def _sent() -> Iterator[None]:
    """Raise HostError instead of AfinaError."""
    try:
        yield
    except AfinaError as error:
        raise HostError(str(error), error.code, error.fields) from None


class RunHost:
    """Executes runs on a node, one at a time; its methods are called by an executor, from several threads."""

    def __init__(self) -> None:
        cache = assets.cache_directory() / "cluster"
        self.files, self.open_files = NodeFiles(cache / "files"), OpenFiles()
        self.scratch, self._lock = _scratch_directory(cache / "scratch")
        self.located: dict[str, Located] = {}
        self.places = 0
        self.events: queue.SimpleQueue[HostEvent] = queue.SimpleQueue()
        self.worker: WorkerProcess | None = None
        self.keeper: _Keeper | None = None
        self.out = self.scratch / "0"

    def hello(self) -> str:
        """Return the id of the node; answers as soon as the host has started."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    # Inputs

    def lacks(self, digest: str) -> bool:
        """Return whether the executor has to send this file, as `NodeFiles.lacks` does."""
        return self.files.lacks(digest)

    def receive(self, digest: str, offset: int, piece: bytes) -> None:
        """Receive a piece of a file that the node lacks."""
        with _sent():
            self.files.receive(digest, offset, piece)

    def complete(self, digest: str) -> None:
        """Check a file whose pieces have all arrived, and keep it."""
        with _sent():
            self.files.complete(digest)

    def drop(self, digest: str) -> None:
        """Give up a file that is not sent completely."""
        self.files.drop(digest)

    def locate(self, key: str, inputs: RunInputs) -> None:
        """Write the inputs of runs, which are on this node, where runs with `key` read them."""
        if key not in self.located:
            self.places += 1  # a place that an earlier call left half-written is not used again
            with _sent():
                self.located[key] = inputs.materialise(self.scratch / "inputs" / str(self.places), self.files.place)

    # A run

    def begin(self, label: str, storage: str | None, name: str) -> bool:
        """Make a new scratch directory for a run; with a storage, fetch the checkpoint with this name from there.

        Returns whether the run has a checkpoint now.
        """
        shutil.rmtree(self.out, ignore_errors=True)
        self.out = self.out.with_name(str(int(self.out.name) + 1))
        self.out.mkdir()
        self.checkpoint = OutputDirectory(self.out).checkpoint(label)
        with _sent():
            self.keeper = None if storage is None else _Keeper(SharedStorage(storage), name, self.checkpoint)
            return self.keeper is not None and self.keeper.storage.get(name, self.checkpoint)

    def receive_checkpoint(self, offset: int, piece: bytes) -> None:
        """Receive a piece of the checkpoint from which the run continues."""
        with _sent():
            write_piece(self.checkpoint, offset, piece)

    def start(
        self, asked: CarryOut | TryOut, key: str, left: float | None, variables: Mapping[str, str | None]
    ) -> None:
        """Start the process of a run; `next_events` says what the process does.

        Args:
            asked: The request; `out` and `located` are replaced by those of this node.
            key: The key of the inputs (`locate`).
            left: Seconds until the run has to end; None: no limit.
            variables: Environment variables of the process; None: the variable is not set.
        """
        changes: dict[str, object] = {"located": self.located[key]}
        if isinstance(asked, CarryOut):
            changes["out"] = str(self.out)
        until = None if left is None else meter.now() + left
        errors = (self.out / "stderr").open("wb")
        self.events = queue.SimpleQueue()
        worker = WorkerProcess(asked.model_copy(update=changes), until, None, environment=variables, errors=errors)
        worker.__enter__()
        self.worker = worker
        threading.Thread(target=self._listen, args=(worker, asked, errors), daemon=True).start()

    def _listen(self, worker: WorkerProcess, asked: CarryOut | TryOut, errors: BinaryIO) -> None:
        events, seen = self.events, _stamp(self.checkpoint)

        def listen(progress: Progress) -> None:
            nonlocal seen
            events.put(Progressed(progress=progress))
            if (now := _stamp(self.checkpoint)) != seen and now is not None:
                seen = now
                if self.keeper is None:
                    events.put(CheckpointWritten())
                else:
                    self.keeper.keep(events.put)

        try:
            for message in worker.answers(listen):
                events.put(message)
        finally:
            worker.__exit__(None)
            errors.close()
            end = self._end(worker, asked)
            if self.keeper is not None and end.outcome != "done":
                self.keeper.finish(events.put)
            events.put(end)

    def _end(self, worker: WorkerProcess, asked: CarryOut | TryOut) -> RunEnd:
        if worker.process.returncode == 0 and worker.problem is None:
            sizes, content = self._left() if isinstance(asked, CarryOut) else ({}, {})
            return RunEnd("done", sizes=sizes, content=content)
        why = worker.failure()
        if isinstance(why, Cancelled | Overrun):
            return RunEnd("cancelled" if isinstance(why, Cancelled) else "overrun")
        if why.code == "run.killed":
            return RunEnd("killed", f"signal {-worker.process.returncode} killed its process")
        if (problem := worker.problem) is not None:
            return RunEnd("failed", self._of_the_run(problem.error, worker, asked), problem.code, problem.fields)
        return RunEnd("fault", (self.out / "stderr").read_text(encoding="utf-8", errors="replace")[-TAIL:].strip())

    def _of_the_run(self, message: str, worker: WorkerProcess, asked: CarryOut | TryOut) -> str:
        """Return the message with the addresses that the run names, in place of those of this node."""
        assert isinstance(worker.request, CarryOut | TryOut)
        located, run = worker.request.located, asked.run
        assert located is not None
        pairs = [(located.task, run.task), (located.evaluation, run.data.evaluation), (located.backbone, run.backbone)]
        if isinstance(asked, CarryOut):
            pairs.append((str(self.out), asked.out))
        for here, named in pairs:
            if here and named:
                message = message.replace(here, named)
        return message

    def _left(self) -> tuple[dict[str, int], dict[str, bytes]]:
        """Return sizes and contents of the files of a finished run; the contents only if they are small."""
        places = (self.out / ADAPTERS, self.out / PREDICTIONS)
        found = [path for place in places for path in sorted(place.rglob("*")) if path.is_file()]
        sizes = {path.relative_to(self.out).as_posix(): path.stat().st_size for path in found}
        small = sum(sizes.values()) <= INLINE
        return sizes, {name: (self.out / name).read_bytes() for name in sizes} if small else {}

    def next_events(self) -> list[HostEvent]:
        """Wait for an event; return it and those that follow at once. Progress is gathered for a moment."""
        found = [self.events.get()]
        until = meter.now() + GATHER
        while isinstance(found[-1], Progressed):
            try:
                found.append(self.events.get(timeout=max(0.0, until - meter.now())))
            except queue.Empty:
                break
        return found

    def send(self, message: Message) -> None:
        """Send a message to the process of the run."""
        if self.worker is not None:
            self.worker.send(message)

    def cancel(self, at_once: bool) -> None:
        """End the process of the run: ask it to stop, or kill it."""
        if self.worker is not None:
            self.worker.cancel(at_once=at_once)

    # Files of a run

    def open(self, name: str | None) -> tuple[int, int] | None:
        """Open a file that the run left, by its path in the output directory; None: the run's checkpoint.

        Returns a number for `read` and the size in bytes; None if there is no such file.
        """
        return self.open_files.open(self.checkpoint if name is None else self.out / name)

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Return a piece of an open file."""
        return self.open_files.read(number, offset, size)

    def close(self, number: int) -> None:
        """Close an open file."""
        self.open_files.close(number)

    def clear(self, done: bool) -> None:
        """Remove the files of the last run; if it is `done`, also its checkpoint in the shared storage."""
        self.worker = None
        if done and self.keeper is not None:
            self.keeper.remove()
        shutil.rmtree(self.out, ignore_errors=True)

    def leave(self) -> None:
        """Remove all files of this host; called before the host ends."""
        if self.worker is not None:
            self.worker.cancel(at_once=True)
        shutil.rmtree(self.scratch, ignore_errors=True)


@dataclass
class _Keeper:
    """Writes checkpoints to the shared storage, in a thread; at most one at a time, and always the latest."""

    storage: SharedStorage
    name: str
    checkpoint: Path
    stored: tuple[int, int] | None = None
    thread: threading.Thread | None = None

    def keep(self, tell: Callable[[StorageFailed], object]) -> None:
        """Store the checkpoint, unless an earlier one is still being stored."""
        if self.thread is None or not self.thread.is_alive():
            self.thread = threading.Thread(target=self._put, args=(tell,), daemon=True)
            self.thread.start()

    def finish(self, tell: Callable[[StorageFailed], object]) -> None:
        """Store the last checkpoint, and wait."""
        if self.thread is not None:
            self.thread.join()
        self._put(tell)

    def remove(self) -> None:
        """Remove the checkpoint of a finished run; one that stays there only takes space."""
        if self.thread is not None:
            self.thread.join()
        with suppress(AfinaError):
            self.storage.remove(self.name)

    def _put(self, tell: Callable[[StorageFailed], object]) -> None:
        now = _stamp(self.checkpoint)
        if now == self.stored:
            return
        try:
            if now is None:  # training diverged, and would diverge again
                self.storage.remove(self.name)
            else:
                self.storage.put(self.name, self.checkpoint)
        except (AfinaError, FileNotFoundError) as error:  # the run has ended, and removed its checkpoint
            if isinstance(error, AfinaError):
                tell(StorageFailed(str(error)))
        else:
            self.stored = now


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return a value that changes when the file is written; None if there is no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino


def _scratch_directory(place: Path) -> tuple[Path, int]:
    """Return a new directory that is locked as long as this process lives; remove those of ended processes."""
    place.mkdir(parents=True, exist_ok=True)
    file_io.sweep_killed(place / "run")
    return file_io.temporary(place / "run")
