"""The latency of a polite client of `afina serve`, alone and while another client floods the server.

    python benchmarks/floods.py
    python benchmarks/floods.py --backbone embedded --seconds 30 --floods long_texts numbers
    python benchmarks/floods.py --backbone embedded --seconds 60 --length 4096 --floods longest

The polite client sends one text of `--words` words to its own adapter, again and again. For each flood (`FLOODS`), the
output has the 95th percentile of its latency: alone, before and after; during the flood; and beside a process that
sends nothing. That process computes as much as the flooder did, plus what the server computed for the flooder. The
output also has the longest wait for `/health/live`, each time on a new connection, and the server's memory. Everything
runs on this machine and sends to 127.0.0.1 only, for `--seconds` per flood. The last line of the output is one JSON
object.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

import machine
import tables
from afina import Adapter, AdapterStore, Backbone, digest
from afina.methods import make
from afina.models.classifier import Classifier
from afina.models.manifest import Manifest
from serve import DATA, LABELS, publish

FLOODER = Path(__file__).resolve().parent / "flooder.py"
POLITE, LORA, FULL = "polite/reviews", "flood/lora", "flood/full"
LOW = 100
"""Tokens a minute of the key with a low rate."""

PAUSE = 0.05
"""Seconds between an answer and the polite client's next request, and between two looks at `/health/live`."""

PATIENCE = 60.0
"""Seconds after which an answer is waited for no longer, and counts as so long."""


class Flood(NamedTuple):
    """A flood of requests: its kind in flooder.py, the key and the model of its requests, and what it printed."""

    kind: str
    key: str
    model: str
    said: str


FLOODS = {
    "texts_lora": Flood("texts", "flood", LORA, "100 connections of 32 texts, LoRA"),
    "texts_full": Flood("texts", "flood", FULL, "100 connections of 32 texts, full weights"),
    "long_texts": Flood("long", "flood", LORA, "4 connections of 20 texts of 3,000 words"),
    "long_texts_low_rate": Flood("long", "low", LORA, f"the same, with a key of {LOW} tokens a minute"),
    "longest": Flood("longest", "flood", LORA, "1 connection of one text of 4,000 words"),
    "numbers": Flood("numbers", "flood", LORA, "8 connections of 524,000 numbers"),
    "slow_heads": Flood("heads", "flood", LORA, "2,000 connections whose heads never end"),
    "wrong_keys": Flood("wrong", "flood", LORA, "60 connections with a wrong key"),
}


@dataclass
class Seen:
    """Measurements of the polite client: seconds of its requests and of `/health/live`, and answers other than 200."""

    waits: list[float] = field(default_factory=list)
    lives: list[float] = field(default_factory=list)
    failed: int = 0
    memory: int = 0
    cores: float = 0.0

    @property
    def p95(self) -> float:
        """Seconds."""
        return float(np.percentile(self.waits, 95)) if self.waits else PATIENCE


class Target(NamedTuple):
    """A server: its port, keys by whose they are, its process, and the words of a polite client's text."""

    port: int
    keys: dict[str, str]
    process: psutil.Process
    words: int = 48

    @property
    def spent(self) -> float:
        """Seconds of processor time."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


def looked(target: Target, seconds: float) -> Seen:
    """Ask as a polite client for so long."""
    seen, began, spent = Seen(), time.perf_counter(), target.spent
    until = began + seconds

    def asked(path: str, times: list[float], body: bytes | None, *, kept: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=PATIENCE)
        headers = {"Authorization": f"Bearer {target.keys['polite']}"} if body else {}
        while time.perf_counter() < until:
            began = time.perf_counter()
            try:
                connection.request("POST" if body else "GET", path, body, headers)
                answer = connection.getresponse()
                answer.read()
                seen.failed += answer.status != 200
            except OSError:
                seen.failed += 1
                connection.close()
            times.append(time.perf_counter() - began)
            if not kept:
                connection.close()
            time.sleep(PAUSE)
        connection.close()

    text = " ".join(("A quiet evening at the ferry, and nobody in a hurry. " * target.words).split()[: target.words])
    body = json.dumps({"model": POLITE, "inputs": text}).encode()
    threads = [
        threading.Thread(target=asked, args=("/predict", seen.waits, body), kwargs={"kept": True}),
        threading.Thread(target=asked, args=("/health/live", seen.lives, None), kwargs={"kept": False}),
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        seen.memory = max(seen.memory, target.process.memory_info().rss)
        time.sleep(0.05)
    seen.cores = (target.spent - spent) / (time.perf_counter() - began)
    return seen


@contextmanager
def beside(seconds: float, *arguments: str) -> Iterator[dict[str, Any]]:
    """A flooder that has begun; what came of it is in what is given, afterwards."""
    result: dict[str, Any] = {}
    with subprocess.Popen([sys.executable, str(FLOODER), *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.readline()
        time.sleep(min(1.0, seconds / 4))  # until it is under way
        try:
            yield result
            result |= json.loads(process.communicate(timeout=seconds + PATIENCE)[0].splitlines()[-1])
        finally:
            process.kill()


def measured(target: Target, name: str, seconds: float, share: float) -> dict[str, Any]:
    """Measure a polite client during a flood. share: of the flood's connections."""
    flood, whole = FLOODS[name], 1.5 * seconds + 1
    alone = looked(target, seconds / 2)
    arguments = (str(target.port), flood.kind, str(whole), str(share), target.keys[flood.key], flood.model)
    with beside(seconds, *arguments) as sent:
        seen = looked(target, seconds)
    time.sleep(min(2.0, seconds))  # what it asked for is given up, and the key's connections are free
    spent = sent["cpu"] / whole
    more = max(0.0, seen.cores - alone.cores)
    with beside(seconds, "--burn", f"{spent + more:.3f}", str(whole)):
        burning = looked(target, seconds)
    alone.waits += looked(target, seconds / 2).waits
    return {
        "milliseconds": {
            "p95_alone": 1000 * alone.p95,
            "p95": 1000 * seen.p95,
            "p95_beside_as_much_work": 1000 * burning.p95,
            "live_worst": 1000 * max(seen.lives, default=PATIENCE),
        },
        "to_alone": seen.p95 / alone.p95,
        "to_as_much_work": seen.p95 / burning.p95,
        "failed": seen.failed,
        "memory_mib": {"alone": alone.memory / 2**20, "peak": seen.memory / 2**20},
        "cores": {"flooder": spent, "server": seen.cores, "server_alone": alone.cores},
        "flooder": {"answers": sent["statuses"], "connections": sent["connections"]},
    }


def full(backbone: Backbone, root: Path) -> Adapter:
    """An adapter that has changed every weight."""
    method = make("full").for_family(backbone.family)
    classifier = Classifier.open(backbone, LABELS, seed=0)
    classifier.wrap(method.attach)
    tensors = {name: tensor.detach() * 1.01 for name, tensor in method.state(classifier.model).items()}
    manifest = Manifest(
        method=method.name,
        hyperparameters=method.hyperparameters,
        label_names=LABELS,
        backbone=backbone.address,
        backbone_digest=backbone.digest,
        tokenizer_digest=backbone.tokenizer_digest,
        family=backbone.family,
        tensor_file=method.tensor_file,
        tensors_digest=digest.of_tensors(tensors),
        max_length=0,
    )
    made = Adapter(manifest, tensors)
    made.save(root)
    return made


def fill(store: AdapterStore, backbone: Backbone, root: Path, length: int) -> dict[str, str]:
    """Publish an adapter of each client; secrets of keys by whose they are. length: tokens that they read, at most."""
    store.init()
    publish(backbone, 1, root)
    full(backbone, root / "full")
    for name, place in ((POLITE, "0"), (LORA, "0"), (FULL, "full")):
        store.publish(cut(root / place, root / f"cut-{place}", length), name, message="benchmark")
    rates = {"polite": None, "flood": None, "low": LOW}
    clients = {"polite": "polite", "flood": "flood", "low": "flood"}
    return {who: store.create_key(client, ["predict"], rate=rates[who]).secret for who, client in clients.items()}


def cut(given: Path, place: Path, length: int) -> Path:
    """The adapter, reading so many tokens at most."""
    if not place.exists():
        found = Adapter.load(given)
        Adapter(found.manifest.model_copy(update={"max_length": length}), found.tensors).save(place)
    return place


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default=f"random:{DATA}/gpt2")
    parser.add_argument("--length", type=int, default=64, help="tokens that adapters read of a text at most")
    parser.add_argument("--words", type=int, default=48, help="of a polite client's text")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a flood")
    parser.add_argument("--floods", nargs="+", choices=tuple(FLOODS), default=tuple(FLOODS))
    parser.add_argument("--share", type=float, default=1.0, help="of each flood's connections")
    parser.add_argument("--markdown", type=Path, help="write the table and the machine to this file")
    return parser.parse_args()


def report(result: dict[str, Any]) -> str:
    """A table of it."""
    header = ("flood", "alone", "flooded", "as much work", "to alone", "to as much work", "live, worst", "memory")
    rows = []
    for name, one in result.items():
        times, memory = one["milliseconds"], one["memory_mib"]
        shown = [f"{times[key]:,.0f} ms" for key in ("p95_alone", "p95", "p95_beside_as_much_work")]
        shown += [tables.ratio(one["to_alone"]), tables.ratio(one["to_as_much_work"]), f"{times['live_worst']:,.0f} ms"]
        rows.append([FLOODS[name].said, *shown, f"{memory['peak']:,.0f} MiB (alone {memory['alone']:,.0f})"])
    return f"{tables.table(header, rows)}\n\n" + "\n".join(machine.describe()) + "\n"


def ask(target: Target, who: str, model: str) -> None:
    """One text, so that the adapter is there."""
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=PATIENCE)
    headers = {"Authorization": f"Bearer {target.keys[who]}"}
    connection.request("POST", "/predict", json.dumps({"model": model, "inputs": "A quiet evening."}), headers)
    if (status := connection.getresponse().status) != 200:
        raise SystemExit(f"{model} is not served: status {status}")
    connection.close()


def measure(target: Target, names: Sequence[str], seconds: float, share: float) -> dict[str, Any]:
    """The measurements by flood, on a server that has answered before."""
    for who, model in (("polite", POLITE), ("flood", LORA), ("flood", FULL)):
        ask(target, who, model)
    found = {}
    for name in names:
        found[name] = measured(target, name, seconds, share)
        print(f"{name}: {json.dumps(found[name])}", file=sys.stderr, flush=True)
    return found


@contextmanager
def serving(backbone: str, store: Path) -> Iterator[tuple[int, psutil.Process]]:
    """A server of its own process: its port, and that."""
    command = [sys.executable, "-m", "afina", "serve", "--backbone", backbone, "--store", str(store), "--port", "0"]
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        assert process.stdout
        said = process.stdout.readline()
        if " on http" not in said:
            raise SystemExit("the server did not start")
        try:
            yield int(said.rpartition(":")[2]), psutil.Process(process.pid)
        finally:
            process.terminate()


def main() -> None:
    """Fill a store, flood a server, and print."""
    options = parse()
    with tempfile.TemporaryDirectory() as scratch:
        store, place = AdapterStore(Path(scratch) / "store"), Path(scratch) / "store"
        keys = fill(store, Backbone.load(options.backbone), Path(scratch), options.length)
        with serving(options.backbone, place) as (port, process):
            result = measure(Target(port, keys, process, options.words), options.floods, options.seconds, options.share)
    text = report(result)
    print(text)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
