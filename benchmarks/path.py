"""Where the time of one text goes in `afina serve`, stage by stage, compared with the engine alone.

    python benchmarks/path.py --seconds 20

Requests arrive at random, as in `traffic.py`, for random LoRA adapters, and each is stamped at every stage. Client and
server share the machine. The engine alone gets the same texts for the same adapters in the same order: without pause,
and at the times at which they are due. A model of the queue says how much longer a request takes that finds another
one before it (M/D/1: random arrivals, one server, every service as long as the engine's median). The last line of the
output is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

import machine
import tables
from afina import AdapterStore, Backbone, Task
from afina.engine.engine import Engine
from serve import DATA
from traffic import TEXTS, Names, Request, fill, planned

STAGES = {
    "sent": "client: from due to sent",
    "arrived": "socket, and the server's event loop wakes",
    "gated": "head of the request",
    "asked": "key, limits, body",
    "began": "a thread of the pool starts",
    "leased": "version and lease of the adapter",
    "accepted": "tokens",
    "queued": "into the queue",
    "taken": "waits in the queue",
    "forward": "composes the batch",
    "computed": "forward pass",
    "settled": "composes the answers",
    "answered": "back to the event loop, JSON",
    "received": "socket; client: from answer to parsed",
}
"""Each stage by the stamp at its end; the first begins when the request is due."""

CLIENT = "client-00"
"""The client to whom all adapters belong."""

NUMBER = "x-path"
"""The header with the number of the request, so that stamps of client and server are joined."""

RECORD: ContextVar[dict[str, float] | None] = ContextVar("record", default=None)

now = time.perf_counter
"""The same clock in all processes of a machine."""


def stamped(owner: Any, name: str, before: Callable[..., None] | None, after: Callable[..., None] | None) -> None:
    """Let a function of a class call others before it and after it, with its arguments."""
    function = getattr(owner, name)

    def begin(*given: Any, **named: Any) -> None:
        if before is not None:
            before(*given, **named)

    if asyncio.iscoroutinefunction(function):

        @wraps(function)
        async def waited(*given: Any, **named: Any) -> Any:
            begin(*given, **named)
            found = await function(*given, **named)
            if after is not None:
                after(found, *given, **named)
            return found

        setattr(owner, name, waited)
        return

    @wraps(function)
    def called(*given: Any, **named: Any) -> Any:
        begin(*given, **named)
        found = function(*given, **named)
        if after is not None:
            after(found, *given, **named)
        return found

    setattr(owner, name, called)


class Stamps:
    """Stamps of the requests of a server in this process. `out`: receives a JSON line for each request."""

    def __init__(self, out: Path) -> None:
        self._file = out.open("w", encoding="utf-8")
        self._thread, self._batch = threading.local(), dict[str, float]()
        self._asking: dict[int, dict[str, float]] = {}

    def _mark(self, stage: str) -> None:
        if (record := RECORD.get()) is not None:
            record[stage] = now()

    def _scoped(self, gate: Any, scope: Any, receive: Any, send: Any) -> None:
        number = dict(scope.get("headers", ())).get(NUMBER.encode())
        if number is not None:
            RECORD.set(record := {"number": int(number), "gated": now()})
            scope["path.record"] = record

    def _asked(self, pool: Any, accept: Any, asked: Sequence[Any], *more: Any) -> None:
        self._mark("asked")
        if (record := RECORD.get()) is not None:
            self._asking[id(asked[0])] = record

    def _began(self, core: Any, asked: Any) -> None:
        self._thread.record = self._asking.pop(id(asked), None)
        self._in_thread("began")

    def _in_thread(self, stage: str) -> None:
        if (record := getattr(self._thread, "record", None)) is not None:
            record[stage] = now()

    def _submitted(self, futures: Sequence[Any], *_: Any) -> None:
        self._in_thread("queued")
        record = getattr(self._thread, "record", None)

        def settled(_: Any) -> None:
            if record is not None:
                record.update(self._batch, settled=now())

        futures[-1].add_done_callback(settled)

    def _batch_mark(self, stage: str) -> None:
        self._batch[stage] = now()

    def _ended(self, gate: Any, scope: Any, *_: Any, **__: Any) -> None:
        if (record := RECORD.get()) is not None:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()

    def watch(self) -> None:
        """Stamp every stage of the server's path."""
        from afina.models.mixed_batch import MixedBatchModel
        from afina.server.core import Core
        from afina.server.http.calls import ClientCall, RequestPool
        from afina.server.http.gate import Gate
        from afina.server.requests import RequestEncoder
        from afina.server.running import Connection

        received: dict[int, float] = {}

        def arrived(connection: Any, data: bytes) -> None:
            if found := re.search(rb"x-path: (\d+)", data):
                received[int(found[1])] = now()

        def gated(gate: Any, scope: Any, receive: Any, send: Any) -> None:
            self._scoped(gate, scope, receive, send)
            if (record := scope.get("path.record")) is not None:
                record["arrived"] = received.pop(int(record["number"]), record["gated"])

        stamped(Connection, "data_received", arrived, None)
        stamped(Gate, "__call__", gated, None)
        stamped(Gate, "_note", self._ended, None)
        stamped(RequestPool, "accept", self._asked, None)
        stamped(Core, "_accept", self._began, lambda *_, **__: self._in_thread("accepted"))
        stamped(RequestEncoder, "accepted", lambda *_, **__: self._in_thread("leased"), None)
        stamped(Core, "submit", None, self._submitted)
        stamped(Engine, "compute", lambda *_, **__: self._batch_mark("taken"), None)
        stamped(
            MixedBatchModel,
            "features",
            lambda *_, **__: self._batch_mark("forward"),
            lambda *_, **__: self._batch_mark("computed"),
        )
        stamped(ClientCall, "answered", None, lambda *_, **__: self._mark("answered"))


def serve(options: argparse.Namespace) -> None:
    """Serve with stamps, in this process."""
    from afina.cli import main as command

    Stamps(Path(options.serve)).watch()
    sys.argv = ["afina", "serve", "--backbone", options.backbone, "--store", options.store, "--port", "0"]
    command()


@contextmanager
def serving(options: argparse.Namespace, store: Path, out: Path) -> Iterator[str]:
    """A server with stamps in a process of its own; its URL."""
    command = [sys.executable, __file__, "--serve", str(out), "--store", str(store), "--backbone", options.backbone]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        found = re.search(r"on (http://\S+)", process.stdout.readline())
        if not found:
            raise SystemExit("the server did not start")
        try:
            yield found[1]
        finally:
            process.send_signal(signal.SIGTERM)


async def client(url: str, secret: str, requests: Sequence[Request], *, loaded: bool) -> dict[int, dict[str, float]]:
    """Send each request when it is due; the client's stamps by the number of the request.

    Args:
        url: the server.
        secret: a key.
        requests: the requests.
        loaded: whether every adapter is loaded before the first request.
    """
    headers = {"Authorization": f"Bearer {secret}"}
    found: dict[int, dict[str, float]] = {}
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=60) as session:
        for name in sorted({request.name for request in requests})[: None if loaded else 1]:
            (await session.post("/predict", json={"model": name, "inputs": "warm"})).raise_for_status()
        start = now()

        async def one(number: int, request: Request) -> None:
            await asyncio.sleep(start + request.due - now())
            stamps = {"due": start + request.due, "sent": now()}
            answer = await session.post(
                "/predict", json={"model": request.name, "inputs": request.text}, headers={NUMBER: str(number)}
            )
            answer.raise_for_status()
            answer.json()
            found[number] = {**stamps, "received": now()}

        await asyncio.gather(*(one(number, request) for number, request in enumerate(requests)))
    return found


def alone(engine: Engine, requests: Sequence[Request], *, paced: bool) -> list[float]:
    """Milliseconds of the engine for each request, one after the other. `paced`: none begins before it is due."""
    took = []
    engine.predict([(f"store:{one.name}", one.text) for one in requests[:3]])
    start = now()
    for one in requests:
        if paced and (rest := start + one.due - now()) > 0:
            time.sleep(rest)
        began = now()
        engine.predict([(f"store:{one.name}", one.text)])
        took.append(1000 * (now() - began))
    return took


def queued(service: float, rate: float, count: int = 200_000) -> np.ndarray:
    """Milliseconds that requests take in a queue with random arrivals and one server (M/D/1).

    Args:
        service: milliseconds of every request's service.
        rate: requests per second.
        count: number of simulated requests.
    """
    gaps = np.random.default_rng(0).exponential(1000 / rate, count)
    wait, found = 0.0, np.empty(count)
    for index, gap in enumerate(gaps):
        wait = max(0.0, wait - gap)
        found[index] = wait = wait + service
    return found


def percentiles(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """The median, the 95th percentile and the mean."""
    p50, p95 = np.percentile(np.asarray(values), [50, 95])
    found = {"p50": p50, "p95": p95, "mean": np.mean(values)}
    return {name: round(float(value), 2) for name, value in found.items()}


def breakdown(records: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Milliseconds of every stage. A stage that a path does not have counts to the next one."""
    found: dict[str, list[float]] = {}
    for record in records:
        last = record["due"]
        for stage in STAGES:
            if stage in record:
                found.setdefault(stage, []).append(1000 * (record[stage] - last))
                last = record[stage]
    return {stage: percentiles(values) for stage, values in found.items()}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default=f"random:{DATA}/gpt2")
    parser.add_argument("--task", default=f"glue/sst2:{DATA}/sst2")
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--rate", type=float, default=4.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--cold", action="store_true", help="adapters are loaded by the first request for them")
    parser.add_argument("--keep", type=Path, help="directory of the adapters, to make them only once")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure both, and print."""
    options = parse()
    if options.serve:
        serve(options)
        return
    task = Task.load(options.task)
    texts = sorted(set(task.evaluation.texts))[:: max(1, len(task.evaluation) // TEXTS)][:TEXTS]
    names = Names(options.adapters)
    requests = planned(texts, names, options)
    with tempfile.TemporaryDirectory() as scratch:
        root = options.keep or Path(scratch)
        store, out = AdapterStore(root / "store"), Path(scratch) / "stamps"
        if not (root / "store").exists():
            fill(store, Backbone.load(options.backbone), names, root, 0)
        secret = store.create_key(CLIENT, ["predict"]).secret
        with Engine(options.backbone, store) as engine:
            engine.load(*{f"store:{one.name}" for one in requests})
            hot, paced = (alone(engine, requests, paced=paced) for paced in (False, True))
        with serving(options, root / "store", out) as url:
            sent = asyncio.run(client(url, secret, requests, loaded=not options.cold))
        served = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    records = [{**one, **sent[int(one["number"])]} for one in served]
    latency = percentiles([1000 * (one["received"] - one["due"]) for one in records])
    stages = breakdown(records)
    result = {
        "requests": len(records),
        "per_second": options.rate,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "engine": percentiles(hot),
        "engine_paced": percentiles(paced),
        "queue_model": percentiles(queued(float(np.median(paced)), options.rate)),
        "server": latency,
        "stages": stages,
    }
    rows = [[text, *(f"{stages[stage][one]:.1f}" for one in ("p50", "p95"))] for stage, text in STAGES.items()]
    print(tables.table(("stage", "p50, ms", "p95, ms"), rows))
    print("\n" + "\n".join(machine.describe()))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
