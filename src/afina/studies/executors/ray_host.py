"""`RunHost` executes runs on a node of a Ray cluster, one after another, for an executor on another machine.

A run on a node is the same process as on the executor's machine (`WorkerProcess`). Its input files, checkpoints,
adapter and predictions pass through the shared storage. A `RunHost` that is killed leaves its scratch directory in the
node's cache; the next `RunHost` removes the directory.
"""

from __future__ import annotations

import queue
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from afina import assets, digest, file_io, meter
from afina.errors import AfinaError
from afina.events import Progress
from afina.studies.executors import rendezvous
from afina.studies.executors.executor import Cancelled, Overrun
from afina.studies.executors.shared_storage import SharedStorage
from afina.studies.executors.worker import CarryOut, Message, Progressed, TryOut
from afina.studies.executors.worker_process import WorkerProcess
from afina.studies.runs.inputs import Located, RunInputs
from afina.studies.runs.output_directory import ADAPTERS, PREDICTIONS, OutputDirectory
from afina.studies.runs.run import Run

TAIL = 2000
"""The error message about a process that has crashed contains this many last characters of its standard error."""

GATHER = 0.05
"""`next_events` gathers progress messages for this number of seconds before it returns them."""


@dataclass(frozen=True)
class RunOrder:
    """An executor's order to a `RunHost` to execute a run or a trial, or its part on one of several hosts.

    The `RunHost` replaces `asked.out` and `asked.located` by paths on the node. `left`: the seconds until the run must
    end. In `variables`, None means that a variable is not set. `results`: the prefix of the names of the run's adapter
    and predictions in the shared storage.
    """

    asked: CarryOut | TryOut
    inputs: RunInputs
    storage: str
    left: float | None
    variables: Mapping[str, str | None]
    results: str

    @property
    def is_first(self) -> bool:
        """Whether this is the host of rank 0, which reads and writes the files of the run in the shared storage."""
        return self.asked.rank is None or self.asked.rank.number == 0

    def result(self, name: str) -> str:
        return f"{self.results} {name}"


def checkpoint_name(run: Run) -> str:
    return f"afina checkpoint {run.key}"


@dataclass(frozen=True)
class RunEnd:
    """The end of a run's process: "done", "failed", "fault" (a bug), "killed", "overrun" or "cancelled".

    `files` are the digests of the run's files in the shared storage, by their paths in the output directory.
    """

    outcome: str
    error: str = ""
    cause: str = ""
    of_cause: Mapping[str, object] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckpointNotKept:
    error: str


HostEvent = Message | CheckpointNotKept | RunEnd


class RunHost:
    """A Ray actor that executes runs on a node, one at a time; an executor calls its methods from several threads."""

    def __init__(self) -> None:
        self.scratch, self._lock = _scratch_directory(assets.cache_directory() / "cluster")
        self.located: dict[RunInputs, Located] = {}
        self.events: queue.SimpleQueue[HostEvent] = queue.SimpleQueue()
        self.worker: WorkerProcess | None = None

    def hello(self) -> str:
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def free_port(self) -> int:
        return rendezvous.free_port()

    def start(self, order: RunOrder) -> None:
        """Start a run's process, which continues from the run's last checkpoint."""
        until, asked = None if order.left is None else meter.now() + order.left, order.asked
        self.out = Path(tempfile.mkdtemp(prefix="out-", dir=self.scratch))
        checkpoint = OutputDirectory(self.out).checkpoint(asked.run.label)
        self.events = queue.SimpleQueue()
        try:
            storage = SharedStorage(order.storage)
            changes: dict[str, object] = {"located": self._locate(order.inputs, storage)}
            if isinstance(asked, CarryOut):
                changes["out"] = str(self.out)
                if order.is_first:
                    storage.get(checkpoint_name(asked.run), checkpoint)
        except AfinaError as error:  # not every AfinaError can be sent to another process
            shutil.rmtree(self.out, ignore_errors=True)
            why = error.within(f"run {asked.run.title}: ").sentence
            self.events.put(RunEnd("failed", why, error.code, error.fields))
            return
        errors = (self.out / "stderr").open("wb")
        worker = WorkerProcess(
            asked.model_copy(update=changes), until, None, environment=order.variables, errors=errors
        )
        self.worker = worker
        worker.__enter__()
        keeper = _Keeper(storage, checkpoint_name(asked.run), checkpoint, self.events.put)
        threading.Thread(target=self._listen, args=(worker, order, keeper, errors), daemon=True).start()

    def _locate(self, inputs: RunInputs, storage: SharedStorage) -> Located:
        if inputs not in self.located:
            place = Path(tempfile.mkdtemp(prefix="inputs-", dir=self.scratch))
            self.located[inputs] = inputs.materialise(place, storage.fetch)
        return self.located[inputs]

    def _listen(self, worker: WorkerProcess, order: RunOrder, keeper: _Keeper, errors: BinaryIO) -> None:
        events = self.events

        def listen(progress: Progress) -> None:
            if not order.is_first:
                return
            events.put(Progressed(progress=progress))
            if keeper.lags:
                keeper.keep()

        try:
            for message in worker.answers(listen):
                events.put(message)
        finally:
            worker.__exit__(None)
            errors.close()
            done = worker.process.returncode == 0 and worker.problem is None
            if isinstance(order.asked, CarryOut) and order.is_first:
                keeper.finish(done=done)
            end = self._stored(order, keeper.storage) if done else self._failed(worker, order)
            self.worker = None
            shutil.rmtree(self.out, ignore_errors=True)  # before the next run begins: calls have no order
            events.put(end)

    def _stored(self, order: RunOrder, storage: SharedStorage) -> RunEnd:
        """Write the adapter and predictions of a finished run to the shared storage; return a RunEnd with digests."""
        places = (self.out / ADAPTERS, self.out / PREDICTIONS) if order.is_first else ()
        found = [path for place in places for path in sorted(place.rglob("*")) if path.is_file()]
        files = {path.relative_to(self.out).as_posix(): digest.of_file(path) for path in found}
        try:
            for name in files:
                storage.put(order.result(name), self.out / name)
        except AfinaError as error:
            return RunEnd("failed", error.sentence, error.code, error.fields)
        return RunEnd("done", files=files)

    def _failed(self, worker: WorkerProcess, order: RunOrder) -> RunEnd:
        why = worker.failure()
        if isinstance(why, Cancelled | Overrun):
            return RunEnd("cancelled" if isinstance(why, Cancelled) else "overrun")
        if why.code == "run.killed":
            return RunEnd("killed", f"signal {-worker.process.returncode} killed its process")
        if (problem := worker.problem) is not None:
            return RunEnd("failed", self._of_the_run(problem.error, worker, order), problem.code, problem.fields)
        return RunEnd("fault", (self.out / "stderr").read_text(encoding="utf-8", errors="replace")[-TAIL:].strip())

    def _of_the_run(self, message: str, worker: WorkerProcess, order: RunOrder) -> str:
        """Return an error message in which paths on this node are replaced by the run's own addresses and paths."""
        assert isinstance(worker.request, CarryOut | TryOut)
        located, asked, run = worker.request.located, order.asked, order.asked.run
        assert located is not None
        pairs = [(located.task, run.task), (located.evaluation, run.data.evaluation), (located.backbone, run.backbone)]
        if isinstance(asked, CarryOut):
            pairs.append((str(self.out), asked.out))
        for here, named in pairs:
            if here and named:
                message = message.replace(here, named)
        return message

    def next_events(self) -> list[HostEvent]:
        """Wait for messages of the run's process; progress within GATHER seconds is one answer, for fewer calls."""
        found = [self.events.get()]
        until = meter.now() + GATHER
        while isinstance(found[-1], Progressed):
            try:
                found.append(self.events.get(timeout=max(0.0, until - meter.now())))
            except queue.Empty:
                break
        return found

    def send(self, message: Message) -> None:
        if (worker := self.worker) is not None:
            worker.send(message)

    def cancel(self, at_once: bool) -> None:
        if (worker := self.worker) is not None:
            worker.cancel(at_once=at_once)

    def leave(self) -> None:
        """End the run in progress, and remove this host's scratch directory."""
        self.cancel(at_once=True)
        shutil.rmtree(self.scratch, ignore_errors=True)


@dataclass
class _Keeper:
    """A writer of a run's checkpoints to the shared storage; a thread writes one checkpoint at a time, the latest."""

    storage: SharedStorage
    name: str
    checkpoint: Path
    tell: Callable[[CheckpointNotKept], object]
    thread: threading.Thread | None = None

    def __post_init__(self) -> None:
        self.stored = _stamp(self.checkpoint)

    @property
    def lags(self) -> bool:
        return _stamp(self.checkpoint) not in (None, self.stored)

    def keep(self) -> None:
        if self.thread is None or not self.thread.is_alive():
            self.thread = threading.Thread(target=self._put, daemon=True)
            self.thread.start()

    def finish(self, *, done: bool) -> None:
        """Wait until the thread has written its checkpoint; unless the run is done, write the last checkpoint too."""
        if self.thread is not None:
            self.thread.join()
        if not done:
            self._put()

    def _put(self) -> None:
        now = _stamp(self.checkpoint)
        if now == self.stored:
            return
        try:
            if now is None:  # training diverged, and would diverge again
                self.storage.remove(self.name)
            else:
                self.storage.put(self.name, self.checkpoint)
        except FileNotFoundError:
            pass  # the run has ended, and removed its checkpoint
        except AfinaError as error:
            self.tell(CheckpointNotKept(str(error)))
        else:
            self.stored = now


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino


def _scratch_directory(place: Path) -> tuple[Path, int]:
    """Return a new scratch directory that is locked until this process ends; remove those of ended processes."""
    place.mkdir(parents=True, exist_ok=True)
    file_io.sweep_killed(place / "run")
    return file_io.temporary(place / "run")
