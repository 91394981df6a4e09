"""`RayExecutor` executes runs on the nodes of a Ray cluster; files are passed through a shared storage.

This machine (the driver) reads tasks, checks the nodes and forecasts memory. A Ray task on a node (`ray_task.py`)
starts the same process for a run as LocalExecutor does, so adapter digests are equal if the numbers of threads are
equal. A run whose process or node is lost raises `Lost`, and is started again by `lost_runs.py`.
"""

from __future__ import annotations

import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import ray

from afina import assets, meter
from afina.cluster import nodes
from afina.cluster.connection import ClusterConnection, connect, disconnect
from afina.cluster.nodes import Node, Room
from afina.errors import AfinaError, NotFound
from afina.events import Listener, Says, ValidationScore, silent
from afina.models import backbone_spec
from afina.studies.executors import problems, rendezvous
from afina.studies.executors.executor import Executor, MemoryForecast
from afina.studies.executors.local_executor import LocalExecutor
from afina.studies.executors.ray_run import RunOnNodes, inputs_to_send, threads
from afina.studies.executors.ray_task import TAIL, checkpoint_name, remove_scratch
from afina.studies.executors.reservation import NodeReservations
from afina.studies.executors.shared_storage import SharedStorage
from afina.studies.executors.worker import CarryOut, Recorded, Scored, TryOut
from afina.studies.runs.inputs import RunInputs
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.record import Record
from afina.studies.runs.run import Run

ROUNDED = 128 << 20
"""Runs' memory is rounded up to a multiple of this number of bytes, for few sizes of reservations."""

TASK = 160 << 20
"""The bytes of main memory that a Ray task takes in addition to its run."""

FRESH = 1.0
"""The number of slots is computed again from the cluster after this number of seconds."""

CLEARED = 2.0
"""At its end, a study waits for this number of seconds until the nodes have removed its files; a node may hang."""


class RayExecutor(Executor):
    """An executor that executes each run in a new process on a node of a Ray cluster.

    Args:
        address: host:port of the cluster. None: the cluster that `afina.cluster.connect` finds.
        slots: The largest number of runs at the same time. None: as many as the nodes have room for.
        devices: The number of processes of each run, on one node or several: each on a GPU, or on nodes without GPUs,
            on as many processors as a run without `devices`.
        shard: Whether each process of a run keeps only a part of the backbone's weights.
        ship_backbone: Whether a backbone in a directory of this machine is copied to the storage.
        storage: A directory that all nodes can read and write, or s3://BUCKET/PREFIX. None: afina's cache directory, if
            this machine is the only node.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        slots: int | None = None,
        devices: int = 1,
        shard: bool = False,
        ship_backbone: bool = False,
        storage: str | None = None,
        says: Says = silent,
    ) -> None:
        rendezvous.check_devices(devices, shard=shard)
        self.devices, self.shard = devices, shard
        self.address, self.ship_backbone, self.says = address, ship_backbone, says
        self.storage = storage if storage is None or "://" in storage else str(Path(storage).absolute())
        self._local = LocalExecutor()
        self._given = slots
        self._lock, self._foreseeing = threading.RLock(), threading.Lock()
        self._reading = threading.Lock()
        self._runs: set[RunOnNodes] = set()
        self._reservations = NodeReservations(devices)
        self._key = secrets.token_hex(8)
        self._connection: ClusterConnection | None = None
        self._checked: set[tuple[str, str]] = set()
        self._directories: set[str] = set()
        self._opened: SharedStorage | None = None
        self._count: tuple[float, int] = (0.0, 0)
        self._needed: dict[str, int] = {}  # 0: the memory cannot be forecast
        self._of_method: dict[str, int] = {}

    # The cluster

    def _connect(self) -> None:
        with self._lock:
            if self._connection is None:
                self._connection = connect(self.address)
                self.says(_line(self._connection))

    def _cluster(self) -> Room:
        self._connect()
        return nodes.together(node.room for node in nodes.living())

    @property
    def slots(self) -> int:  # type: ignore[override]
        """The given number of slots, or else the number of runs that the nodes have room for now; at least 2."""
        with self._lock:
            read, count = self._count
            if meter.now() - read >= FRESH:
                cluster, needed = self._cluster(), filter(None, self._needed.values())
                least = Room(threads(), _rounded(min(needed, default=0)), min(cluster.gpus, 1))
                count = sum(node.room.times(least) for node in nodes.living()) // self.devices
                self._count = meter.now(), count
        return max(2, count if self._given is None else self._given)

    def largest_memory(self) -> int | None:
        self._connect()
        return max((node.room.memory for node in nodes.living() if node.room.cpus >= threads()), default=None)

    def check_machines(self, run: Run) -> None:
        """Check that the nodes have this machine's package versions, and the backbone of `run` if it is not sent."""
        self._connect()
        with self._lock:
            if not self.ship_backbone and backbone_spec.directory_of(run.backbone) is not None:
                self._directories.add(run.backbone)
            self._check_nodes(nodes.working())

    def _shared_storage(self) -> SharedStorage:
        """Return the shared storage. Raises InvalidStudy if no storage is given and the cluster has other machines."""
        with self._lock:
            if self._opened is None:
                if self.storage is None and (others := nodes.elsewhere()):
                    raise problems.STORAGE_MISSING(option="storage", nodes=[node.name for node in others])
                default = str(assets.cache_directory() / "cluster" / "storage")
                self._opened = SharedStorage(self.storage or default)
            return self._opened

    def _check_nodes(self, there: Sequence[Node]) -> None:
        """Check the nodes that were not checked before. Raises InvalidStudy, Refused or NotFound with their names."""
        with self._lock:
            if fresh := [node for node in there if (node.key, "") not in self._checked]:
                nodes.check_versions(fresh)
                _check_storage(self._shared_storage(), fresh)
                self._checked |= {(node.key, "") for node in fresh}
            for address in self._directories:
                if fresh := [node for node in there if (node.key, address) not in self._checked]:
                    _check_directory(address, fresh)
                    self._checked |= {(node.key, address) for node in fresh}

    def check(self, run: Run) -> list[str]:
        told = super().check(run)
        if run.asks_endpoint:
            return told
        self.check_machines(run)
        return told

    # Memory

    def foresee(self, runs: Sequence[Run]) -> MemoryForecast | None:
        """Forecast the memory of `runs` on this machine and keep it, by which Ray places them; no run waits here."""
        with self._foreseeing:
            unknown = [run for run in runs if run.key not in self._needed and not run.asks_endpoint]
            if unknown and not self._cluster().gpus:
                forecast = self._local.foresee_on(unknown, self.devices, 1, shards=self.shard)
                for run in unknown:
                    self._needed[run.key] = needed = forecast.needed.get(run.key, 0)
                    self._of_method[run.method] = max(needed, self._of_method.get(run.method, 0))
        return None

    def _room(self, run: Run, until: float | None) -> Room:
        """Return what to reserve: a memory that was not forecast is the largest of the method, or else of all runs."""
        if self._cluster().gpus:
            return Room(threads(), 0, 1)
        if not self._of_method and until is None:
            with suppress(AfinaError):  # the run raises the same error when it is executed
                self.foresee([run])
        known = self._of_method
        needed = self._needed.get(run.key) or known.get(run.method) or max(known.values(), default=0)
        return Room(threads(), _rounded(needed))

    # Runs

    def carry_out(self, run: Run, out: Path, study: str, listen: Listener, until: float | None = None) -> Record:
        if run.asks_endpoint:  # the key and the kept answers stay on this machine
            return self._local.carry_out(run, out, study, listen, until)
        made: Record | None = None
        checkpoint = OutputDirectory(out).checkpoint(run.label)
        with self._on_nodes(run, listen, until) as work:
            if checkpoint.is_file() and not work.storage.has(checkpoint_name(run)):  # of a study without Ray
                work.storage.put(checkpoint_name(run), checkpoint)
            self._start(work, CarryOut(run=run, out=str(out), study=study))
            for message in work.messages():
                if isinstance(message, Recorded):
                    made = message.record
            if made is None or not work.is_done:
                raise work.failure()
            work.fetch_files(out)
            return made.beside(work.beside)

    def try_out(
        self,
        run: Run,
        shares: tuple[float, ...],
        limit: int | None,
        goes_on: Callable[[ValidationScore], bool],
        listen: Listener,
        until: float | None = None,
    ) -> ValidationScore:
        last: ValidationScore | None = None
        with self._on_nodes(run, listen, until) as work:
            self._start(work, TryOut(run=run, shares=shares, limit=limit))
            for message in work.messages():
                if isinstance(message, Scored) and not work.stopped:
                    last = message.score
                    if not goes_on(message.score) and not message.last:
                        work.stop()
            if last is None or not (work.stopped or work.is_done):
                raise work.failure()
            return last

    def _start(self, work: RunOnNodes, asked: CarryOut | TryOut) -> None:
        work.start(asked, self._inputs_of(work), self._key, shard=self.shard)

    def _inputs_of(self, work: RunOnNodes) -> RunInputs:
        """Copy a run's input files to the shared storage, and return the inputs."""
        with self._reading:
            inputs = inputs_to_send(RunInputs.of(work.run), ship_backbone=self.ship_backbone)
            for content, path in inputs.content.items():
                work.check()
                work.storage.put_content(content, path)
        return replace(inputs, content={})

    @contextmanager
    def _on_nodes(self, run: Run, listen: Listener, until: float | None) -> Iterator[RunOnNodes]:
        """Yield a run for which nodes are reserved; its tasks end with the `with` block."""
        self._connect()
        work = RunOnNodes(run, listen, until, self._shared_storage(), self.says)
        with self._lock:
            self._runs.add(work)
        try:
            with self._reservations.reserved(self._room(run, until), work.waits, work.check) as reservation:
                self._check_nodes(reservation.nodes)
                with self._lock:
                    work.reservation = reservation
                    for key in work.node_keys:
                        others = [other for other in self._runs if key in other.node_keys]
                        for other in others:
                            other.beside = max(other.beside, len(others))
                try:
                    yield work
                finally:
                    work.kill()
        except ray.exceptions.RayTaskError as error:
            said = f"Ray says: {str(error.cause)[:TAIL]}"
            raise problems.RUN_FAULT(run=run.title, _seen=said) from error
        finally:
            with self._lock:
                self._runs.remove(work)

    def cancel(self, *, at_once: bool = False) -> None:
        self._local.cancel(at_once=at_once)
        with self._lock:
            for work in self._runs:
                work.cancel(at_once=at_once)

    def close(self) -> None:
        with self._lock:
            connection, key = self._connection, self._key
            self._connection, self._key = None, secrets.token_hex(8)
            self._count, self._checked, self._opened = (0.0, 0), set(), None
        if connection is not None:
            try:
                with suppress(ray.exceptions.RayError, RuntimeError):  # the cluster may have ended
                    nodes.on_each(nodes.working(), remove_scratch, key, timeout=CLEARED)
            finally:
                disconnect(connection)


def _rounded(needed: int) -> int:
    """Return the bytes to reserve for a run that needs `needed` bytes and its Ray task; 0 if `needed` is 0."""
    return -(-(needed + TASK) // ROUNDED) * ROUNDED if needed else 0


def _line(found: ClusterConnection) -> str:
    there = nodes.working()
    number = f"{len(there)} node{'s' * (len(there) != 1)}"
    return f"Ray cluster at {found.address} ({found.found}): {number}, {nodes.together(node.room for node in there)}"


def _check_directory(address: str, there: Sequence[Node]) -> None:
    mine = backbone_spec.files_digest(address)
    found = nodes.on_each(there, _digest, backbone_spec.absolute_address(address))
    if wrong := [node.name for node in there if found.get(node.key, mine) != mine]:
        raise problems.BACKBONE_NOT_ON_NODES(backbone=address, nodes=wrong)


def _digest(address: str) -> str | None:
    try:
        return backbone_spec.files_digest(address)
    except NotFound:
        return None


def _check_storage(storage: SharedStorage, there: Sequence[Node]) -> None:
    """Raise NotFound if this machine and the nodes cannot read each other's files in the shared storage."""
    names, wrong = [f"afina probe {secrets.token_hex(8)}"], []
    try:
        with tempfile.NamedTemporaryFile() as probe:
            storage.put(names[0], Path(probe.name))
        said = nodes.on_each(there, _probe, storage.address, names[0])
        for node in (one for one in there if one.key in said):
            written, error = said[node.key]
            if not error and not storage.has(written):
                error = "this machine does not see a file that the node wrote there"
            names.append(written)
            wrong += [f"node {node.name}: {error}"] if error else []
    except AfinaError as error:
        wrong.append(f"this machine: {error}")
    for name in names:
        storage.remove(name)
    if wrong:
        raise problems.STORAGE_UNUSABLE(storage=storage.address, nodes=wrong)


def _probe(address: str, name: str) -> tuple[str, str]:
    """On a node, check that it has the file `name`, and write another; return its name, and an error or ""."""
    mine = f"afina probe {secrets.token_hex(8)}"
    try:
        storage = SharedStorage(address)
        if not storage.has(name):
            return mine, "it does not see a file that another machine wrote there"
        with tempfile.NamedTemporaryFile() as probe:
            storage.put(mine, Path(probe.name))
    except AfinaError as error:
        return mine, str(error)
    return mine, ""
