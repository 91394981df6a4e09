"""Distillation on real texts: how much of the gap between a small model and its teacher texts without labels close.

    python benchmarks/distillation.py --task snippets:movies --labelled 1000

The labelled texts are a part of the training split of a task, and the other texts of the split stand in a file without
labels. The teacher trains all weights of `--teacher` on the labelled texts. The arms train all weights of `--student`:
alone (on the labelled texts), with the teacher's labels (on the labelled texts, and on the others with the labels that
the teacher predicts), and distilled (with the teacher's probabilities, at each temperature and weight). All arms have
the same learning rate and epochs. They are measured on the evaluation split of the task, of which nothing is trained or
chosen. The gap that an arm closes is its gain over the student alone, divided by that of the teacher. A study that was
interrupted goes on in `--out`. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import tables
from afina import Lines, Study, Task
from afina.models.predictions import Predictions
from afina.predicting.predictor import Predictor
from afina.stats.comparison import compare
from afina.stats.metrics import METRICS
from afina.studies.results import Results
from afina.studies.runs.record import Result

ALONE, TEACHER, HARD = "alone", "teacher", "teachers-labels"


def write(path: Path, rows: Iterable[Sequence[str]], header: Sequence[str]) -> str:
    """Write a csv file, and return its path."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return str(path)


def rows_of(path: str) -> list[list[str]]:
    """Return the rows of a csv file without its header."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


def files_of(asked: argparse.Namespace, out: Path) -> dict[str, str]:
    """Write the labelled texts, the texts without labels and the evaluation texts; return the paths by name."""
    task, part = Task.load(asked.task), Task.load(asked.task, train_examples=asked.labelled)
    own, names = set(part.train.texts), task.label_names
    labelled = [(one.text, names[one.label]) for one in part.train]
    others = [(text,) for text in dict.fromkeys(task.train.texts) if text not in own]
    held_out = [(one.text, names[one.label]) for one in task.evaluation]
    return {
        "labelled": write(out / "labelled.csv", labelled, ("text", "label")),
        "unlabelled": write(out / "unlabelled.csv", others[: asked.unlabelled], ("text",)),
        "evaluation": write(out / "evaluation.csv", held_out, ("text", "label")),
    }


def arms_of(asked: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the tables of the study: the teacher, the student alone, and the distilled students."""
    student: dict[str, Any] = {"method": "full", "backbones": [asked.student]}
    student |= {} if asked.rate is None else {"learning_rate": asked.rate}
    arms = {TEACHER: {"method": "full", "backbones": [asked.teacher]}, ALONE: student}
    for temperature in asked.temperatures:
        for weight in asked.weights:
            lesson = {"teacher": TEACHER, "distil_temperature": temperature, "distil_weight": weight}
            arms[f"T-{temperature:g}-weight-{weight:g}"] = {**student, **lesson}
    return arms


def study(asked: argparse.Namespace, name: str, task: str, data: dict[str, str], methods: dict[str, Any]) -> Results:
    """Execute a study of arms on the files of the benchmark, unless its runs are recorded."""
    used = [one for one in (asked.teacher, asked.student) if any(one in arm["backbones"] for arm in methods.values())]
    made = Study(
        name=name,
        backbones=used,
        task=task,
        data=data,
        seeds=asked.seeds,
        train={"epochs": asked.epochs},
        methods=methods,
    )
    return made.run(Path(asked.out) / name, watcher=Lines(print))


def with_teachers_labels(asked: argparse.Namespace, files: dict[str, str], results: Results) -> Results:
    """Execute the arm that trains on the labels that the teacher predicts; the teacher is that of the first seed."""
    predictor = Predictor.load(results.adapter(TEACHER))
    texts = [row[0] for row in rows_of(files["unlabelled"])]
    found, _ = predictor.predict(texts)
    names = predictor.objective.label_names
    labels = [names[index] for index in predictor.objective.decode(Predictions(found.outputs)).tolist()]
    rows = [*rows_of(files["labelled"]), *zip(texts, labels, strict=True)]
    both = write(Path(asked.out) / "teachers-labels.csv", rows, ("text", "label"))
    return study(asked, HARD, both, {"evaluation": files["evaluation"]}, {HARD: arms_of(asked)[ALONE]})


def summary(results: Sequence[Result]) -> dict[str, Any]:
    """Return each arm's mean accuracy, its paired difference from the student alone, and its share of the gap."""
    by_arm: dict[str, list[Result]] = {}
    for one in results:
        by_arm.setdefault(one.record.name, []).append(one)
    metric = METRICS[results[0].record.metric]
    values = {name: np.stack([one.scores for one in several]) for name, several in by_arm.items()}
    means = {name: float(each.mean()) for name, each in values.items()}
    gap = means[TEACHER] - means[ALONE]
    found: dict[str, Any] = {}
    for name, several in by_arm.items():
        one = {"metric": means[name], "seconds": float(np.mean([each.record.seconds.train for each in several]))}
        if name != ALONE:
            (against,) = compare({name: values[name], ALONE: values[ALONE]}, metric=metric)
            one |= {"points": 100 * against.difference, "low": 100 * against.interval.low}
            one |= {"high": 100 * against.interval.high, "closed": (means[name] - means[ALONE]) / gap if gap else None}
        found[name] = one
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the arms, and print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="snippets:movies")
    parser.add_argument("--labelled", type=int, default=1_000)
    parser.add_argument("--unlabelled", type=int, default=None)
    parser.add_argument("--teacher", default="embedded")
    parser.add_argument("--student", default="minilm")
    parser.add_argument("--rate", type=float, default=None, help="learning rate of the students")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--temperatures", type=float, nargs="*", default=[2.0])
    parser.add_argument("--weights", type=float, nargs="*", default=[0.9])
    parser.add_argument("--hard", action="store_true", help="also train on the labels that the teacher predicts")
    parser.add_argument("--out", default="results/distillation")
    asked = parser.parse_args(arguments)
    out = Path(asked.out)
    out.mkdir(parents=True, exist_ok=True)
    files = files_of(asked, out)
    data = {"evaluation": files["evaluation"], "unlabelled": files["unlabelled"]}
    results = study(asked, "arms", files["labelled"], data, arms_of(asked))
    hard = with_teachers_labels(asked, files, results).results if asked.hard else ()
    found = summary([*results.results, *hard])
    rows = [
        [
            name,
            f"{one['metric']:.4f}",
            f"{one['points']:+.1f} ({one['low']:.1f} to {one['high']:.1f})" if "points" in one else "",
            f"{one['closed']:.2f}" if one.get("closed") is not None else "",
            f"{one['seconds']:,.0f}",
        ]
        for name, one in found.items()
    ]
    print(tables.table(("arm", "accuracy", "points against alone", "gap closed", "training (s)"), rows))
    print(json.dumps({"task": asked.task, "labelled": asked.labelled, "seeds": asked.seeds, "arms": found}))


if __name__ == "__main__":
    main()
