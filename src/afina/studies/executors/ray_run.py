"""`RunOnHost`: the executor's handle of a run or trial on a node, from its start to the copy of its results."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from afina import digest, meter, openmp
from afina.events import Listener, Progress
from afina.models import backbone_spec
from afina.studies.executors import problems
from afina.studies.executors.executor import Cancelled, Lost, Overrun
from afina.studies.executors.host_pool import Host, HostPool
from afina.studies.executors.ray_host import CheckpointNotKept, RunEnd, RunOrder, checkpoint_name
from afina.studies.executors.shared_storage import SharedStorage
from afina.studies.executors.worker import CarryOut, Message, Progressed, TryOut
from afina.studies.runs.inputs import Input, RunInputs
from afina.studies.runs.run import Run

LATE = 30.0
"""A run is given up this number of seconds after its time limit, if its Ray actor does not answer."""

THREADS, MKL = "OMP_NUM_THREADS", "MKL_NUM_THREADS"


def threads() -> int:
    """Return the number of threads of each run: the value of this process's OMP_NUM_THREADS, or 1 if it is not set."""
    said = os.environ.get(THREADS, "")
    return int(said) if said.isdecimal() and int(said) > 0 else 1


def variables() -> Mapping[str, str | None]:
    """Return the environment variables that give a run the same number of threads on every node."""
    return {THREADS: str(threads()), MKL: os.environ.get(MKL), **openmp.variables()}


def inputs_to_send(inputs: RunInputs, *, ship_backbone: bool) -> RunInputs:
    """Return the inputs of a run that are sent to nodes.

    If the files of the backbone are not sent, the inputs have an address of the backbone that all nodes can use. The
    address of a backbone on the Hub then has the commit of this machine's copy, so that no node reads a later commit.
    """
    one = inputs.backbone
    if one.files and ship_backbone:
        return inputs
    address = backbone_spec.absolute_address(one.address)
    if not one.files and one.address not in backbone_spec.PACKAGED and one.digest and "@" not in address:
        address = f"{address}@{one.digest}"
    parts = (inputs.task, inputs.evaluation, inputs.unlabelled, inputs.without, inputs.teacher)
    sent = [file.digest for part in parts for file in (part.files if part else ())]
    content = {each: path for each, path in inputs.content.items() if each in sent}
    return replace(inputs, backbone=Input(address, one.digest), content=content)


class RunOnHost:
    """A run or trial on a node of a Ray cluster.

    Attributes:
        cancelled: Whether `cancel` was called for this run.
        started: Whether the run's process has been started.
        ended: Whether the run's process has ended.
        stopped: Whether the executor ended the process because it needs no more results, as for a pruned trial.
    """

    def __init__(
        self,
        run: Run,
        listen: Listener,
        until: float | None,
        storage: SharedStorage,
        says: Callable[[str], object],
    ) -> None:
        self.run, self.listen, self.until, self.storage, self.says = run, listen, until, storage, says
        self.host: Host | None = None
        self.cancelled = self.waited = self.started = self.ended = self.stopped = False

    def check(self) -> None:
        """Raise Cancelled or Overrun if the run was cancelled or is past its time limit."""
        if self.cancelled:
            raise Cancelled
        if self.until is not None and meter.now() >= self.until:
            raise Overrun

    def waits(self, note: str) -> None:
        self.waited = True
        self.listen(Progress("wait", note=note))

    def placed(self, host: Host) -> None:
        """Note the host (Ray actor) that executes the run."""
        self.host = host
        if self.waited:
            self.listen(Progress("load"))

    def cancel(self, *, at_once: bool) -> None:
        """Cancel the run; the method is called from another thread."""
        first, self.cancelled = not self.cancelled, True
        if self.host is not None and (first or at_once):
            self.host.actor.cancel.remote(at_once)

    def stop(self) -> None:
        """End the run's process at once, because no further results of it are needed."""
        self.stopped = True
        self._on().actor.cancel.remote(True)

    def give_back(self, pool: HostPool) -> None:
        """Give the host of the run back to the pool; a host whose run may still be in progress is ended instead."""
        host = self._on()
        if self.started and not self.ended:
            pool.discard(host)
        else:
            pool.release(host)

    def start(self, asked: CarryOut | TryOut, inputs: RunInputs) -> RunOrder:
        """Start the run's process on the host, and return the order that was sent to the host.

        The files of `inputs` must be in the shared storage.
        """
        self.check()
        left = None if self.until is None else self.until - meter.now()
        results = f"afina results {secrets.token_hex(8)}"
        order = RunOrder(asked, inputs, self.storage.address, left, variables(), results)
        self._on().call("start", order)
        self.started = True
        if self.cancelled:  # while the process was being started
            self._on().actor.cancel.remote(False)
        return order

    def follow(self, hear: Callable[[Message], Message | None]) -> RunEnd:
        """Wait for the end of the run's process, and return how it ended.

        The function `hear` receives the messages of the process, and returns a reply to send, or None.
        """
        host = self._on()
        while True:
            for event in self._get(host.actor.next_events.remote()):
                if isinstance(event, RunEnd):
                    self.ended = True
                    return event
                if isinstance(event, Progressed):
                    self.listen(event.progress)
                elif isinstance(event, CheckpointNotKept):
                    self.says(f"{self.run.title}, seed {self.run.seed}: a checkpoint is not kept. {event.error}")
                elif (answer := hear(event)) is not None:
                    host.actor.send.remote(answer)

    def _get(self, ref: Any) -> list[Any]:
        timeout = None if self.until is None else max(0.0, self.until - meter.now()) + LATE
        try:
            found: list[Any] = ray.get(ref, timeout=timeout)
        except ray.exceptions.GetTimeoutError:
            raise Overrun from None
        return found

    def fetch_files(self, order: RunOrder, end: RunEnd, out: Path) -> None:
        """Move a finished run's files from the shared storage to `out`, and remove its checkpoint from the storage."""
        for name, content in end.files.items():
            path, stored = out / name, order.result(name)
            self.storage.fetch(stored, path)
            if (found := digest.of_file(path)) != content:
                raise problems.FILE_CHANGED(path=path, found=found, expected=content)
            self.storage.remove(stored)
        self.storage.remove(checkpoint_name(self.run))

    def _on(self) -> Host:
        assert self.host is not None
        return self.host

    def failure(self, end: RunEnd) -> Exception:
        """Return the exception for a run whose outcome is not "done"."""
        if end.outcome == "cancelled" or self.cancelled:
            return Cancelled()
        if end.outcome == "overrun":
            return Overrun()
        if end.outcome == "killed":
            return Lost(f"{end.error} on node {self._on().node.name}, most likely because memory ran out")
        title = self.run.title
        if end.outcome == "failed":
            return problems.RUN_FAILED(_message=end.error, run=title, cause=end.cause, of_cause=dict(end.of_cause))
        return problems.RUN_FAULT(run=title, _seen=f"The process wrote: {end.error}")
