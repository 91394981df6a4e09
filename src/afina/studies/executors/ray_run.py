"""`RunOnHosts`: the executor's handle of a run or trial on nodes, from its start to the copy of its results."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import ray

from afina import digest, meter, openmp
from afina.events import Listener, Progress
from afina.models import backbone_spec
from afina.studies.executors import problems, rendezvous
from afina.studies.executors.executor import Cancelled, Lost, Overrun
from afina.studies.executors.host_pool import Host, HostDied, HostGroup, HostPool
from afina.studies.executors.lost_runs import cause
from afina.studies.executors.other_ranks import OtherRanks, RankProcess
from afina.studies.executors.ray_host import CheckpointNotKept, HostEvent, RunEnd, RunOrder, checkpoint_name
from afina.studies.executors.shared_storage import SharedStorage
from afina.studies.executors.worker import CarryOut, Message, Progressed, TryOut
from afina.studies.runs.inputs import Input, RunInputs
from afina.studies.runs.run import Run

LATE = 30.0
"""A run is given up this number of seconds after its time limit, if its Ray actor does not answer."""

THREADS, MKL = "OMP_NUM_THREADS", "MKL_NUM_THREADS"


def threads() -> int:
    said = os.environ.get(THREADS, "")
    return int(said) if said.isdecimal() and int(said) > 0 else 1


def variables() -> Mapping[str, str | None]:
    """Return the environment variables that give a run the same number of threads on every node."""
    return {THREADS: str(threads()), MKL: os.environ.get(MKL), **openmp.variables()}


def inputs_to_send(inputs: RunInputs, *, ship_backbone: bool) -> RunInputs:
    """Return the inputs of a run that are sent to nodes.

    A backbone whose files are not sent has an address that all nodes can use; on the Hub, with the commit of this
    machine's copy.
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


class _OfRank(RankProcess):
    """The process of one rank, on a host. Its `end` is None while it is in progress, or if its host died (`death`)."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.end: RunEnd | None = None
        self.death: HostDied | None = None

    def follow(self) -> bool:
        try:
            while self.end is None:
                self.hear(self.host.call("next_events"))
        except HostDied as error:
            self.death = error
        return self.end is not None and self.end.outcome == "done"

    def hear(self, events: Sequence[HostEvent]) -> None:
        self.end = next((event for event in events if isinstance(event, RunEnd)), self.end)

    def kill(self) -> None:
        self.host.actor.cancel.remote(True)


class RunOnHosts:
    """A run or trial on the hosts of a group, one for each device.

    `started` and `ended` speak of all processes. `stopped`: they were ended because no more results are needed, as for
    a pruned trial.
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
        self.group: HostGroup | None = None
        self._ranks: list[_OfRank] = []
        self.cancelled = self.waited = self.started = self.ended = self.stopped = False

    def check(self) -> None:
        if self.cancelled:
            raise Cancelled
        if self.until is not None and meter.now() >= self.until:
            raise Overrun

    def waits(self, note: str) -> None:
        self.waited = True
        self.listen(Progress("wait", note=note))

    def placed(self, group: HostGroup) -> None:
        self.group, self._ranks = group, [_OfRank(host) for host in group.hosts]
        self._others = OtherRanks(self._ranks[0], self._ranks[1:])
        if self.waited:
            self.listen(Progress("load"))

    def cancel(self, *, at_once: bool) -> None:
        """Cancel the run, from another thread; rank 0 stops after its step and ends the others, or all are killed."""
        first, self.cancelled = not self.cancelled, True
        if self.group is not None and (first or at_once):
            for host in self.group.hosts if at_once else (self.group.first,):
                host.actor.cancel.remote(at_once)

    def stop(self) -> None:
        self.stopped = True
        for host in self._on().hosts:
            host.actor.cancel.remote(True)

    def send(self, message: Message) -> None:
        for host in self._on().hosts:
            host.actor.send.remote(message)

    def give_back(self, pool: HostPool) -> None:
        """Give the hosts of the run back to the pool; hosts whose run may still be in progress are ended instead."""
        if self.started and not self.ended:
            pool.discard(self._on())
        else:
            pool.release(self._on())

    def start(self, asked: CarryOut | TryOut, inputs: RunInputs, *, shard: bool = False) -> RunOrder:
        """Start the processes on the hosts, and return rank 0's order. The inputs must be in the shared storage."""
        self.check()
        self.started = True  # so that hosts of which one has died are not used again
        left = None if self.until is None else self.until - meter.now()
        results = f"afina results {secrets.token_hex(8)}"
        requests = self._requests(asked, shard=shard)
        orders = [RunOrder(one, inputs, self.storage.address, left, variables(), results) for one in requests]
        hosts = self._on().hosts
        sent = [host.actor.start.remote(order) for host, order in zip(hosts, orders, strict=True)]
        for host, ref in zip(hosts, sent, strict=True):
            host.get(ref)
        if self.cancelled:  # while the processes were being started
            self._on().first.actor.cancel.remote(False)
        return orders[0]

    def _requests(self, asked: CarryOut | TryOut, *, shard: bool) -> Sequence[CarryOut | TryOut]:
        group = self._on()
        if len(group.hosts) == 1:
            return [asked]
        where, port = group.first.node.address, group.first.call("free_port")
        ranks = rendezvous.ranks_on_nodes(where, port, len(group.hosts), shards=shard)
        return [asked.model_copy(update={"rank": rank}) for rank in ranks]

    def follow(self, hear: Callable[[Message], Message | None]) -> RunEnd | None:
        """Return how rank 0 ended, after all ranks; None if its host died. `hear` may return a reply to all ranks."""
        self._others.start()
        first = self._ranks[0]
        try:
            while first.end is None:
                events = self._next_events(first.host)
                first.hear(events)
                self._pass_on(events, hear)
        except HostDied as error:
            first.death = error
        all_ended = self._others.finish(at_once=self.stopped)
        self.ended = all_ended and all(one.end is not None for one in self._ranks)
        return first.end

    def _next_events(self, host: Host) -> list[HostEvent]:
        timeout = None if self.until is None else max(0.0, self.until - meter.now()) + LATE
        try:
            found: list[HostEvent] = host.get(host.actor.next_events.remote(), timeout)
        except ray.exceptions.GetTimeoutError:
            raise Overrun from None
        return found

    def _pass_on(self, events: Sequence[HostEvent], hear: Callable[[Message], Message | None]) -> None:
        for event in events:
            if isinstance(event, Progressed):
                self.listen(event.progress)
            elif isinstance(event, CheckpointNotKept):
                self.says(f"{self.run.title}, seed {self.run.seed}: a checkpoint is not kept. {event.error}")
            elif not isinstance(event, RunEnd) and (answer := hear(event)) is not None:
                self.send(answer)

    def fetch_files(self, order: RunOrder, end: RunEnd, out: Path) -> None:
        """Move a finished run's files from the shared storage to `out`, and remove its checkpoint from the storage."""
        for name, content in end.files.items():
            path, stored = out / name, order.result(name)
            self.storage.fetch(stored, path)
            if (found := digest.of_file(path)) != content:
                raise problems.FILE_CHANGED(path=path, found=found, expected=content)
            self.storage.remove(stored)
        self.storage.remove(checkpoint_name(self.run))

    def _on(self) -> HostGroup:
        assert self.group is not None
        return self.group

    def failure(self) -> Exception:
        if self.cancelled:
            return Cancelled()
        errors = [error for one in self._ranks if (error := self._error(one)) is not None]
        return cause(errors) if errors else Cancelled()

    def _error(self, one: _OfRank) -> Exception | None:
        """Return the error with which the process of a rank ended; None if it had a result, or was killed by `kill`."""
        if one.death is not None:
            return Lost(str(one.death), of_node=one.death.of_node)
        end, title = one.end, self.run.title
        if end is None or end.outcome in ("done", "cancelled"):
            return None
        if end.outcome == "overrun":
            return Overrun()
        if end.outcome == "killed":
            return Lost(f"{end.error} on node {one.host.node.name}, most likely because memory ran out")
        if end.outcome == "failed":
            return problems.RUN_FAILED(_message=end.error, run=title, cause=end.cause, of_cause=dict(end.of_cause))
        return problems.RUN_FAULT(run=title, _seen=f"The process wrote: {end.error}")
