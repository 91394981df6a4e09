"""Doubtful labels: how many wrong labels `afina doubts` finds.

    python benchmarks/doubts.py --tasks snippets:movies,snippets:products --seeds 5 --out results/doubts
    python benchmarks/doubts.py --tasks snippets:products --texts 2000 --shares 0.1 --seeds 3

In each seed, a share of the training labels of a task is flipped to another label, and `doubts` looks at the texts as a
user's files have them. The evaluation texts keep their labels, and only training texts are counted: precision and
recall of the first n doubts, where n is the number of flipped labels (both are then equal), and of all doubts. Beside
them stand a random order, and cleanlab alone with the probabilities of a logistic regression on TF-IDF.

With the given labels alone, the benchmark prints how many labels `doubts` reports. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cleanlab
import numpy as np
from cleanlab.filter import find_label_issues
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline

import machine
import tables
from afina import Backbone, Task, meter
from afina.predicting.text_features import FeatureModel
from afina.stats.label_issues import flipped_classes
from afina.studies.labelling.cross_fitting import FOLDS, by_features, folds_of, labelled_texts, objective_of
from afina.studies.labelling.doubtful_kinds import doubtful_kind
from afina.studies.labelling.doubts import Doubts
from afina.studies.labelling.find_doubts import Finding
from afina.studies.labelling.similar_texts import SimilarTexts

PROBE = "linear_probe"
SHOWN = 20


@dataclass(frozen=True, eq=False)
class Bench:
    """The labelled texts of a task, in files as a user has them, and the features of the texts.

    Attributes:
        out: The directory of the files.
        given: The task, read from its files.
        backbone: The address of the backbone of the features.
    """

    out: Path
    given: Task
    backbone: str

    @classmethod
    def of(cls, address: str, texts: int | None, backbone: str, out: Path) -> Bench:
        task = Task.load(address, train_examples=texts)
        out = out / f"{address.replace(':', '-').replace('/', '-')}-{texts or 'all'}"
        out.mkdir(parents=True, exist_ok=True)
        write(out / "evaluation.csv", task.evaluation.texts, task.evaluation.labels, task.label_names)
        write(out / "given.csv", task.train.texts, task.train.labels, task.label_names)
        return cls(out, read(out, "given.csv", task.label_names), backbone)

    @cached_property
    def features(self) -> np.ndarray:
        """The features of the training texts, then those of the evaluation texts, float32 [N, width]; kept in `out`."""
        path, split = self.out / "features.npz", labelled_texts(self.given)[0]
        if path.is_file():
            with np.load(path) as kept:
                if str(kept["key"]) == f"{self.backbone} {split.digest}":
                    return np.asarray(kept["features"])
        found = FeatureModel(Backbone.load(self.backbone)).of_texts(split.texts)
        np.savez(path, features=found, key=f"{self.backbone} {split.digest}")
        return found

    @cached_property
    def similar(self) -> SimilarTexts:
        return SimilarTexts.of(labelled_texts(self.given)[0])

    def flip(self, share: float, seed: int) -> tuple[Task, np.ndarray]:
        """Return the task with a share of flipped training labels, and whether each training label is flipped."""
        random, labels = np.random.default_rng(seed), self.given.train.labels.copy()
        chosen = random.choice(len(labels), round(share * len(labels)), replace=False)
        labels[chosen] = flipped_classes(labels[chosen], len(self.given.label_names), random)
        name = f"flipped-{share:g}-{seed}.csv"
        write(self.out / name, self.given.train.texts, labels, self.given.label_names)
        return read(self.out, name, self.given.label_names), labels != self.given.train.labels

    def doubts(self, task: Task) -> tuple[Doubts, np.ndarray]:
        """Return the doubts about a task with these texts, and the order of its training texts, most doubtful first."""
        split, training = labelled_texts(task)
        folds = folds_of(task, split.labels, self.similar.groups, FOLDS, 0)
        fitted = by_features(self.features, split.labels, objective_of(task, split.labels), folds)
        found = Finding(task, split, training, self.similar, fitted).doubts(PROBE, self.backbone)
        issues = doubtful_kind(fitted.objective).issues(fitted.objective, fitted.predictions)
        suspicions = issues.suspicions[:training]
        listed = places(task, found)
        return found, behind(listed, np.argsort(-suspicions))


def write(path: Path, texts: Sequence[str], labels: np.ndarray, names: Sequence[str]) -> None:
    """Write a csv file of labelled texts."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows((text, names[label]) for text, label in zip(texts, labels.tolist(), strict=True))


def read(out: Path, name: str, labels: Sequence[str]) -> Task:
    """Read the training texts of a file with the evaluation texts of the benchmark."""
    options = {"labels": tuple(labels), "missing": "keep", "allow_leakage": True}
    return Task.load(out / name, evaluation=out / "evaluation.csv", **options)


def places(task: Task, found: Doubts) -> list[int]:
    """Return the indices of the doubtful training texts, the most doubtful first."""
    assert task.train.rows is not None
    index = {row: place for place, row in enumerate(task.train.rows.numbers)}
    return [index[one.row] for one in found.labels if one.training]


def behind(first: Sequence[int], others: np.ndarray) -> np.ndarray:
    """Return the indices `first`, and behind them all others in their order, int64 [N]."""
    return np.array([*first, *others[~np.isin(others, first)]], dtype=np.int64)


def by_tfidf(task: Task) -> tuple[np.ndarray, int]:
    """Return the order of the training texts by cleanlab with a TF-IDF model, and how many it reports."""
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2)), LogisticRegression(max_iter=1000))
    labels = task.train.labels
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chances = cross_val_predict(model, task.train.texts, labels, cv=FOLDS, method="predict_proba")
        listed = find_label_issues(labels, chances, return_indices_ranked_by="self_confidence", n_jobs=1)
        scores = cleanlab.rank.get_label_quality_scores(labels, chances)
    return behind(listed.tolist(), np.argsort(scores)), len(listed)


def shares(order: np.ndarray, reported: int, flipped: np.ndarray) -> dict[str, float]:
    """Return the precision of the first n doubts, n being the number of flipped labels, and the figures of all."""
    first, wrong = order[: int(flipped.sum())], int(flipped.sum())
    listed = flipped[order[:reported]]
    return {
        "first": float(flipped[first].mean()),
        "reported": reported,
        "precision": float(listed.mean()) if reported else 0.0,
        "recall": float(listed.sum() / wrong),
    }


def mean(several: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each figure, and the least and the greatest precision of the first n doubts."""
    made = {name: float(np.mean([one[name] for one in several])) for name in several[0]}
    first = [one["first"] for one in several if "first" in one]
    return made | ({"least": min(first), "most": max(first)} if first else {})


def measure(bench: Bench, share: float, seeds: int) -> dict[str, Any]:
    """Return the figures of a task with a share of flipped labels."""
    found: dict[str, list[dict[str, float]]] = {"afina": [], "tf-idf": []}
    estimates = []
    for seed in range(seeds):
        began = meter.now()
        task, flipped = bench.flip(share, seed)
        doubts, order = bench.doubts(task)
        listed = places(task, doubts)
        found["afina"].append(shares(order, len(listed), flipped))
        found["tf-idf"].append(shares(*by_tfidf(task), flipped))
        estimates.append({"wrong": doubts.flips.wrong, "at_most": doubts.flips.at_most} if doubts.flips else {})
        print(f"{bench.given.address} {share:g} seed {seed}: {meter.now() - began:.0f} s", file=sys.stderr, flush=True)
    made: dict[str, Any] = {name: mean(several) for name, several in found.items()}
    made |= {"random": share, "flipped": round(share * len(bench.given.train)), "estimate": mean(estimates)}
    return made


def clean(bench: Bench) -> dict[str, Any]:
    """Return how many of the given labels are reported; print the first of them."""
    found, _ = bench.doubts(bench.given)
    for one in found.labels[:SHOWN]:
        sure = "" if one.probability is None else f"{one.probability:.2f}"
        print(f"- {one.label} -> {one.suggested} {sure} ({one.similar or 'model'}): {one.text[:160]}")
    reported = {"labels": found.texts, "reported": len(found), "training": len(places(bench.given, found))}
    flips = {} if found.flips is None else {"wrong": found.flips.wrong, "at_most": found.flips.at_most}
    return {**reported, **flips, "tf-idf": by_tfidf(bench.given)[1]}


def table_of(share: float, found: Mapping[str, Any]) -> str:
    """Return the table of one share of flipped labels."""
    rows = []
    for name in ("afina", "tf-idf"):
        one = found[name]
        first = f"{one['first']:.1%} ({one['least']:.1%} to {one['most']:.1%})"
        rows.append((name, first, f"{one['reported']:,.0f}", f"{one['precision']:.1%}", f"{one['recall']:.1%}"))
    rows.append(("random", f"{share:.1%}", "", "", ""))
    return tables.table((f"{share:.0%} flipped", "first n", "reported", "precision", "recall"), rows) + "\n"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=["snippets:movies", "snippets:products"])
    parser.add_argument("--texts", type=int, default=None, help="the largest number of training texts")
    parser.add_argument("--shares", type=lambda text: [float(one) for one in text.split(",")], default=[0.05, 0.1])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--backbone", default="bge")
    parser.add_argument("--out", type=Path, default=Path("results/doubts"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print."""
    asked, result = parse(arguments), {}
    print("\n".join([*machine.describe(), ""]))
    for address in asked.tasks:
        bench = Bench.of(address, asked.texts, asked.backbone, asked.out)
        counts = len(bench.given.train), len(bench.given.evaluation)
        print(f"{address}: {counts[0]:,} training texts, {counts[1]:,} evaluation texts\n")
        made: dict[str, Any] = {"given": clean(bench)}
        print(f"\n{made['given']}\n")
        for share in asked.shares:
            made[f"{share:g}"] = measure(bench, share, asked.seeds)
            print(table_of(share, made[f"{share:g}"]), flush=True)
        result[address] = made
    print(json.dumps(result))


if __name__ == "__main__":
    main()
