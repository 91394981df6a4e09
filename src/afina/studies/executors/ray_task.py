"""`execute_order`: the Ray task that executes a run, or one process of a run, on a node of a cluster.

A run on a node is the same process as on the executor's machine (`WorkerProcess`). Its input files, checkpoints,
adapter and predictions pass through the shared storage. Ray executes further tasks in the process of a task that has
ended, which then has the inputs already.
"""

from __future__ import annotations

import queue
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from afina import assets, digest, file_io, meter
from afina.errors import AfinaError
from afina.events import Progress
from afina.studies.executors.executor import Cancelled, Overrun
from afina.studies.executors.shared_storage import SharedStorage
from afina.studies.executors.worker import CarryOut, GoOn, Message, Progressed, Scored, TryOut
from afina.studies.executors.worker_process import WorkerProcess
from afina.studies.runs.inputs import Located, RunInputs
from afina.studies.runs.output_directory import ADAPTERS, PREDICTIONS, OutputDirectory
from afina.studies.runs.run import Run

TAIL = 2000
"""The error message about a process that has crashed contains this many last characters of its standard error."""

_PAUSE = 0.1
"""The seconds after which a task that waits for its process sees `ray.cancel`, which interrupts no system call."""


@dataclass(frozen=True)
class RunOrder:
    """An executor's order to execute a run or a trial on a node, or its part on one of several nodes.

    The task replaces `asked.out` and `asked.located` by paths on the node. `left`: the seconds until the run must end.
    In `variables`, None means that a variable is not set. `results`: the prefix of the names of the run's adapter and
    predictions in the shared storage. `executor` identifies the executor whose files `remove_scratch` removes.
    """

    asked: CarryOut | TryOut
    inputs: RunInputs
    storage: str
    left: float | None
    variables: Mapping[str, str | None]
    results: str
    executor: str

    @property
    def is_first(self) -> bool:
        """Whether this is the process of rank 0, which has the files of the run in the shared storage."""
        return self.asked.rank is None or self.asked.rank.number == 0


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


RunEvent = Message | CheckpointNotKept | RunEnd


def execute_order(order: RunOrder) -> Iterator[RunEvent]:
    """Execute the order, which continues from the run's last checkpoint; yield the progress, the results and a RunEnd.

    `ray.cancel` raises KeyboardInterrupt here, which ends the process of rank 0 after a checkpoint.
    """
    until = None if order.left is None else meter.now() + order.left
    out: Path | None = None
    try:
        out = _fresh_directory(order.executor, "out-")
        yield from _executed(order, out, until)
    except AfinaError as error:  # not every AfinaError can be sent to another process
        why = error.within(f"run {order.asked.run.title}: ").sentence
        yield RunEnd("failed", why, error.code, error.fields)
    finally:
        if out is not None:
            shutil.rmtree(out, ignore_errors=True)


def _executed(order: RunOrder, out: Path, until: float | None) -> Iterator[RunEvent]:
    storage, asked = SharedStorage(order.storage), order.asked
    located = _located(order.executor, order.inputs, order.storage)
    if isinstance(asked, CarryOut):
        request: CarryOut | TryOut = asked.model_copy(update={"located": located, "out": str(out)})
        keeper = _Keeper(storage, asked.run, out) if order.is_first else None
    else:
        request, keeper = asked.model_copy(update={"located": located}), None
    with (out / "stderr").open("wb") as errors:
        worker = WorkerProcess(request, until, None, environment=order.variables, errors=errors)
        yield from _messages(worker, keeper, is_first=order.is_first)
    if worker.process.returncode or worker.problem is not None:
        yield _failed(worker, order, out)
        return
    files = _files(out) if order.is_first else {}
    for name in files:
        storage.put(f"{order.results} {name}", out / name)
    yield RunEnd("done", files=files)


def _messages(worker: WorkerProcess, keeper: _Keeper | None, *, is_first: bool) -> Iterator[RunEvent]:
    """Start the process, yield its messages until it has ended, and keep its checkpoints."""
    messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()

    def listen(progress: Progress) -> None:
        if is_first:
            messages.put(Progressed(progress=progress))

    def receive() -> None:
        try:
            with worker:
                for message in worker.answers(listen):
                    if isinstance(message, Scored) and not message.last:
                        worker.send(GoOn())  # the executor cancels a trial that is stopped early
                    messages.put(message)
        finally:
            messages.put(None)

    thread = threading.Thread(target=receive, daemon=True)
    try:
        thread.start()
        while (message := _next(messages)) is not None:
            yield message
            if keeper is not None and isinstance(message, Progressed):
                yield from keeper.keep()
    except (KeyboardInterrupt, GeneratorExit):
        worker.cancel(at_once=not is_first)
        if thread.is_alive():  # the interrupt may come before the start
            thread.join()
        if keeper is not None:
            list(keeper.keep())
        raise
    if keeper is not None and (worker.process.returncode or worker.problem is not None):
        yield from keeper.keep(ended=True)


def _next(messages: queue.SimpleQueue[Message | None]) -> Message | None:
    while True:
        with suppress(queue.Empty):
            return messages.get(timeout=_PAUSE)


@cache
def _scratch_directory(executor: str) -> Path:
    """Return this process's scratch directory, which is locked until the process ends; remove those of ended ones."""
    place = assets.cache_directory() / "cluster"
    place.mkdir(parents=True, exist_ok=True)
    file_io.sweep_killed(place / "run")
    directory, _ = file_io.temporary(place / f"run-{executor}")
    return directory


def _fresh_directory(executor: str, prefix: str) -> Path:
    """Make a directory in this process's scratch directory. Raises CannotWrite."""
    try:
        return Path(tempfile.mkdtemp(prefix=prefix, dir=_scratch_directory(executor)))
    except OSError as error:
        raise file_io.cannot_write(assets.cache_directory() / "cluster", error) from None


def remove_scratch(executor: str) -> None:
    """Remove the scratch directories of an executor, none of whose runs is in progress, on this node."""
    for directory in (assets.cache_directory() / "cluster").glob(f"{file_io.TEMPORARY}run-{executor}-*"):
        shutil.rmtree(directory, ignore_errors=True)


@cache
def _located(executor: str, inputs: RunInputs, storage: str) -> Located:
    """Fetch the inputs for this run and further ones of this process."""
    return inputs.materialise(_fresh_directory(executor, "inputs-"), SharedStorage(storage).fetch)


def _files(out: Path) -> dict[str, str]:
    """Return the digests of the adapter and predictions of a finished run, by their paths in `out`."""
    found = [path for place in (ADAPTERS, PREDICTIONS) for path in sorted((out / place).rglob("*")) if path.is_file()]
    return {path.relative_to(out).as_posix(): digest.of_file(path) for path in found}


def _failed(worker: WorkerProcess, order: RunOrder, out: Path) -> RunEnd:
    why = worker.failure()
    if isinstance(why, Cancelled | Overrun):
        return RunEnd("cancelled" if isinstance(why, Cancelled) else "overrun")
    if why.code == "run.killed":
        return RunEnd("killed", f"signal {-worker.process.returncode} killed its process")
    if (problem := worker.problem) is not None:
        return RunEnd("failed", _of_the_run(problem.error, worker, order, out), problem.code, problem.fields)
    return RunEnd("fault", (out / "stderr").read_text(encoding="utf-8", errors="replace")[-TAIL:].strip())


def _of_the_run(message: str, worker: WorkerProcess, order: RunOrder, out: Path) -> str:
    """Return an error message in which paths on this node are replaced by the run's own addresses and paths."""
    assert isinstance(worker.request, CarryOut | TryOut)
    located, asked, run = worker.request.located, order.asked, order.asked.run
    assert located is not None
    pairs = [(located.task, run.task), (located.evaluation, run.data.evaluation), (located.backbone, run.backbone)]
    if isinstance(asked, CarryOut):
        pairs.append((str(out), asked.out))
    for here, named in pairs:
        if here and named:
            message = message.replace(here, named)
    return message


class _Keeper:
    """Copies the checkpoints of a run to the shared storage, and the last one from there, from which it continues."""

    def __init__(self, storage: SharedStorage, run: Run, out: Path) -> None:
        self._storage, self._name = storage, checkpoint_name(run)
        self._checkpoint = OutputDirectory(out).checkpoint(run.label)
        storage.get(self._name, self._checkpoint)
        self._stored = self._stamp()

    def keep(self, *, ended: bool = False) -> Iterator[CheckpointNotKept]:
        """Store the checkpoint if it is new. If the run `ended` with an error and removed the checkpoint, remove it."""
        now = self._stamp()
        try:
            if now is None and ended:  # training diverged, and would diverge again
                self._storage.remove(self._name)
            elif now is not None and now != self._stored:
                self._storage.put(self._name, self._checkpoint)
                self._stored = now
        except FileNotFoundError:
            pass  # the run has ended, and removed its checkpoint
        except AfinaError as error:
            yield CheckpointNotKept(str(error))

    def _stamp(self) -> tuple[int, int] | None:
        try:
            stat = self._checkpoint.stat()
        except FileNotFoundError:
            return None
        return stat.st_mtime_ns, stat.st_ino
