"""Studies on Ray beside `--jobs`: what Ray adds to a run, how it scales, and the memory of the driver.

    python benchmarks/cluster.py                                  everything, in about eleven minutes
    python benchmarks/cluster.py --parts overhead --repeats 1

The cluster is on this machine: a head without processors, and nodes that do not see the driver's directory
(`tests/raylets.py`). Each driver is a process that runs one study, whose runs differ by their seed. The parts:

- `overhead`: 40 runs that sleep for a second, on two slots. Ray and `--jobs 2` take turns.
- `training`: the same with runs that train a tiny model, so that each starts torch; 16 runs.
- `scaling`: 240 runs that sleep for 30 s, on 24 slots: processors that three nodes only say they have.
- `memory`: 1,000 runs that sleep for 0.2 s, on 24 slots: the driver's memory when 100 and when all have ended.

A run that sleeps goes the whole way of a run, but its process (`tests/sleeping.py`) does not load torch. `work` is the
time from the first progress of a run to the last record; `startup` is the time before. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import tables
from raylets import SITE, SOURCE, Raylets
from sleeping import Sleeping

HERE = Path(__file__).resolve()
PARTS = ("overhead", "training", "scaling", "memory")
MEMORY = 2**34
"""Bytes that a node says it has for runs."""

EARLY = 100
"""Runs after which the driver's memory is compared with that at the end."""

LONGEST_S = 900.0


def drive(told: dict[str, Any]) -> None:
    """Run a study as the driver; print figures as a line of JSON."""
    from afina import Study
    from afina.events import Progress
    from afina.studies.executors import by_name
    from afina.studies.runs.record import Record
    from afina.studies.runs.run import Run
    from afina.studies.watcher import Watcher

    class Clock(Watcher):
        """Notes when runs begin and end, and the memory of this process."""

        first = last = 0.0
        done, early = 0, 0

        def progress(self, run: Run, progress: Progress) -> None:
            if progress.phase != "wait":
                self.first = self.first or time.time()

        def finished(self, run: Run, record: Record, *, now: bool) -> None:
            self.last, self.done = time.time(), self.done + 1
            if self.done == EARLY:
                self.early = psutil.Process().memory_info().rss

    study = {
        "name": "cluster",
        "backbone": told["backbone"],
        "task": told["task"],
        "seeds": list(range(told["runs"])),
        "train": {"max_steps": 2, "batch_size": 4, "dtype": "float32"},
        "methods": {"lora": {}},
    }
    clock = Clock()
    ships = {"ship_backbone": True, "storage": told["storage"]} if told["executor"].startswith("ray") else {}
    executor = by_name.make(told["executor"], jobs=told["slots"], **ships)
    try:
        results = Study.parse(study, "cluster").run(Path(told["out"]), clock, executor=executor)
    finally:
        executor.close()
    assert len(results.records) == told["runs"], results.failed
    figures = {
        "startup": clock.first - told["began"],
        "work": clock.last - clock.first,
        "early": clock.early,
        "end": psutil.Process().memory_info().rss,
    }
    print(json.dumps(figures))


class Bench:
    """The material of all studies, in a directory: a task, a backbone, and the records of runs that sleep."""

    def __init__(self, folder: Path, most: int) -> None:
        from fakes import Backbones, sentences, write_csv

        self.folder, self.driver, self.count = folder, folder / "driver", 0
        self.driver.mkdir()
        rows = [(text, ("bad", "good")[label]) for text, label in sentences(120)]
        self.task = str(write_csv(self.driver / "toy.csv", rows))
        self.backbone = str(Backbones(self.driver).path("gpt2"))
        self.sleeping = Sleeping(folder / "sleeping", most, 1.0)

    def environment(self, seconds: float | None) -> dict[str, str]:
        """Variables that let runs sleep so long; None: runs train."""
        path = {"PYTHONPATH": os.pathsep.join([str(SITE), str(SOURCE)])}
        if seconds is None:
            return path
        self.sleeping.set(seconds=seconds)
        return path | self.sleeping.environment

    @contextmanager
    def cluster(self, nodes: int, cpus: int, environment: dict[str, str]) -> Iterator[Raylets]:
        """A cluster of nodes with so many processors each."""
        with Raylets(self.folder / f"cluster-{self.count}", self.driver, **environment) as running:
            for _ in range(nodes):
                running.add(num_cpus=cpus, memory=MEMORY)
            yield running

    def study(self, runs: int, slots: int, seconds: float | None, cluster: Raylets | None) -> dict[str, float]:
        """Figures of a driver in a process of its own; without a cluster, runs are carried out beside it."""
        self.count += 1
        told = {
            "runs": runs,
            "slots": slots,
            "executor": f"ray={cluster.address}" if cluster else "local",
            "storage": str(cluster.storage) if cluster else None,
            "backbone": self.backbone,
            "task": self.task,
            "out": str(self.driver / f"out-{self.count}"),
            "began": time.time(),
        }
        mine = cluster.driver if cluster else dict(os.environ)
        cache = {"AFINA_CACHE": str(self.driver / "cache"), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, str(HERE), "--drive", json.dumps(told)],
            env=mine | self.environment(seconds) | cache,
            cwd=self.driver,
            stdout=subprocess.PIPE,
            text=True,
            timeout=LONGEST_S,
        )
        if done.returncode:
            raise SystemExit(f"the driver of {told['executor']} ended with {done.returncode}: its output is above")
        found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        print(f"{told['executor'].partition('=')[0]:5} {runs} runs, {slots} slots: {found}", flush=True)
        return found


def beside(bench: Bench, runs: int, seconds: float | None, repeats: int) -> dict[str, Any]:
    """Ray and this machine in turn, two slots each; medians of the repeats."""
    found: dict[str, list[dict[str, float]]] = {"local": [], "ray": []}
    with bench.cluster(2, 1, bench.environment(seconds)) as cluster:
        for turn in range(repeats):
            for arm in ("local", "ray")[:: 1 if turn % 2 == 0 else -1]:
                found[arm].append(bench.study(runs, 2, seconds, cluster if arm == "ray" else None))
    made = {arm: {name: median(one[name] for one in of) for name in ("startup", "work")} for arm, of in found.items()}
    return {"runs": runs, **made, "beyond_startup": made["ray"]["work"] / made["local"]["work"] - 1}


def spread(bench: Bench, runs: int, seconds: float, nodes: int, cpus: int) -> dict[str, Any]:
    """Ray on more slots than this machine has processors: speed beside the ideal, and the driver's memory."""
    slots = nodes * cpus
    with bench.cluster(nodes, cpus, bench.environment(seconds)) as cluster:
        found = bench.study(runs, slots, seconds, cluster)
    ideal = -(-runs // slots) * seconds
    return {"runs": runs, "slots": slots, "seconds": seconds, **found, "of_ideal": ideal / found["work"]}


def rows(found: dict[str, Any]) -> list[list[str]]:
    """Of the table in docs/background/benchmarks.md."""
    made = []
    for part in [part for part in ("overhead", "training") if part in found]:
        one = found[part]
        what = "sleep for 1 s" if part == "overhead" else "train a tiny model"
        times = f"{one['ray']['work']:.1f} s, with `--jobs 2` {one['local']['work']:.1f} s"
        made.append([f"{one['runs']} runs that {what}, 2 slots", f"{times}: {one['beyond_startup']:+.1%}"])
    if one := found.get("scaling"):
        what = f"{one['runs']} runs that sleep for {one['seconds']:g} s, {one['slots']} slots"
        made.append([what, f"{one['work']:.0f} s: {one['of_ideal']:.2f} of ideal"])
    if one := found.get("memory"):
        early, end = one["early"] / 2**20, one["end"] / 2**20
        made.append([f"memory of the driver after {EARLY} and {one['runs']} runs", f"{early:.0f} and {end:.0f} MiB"])
    return made


def main() -> None:
    """Measure the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--repeats", type=int, default=2, help="turns of Ray and of --jobs 2")
    parser.add_argument("--runs", type=int, help="runs of each part, for a trial of this script")
    parser.add_argument("--seconds", type=float, default=30.0, help="sleep of a run of `scaling`")
    parser.add_argument("--cpus", type=int, default=8, help="processors of each of three nodes; `scaling`, `memory`")
    parser.add_argument("--drive", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        drive(json.loads(options.drive))
        return
    import machine

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="afina-cluster-") as folder:
        bench = Bench(Path(folder), options.runs or 1000)
        if "overhead" in options.parts:
            found["overhead"] = beside(bench, options.runs or 40, 1.0, options.repeats)
        if "training" in options.parts:
            found["training"] = beside(bench, options.runs or 16, None, 1)
        if "scaling" in options.parts:
            found["scaling"] = spread(bench, options.runs or 240, options.seconds, 3, options.cpus)
        if "memory" in options.parts:
            found["memory"] = spread(bench, options.runs or 1000, 0.2, 3, options.cpus)
    print("\n".join(machine.describe()), "\n")
    print(tables.table(["", "studies on Ray"], rows(found)))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
