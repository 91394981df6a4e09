"""The recommendation of `afina choose` on a csv file, compared with a whole run of every candidate.

    python benchmarks/real_regret.py --task snippets:movies --texts 600 --minutes 10
    python benchmarks/real_regret.py --task DIRECTORY --texts 300 --backbone embedded --backbone bge

The file has texts of a task that is not in docs/learning-curves.jsonl, and is written under results/. Each run trains
on all its texts for three epochs, at the rate of its candidate. All models are evaluated on the same held-out texts.
`--piece MINUTES` begins no run after so many minutes; the same command continues with what is there. The last line is
JSON: the accuracies, and the regret, which is the accuracy of the best run minus that of the recommended model.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from afina import Predictor, Results, Task, meter, recommend
from afina.data.reading_options import ReadingOptions
from afina.data.split import Split
from afina.errors import AfinaError, NotFound
from afina.events import ignore
from afina.models import objectives
from afina.report.recommendation import sentences
from afina.stats.comparison import compare
from afina.studies.choosing.candidates import Candidate, in_order
from afina.studies.choosing.eligibility import eligible
from afina.studies.choosing.recommendation import EPOCHS
from afina.studies.choosing.setup import ChoiceSetup
from afina.studies.choosing.time_budget import TimeBudget
from afina.studies.executors.local_executor import LocalExecutor
from afina.studies.runs.run import Run
from afina.studies.runs.spec import Ask
from afina.studies.watcher import Watcher

HELD_OUT = 400


class Minutes(Watcher):
    """Says what is done, with the minutes."""

    def __init__(self) -> None:
        self.began = meter.now()

    def says(self, words: str) -> None:
        """Print a line."""
        print(f"[{(meter.now() - self.began) / 60:.1f} min] {words}", flush=True)

    def started(self, run: Run, number: int, total: int) -> None:
        """Print the name of a run."""
        self.says(run.title)


def write(path: Path, split: Split, names: tuple[str, ...]) -> str:
    """A csv file of a split."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("text", "label"))
        rows.writerows((text, names[label]) for text, label in zip(split.texts, split.labels, strict=True))
    return str(path)


def right(adapter: Path, split: Split) -> np.ndarray:
    """Which held-out predictions are right, bool [1, N]."""
    answers = Predictor.load(adapter).outputs(split.texts).argmax(axis=-1)
    made: np.ndarray = (answers == split.labels)[None]
    return made


def candidates(task: str, data: dict[str, Any], backbones: Sequence[str]) -> tuple[list[Candidate], ChoiceSetup]:
    """The candidates of `choose` in its order."""
    whole = Task.load(task, **data)
    objective = objectives.make(whole.label_names, {"kind": whole.kind}).of(whole.train.labels)
    clock = TimeBudget(meter.now(), math.inf)
    given = (ReadingOptions(**data), tuple(backbones), Ask(), clock, Watcher(), LocalExecutor(), objective, "accuracy")
    setting = ChoiceSetup(whole, *given)
    tried = eligible(setting, None)
    return in_order(tried.trained, tried.kinds, setting), setting


def whole_run(one: Candidate, task: str, data: dict[str, Any], out: Path, held_out: Split) -> dict[str, Any]:
    """A run on all texts, and which held-out predictions are right."""
    training = {"epochs": EPOCHS, "learning_rate": one.rate}
    run = Run(backbone=one.way.backbone, task=task, method=one.way.method, name=one.name, data=data, training=training)
    record = LocalExecutor().carry_out(run, out, "whole", ignore)
    answers = right(out / record.adapter, held_out)
    return {"name": one.name, "right": answers[0].astype(int).tolist(), "seconds": round(record.seconds.train, 1)}


def recommended(task: str, data: dict[str, Any], out: Path, options: argparse.Namespace) -> Results:
    """What `choose` recommends, or has recommended before in this directory."""
    try:
        return Results.read(out)
    except NotFound:
        backbone = options.backbone if options.backbone[1:] else options.backbone[0]
        return recommend(task, options.minutes, backbone=backbone, data=data, out=out, watcher=Minutes())


def main() -> None:
    """Run the benchmark with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="snippets:movies")
    parser.add_argument("--texts", type=int, default=600)
    parser.add_argument("--held-out", type=int, default=HELD_OUT)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--backbone", action="append")
    parser.add_argument("--piece", type=float, default=math.inf)
    options = parser.parse_args()
    options.backbone = options.backbone or ["embedded"]
    start = meter.now()
    there = Task.load(options.task, train_examples=options.texts, evaluation_examples=options.held_out)
    folder = Path("results/real-regret") / Path(options.task.partition(":")[2] or options.task).name
    task = write(folder / "texts.csv", there.train, there.label_names)
    data = {"evaluation": write(folder / "held-out.csv", there.evaluation, there.label_names)}
    held_out = Task.load(task, **data).evaluation
    results = recommended(task, data, folder / "choose", options)
    made = results.recommendation
    assert made is not None
    print("\n".join(sentences(made)), f"\nafter {made.seconds / 60:.1f} minutes", flush=True)
    found = _whole_runs(task, data, folder, held_out, options.backbone, start + 60 * options.piece)
    floors = {one.name: one.metrics["accuracy"] for one in made.contenders if one.metrics and not one.trained}
    chosen = right(results.out / made.adapter, held_out) if made.adapter else None
    best = max(found, key=lambda name: float(found[name].mean()))
    accuracy = float(chosen.mean()) if chosen is not None else floors[made.recommended]
    if chosen is not None:
        (between,) = compare({f"a whole run of {best}": found[best], f"the recommended {made.recommended}": chosen})
        print(between.sentence)
    told = {
        "recommended": made.recommended,
        "accuracy": round(accuracy, 4),
        "minutes": round(made.seconds / 60, 2),
        "trained": sum(one.trained for one in made.contenders),
        "whole": {name: round(float(one.mean()), 4) for name, one in found.items()},
        "untrained": {name: round(value, 4) for name, value in floors.items()},
        "regret": round(float(found[best].mean()) - accuracy, 4),
    }
    print(json.dumps(told))


def _whole_runs(
    task: str, data: dict[str, Any], folder: Path, held_out: Split, backbones: Sequence[str], end: float
) -> dict[str, np.ndarray]:
    """Which held-out predictions of each candidate's whole run are right; ends the process if time is up."""
    file = folder / "whole.jsonl"
    found: dict[str, np.ndarray] = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else []:
        one = json.loads(line)
        found[one["name"]] = np.array(one["right"], bool)[None]
    for one in candidates(task, data, backbones)[0]:
        if one.name in found:
            continue
        if meter.now() > end:
            print("there is more to run; give the same command again")
            sys.exit(0)
        try:
            run = whole_run(one, task, data, folder / "whole", held_out)
        except AfinaError as error:
            print(f"{one.name}: {error}", flush=True)
            continue
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(run) + "\n")
        found[one.name] = np.array(run["right"], bool)[None]
        print(f"{one.name}: {found[one.name].mean():.4f} after {run['seconds']:.0f} s of training", flush=True)
    return found


if __name__ == "__main__":
    main()
