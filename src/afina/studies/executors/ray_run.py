"""A run on a host: what an executor does for one run or trial on a node of a cluster, from its inputs to its files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray

from afina import file_io, meter, openmp
from afina.cluster.pieces import Transfers
from afina.errors import RunFailed
from afina.events import Listener, Progress
from afina.models import backbone_spec
from afina.studies.executors.host_pool import Host, HostPool
from afina.studies.executors.ray_host import TAIL, CheckpointWritten, HostError, RunEnd, StorageFailed
from afina.studies.runs.executor import Cancelled, Lost, Overrun
from afina.studies.runs.inputs import Input, RunInputs
from afina.studies.runs.run import Run
from afina.studies.runs.worker import CarryOut, Message, Progressed, TryOut

LATE = 30.0
"""Seconds after its time limit at which a run is given up whose host does not answer."""

PULLS = 4
"""A checkpoint is fetched if so many times the seconds of the last fetch have passed."""

THREADS, MKL = "OMP_NUM_THREADS", "MKL_NUM_THREADS"


def threads() -> int:
    """Return the threads of a run: OMP_NUM_THREADS of this process, else 1."""
    said = os.environ.get(THREADS, "")
    return int(said) if said.isdecimal() and int(said) > 0 else 1


def variables() -> Mapping[str, str | None]:
    """Return the variables of a run's process that decide its threads, so that they are the same on every node."""
    return {THREADS: str(threads()), MKL: os.environ.get(MKL), **openmp.variables()}


def absolute(address: str) -> str:
    """Return the address of a backbone in a directory with the directory's absolute path."""
    place = backbone_spec.directory_of(address)
    return address if place is None else backbone_spec.moved_address(address, place.absolute())


def inputs_to_send(inputs: RunInputs, *, ship_backbone: bool) -> RunInputs:
    """Return the inputs that nodes need. A backbone that is not sent has an address that means the same on each node.

    The address of a backbone on the Hub gets the commit of this machine's copy, so that no node reads a later one.
    """
    one = inputs.backbone
    if one.files and ship_backbone:
        return inputs
    address = absolute(one.address)
    if not one.files and one.address not in backbone_spec.PACKAGED and one.digest and "@" not in address:
        address = f"{address}@{one.digest}"
    task = [file.digest for part in (inputs.task, inputs.evaluation) for file in (part.files if part else ())]
    content = {each: path for each, path in inputs.content.items() if each in task}
    return replace(inputs, backbone=Input(address, one.digest), content=content)


class RunOnHost:
    """One run or trial on a host.

    Attributes:
        cancelled: Whether `cancel` was called.
        started, ended: Whether the process has been started, and has ended.
        stopped: Whether the process was ended because no more is asked of it.
        done: Whether the files of the finished run are on this machine.
    """

    def __init__(
        self, run: Run, listen: Listener, until: float | None, storage: str | None, says: Callable[[str], object]
    ) -> None:
        self.run, self.listen, self.until, self.storage, self.says = run, listen, until, storage, says
        self.host: Host | None = None
        self.cancelled = self.waited = False
        self.started = self.ended = self.stopped = self.done = False
        self._fetched, self._pull = 0.0, 0.0

    # Before the run

    def check(self) -> None:
        """Raise Cancelled or Overrun if the run must not begin or go on."""
        if self.cancelled:
            raise Cancelled
        if self.until is not None and meter.now() >= self.until:
            raise Overrun

    def waits(self, note: str) -> None:
        """Tell the listener what the run waits for."""
        self.waited = True
        self.listen(Progress("wait", note=note))

    def placed(self, host: Host) -> None:
        """Take the host on which the run has a place."""
        self.host = host
        if self.waited:
            self.listen(Progress("load"))

    def cancel(self, *, at_once: bool) -> None:
        """End the run from another thread."""
        first, self.cancelled = not self.cancelled, True
        if self.host is not None and self.started and (first or at_once):
            self.host.actor.cancel.remote(at_once)

    def stop(self) -> None:
        """End the process at once, since no more is asked of it."""
        self.stopped = True
        self._on().actor.cancel.remote(True)

    def give_back(self, pool: HostPool) -> None:
        """Give the host back; a host whose process may still run ends."""
        host = self._on()
        if self.started and not self.ended:
            pool.discard(host)
        else:
            host.actor.clear.remote(self.done)
            pool.release(host)

    def bring(self, key: str, inputs: RunInputs) -> None:
        """Bring the inputs of the run to the host's node, unless they are there."""
        host = self._on()
        if key in host.known:
            return
        transfers: Transfers[Any] = Transfers(ray.get)
        for digest, path in inputs.content.items():
            self.check()
            if host.call("lacks", digest):
                try:
                    transfers.send(path, partial(self._put, digest))
                except BaseException:
                    host.actor.drop.remote(digest)
                    raise
                host.call("complete", digest)
        host.call("locate", key, replace(inputs, content={}))
        host.known.add(key)

    def _put(self, digest: str, offset: int, piece: bytes) -> Any:
        self.check()
        return self._on().actor.receive.remote(digest, offset, piece)

    def begin(self, checkpoint: Path | None) -> None:
        """Make the run's scratch directory on the node, with the checkpoint from which the run continues."""
        host = self._on()
        name = f"afina checkpoint {self.run.key}"
        found = host.call("begin", self.run.label, None if checkpoint is None else self.storage, name)
        if not found and checkpoint is not None and checkpoint.is_file():
            transfers: Transfers[Any] = Transfers(ray.get)
            transfers.send(checkpoint, host.actor.receive_checkpoint.remote)

    # The run

    def start(self, asked: CarryOut | TryOut, key: str) -> None:
        """Start the process of the run."""
        self.check()
        left = None if self.until is None else self.until - meter.now()
        self._on().call("start", asked, key, left, variables())
        self.started = True
        if self.cancelled:  # while the process was being started
            self._on().actor.cancel.remote(False)

    def follow(self, hear: Callable[[Message], Message | None], checkpoint: Path | None) -> RunEnd:
        """Wait for the end of the process; `hear` receives its messages, and returns an answer for the process.

        Args:
            checkpoint: The path to which checkpoints are fetched.
        """
        host = self._on()
        while True:
            ref = host.actor.next_events.remote()
            for event in self._get(ref):
                if isinstance(event, RunEnd):
                    self.ended = True
                    return event
                if isinstance(event, Progressed):
                    self.listen(event.progress)
                elif isinstance(event, StorageFailed):
                    self.says(f"{self.run.title}, seed {self.run.seed}: a checkpoint is not kept. {event.error}")
                elif isinstance(event, CheckpointWritten):
                    if checkpoint is not None and meter.now() - self._fetched >= PULLS * self._pull:
                        self.fetch_checkpoint(checkpoint)
                elif (answer := hear(event)) is not None:
                    host.actor.send.remote(answer)

    def _get(self, ref: Any) -> list[Any]:
        timeout = None if self.until is None else max(0.0, self.until - meter.now()) + LATE
        try:
            found: list[Any] = ray.get(ref, timeout=timeout)
        except ray.exceptions.GetTimeoutError:
            raise Overrun from None
        return found

    def fetch_checkpoint(self, path: Path) -> None:
        """Fetch the run's checkpoint; if the run has none, as after it diverged, remove an earlier one."""
        began = meter.now()
        opened = self._on().call("open", None)
        if opened is None:
            path.unlink(missing_ok=True)
        else:
            with file_io.replacing(path) as fresh:
                self._fetch(fresh, *opened)
        self._fetched = meter.now()
        self._pull = self._fetched - began

    def fetch_files(self, end: RunEnd, out: Path) -> None:
        """Fetch the files of a finished run to `out`."""
        for name, size in end.sizes.items():
            path = out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name in end.content:
                path.write_bytes(end.content[name])
            else:
                self._fetch(path, *self._on().call("open", name))
            assert path.stat().st_size == size
        self.done = True

    def _fetch(self, path: Path, number: int, size: int) -> None:
        host = self._on()
        transfers: Transfers[Any] = Transfers(ray.get)
        transfers.fetch(path, size, partial(host.actor.read.remote, number))
        host.actor.close.remote(number)

    def _on(self) -> Host:
        assert self.host is not None
        return self.host

    def failure(self, end: RunEnd) -> Exception:
        """Return the error with which the run ended."""
        if end.outcome == "cancelled" or self.cancelled:
            return Cancelled()
        if end.outcome == "overrun":
            return Overrun()
        if end.outcome == "killed":
            return Lost(f"{end.error} on node {self._on().node.name}, most likely because memory ran out")
        title = self.run.title
        if end.outcome == "failed":
            return RunFailed(end.error, run=title, cause=end.cause, of_cause=dict(end.of_cause))
        return fault(title, f"The process wrote: {end.error}")


def fault(title: str, seen: str) -> RunFailed:
    """Return the error of a run that a bug ended; `seen` is what the bug left."""
    return RunFailed(
        f"run {title}: a bug in afina ended its process. Please report the bug. The other runs are not affected. "
        f"{seen}",
        code="run.fault",
        run=title,
    )


@contextmanager
def errors_of(run: Run) -> Iterator[None]:
    """Raise RunFailed if a method of a host raised an error in the block."""
    try:
        yield
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, HostError):
            message, code, fields = error.cause.args
            raise RunFailed(f"run {run.title}: {message}", run=run.title, cause=code, of_cause=fields) from None
        raise fault(run.title, f"Ray says: {str(error.cause)[:TAIL]}") from error
