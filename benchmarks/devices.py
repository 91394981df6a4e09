"""Two processes that train together beside one process with as many threads: speed, and memory with sharded weights.

    python benchmarks/devices.py
    python benchmarks/devices.py --parts memory

Speed: two processes of one thread each compute their shares of each batch, and sum gradients through gloo; one process
of two threads takes the same batches. The two take turns, batch by batch; the median of a batch's repeats counts. So
both use two cores, and the difference is the cost of computing together, with this machine's memory as the network.
Memory: a short LoRA run of the 1.1B LLaMA shape (`shapes.py`) in one process, and in two processes that shard the
backbone's weights; the figures are the largest resident memory of each process. The last line of the output is one JSON
object.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

import machine
import shapes
import tables
from afina import Backbone, Run, meter
from afina.data.batch import MicroBatchLimits
from afina.methods import make
from afina.ranks import ALONE, Ranks
from afina.studies.runs.spec import UNASKED, Training
from packed_arm import PackedArm
from plan import Plan
from sample import Batch
from train_step import DATA, METHODS

ARMS = {
    "one process": "one process of two threads",
    "two processes": "two processes of one thread each, gloo",
}
DTYPES = ("float32", "auto")
RANKS = 2


def joined(batches: list[Batch], texts: int) -> list[Batch]:
    """Batches of as many texts, of neighbours in the sample."""
    rows = [row for batch in batches for row in batch.rows]
    labels = np.concatenate([batch.labels for batch in batches])
    return [Batch(rows[at : at + texts], labels[at : at + texts]) for at in range(0, len(rows) - texts + 1, texts)]


def train(turns: Connection, place: tuple[int, str] | None, given: dict[str, Any], batches: list[Batch]) -> None:
    """One process of an arm: for each number of a batch that comes, a step, and its seconds. `place`: rank, address."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(RANKS if place is None else 1)
    ranks = ALONE if place is None else Ranks.joined(place[0], RANKS, place[1])
    backbone = Backbone.load(given["backbone"])
    method, setting = make(given["method"]).for_family(backbone.family), Training(dtype=given["dtype"])
    limits = MicroBatchLimits(ranks=ranks)
    arm = PackedArm(backbone, given["labels"], method, setting, given["steps"], at_once=limits)
    turns.send(None)
    while (index := turns.recv()) is not None:
        turns.send(arm.step(batches[index]))
    ranks.close()


@contextmanager
def started(places: list[tuple[int, str] | None], given: dict[str, Any], batches: list[Batch]) -> Iterator[Any]:
    """The processes of an arm, and a function that lets all of them take a step: the seconds of the slowest."""
    spawn, pipes = multiprocessing.get_context("spawn"), []
    for place in places:
        ours, theirs = spawn.Pipe()
        spawn.Process(target=train, args=(theirs, place, given, batches), daemon=True).start()
        theirs.close()
        pipes.append(ours)
    for pipe in pipes:
        pipe.recv()

    def step(index: int) -> float:
        for pipe in pipes:
            pipe.send(index)
        return max(pipe.recv() for pipe in pipes)

    yield step
    for pipe in pipes:
        pipe.send(None)


def speed(given: dict[str, Any], batches: list[Batch], repeats: int, scratch: Path) -> dict[str, Any]:
    """Tokens a second of both arms, and their ratio."""
    seconds: dict[str, dict[int, list[float]]] = {name: defaultdict(list) for name in ARMS}
    with ExitStack() as stack:
        meeting = f"file://{scratch / os.urandom(8).hex()}"
        places = {"one process": [None], "two processes": [(rank, meeting) for rank in range(RANKS)]}
        steps = {name: stack.enter_context(started(of, given, batches)) for name, of in places.items()}
        for name in ARMS:
            for index in sorted(range(len(batches)), key=lambda index: -batches[index].tokens)[:2]:
                steps[name](index)  # warms up, not counted
        for repeat in range(repeats):
            for index in range(len(batches)):
                for name in random.Random(repeat * len(batches) + index).sample([*ARMS], len(ARMS)):
                    seconds[name][index].append(steps[name](index))
    found: dict[str, Any] = {}
    tokens = sum(batch.tokens for batch in batches)
    for name, times in seconds.items():
        medians = [median(of) for of in times.values()]
        found[name] = {"seconds_per_step": median(medians), "tokens_per_second": tokens / sum(medians)}
    two, one = (found[name]["tokens_per_second"] for name in ("two processes", "one process"))
    return found | {"two processes/one process": two / one}


def speeds(options: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """The speed of each method, dtype and size of batch."""
    plan = Plan.of(options.backbone, options.task, ["D"], max(options.texts) // 16 * options.steps)
    chosen = [plan.schedule["D"][index] for index in plan.chosen["D"]]
    found = []
    for method in options.methods:
        for dtype in options.dtypes:
            for texts in options.texts:
                given = {"backbone": options.backbone, "method": method, "dtype": dtype}
                given |= {"labels": plan.label_names, "steps": plan.steps}
                result = speed(given, joined(chosen, texts)[: options.steps], options.repeats, scratch)
                found.append({"method": method, "dtype": dtype, "texts": texts, **result})
                print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    return found


def task_of(shape: str, path: Path) -> str:
    """A file of labelled texts."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows((text, ("bad", "good")[place % 2]) for place, text in enumerate(shapes.texts(shape, 40, 0)))
    return str(path)


def remember(answer: Connection, rank: int, count: int, meeting: str, run: Run, out: str) -> None:
    """One process of a run, which sends the record's memory, and that of its processes."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(RANKS // count)
    ranks = Ranks.joined(rank, count, meeting, shards=True) if count > 1 else ALONE
    record = run.execute(Path(out), ranks=ranks)
    made = record.devices
    answer.send([record.memory.rss_peak] if made is None else [*(made.rss_peaks or ())])
    ranks.close()


def memory(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """The largest resident memory of each process, alone and sharded."""
    spawn, found = multiprocessing.get_context("spawn"), dict[str, Any]()
    os.environ["AFINA_CACHE"] = str(scratch / "cache")  # the weights are drawn there
    address = shapes.backbone(options.shape, scratch / "shape")
    Backbone.load(address)
    settings = {"max_steps": 2, "batch_size": 4, "dtype": options.memory_dtype, "learning_rate": 1e-4}
    run = Run(
        backbone=address,
        task=task_of(options.shape, scratch / "texts.csv"),
        method="lora",
        training=Training(**settings),
        ask=UNASKED,
    )
    for name, count in (("one process", 1), ("two processes, sharded", RANKS)):
        meeting, answers = f"file://{scratch / os.urandom(8).hex()}", []
        processes = []
        for rank in range(count):
            ours, theirs = spawn.Pipe()
            given = (theirs, rank, count, meeting, run, str(scratch / name))
            processes.append(spawn.Process(target=remember, args=given))
            processes[-1].start()
            theirs.close()
            answers.append(ours)
        peaks = [answer.recv() for answer in answers]
        for process in processes:
            process.join()
        found[name] = peaks[0]
        print(f"{name}: {peaks[0]}", file=sys.stderr, flush=True)
    return found


def report(result: dict[str, Any], options: argparse.Namespace) -> str:
    """Tables."""
    parts = ["\n".join(machine.describe())]
    if rows := [
        (
            f"{METHODS[one['method']][0]}, {one['dtype']}, {one['texts']} texts",
            *(f"{one[name]['seconds_per_step']:.3f}" for name in ARMS),
            *(f"{one[name]['tokens_per_second']:,.0f}" for name in ARMS),
            tables.ratio(one["two processes/one process"]),
        )
        for one in result.get("speed", ())
    ]:
        header = ("training", "one process, s/step", "two, s/step", "one, tokens/s", "two, tokens/s", "two / one")
        parts += ["\n".join(f"- {name}: {what}" for name, what in ARMS.items()), tables.table(header, rows)]
    if rows := [(name, *map(tables.size, peaks)) for name, peaks in result.get("memory", {}).items()]:
        width = max(map(len, rows))
        header = ("LoRA, " + options.shape, *(f"peak of process {rank}" for rank in range(width - 1)))
        parts.append(tables.table(header, [(*row, *[""] * (width - len(row))) for row in rows]))
    return "\n\n".join(parts) + "\n"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Two processes that train together beside one.")
    parser.add_argument("--parts", nargs="+", choices=("speed", "memory"), default=["speed", "memory"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["lora", "full"])
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16", "auto"), default=[*DTYPES])
    parser.add_argument("--texts", nargs="+", type=int, default=[16, 64], help="texts of a batch")
    parser.add_argument("--steps", type=int, default=6, help="different batches")
    parser.add_argument("--repeats", type=int, default=3, help="how often each batch is timed")
    parser.add_argument("--backbone", default=f"random:{DATA}/gpt2", help="of the speed")
    parser.add_argument("--task", default=f"{DATA}/sst2", help="of the speed")
    parser.add_argument("--shape", choices=shapes.SHAPES, default="1.1b", help="of the memory")
    parser.add_argument("--memory-dtype", choices=("float32", "bfloat16", "auto"), default="auto")
    parser.add_argument("--markdown", type=Path, help="write the tables and the machine to this file")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write."""
    options = parse()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    began, result = meter.now(), dict[str, Any]()
    with tempfile.TemporaryDirectory() as scratch:
        if "speed" in options.parts:
            result["speed"] = speeds(options, Path(scratch))
        if "memory" in options.parts:
            result["memory"] = memory(options, Path(scratch))
    text = report(result, options)
    print(text)
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    print(json.dumps(result | {"seconds": meter.now() - began}))


if __name__ == "__main__":
    main()
