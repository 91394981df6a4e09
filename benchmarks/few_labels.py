"""Accuracy by the number of labelled texts, from 8 labels a class on: methods on both packaged backbones.

    python benchmarks/few_labels.py            what is not in the records yet, the small sizes first
    python benchmarks/few_labels.py --minutes 9
    python benchmarks/few_labels.py --keep     what is recorded, into docs/few-labels.jsonl

The tasks, the held-out texts and the draws of the labelled texts are those of `words.py`, so its records count as
curves too: LoRA and full fine-tuning with a head of label words on `embedded`, with 16, 64, 256 and 1,024 labels. The
draws are not stratified: with 16 labels, a class of two has 2 to 14 of them. Each training takes `STEPS` steps, or
three epochs where these are more. No text is stored; a held-out prediction is stored as one bit.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import words
from afina import device as devices
from afina.data.reading_options import ReadingOptions
from afina.data.task import Task
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
TASKS = words.TASKS
SIZES = (16, 32, 64, 256, 1_024)
FEW = (16, 32, 64, 128)
"""The sizes at which `choose` uses what it learnt from few labels."""

DRAWS = 3
SEEDS = {"embedded": (0,), ENCODER: (0, 1, 2), "": (0, 1, 2)}
"""The draws of the labelled texts by backbone; "" is TF-IDF, which has none."""

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


def labels_of(task: str) -> tuple[int, ...]:
    """The sizes of a task; that of four classes has 128 labels too, which are 32 a class."""
    return tuple(sorted({*SIZES, 128})) if task == "domains" else SIZES


def _cells(arms: tuple[Arm, ...], sizes: tuple[int, ...], seeds: tuple[int, ...]) -> Iterator[Cell]:
    for seed in seeds:
        for arm in arms:
            for task in TASKS:
                if arm == ZERO:
                    yield Cell(task, 0, arm)
                elif seed in SEEDS[arm.backbone]:
                    yield from (Cell(task, labels, arm, seed) for labels in labels_of(task) if labels in sizes)


def cells() -> Iterator[Cell]:
    """All cells in the order of recording: what tells most for its time comes first."""
    yield from (Cell(task, SIZES[-1], MAJORITY) for task in TASKS)
    yield from _cells(CHEAP, FEW, (0, 1, 2))
    yield from _cells(ON_ENCODER, FEW[:3], (0,))
    yield from _cells((SETFIT,), (16, 64), (0,))
    yield from (Cell(task, SHOTS, WITH_SHOTS) for task in TASKS)
    yield from _cells((SETFIT, *ON_ENCODER), (16, 64), (1, 2))
    yield from _cells(CHEAP, SIZES[3:], (0,))
    yield from _cells((SETFIT, *ON_ENCODER), SIZES[3:], (0,))
    yield from (Cell("domains", 64, arm) for arm in ON_EMBEDDED)
    yield from (Cell(task, SHOTS, WITH_SHOTS, seed) for seed in (1, 2) for task in TASKS)
    yield from _cells((SETFIT, *ON_ENCODER, *ON_EMBEDDED), FEW, (0, 1, 2))
    yield from _cells((*CHEAP, SETFIT, *ON_ENCODER), SIZES[3:], (1, 2))


def task_of(cell: Cell) -> Task:
    """The labelled texts of a cell, and the held-out texts."""
    names, _ = words.task(cell.task)
    draw = words.Cell(cell.task, cell.labels or SHOTS, "", "", 0.0, cell.seed)
    parts = [words.part(cell.task, "training", draw), words.part(cell.task, "held out")]
    train, held_out = ((list(one.texts), [names[label] for label in one.labels]) for one in parts)
    return Task.of(*train, evaluation=held_out, labels=names, allow_leakage=True)


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
    parser.add_argument("--method", help="record only this method")
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
    for cell in cells():
        if time.monotonic() - start > 60 * options.minutes:
            print("there is more to record", flush=True)
            return
        if options.method not in (None, cell.arm.method):
            continue
        if cell in known():
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
    """The records of `words.py` for heads of label words, TF-IDF and the untrained model."""
    found = {}
    for one, figures in words.read().items():
        if one.method == "tfidf":
            found[Cell(one.task, one.labels, TFIDF, one.seed)] = figures
        elif one.head == "words":
            factor = one.rate / make(one.method).learning_rate if one.rate else 1.0
            found[Cell(one.task, one.labels, Arm("embedded", one.method, round(factor, 2)), one.seed)] = figures
    return found


if __name__ == "__main__":
    main()
