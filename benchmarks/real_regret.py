"""The recommendation of `afina choose` on a csv file, compared with a whole run of every method that it considers.

    python benchmarks/real_regret.py --domain movies --texts 600 --minutes 10

The file has texts of a snippet domain that is not in docs/learning-curves.jsonl, and is written under results/. Each
run trains on all its texts for three epochs, at the method's own learning rate. All models are evaluated on the same
held-out texts. The last line is JSON: the accuracies, and the regret, which is the accuracy of the best run minus that
of the recommended model.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from afina import METHODS, Predictor, Task, meter, recommend
from afina.data.split import Split
from afina.events import ignore
from afina.report.recommendation import sentences
from afina.stats.comparison import compare
from afina.studies.choosing.candidates import EPOCHS
from afina.studies.runs.executor import LocalExecutor
from afina.studies.runs.run import Run

HELD_OUT = 400


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


def main() -> None:
    """Run the benchmark with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domain", default="movies")
    parser.add_argument("--texts", type=int, default=600)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--backbone", default="embedded")
    options = parser.parse_args()
    there = Task.load(f"snippets:{options.domain}", train_examples=options.texts, evaluation_examples=HELD_OUT)
    folder = Path("results/real-regret") / options.domain
    task = write(folder / "texts.csv", there.train, there.label_names)
    data = {"evaluation": write(folder / "held-out.csv", there.evaluation, there.label_names)}
    held_out = Task.load(task, **data).evaluation
    began = meter.now()
    made = recommend(task, options.minutes, backbone=options.backbone, data=data, out=folder / "choose").recommendation
    assert made is not None
    took = meter.now() - began
    print("\n".join(sentences(made)), f"\nafter {took / 60:.1f} minutes", flush=True)
    found: dict[str, Any] = {}
    for name in [name for name, kind in METHODS.items() if kind.practical]:
        run = Run(backbone=options.backbone, task=task, method=name, data=data, training={"epochs": EPOCHS})
        record = LocalExecutor().carry_out(run, folder / "whole", "whole", ignore)
        found[name] = right(folder / "whole" / record.adapter, held_out)
        print(f"{name}: {found[name].mean():.4f} after {record.seconds.train:.0f} s of training", flush=True)
    floors = {one.name: one.metrics["accuracy"] for one in made.contenders if one.metrics and not one.trained}
    chosen = right(folder / "choose" / made.adapter, held_out) if made.adapter else None
    best = max(found, key=lambda name: float(found[name].mean()))
    accuracy = float(chosen.mean()) if chosen is not None else floors[made.recommended]
    if chosen is not None:
        (between,) = compare({f"a whole run of {best}": found[best], f"the recommended {made.recommended}": chosen})
        print(between.sentence)
    told = {
        "recommended": made.recommended,
        "accuracy": round(accuracy, 4),
        "minutes": round(took / 60, 2),
        "whole": {name: round(float(one.mean()), 4) for name, one in found.items()},
        "untrained": {name: round(value, 4) for name, value in floors.items()},
        "regret": round(float(found[best].mean()) - accuracy, 4),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
