"""`RunOnNodes`: the executor's handle of a run or trial on nodes, from its start to the copy of its results."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from afina import digest, meter, openmp
from afina.cluster import nodes
from afina.cluster.nodes import Node
from afina.events import Listener, Progress
from afina.models import backbone_spec
from afina.studies.executors import problems, rendezvous
from afina.studies.executors.executor import Cancelled, Lost, Overrun
from afina.studies.executors.lost_runs import GRACE, LATE, cause
from afina.studies.executors.ray_task import (
    CheckpointNotKept,
    RunEnd,
    RunEvent,
    RunOrder,
    checkpoint_name,
    execute_order,
)
from afina.studies.executors.reservation import ReservedNodes
from afina.studies.executors.shared_storage import SharedStorage
from afina.studies.executors.worker import CarryOut, Message, Progressed, TryOut
from afina.studies.runs.inputs import Input, RunInputs
from afina.studies.runs.run import Run

_PAUSE = 1.0
"""The seconds without an event of a run after which its nodes are looked at."""

_KNOWN_LATE = 2.0
"""The seconds within which Ray reports the death of a node whose processes have ended."""

THREADS, MKL = "OMP_NUM_THREADS", "MKL_NUM_THREADS"


def threads() -> int:
    said = os.environ.get(THREADS, "")
    return int(said) if said.isdecimal() and int(said) > 0 else 1


def variables() -> Mapping[str, str | None]:
    """Return the environment variables that give a run the same number of threads on every node."""
    return {THREADS: str(threads()), MKL: os.environ.get(MKL), **openmp.variables()}


def inputs_to_send(inputs: RunInputs, *, ship_backbone: bool) -> RunInputs:
    """Return the inputs that nodes get.

    A backbone that is not sent has an address for all nodes, with this machine's commit.
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


class _RankTask:
    """The Ray task of one rank. `end` is None while the task is in progress, or if it was cancelled or lost."""

    def __init__(self, node: Node, generator: Any) -> None:
        self.node, self._generator = node, generator
        self.end: RunEnd | None = None
        self.lost: Lost | None = None
        self.is_over = self.is_cancelled = False

    @property
    def has_result(self) -> bool:
        return self.end is not None and self.end.outcome == "done"

    @property
    def waitable(self) -> Any:
        """The object for `ray.wait`, ready with the next event; after `cancel`, with the end of the task."""
        return self._generator.completed() if self.is_cancelled else self._generator

    def cancel(self, *, force: bool = False) -> None:
        """End the process after a checkpoint, if it is that of rank 0 and trains; `force`: with the task, at once."""
        self.is_cancelled = True
        ray.cancel(self._generator, force=force)

    def next_event(self) -> RunEvent | None:
        """Return the event that is ready; None if the task is over. Raises RayTaskError for a bug."""
        try:
            event: RunEvent = ray.get(next(self._generator))
        except (StopIteration, ray.exceptions.TaskCancelledError):
            self.is_over = True
            return None
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError:
            self.is_over = True
            if not self.is_cancelled:
                self.lose(of_node=_has_died(self.node))
            return None
        if isinstance(event, RunEnd):
            self.end = event
        return event

    def lose(self, *, of_node: bool) -> None:
        self.is_over = True
        what = f"node {self.node.name}" if of_node else f"its task on node {self.node.name}"
        self.lost = Lost(f"{what} died", of_node=of_node)


def _has_died(node: Node) -> bool:
    """Return whether a node has left the cluster, after waiting until Ray knows it."""
    until, pause = meter.now() + _KNOWN_LATE, threading.Event()
    while nodes.is_alive(node.key):
        if meter.now() >= until:
            return False
        pause.wait(0.05)
    return True


class RunOnNodes:
    """A run or trial in Ray tasks, one for each device.

    `stopped`: the tasks were ended because no more results are needed, as for a pruned trial. `beside` is the largest
    number of runs that were executed on a node of the run at the same time, this run included.
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
        self.reservation: ReservedNodes | None = None
        self.beside = 1
        self.cancelled = self.stopped = False
        self._waited = False
        self._grace_ends: float | None = None
        self._tasks: list[_RankTask] = []
        self._results = f"afina results {secrets.token_hex(8)}"

    @property
    def node_keys(self) -> set[str]:
        return {node.key for node in self.reservation.nodes} if self.reservation else set()

    def check(self) -> None:
        if self.cancelled:
            raise Cancelled
        if self.until is not None and meter.now() >= self.until:
            raise Overrun

    def waits(self, note: str) -> None:
        self._waited = True
        self.listen(Progress("wait", note=note))

    def cancel(self, *, at_once: bool) -> None:
        """Cancel the run, from another thread; rank 0 stops after its step and ends the others, or all are killed."""
        is_first, self.cancelled = not self.cancelled, True
        if at_once:
            self.kill()
        elif is_first and self._tasks:
            self._tasks[0].cancel()

    def kill(self) -> None:
        for task in self._tasks:
            if not task.is_over:
                task.cancel(force=True)

    def stop(self) -> None:
        self.stopped = True
        for task in self._tasks:
            if not task.is_over:
                task.cancel()

    @property
    def is_done(self) -> bool:
        return self._tasks[0].has_result

    def start(self, asked: CarryOut | TryOut, inputs: RunInputs, executor: str, *, shard: bool) -> None:
        """Start the tasks of the run on its nodes. The inputs must be in the shared storage."""
        self.check()
        if self._waited:
            self.listen(Progress("load"))
        assert self.reservation is not None
        left = None if self.until is None else self.until - meter.now()
        work = ray.remote(execute_order)
        for number, request in enumerate(self._requests(asked, self.reservation.nodes, shard=shard)):
            order = RunOrder(request, inputs, self.storage.address, left, variables(), self._results, executor)
            generator = self.reservation.start(work, number, order)
            self._tasks.append(_RankTask(self.reservation.nodes[number], generator))
        if self.cancelled:  # while the tasks were being started
            self._tasks[0].cancel()

    def _requests(self, asked: CarryOut | TryOut, there: Sequence[Node], *, shard: bool) -> Sequence[CarryOut | TryOut]:
        if len(there) == 1:
            return [asked]
        ports = nodes.on_each(there[:1], rendezvous.free_port)
        if not ports:
            raise Lost(f"node {there[0].name} died", of_node=True)
        ranks = rendezvous.ranks_on_nodes(there[0].address, ports[there[0].key], len(there), shards=shard)
        return [asked.model_copy(update={"rank": rank}) for rank in ranks]

    def messages(self) -> Iterator[Message]:
        """Yield the messages of rank 0 except Progressed, until all tasks are over.

        When rank 0 is over, or another task without a result, the others have GRACE seconds to end by themselves.
        """
        while running := [task for task in self._tasks if not task.is_over]:
            ready, _ = ray.wait([task.waitable for task in running], timeout=_PAUSE)
            for task in running:
                if not ready and not nodes.is_alive(task.node.key):  # a node that hangs says nothing
                    task.lose(of_node=True)
                if task.waitable in ready and (event := task.next_event()) is not None and task is self._tasks[0]:
                    yield from self._passed_on(event)
            self._end_late(running)

    def _end_late(self, running: Sequence[_RankTask]) -> None:
        """Cancel tasks that have not ended after their deadlines, and give up those that do not answer then."""
        now = meter.now()
        if self.until is not None and now >= self.until + LATE:
            raise Overrun
        if self._grace_ends is None and (self.stopped or any(self._ends_others(task) for task in self._tasks)):
            self._grace_ends = now + GRACE
        if self._grace_ends is None or now < self._grace_ends:
            return
        for task in running:
            if now >= self._grace_ends + LATE:
                task.is_over = True
            elif not task.is_cancelled and not task.is_over:
                task.cancel()

    def _ends_others(self, task: _RankTask) -> bool:
        return task.is_over and (task is self._tasks[0] or not task.has_result)

    def _passed_on(self, event: RunEvent) -> Iterator[Message]:
        if isinstance(event, Progressed):
            self.listen(event.progress)
        elif isinstance(event, CheckpointNotKept):
            self.says(f"{self.run.title}, seed {self.run.seed}: a checkpoint is not kept. {event.error}")
        elif not isinstance(event, RunEnd):
            yield event

    def fetch_files(self, out: Path) -> None:
        """Move a finished run's files from the shared storage to `out`, and remove its checkpoint from the storage."""
        end = self._tasks[0].end
        assert end is not None
        for name, content in end.files.items():
            path, stored = out / name, f"{self._results} {name}"
            self.storage.fetch(stored, path)
            if (found := digest.of_file(path)) != content:
                raise problems.FILE_CHANGED(path=path, found=found, expected=content)
            self.storage.remove(stored)
        self.storage.remove(checkpoint_name(self.run))

    def failure(self) -> Exception:
        if self.cancelled:
            return Cancelled()
        errors = [error for task in self._tasks if (error := self._error(task)) is not None]
        return cause(errors) if errors else Cancelled()

    def _error(self, task: _RankTask) -> Exception | None:
        """Return the error with which the process of a rank ended; None if it had a result, or was cancelled."""
        if task.lost is not None:
            return task.lost
        end, title = task.end, self.run.title
        if end is None or end.outcome in ("done", "cancelled"):
            return None
        if end.outcome == "overrun":
            return Overrun()
        if end.outcome == "killed":
            return Lost(f"{end.error} on node {task.node.name}, most likely because memory ran out")
        if end.outcome == "failed":
            return problems.RUN_FAILED(_message=end.error, run=title, cause=end.cause, of_cause=dict(end.of_cause))
        return problems.RUN_FAULT(run=title, _seen=f"The process wrote: {end.error}")
