"""Replicas of `afina serve --ray` under churn while replicas are killed, beside one plain server. Both on this machine.

    python benchmarks/serve_cluster.py --adapters 100 --texts 20 --clients 20 --seconds 300
    python benchmarks/serve_cluster.py --adapters 6 --seconds 20 --kill-every 7 --rate 4
    python benchmarks/serve_cluster.py --adapters 60 --memory 28 --rate 8 --still --routers random,multiplexed,resident

The requests, the changes and the checks of answers are those of `traffic.py --churn`. Both arms have the same requests,
on a store of its own each. In the arm `ray`, a replica is killed every `--kill-every` seconds (SIGKILL), and clients
send a request again if the answer is 503 with `Retry-After`, or a stream whose last event is the error `unavailable`.

An answer is wrong if it is not what the adapter in its receipt computes alone, or if that version was not in production
at any moment between request and answer. An answer is late if its version was in production before that, and ended to
be more than a second before the request. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2
import psutil

import machine
import tables
import traffic
from afina import AdapterStore, meter
from traffic import KEPT, Answer, Ground, Move

TRIES = 10
"""How often a client sends a request, while the answer is 503."""

ROUTED = Path(__file__).with_name("routed_serve.py")

AGREED = 1.0
"""Seconds within which all replicas serve a moved alias."""


def replicas(server: int) -> list[psutil.Process]:
    """The processes of the replicas below a process."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for one in psutil.Process(server).children(recursive=True):
            with suppress(psutil.Error):
                if any("ServeReplica" in word for word in one.cmdline()):
                    found.append(one)
    return found


@dataclass
class Kills:
    """Replicas of a server that are killed.

    Attributes:
        server: The process of `afina serve --ray`.
        every: Seconds between two kills.
        count: How many were killed.
        restored: For each kill, seconds until there were as many processes of replicas as before.
    """

    server: int
    every: float
    count: int = 0
    restored: list[float] = field(default_factory=list)

    async def go_on(self) -> None:
        """Kill until cancelled."""
        draw = random.Random(0)
        while True:
            await asyncio.sleep(self.every)
            alive = await asyncio.to_thread(replicas, self.server)
            if not alive:
                print("no replica to kill", file=sys.stderr)
                continue
            draw.choice(sorted(alive, key=lambda one: one.pid)).kill()
            self.count, killed = self.count + 1, meter.now()
            while meter.now() - killed < self.every / 2:
                await asyncio.sleep(0.5)
                if len(await asyncio.to_thread(replicas, self.server)) == len(alive):
                    self.restored.append(meter.now() - killed)
                    break


def lag(answer: Answer, moves: Sequence[Move]) -> float:
    """Seconds by which an answer's version had ended to be in production when the request was sent; 0: it had not.

    Infinity: the version was not in production before the answer came.
    """
    assert answer.receipt is not None
    name = answer.request.name
    mine = [Move(f"{name}@1", -math.inf, -math.inf)]
    mine += [move for move in moves if move.version.rpartition("@")[0] == name]
    ends = [move.done for move in mine[1:]] + [math.inf]
    lags = [
        max(0.0, answer.sent - end)
        for move, end in zip(mine, ends, strict=True)
        if move.version == answer.receipt.version and move.begun <= answer.ended
    ]
    return min(lags, default=math.inf)


async def asked(
    ground: Ground, url: str, options: argparse.Namespace, kills: Kills | None
) -> tuple[list[Answer], dict[str, int], list[Move]]:
    """The answers, how often the store changed, and its moves."""
    moves: list[Move] = []
    killing = asyncio.create_task(kills.go_on()) if kills else None
    try:
        answers, done = await ground.traffic(url, options, TRIES, moves)
    finally:
        if killing:
            killing.cancel()
            await asyncio.wait([killing])
            if not killing.cancelled() and (error := killing.exception()):
                raise error
    return answers, done, moves


def arm(name: str, ground: Ground, options: argparse.Namespace) -> dict[str, Any]:
    """Serve, ask and check; figures of the arm."""
    place = ground.root / name
    shutil.copytree(ground.root / "store", place)
    mine = replace(ground, store=AdapterStore(place))
    on_ray = name != "plain"
    more = ["--ray", "--ray-address", "local", "--replicas", str(options.replicas)] if on_ray else []
    program = ["-m", "afina"] if name in ("plain", "ray") else [str(ROUTED), name]
    memory = options.memory or KEPT
    with traffic.started(options.backbone, place, memory, *more, program=program) as (url, process):
        kills = Kills(process.pid, options.kill_every) if on_ray and options.churn and options.kill_every else None
        warm(url, mine)
        start = meter.now()
        answers, done, moves = asyncio.run(asked(mine, url, options, kills))
        spent, alive, told = meter.now() - start, len(replicas(process.pid)), totals(url, mine.admin)
        process.send_signal(signal.SIGTERM)
        ended = ends(process)
    bad = traffic.wrong(answers, mine.store, mine.backbone)
    for one in answers:
        if one.error:
            print(f"{name}: {one.request.name}: {one.error}", file=sys.stderr)
    lags = [lag(one, moves) for one in answers if one.receipt]
    found = traffic.summary(answers, options, bad + sum(math.isinf(each) for each in lags)) | {
        "changes": done,
        "late": sum(AGREED < each < math.inf for each in lags),
        "longest_lag_seconds": max((each for each in lags if each < math.inf), default=0.0),
        "repeated": sum(one.repeats > 0 for one in answers),
        "repeats": sum(one.repeats for one in answers),
        "seconds": spent,
        "exit_status": ended,
        **told,
    }
    if not on_ray:
        return found
    restored = kills.restored if kills else []
    return found | {
        "replicas": options.replicas,
        "replicas_at_end": alive,
        "kills": kills.count if kills else 0,
        "restored_seconds": max(restored, default=0.0),
    }


def warm(url: str, ground: Ground) -> None:
    """Five requests, a second apart: the first ones of a process do not count, and routers know who answered."""
    few = [one._replace(due=1.0 * place) for place, one in enumerate(ground.requests[:5])]
    asyncio.run(traffic.asked(url, ground.secrets, few, TRIES))


def totals(url: str, secret: str) -> dict[str, float]:
    """Loads and evictions of adapters, of the running replicas together."""
    text = httpx2.get(f"{url}/metrics", headers={"Authorization": f"Bearer {secret}"}, timeout=60).text
    found = re.findall(r"^afina_adapter_(loads|evictions)(?:\{.*\})? (\S+)$", text, re.MULTILINE)
    return {name: sum(float(value) for each, value in found if each == name) for name in ("loads", "evictions")}


def ends(process: subprocess.Popen[str], seconds: float = 60.0) -> int | None:
    """The exit status after SIGTERM; None: the process had to be killed."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return None


def parse() -> argparse.Namespace:
    """The command line."""
    parser = traffic.parser(__doc__)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--kill-every", type=float, default=30.0, help="seconds between two kills; 0: none")
    parser.add_argument("--memory", type=int, help=f"MiB for adapters of a server or replica (default {KEPT})")
    parser.add_argument("--arms", default="plain,ray", help="plain, ray or both")
    parser.add_argument("--routers", help="random, multiplexed, resident: these arms instead")
    parser.add_argument("--still", action="store_false", dest="churn", help="nothing changes and nothing is killed")
    parser.set_defaults(churn=True, adapters=100, rate=4.0)
    return parser.parse_args()


def main() -> None:
    """Measure each arm, and print."""
    options = parse()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with tempfile.TemporaryDirectory() as scratch:
        ground = Ground.prepared(options, Path(scratch))
        arms = {name: arm(name, ground, options) for name in (options.routers or options.arms).split(",")}
    result: dict[str, Any] = {**arms}
    if {*arms} == {"plain", "ray"}:
        for each in ("p50", "p95"):
            result[f"{each}_ray/plain"] = arms["ray"]["milliseconds"][each] / arms["plain"]["milliseconds"][each]
    header = ("", *arms)
    text = f"{tables.table(header, rows(arms))}\n\n" + "\n".join(machine.describe()) + "\n"
    print(text)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    print(json.dumps(result))


def rows(arms: dict[str, dict[str, Any]]) -> list[list[str]]:
    """A row for each figure, with the columns of the arms."""
    flat = {name: dict(_flat(found)) for name, found in arms.items()}
    keys = dict.fromkeys(key for found in flat.values() for key in found)
    return [[key, *(f"{found[key]:,.4g}" if key in found else "" for found in flat.values())] for key in keys]


def _flat(found: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in found.items():
        if isinstance(value, dict):
            yield from ((f"{key} {each}", number) for each, number in value.items())
        elif value is not None:
            yield key, value


if __name__ == "__main__":
    main()
