"""Requests for many adapters of `afina serve` over HTTP, with Zipf's law; arrivals do not wait for answers.

    python benchmarks/traffic.py --adapters 1000 --seconds 60
    python benchmarks/traffic.py --adapters 100 --seconds 300 --churn

Latency counts from the time when a request was due, so that a stall is not hidden. With `--churn`, one change happens
every second: a version is published, an alias is moved or rolled back, or the least popular adapters receive requests
so that others are evicted. Each answer is compared with what the adapter in its receipt computes alone. Client and
server share the machine. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import numpy as np

import machine
import tables
from afina import AdapterStore, Backbone, Predictor, Task
from afina.errors import AfinaError
from afina.server.receipts import Receipt
from serve import DATA, publish

EXPONENT = 1.1
"""The exponent of Zipf's law: the n-th adapter has a popularity of n to the minus EXPONENT."""

TEXTS = 40
"""Distinct texts; what adapters compute of them alone is what answers are compared with."""

NEAR = 1e-3
"""Probabilities that differ by less are the same: a packed row rounds otherwise than a text alone."""

KEPT = 40
"""MiB for adapters while they churn, so that there are evictions."""


class Request(NamedTuple):
    """due: seconds from the start."""

    due: float
    name: str
    text: str


@dataclass(frozen=True)
class Answer:
    """latency: seconds from when it was due; error: a status, or what the connection ended in."""

    request: Request
    latency: float
    error: str = ""
    receipt: Receipt | None = None
    scores: tuple[tuple[str, float], ...] = ()


def name_of(index: int) -> str:
    """The name of the index-th adapter, the most popular first."""
    return f"acme/task-{index:04}"


def fill(store: AdapterStore, backbone: Backbone, count: int, root: Path) -> None:
    """Publish so many adapters, each as `production`."""
    store.init()
    publish(backbone, count, root)
    for index in range(count):
        store.publish(root / str(index), name_of(index), message="benchmark")
        store.alias(f"{name_of(index)}@1", "production")


@contextmanager
def serving(backbone: str, store: Path, memory: int | None) -> Iterator[str]:
    """A server of its own process; its URL."""
    command = [sys.executable, "-m", "afina", "serve", "--backbone", backbone, "--store", str(store), "--port", "0"]
    more = [] if memory is None else ["--memory", str(memory)]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen([*command, *more], stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdout
        found = re.search(r"on (http://\S+)", process.stdout.readline())
        if not found:
            raise SystemExit("the server did not start")
        try:
            yield found[1]
        finally:
            process.send_signal(signal.SIGTERM)


def planned(texts: Sequence[str], options: argparse.Namespace) -> list[Request]:
    """Arrivals at random, `rate` a second, of adapters by their popularity."""
    draw = np.random.default_rng(0)
    shares = np.arange(1, options.adapters + 1) ** -EXPONENT
    due = np.cumsum(draw.exponential(1 / options.rate, int(options.rate * options.seconds)))
    names = draw.choice(options.adapters, len(due), p=shares / shares.sum())
    which = draw.integers(0, len(texts), len(due))
    return [
        Request(float(at), name_of(int(name)), texts[int(text)])
        for at, name, text in zip(due, names, which, strict=True)
    ]


async def asked(url: str, secret: str, requests: Sequence[Request]) -> list[Answer]:
    """Send each when it is due, whatever became of those before."""
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
    headers = {"Authorization": f"Bearer {secret}"}
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=60, limits=limits) as client:
        start = time.perf_counter()

        async def one(request: Request) -> Answer:
            await asyncio.sleep(request.due - (time.perf_counter() - start))
            try:
                found = await client.post(
                    "/predict", json={"model": f"{request.name}@production", "inputs": request.text}
                )
            except httpx2.HTTPError as error:
                return Answer(request, time.perf_counter() - start - request.due, type(error).__name__)
            latency = time.perf_counter() - start - request.due
            if found.status_code != 200:
                return Answer(request, latency, str(found.status_code))
            scores = tuple(sorted((each["label"], each["score"]) for each in found.json()))
            return Answer(request, latency, "", Receipt.parse(found.headers["Afina-Receipt"]), scores)

        return await asyncio.gather(*map(one, requests))


async def churn(store: AdapterStore, root: Path, options: argparse.Namespace) -> dict[str, int]:
    """Every second something changes, of the popular ones most often; how often each was done."""
    draw, done = np.random.default_rng(1), {"publish": 0, "alias": 0, "rollback": 0}
    for _ in range(int(options.seconds)):
        await asyncio.sleep(1)
        name = name_of(min(int(draw.geometric(0.2)) - 1, options.adapters - 1))
        what = str(draw.choice([*done]))
        try:
            await asyncio.to_thread(_change, store, root, name, what, int(draw.integers(options.adapters)))
        except AfinaError as error:
            if what != "rollback":  # there may be nothing to go back to
                raise
            print(f"{name}: {error}", file=sys.stderr)
        else:
            done[what] += 1
    return done


def _change(store: AdapterStore, root: Path, name: str, what: str, other: int) -> None:
    if what == "rollback":
        store.rollback(name, "production")
        return
    numbers = [one.number for one in store.versions(name)]
    if what == "publish":
        made = store.publish(root / str(other), name, message="benchmark")
        numbers = [made.version.number]
    store.alias(f"{name}@{numbers[other % len(numbers)]}", "production")


def wrong(answers: Sequence[Answer], store: AdapterStore, backbone: Backbone) -> int:
    """The number of wrong answers: not what the adapter in the receipt computes alone, or a wrong version."""
    found, by_version = 0, dict[str, list[Answer]]()
    for one in answers:
        if one.receipt:
            by_version.setdefault(one.receipt.version, []).append(one)
    for version, theirs in by_version.items():
        adapter = store.adapter(version)
        predictor = Predictor.of(adapter, backbone)
        texts = sorted({one.request.text for one in theirs})
        alone = dict(zip(texts, predictor(texts), strict=True))
        for one in theirs:
            assert one.receipt
            expected = alone[one.request.text]["probabilities"]
            same = all(abs(expected[label] - score) < NEAR for label, score in one.scores)
            mine = version.partition("@")[0] == one.request.name and one.receipt.adapter == adapter.digest
            found += not (same and mine)
    return found


def resident(url: str, secret: str, store: AdapterStore) -> dict[str, float]:
    """The server's adapters: bytes of each relative to its file, loads and evictions."""
    text = httpx2.get(f"{url}/metrics", headers={"Authorization": f"Bearer {secret}"}).text
    told = {name: float(value) for name, value in re.findall(r"^(afina_\w+) (\S+)$", text, re.MULTILINE)}
    file = store.show(name_of(0)).size
    return {
        "resident": told["afina_adapters"],
        "resident_relative_to_file": told["afina_adapter_bytes"] / max(1, told["afina_adapters"]) / file,
        "loads": told["afina_adapter_loads"],
        "evictions": told["afina_adapter_evictions"],
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default=f"random:{DATA}/gpt2")
    parser.add_argument("--task", default=f"{DATA}/sst2")
    parser.add_argument("--adapters", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=4.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--churn", action="store_true", help="change something every second")
    parser.add_argument("--markdown", type=Path, help="write the table and the machine to this file")
    return parser.parse_args()


def main() -> None:
    """Fill a store, ask, check, and print."""
    options = parse()
    task = Task.load(options.task)
    texts = sorted(set(task.evaluation.texts))[:: max(1, len(task.evaluation) // TEXTS)][:TEXTS]
    backbone = Backbone.load(options.backbone)
    with tempfile.TemporaryDirectory() as scratch:
        root, place = Path(scratch), Path(scratch) / "store"
        store = AdapterStore(place)
        fill(store, backbone, options.adapters, root)
        secret = store.create_key("acme", ["predict"]).secret
        admin = store.create_key("acme", ["admin"]).secret
        with serving(options.backbone, place, KEPT if options.churn else None) as url:
            requests = planned(texts, options)

            async def both() -> tuple[list[Answer], dict[str, int]]:
                changing = asyncio.create_task(churn(store, root, options)) if options.churn else None
                found = await asked(url, secret, requests)
                return found, (await changing if changing else {})

            answers, done = asyncio.run(both())
            told = resident(url, admin, store)
        bad = wrong(answers, store, backbone)
    latencies = np.array([one.latency for one in answers])
    p50, p95, p99 = (1000 * float(one) for one in np.percentile(latencies, [50, 95, 99]))
    result: dict[str, Any] = {
        "adapters": options.adapters,
        "requests": len(answers),
        "per_second": options.rate,
        "errors": sum(bool(one.error) for one in answers),
        "wrong": bad,
        "milliseconds": {"p50": p50, "p95": p95, "p99": p99},
        **told,
        **({"changes": done} if done else {}),
    }
    rows = [[key, json.dumps(value) if isinstance(value, dict) else f"{value:,.4g}"] for key, value in result.items()]
    text = f"{tables.table(('', ''), rows)}\n\n" + "\n".join(machine.describe()) + "\n"
    print(text)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
