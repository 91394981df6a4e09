"""`LocalExecutor` executes each run in a new process on this machine. The module can be imported without torch."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from afina import meter
from afina.events import Listener, ValidationScore, ignore
from afina.models.backbone_spec import FLOAT
from afina.studies.executors import fork_server, rendezvous
from afina.studies.executors.executor import Executor, MemoryForecast
from afina.studies.executors.worker import CarryOut, Foresee, GoOn, MemoryForeseen, Recorded, Request, Scored, TryOut
from afina.studies.executors.worker_group import WorkerGroup
from afina.studies.executors.worker_process import WorkerProcess, variables
from afina.studies.runs.record import Record
from afina.studies.runs.run import Run
from afina.training import settings

MOST_DEVICES = 8
"""The largest number of processes that execute a run together on a machine with at most so many processors."""


class LocalExecutor(Executor):
    """Executes each run in a new process.

    One for each of `devices`, which share the processors of this machine equally.
    """

    def __init__(self, slots: int = 1, *, devices: int = 1, shard: bool = False) -> None:
        rendezvous.check_devices(devices, shard=shard, most=max(MOST_DEVICES, os.cpu_count() or 1))
        self.slots, self.devices, self.shard = slots, devices, shard
        self._workers: set[WorkerGroup] = set()
        self._lock = threading.Lock()

    def prepare(self) -> None:
        fork_server.prepare(variables(self._threads))

    def usual_products(self) -> settings.Products:
        return "float" if self.shard else settings.usual_products()

    def check_products(self, products: str) -> None:
        if products != FLOAT:
            from afina.studies.runs import prepared  # loads torch

            prepared.check_products(products)

    def fetch(self, backbone: str) -> None:
        from afina.models.pretrained import locate  # loads torch

        locate(backbone)

    def carry_out(self, run: Run, out: Path, study: str, listen: Listener, until: float | None = None) -> Record:
        made: Record | None = None
        with self._worker(CarryOut(run=run, out=str(out), study=study), until) as worker:
            for message in worker.answers(listen):
                if isinstance(message, Recorded):
                    made = message.record
        if made is None:
            raise worker.failure()
        return made.beside(worker.most)

    def try_out(
        self,
        run: Run,
        shares: tuple[float, ...],
        limit: int | None,
        goes_on: Callable[[ValidationScore], bool],
        listen: Listener,
        until: float | None = None,
    ) -> ValidationScore:
        with self._worker(TryOut(run=run, shares=shares, limit=limit), until) as worker:
            for message in worker.answers(listen):
                if isinstance(message, Scored):
                    if not goes_on(message.score) or message.last:
                        return message.score
                    worker.send(GoOn())
        raise worker.failure()

    def foresee(self, runs: Sequence[Run]) -> MemoryForecast | None:
        return self.foresee_on(runs, self.devices, self.devices, shards=self.shard)

    def foresee_on(self, runs: Sequence[Run], devices: int, here: int, *, shards: bool) -> MemoryForecast:
        """Return the memory forecast of runs, computed in another process, because a forecast loads torch.

        Runs that differ only in their seed are forecast once. `here` of the `devices` processes of a run share the main
        memory of one machine.
        """
        alike = {run.key: run.model_copy(update={"seed": 0}) for run in runs}
        asked = {run.key: run for run in alike.values()}
        with self._worker(Foresee(runs=tuple(asked.values()), devices=devices, here=here, shards=shards)) as worker:
            for message in worker.answers(ignore):
                if isinstance(message, MemoryForeseen):
                    needed = {key: message.needed[run.key] for key, run in alike.items() if run.key in message.needed}
                    return MemoryForecast(message.available, needed)
        raise worker.failure()

    def cancel(self, *, at_once: bool = False) -> None:
        with self._lock:
            for worker in self._workers:
                worker.cancel(at_once=at_once)

    @contextmanager
    def _worker(self, request: Request, until: float | None = None) -> Iterator[WorkerGroup]:
        """Yield the processes of a run or a measurement; `cancel` can end them during the `with` block."""
        with self._requests(request) as requests:
            worker = WorkerGroup([WorkerProcess(one, until, self._threads) for one in requests])
            with self._lock:  # before it starts, so that `cancel` does not wait for the imports of its server
                self._workers.add(worker)
                for each in self._workers:
                    each.most = max(each.most, len(self._workers))
            try:
                with worker:
                    yield worker
            finally:
                with self._lock:
                    self._workers.remove(worker)

    @contextmanager
    def _requests(self, request: Request) -> Iterator[list[Request]]:
        """Yield the request to each process of a run or a measurement, in the order of the ranks."""
        if self.devices == 1 or not isinstance(request, CarryOut | TryOut) or request.run.asks_endpoint:
            yield [request]
            return
        with tempfile.TemporaryDirectory(prefix="afina-ranks-") as directory:
            ranks = rendezvous.ranks_here(directory, self.devices, shards=self.shard)
            yield [request.model_copy(update={"rank": rank}) for rank in ranks]

    @property
    def _threads(self) -> int | None:
        """The number of torch threads of each worker; None means torch's default."""
        processes = self.slots * self.devices
        return max(1, meter.processors() // processes) if processes > 1 else None
