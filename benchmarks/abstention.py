"""Abstention: how often the promised error is kept, and how many texts are answered, beside a threshold without a test.

    python benchmarks/abstention.py --tasks snippets:movies snippets:products snippets:domains

For each task, a linear probe is fitted to the features of some texts of the task, and the other texts are the pool. A
split draws calibration texts from the pool, chooses a threshold, and measures the error among answered texts:

- `drawn`: calibration texts are drawn with replacement, as if the pool was the source of all texts. The error is that
  of the whole pool, which is the true error.
- `held out`: calibration texts are drawn without replacement, and the error is that of the rest of the pool. The rest
  is a sample too, so a promise that is kept can seem to be broken, in particular if few texts are answered.

The rules are `tested` (`find_threshold`) and `naive`: the lowest threshold whose error on the calibration texts is at
most the bound, with at least FEWEST answers. Last come invented tasks with known errors, such as confidence without
information. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import tables
from afina import Backbone, Task
from afina.data.readers.splitting import rank
from afina.predicting.text_features import text_features
from afina.stats.abstention import fewest, find_threshold
from afina.stats.classification import probabilities
from afina.stats.intervals import wilson
from afina.stats.linear_models import LinearClasses, fit_dense

FEWEST = 20
"""The smallest number of answers at which the naive rule considers a threshold."""

Draw = tuple[np.ndarray, np.ndarray]
"""The confidence of texts, float [N], and whether their answers are wrong, bool [N]."""

Rule = Callable[[np.ndarray, np.ndarray, float], "float | None"]


def tested(confidence: np.ndarray, wrong: np.ndarray, most: float) -> float | None:
    """Return the threshold that a training with `abstain_error` chooses."""
    return find_threshold(confidence, wrong, most).value


def naive(confidence: np.ndarray, wrong: np.ndarray, most: float) -> float | None:
    """Return the lowest threshold whose error on the same texts is at most `most`; None if there is none."""
    order = np.argsort(-confidence, kind="stable")
    share = np.cumsum(wrong[order]) / np.arange(1, len(order) + 1)
    good = np.flatnonzero(share[FEWEST - 1 :] <= most)
    return float(confidence[order[FEWEST - 1 + good[-1]]]) if len(good) else None


RULES: dict[str, Rule] = {"tested": tested, "naive": naive}


@dataclass(frozen=True)
class Pool:
    """The confidence of a model about N texts, and whether its answers are wrong."""

    confidence: np.ndarray
    wrong: np.ndarray

    def error(self, threshold: float | None, rows: np.ndarray | None = None) -> tuple[float, float]:
        """Return the error among answered texts and the coverage, for all texts or some; 0 without answers."""
        confidence, wrong = (part if rows is None else part[rows] for part in (self.confidence, self.wrong))
        if threshold is None or not (answered := confidence >= threshold).any():
            return 0.0, 0.0
        return float(wrong[answered].mean()), float(answered.mean())

    def most(self, error: float) -> float:
        """Return the largest coverage with this error, for a person who knows all labels."""
        order = np.argsort(-self.confidence, kind="stable")
        good = np.flatnonzero(np.cumsum(self.wrong[order]) / np.arange(1, len(order) + 1) <= error)
        return float(good[-1] + 1) / len(order) if len(good) else 0.0


@dataclass(frozen=True)
class Row:
    """What became of a promise in many splits.

    Attributes:
        kept: The share of splits whose error is at most the bound.
        coverage: The mean share of answered texts.
        nothing: The share of splits in which no text is answered.
        most: The largest coverage that keeps the bound on the whole pool.
    """

    task: str
    errors: str
    bound: float
    calibration: int
    rule: str
    splits: int
    kept: float
    low: float
    high: float
    coverage: float
    nothing: float
    error: float
    most: float


def features_of(task: str, backbone: str, texts: int, kept: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the features of texts of a task, [N, D], and their labels, [N]; the file `kept` keeps them."""
    file = kept / f"{task.replace(':', '-')}-{texts}.npz"
    if not file.exists():
        read = Task.load(task)
        examples = sorted([*read.train, *read.evaluation], key=rank)[:texts]
        features = text_features(Backbone.load(backbone), [one.text for one in examples])
        kept.mkdir(parents=True, exist_ok=True)
        np.savez(file, features=features, labels=np.array([one.label for one in examples]))
    found = np.load(file)
    return found["features"], found["labels"]


def pool_of(task: str, backbone: str, texts: int, labelled: int, kept: Path) -> Pool:
    """Return the predictions of a linear probe for the texts of a task that it was not fitted to.

    Args:
        texts: The largest number of texts of the task.
        labelled: The number of texts to which the probe is fitted.
        kept: A directory that keeps features.
    """
    features, labels = features_of(task, backbone, texts, kept)
    given = features[:labelled].astype(np.float64), labels[:labelled]
    fitted = fit_dense(LinearClasses(), *given, int(labels.max()) + 1, intercept=True, strength=1.0)
    chances = probabilities(features[labelled:] @ fitted.weights.T + fitted.biases)
    return Pool(chances.max(axis=1), chances.argmax(axis=1) != labels[labelled:])


def rows_of(name: str, pool: Pool, bound: float, calibration: int, splits: int) -> Iterator[Row]:
    """Yield what became of the promise of each rule, by both ways to measure the error."""
    for way in ("drawn", "held out"):
        found: dict[str, list[tuple[float, float]]] = {rule: [] for rule in RULES}
        drawn = np.random.default_rng(0)
        for _ in range(splits):
            chosen = drawn.choice(len(pool.wrong), calibration, replace=way == "drawn")
            rest = None if way == "drawn" else np.setdiff1d(np.arange(len(pool.wrong)), chosen)
            for rule, choose in RULES.items():
                threshold = choose(pool.confidence[chosen], pool.wrong[chosen], bound)
                found[rule].append(pool.error(threshold, rest))
        for rule, measured in found.items():
            yield row(name, way, bound, calibration, rule, np.array(measured), pool.most(bound))


def row(name: str, way: str, bound: float, calibration: int, rule: str, measured: np.ndarray, most: float) -> Row:
    """Return what became of a promise; `measured` has the error and the coverage of each split, [splits, 2]."""
    kept = int((measured[:, 0] <= bound).sum())
    interval, answering = wilson(kept, len(measured)), measured[measured[:, 1] > 0]
    return Row(
        task=name,
        errors=way,
        bound=bound,
        calibration=calibration,
        rule=rule,
        splits=len(measured),
        kept=kept / len(measured),
        low=interval.low,
        high=interval.high,
        coverage=float(measured[:, 1].mean()),
        nothing=1 - len(answering) / len(measured),
        error=float(answering[:, 0].mean()) if len(answering) else float("nan"),
        most=most,
    )


def _uninformative(confidence: np.ndarray, bound: float) -> np.ndarray:
    return np.full(len(confidence), 1.01 * bound)


def _worse_at_the_top(confidence: np.ndarray, bound: float) -> np.ndarray:
    """Return errors that contradict the assumption: the most confident twentieth of the texts is wrong more often."""
    return np.where(confidence > 0.95, 3 * bound, 0.5 * bound + (0.9 * bound) * (confidence < 0.6))


def _calibrated(confidence: np.ndarray, bound: float) -> np.ndarray:
    del bound
    return (1 - confidence) / 2


INVENTED: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "confidence without information": _uninformative,
    "calibrated confidence": _calibrated,
    "most confident texts are worse": _worse_at_the_top,
}
"""The probability of a wrong answer by confidence, which is uniform from 0 to 1, and by the bound."""


def invented(name: str, bound: float, calibration: int, splits: int) -> Iterator[Row]:
    """Yield what became of the promise on an invented task, whose true error is known."""
    grid = (np.arange(20_000) + 0.5) / 20_000
    errors = INVENTED[name](grid, bound)
    answered = np.arange(1, len(grid) + 1)
    true = np.cumsum(errors[::-1]) / answered  # of the texts from the most confident one down
    most = float(answered[true <= bound].max(initial=0)) / len(grid)
    found: dict[str, list[tuple[float, float]]] = {rule: [] for rule in RULES}
    drawn = np.random.default_rng(1)
    for _ in range(splits):
        confidence = drawn.random(calibration)
        wrong = drawn.random(calibration) < INVENTED[name](confidence, bound)
        for rule, choose in RULES.items():
            threshold = choose(confidence, wrong, bound)
            count = 0 if threshold is None else int((grid >= threshold).sum())
            found[rule].append((float(true[count - 1]), count / len(grid)) if count else (0.0, 0.0))
    for rule, measured in found.items():
        yield row(name, "known", bound, calibration, rule, np.array(measured), most)


COLUMNS = ("task", "errors", "bound", "texts", "rule", "kept", "95 % interval", "coverage", "nothing", "error", "most")


def cells(one: Row) -> Sequence[str]:
    """Return a row of the printed table."""
    shares = f"{one.kept:.3f}", f"{one.low:.3f} to {one.high:.3f}", f"{one.coverage:.3f}", f"{one.nothing:.3f}"
    asked = one.task, one.errors, f"{one.bound:g}", f"{one.calibration:,}", one.rule
    return (*asked, *shares, f"{one.error:.4f}", f"{one.most:.3f}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table and a JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=["snippets:movies", "snippets:products", "snippets:domains"])
    parser.add_argument("--backbone", default="minilm")
    parser.add_argument("--texts", type=int, default=8000, help="most texts of a task")
    parser.add_argument("--labelled", type=int, default=1500, help="texts to which the probe is fitted")
    parser.add_argument("--bounds", type=float, nargs="+", default=[0.05, 0.1])
    parser.add_argument("--calibration", type=int, nargs="+", default=[400, 1000], help="texts that are set aside")
    parser.add_argument("--splits", type=int, default=500)
    parser.add_argument("--invented", type=int, default=5000, help="draws of each invented task; 0: none")
    parser.add_argument("--out", type=Path, default=Path("results/abstention"), help="directory of kept features")
    asked = parser.parse_args(arguments)
    rows: list[Row] = []
    for task in asked.tasks:
        pool = pool_of(task, asked.backbone, asked.texts, asked.labelled, asked.out)
        print(f"{task}: {len(pool.wrong):,} texts in the pool, error of all answers {pool.wrong.mean():.4f}")
        for calibration in (one for one in asked.calibration if one <= len(pool.wrong) / 2):
            for bound in asked.bounds:
                rows += rows_of(task, pool, bound, calibration, asked.splits)
    for name in INVENTED if asked.invented else ():
        for calibration in asked.calibration:
            for bound in asked.bounds:
                rows += invented(name, bound, calibration, asked.invented)
    print(tables.table(COLUMNS, [cells(one) for one in rows]))
    needed = {f"{bound:g}": fewest(bound) for bound in asked.bounds}
    print(json.dumps({"rows": [asdict(one) for one in rows], "fewest": needed}))


if __name__ == "__main__":
    main()
