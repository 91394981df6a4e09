"""Accuracy by the number of labelled texts, from 8 labels a class on: methods on both packaged backbones.

    python benchmarks/few_labels.py                    what is not in the records yet, the small sizes first
    python benchmarks/few_labels.py --shard 0/2        a part of it; shards may run side by side
    python benchmarks/few_labels.py --minutes 9
    python benchmarks/few_labels.py --task sst2
    python benchmarks/few_labels.py --keep             what is recorded, into docs/few-labels.jsonl

Three tasks and their held-out texts are those of `words.py`. Two more are files, `FILES`. Of a file, and below
`STRATIFIED` labels, a draw has as many texts of each class, as people label them. From there on the draws of the three
tasks are those of `words.py`, so its records count as curves too: LoRA and full fine-tuning with a head of label words
on `embedded`. Each training takes `STEPS` steps, or three epochs where these are more. No text is stored; a held-out
prediction is stored as one bit.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import words
from afina import device as devices
from afina.data.reading_options import ReadingOptions
from afina.data.split import Split
from afina.data.task import Task
from afina.digest import derive_seed
from afina.events import ignore
from afina.meter import Meter
from afina.methods import is_fitted, make
from afina.models import objectives
from afina.studies.choosing import floors
from afina.studies.runs.prepared import prepare
from afina.studies.runs.spec import RunSpec
from afina.training.settings import Training
from learning_curves import ENCODER

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "results" / "few-labels.jsonl"
KEPT = ROOT / "docs" / "few-labels.jsonl"
DATA = ROOT.parent / "shared" / "data"
TASKS = words.TASKS
FILES = {"sst2": 872, "banking77": 770}
"""The number of held-out texts of each task that is read from a file under `DATA`."""

SIZES = (16, 32, 64, 256, 1_024)
FEW = (16, 32, 64)
"""The sizes at which `choose` uses what it learnt from few labels."""

SIZES_OF = {"sst2": SIZES, "banking77": (616, 1_500)}
STRATIFIED = 256
"""The number of labels below which a draw has as many texts of each class."""

DRAWS = 3

BATCH, EPOCHS, STEPS, LENGTH = 16, 3, 40, words.LENGTH
SHOTS = 16


@dataclass(frozen=True)
class Arm:
    """A method on a backbone, at a multiple of its default rate on language models. shots: the examples in a prompt."""

    backbone: str
    method: str
    factor: float = 1.0
    shots: int = 0


@dataclass(frozen=True)
class Cell:
    """One measurement: an arm, trained on a draw of labelled texts."""

    task: str
    labels: int
    arm: Arm
    seed: int = 0

    def described(self) -> dict[str, Any]:
        """The fields in the form of the records."""
        return {"task": self.task, "labels": self.labels, "seed": self.seed, **asdict(self.arm)}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Cell:
        """The cell with these fields."""
        rest = {key: value for key, value in told.items() if key not in ("task", "labels", "seed")}
        return cls(told["task"], told["labels"], Arm(**rest), told["seed"])


TFIDF, MAJORITY = Arm("", "tfidf"), Arm("", "majority")
FLOORS = (MAJORITY, TFIDF)
ZERO, WITH_SHOTS = Arm("embedded", "zero-shot"), Arm("embedded", "zero-shot", shots=SHOTS)
CHEAP = (TFIDF, ZERO, Arm(ENCODER, "linear_probe"), Arm("embedded", "linear_probe"))
ON_ENCODER = (Arm(ENCODER, "full", 1.0), Arm(ENCODER, "full", 2.0), Arm(ENCODER, "lora", 3.0))
SETFIT = Arm(ENCODER, "setfit")
ON_EMBEDDED = (Arm("embedded", "lora"), Arm("embedded", "full"))
ON_FILES = (Arm(ENCODER, "linear_probe"), SETFIT, Arm(ENCODER, "lora", 3.0), Arm(ENCODER, "full", 1.0))


def _cells(tasks: Iterable[str], arms: Iterable[Arm], sizes: Iterable[int], draws: Iterable[int]) -> Iterator[Cell]:
    for seed, labels, arm, task in itertools.product(draws, sizes, arms, tasks):
        if arm != ZERO:
            yield Cell(task, labels, arm, seed)


def cells() -> Iterator[Cell]:
    """All cells in the order of recording: what tells most for its time comes first."""
    every = range(DRAWS)
    yield from (Cell(task, SIZES[-1], MAJORITY) for task in TASKS)
    yield from (Cell(task, 0, ZERO) for task in TASKS)
    yield from _cells(TASKS, CHEAP[:3], FEW, every)
    yield from _cells(TASKS, CHEAP[3:], (16, 64), (0,))
    yield from _cells(TASKS, (SETFIT, *ON_ENCODER), (16, 64), every)
    yield from _cells(TASKS, ON_EMBEDDED, (16, 64), (0,))
    yield from (Cell(task, SHOTS, WITH_SHOTS) for task in TASKS)
    yield from _cells(("sst2",), ON_FILES, FEW, every)
    yield from _cells(TASKS, (SETFIT, *ON_ENCODER), (32,), every)
    yield from _cells(("sst2",), ON_FILES, SIZES_OF["sst2"][3:], (0,))
    yield from _cells(("banking77",), (ON_FILES[0], *ON_FILES[2:]), (616,), (0,))
    yield from _cells(("banking77",), ON_FILES[:1], (616, 1_500), every)
    yield from _cells(("sst2",), ON_FILES, SIZES_OF["sst2"][3:], (1, 2))
    yield from _cells(TASKS, (CHEAP[2], SETFIT, *ON_ENCODER), SIZES[3:], every)


@cache
def whole(task: str) -> tuple[tuple[str, ...], Split, Split]:
    """The label names, the texts that draws are made of, and the held-out texts."""
    if task in TASKS:
        names, texts = words.task(task)
        start, end = words.HELD_OUT + words.CHOOSING, words.HELD_OUT + words.CHOOSING + words.POOL
        return names, texts.take(np.arange(start, min(end, len(texts)))), texts.take(np.arange(words.HELD_OUT))
    train, test = ("train.tsv", "dev.tsv") if task == "sst2" else ("train.csv", "test.csv")
    pool, held_out = _read(DATA / task / train), _read(DATA / task / test)
    names = tuple(sorted({label for _, label in pool}))
    found = [
        Split([text for text, _ in each], np.array([names.index(label) for _, label in each]))
        for each in (pool, held_out)
    ]
    return names, found[0], found[1].take(_equally(np.arange(len(found[1])), found[1].labels, FILES[task]))


def _read(path: Path) -> list[tuple[str, str]]:
    """The texts and labels of a file with a header."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file) if path.suffix == ".csv" else csv.reader(file, "excel-tab", quoting=csv.QUOTE_NONE)
        return [(text.strip(), label) for text, label in list(rows)[1:]]


def _equally(order: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """The first places of the order with as many of each class, as far as there are, in all `count` of them."""
    seen, ranks = Counter[int](), []
    for one in labels[order]:
        ranks.append(seen[one])
        seen[one] += 1
    return order[np.argsort(ranks, kind="stable")[:count]]


def drawn(task: str, labels: int, seed: int) -> Split:
    """The labelled texts of a cell."""
    _, pool, _ = whole(task)
    order = np.random.Generator(np.random.PCG64(derive_seed(seed, "labels"))).permutation(len(pool))
    if task in TASKS and labels >= STRATIFIED:
        return pool.take(order[:labels])
    return pool.take(_equally(order, np.asarray(pool.labels), labels))


def task_of(cell: Cell) -> Task:
    """The labelled texts of a cell, and the held-out texts."""
    names, _, held_out = whole(cell.task)
    parts = (drawn(cell.task, cell.labels or SHOTS, cell.seed), held_out)
    train, evaluation = ((list(one.texts), [names[label] for label in one.labels]) for one in parts)
    return Task.of(*train, evaluation=evaluation, labels=names, allow_leakage=True)


def right_of(figures: Mapping[str, Any], task: str) -> np.ndarray:
    """Which held-out predictions of a task are right, bool [texts]."""
    return words.unpacked(str(figures["right"]), FILES.get(task, words.HELD_OUT))


def steps_of(labels: int) -> int:
    """The steps of a training."""
    return max(STEPS, EPOCHS * math.ceil(labels / BATCH))


def rate_of(arm: Arm) -> float | None:
    """The learning rate of an arm; None where no steps are taken."""
    if is_fitted(arm.method) or make(arm.method).trains_nothing:
        return None
    return float(f"{arm.factor * make(arm.method).learning_rate:.3g}")


def run_of(cell: Cell, task: Task) -> RunSpec:
    """The run of a cell."""
    arm, rate = cell.arm, rate_of(cell.arm)
    steps = None if rate is None else steps_of(cell.labels)
    return RunSpec(
        backbone=arm.backbone,
        task=task.address,
        method=arm.method,
        seed=cell.seed,
        hyperparameters={"shots": arm.shots} if arm.shots else {},
        data=ReadingOptions(allow_leakage=True),
        training=Training(epochs=EPOCHS, batch_size=BATCH, max_length=LENGTH, learning_rate=rate, max_steps=steps),
    )


def measure(cell: Cell) -> dict[str, Any]:
    """The accuracy on the held-out texts, which predictions are right, and the seconds of processor time."""
    began, task = time.process_time(), task_of(cell)
    if cell.arm in FLOORS:
        objective = objectives.make(task.label_names, {"kind": task.kind}).of(task.train.labels)
        fitted = dict(zip(FLOORS, floors.fit(task.train, objective), strict=True))
        right = objective.values("accuracy", fitted[cell.arm].predictions(task.evaluation))
        trained = time.process_time()
    else:
        prepared, fit = prepare(run_of(cell, task), Meter(devices.choose()), ignore, given=task)
        fit.advance()
        trained = time.process_time()
        found = prepared.predict(fit.classifier, prepared.task.evaluation)
        right = prepared.objective.values("accuracy", found)
    right = np.asarray(right).reshape(-1).astype(bool)
    seconds = [round(trained - began, 2), round(time.process_time() - trained, 2)]
    return {"accuracy": float(right.mean()), "right": words.packed(right), "seconds": seconds}


def read(path: Path) -> dict[Cell, dict[str, Any]]:
    """The records of a file."""
    found = {}
    for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
        one = json.loads(line)
        found[Cell.of(one["cell"])] = one["figures"]
    return found


def main() -> None:
    """Measure what is missing, or keep what is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no training after so many minutes")
    parser.add_argument("--task", help="record only this task")
    parser.add_argument("--shard", default="0/1", help="this one of so many")
    parser.add_argument("--keep", action="store_true", help="put what is recorded into docs/")
    options = parser.parse_args()
    if options.keep:
        kept = read(KEPT) | read(RECORDS)
        lines = [json.dumps({"cell": one.described(), "figures": each}) for one, each in kept.items()]
        KEPT.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
        return
    torch.set_num_threads(1)
    RECORDS.parent.mkdir(exist_ok=True)
    start = time.monotonic()
    shard, of = map(int, options.shard.split("/"))
    for cell in itertools.islice(dict.fromkeys(cells()), shard, None, of):
        if time.monotonic() - start > 60 * options.minutes:
            print("there is more to record", flush=True)
            return
        if options.task not in (None, cell.task) or cell in known():
            continue
        figures = measure(cell)
        with RECORDS.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"cell": cell.described(), "figures": figures}) + "\n")
        print(cell.described(), figures["accuracy"], figures["seconds"], flush=True)


def known() -> dict[Cell, dict[str, Any]]:
    """All that is recorded: by `words.py`, what is kept, and newer records."""
    return of_words() | read(KEPT) | read(RECORDS)


OF_WORDS = {"lora": {"domains": 4.5, "": 0.5}, "full": {"domains": 3.0, "": 0.3}}
"""The factors of the learning rates that `words.py` selected, by method and task; "" is all other tasks."""


def of_best_rate(known: Mapping[Cell, Any], task: str, labels: int, arm: Arm, seed: int) -> Cell:
    """The cell of LoRA or full fine-tuning on `embedded` at the rate that `words.py` selected, or at the default."""
    factors = OF_WORDS[arm.method]
    best = Cell(task, labels, replace(arm, factor=factors.get(task, factors[""])), seed)
    return best if best in known else Cell(task, labels, arm, seed)


def of_words() -> dict[Cell, dict[str, Any]]:
    """The records of `words.py` on the same draws, for heads of label words, TF-IDF and the untrained model."""
    found = {}
    for one, figures in words.read().items():
        if 0 < one.labels < STRATIFIED:
            continue
        if one.method == "tfidf":
            found[Cell(one.task, one.labels, TFIDF, one.seed)] = figures
        elif one.head == "words":
            factor = one.rate / make(one.method).learning_rate if one.rate else 1.0
            found[Cell(one.task, one.labels, Arm("embedded", one.method, round(factor, 2)), one.seed)] = figures
    return found


if __name__ == "__main__":
    main()
