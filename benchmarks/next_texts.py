"""How many labels `afina next` saves: rounds of 50 labels are simulated on tasks whose labels are all known.

    python benchmarks/next_texts.py --sst2 path/to/sst2       all tasks; the features of texts are kept in results/next
    python benchmarks/next_texts.py --tasks movies --seeds 2

A rule starts with 50 texts, and chooses 50 texts of a pool of at most 3,000 in each round, up to 700 labels. After each
round, a linear probe on `minilm` is fitted to all labels and measured on held-out texts. Every probe has the same
regularization, C = 0.01 (numbers: 0.001), so that rounds take milliseconds. The measure is accuracy, for tasks with a
rare class the mean of the classes' recalls, and for numbers the root mean squared error in standard deviations.

Labels saved: 500 minus the number of labels with which the curve of a rule reaches the value of random texts at 500
labels. A curve is the mean over seeds, smoothed by a quadratic function of the logarithm of the labels; otherwise noise
would reach the value too early. The interval is that of 500 bootstrap samples of the seeds. Each seed has its own pool,
which all rules share.

The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from afina import Backbone, Task
from afina.stats.active_learning import diverse, uncertain
from afina.stats.intervals import wilson
from afina.stats.linear_models import LinearClasses, LinearFit, LinearNumber, fit_dense
from afina.studies.labelling.next_texts import RANDOM_SHARE, RESERVED

OUT = Path("results") / "next"
ROUND, TARGET, LAST, POOL, HELD_OUT = 50, 500, 700, 3_000, 2_000
STRENGTH, OF_NUMBERS = 0.01, 0.001
SEEDS = 5
RARE = 1 / 9
"""In a pool with a rare class, the number of texts of the first class for each text of another class."""

COPIES, NOISE = 5, 0.05
"""In a pool with near-duplicates: how often each text occurs, and how far the copies are from each other, as a share of
the standard deviation of each feature."""


@dataclass(frozen=True)
class Texts:
    """The features and classes of the texts of a pool, and of the held-out texts."""

    pool: np.ndarray
    labels: np.ndarray
    held_out: np.ndarray
    right: np.ndarray

    @property
    def numbers(self) -> bool:
        return self.labels.dtype.kind == "f"

    @property
    def classes(self) -> int:
        """The number of outputs: 1 for numbers."""
        return 1 if self.numbers else int(max(self.labels.max(), self.right.max())) + 1


def features(task: str, address: str) -> Texts:
    """The texts of a task, at most 6,000 of its training texts and 2,000 held-out texts; computed once."""
    kept = OUT / f"{task}.npz"
    if not kept.exists():
        from afina.predicting.text_features import text_features

        read, random = Task.load(address), np.random.default_rng(0)
        backbone, made = Backbone.load("minilm"), {}
        for name, split, most in (("pool", read.train, 2 * POOL), ("held_out", read.evaluation, HELD_OUT)):
            chosen = split.take(np.sort(random.permutation(len(split))[:most]))
            made |= {name: text_features(backbone, chosen.texts, chosen.pairs), f"{name}_labels": chosen.labels}
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(kept, **made)
    with np.load(kept) as found:
        labels, right = found["pool_labels"], found["held_out_labels"]
        if labels.dtype.kind == "f":  # in standard deviations
            labels, right = (labels - labels.mean()) / labels.std(), (right - labels.mean()) / labels.std()
        return Texts(found["pool"], labels, found["held_out"], right)


def drawn(texts: Texts, how: str, random: np.random.Generator) -> Texts:
    """The pool of a seed: at most POOL texts. how: "rare", "copies", or "" for texts as they are."""
    places, noise = random.permutation(len(texts.pool)), 0.0
    if how == "rare":
        first = texts.labels[places] == 0
        kept = np.cumsum(first) <= RARE * (~first).sum()
        places = places[~first | kept]
    elif how == "copies":
        places, noise = np.repeat(places[: POOL // COPIES], COPIES), NOISE
    places = places[:POOL]
    points = texts.pool[places]
    points = points + noise * points.std(axis=0) * random.normal(size=points.shape)
    return Texts(points, texts.labels[places], texts.held_out, texts.right)


Rule = Callable[[np.ndarray, np.ndarray, int, np.random.Generator], np.ndarray]
"""A function of features [N, width], probabilities [N, classes], a count and random numbers, which returns indices."""


def at_random(points: np.ndarray, chances: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Texts at random."""
    return random.permutation(len(points))[:count]


def margin(points: np.ndarray, chances: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """The texts with the smallest difference of their two largest probabilities."""
    return np.argsort(_margins(chances), kind="stable")[:count]


def least_confident(points: np.ndarray, chances: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """The texts with the lowest probability of their prediction."""
    return np.argsort(chances.max(axis=1), kind="stable")[:count]


def spread(points: np.ndarray, chances: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Texts that differ from each other."""
    return diverse(points, count)


def both(points: np.ndarray, chances: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Texts of low confidence that differ from each other."""
    return uncertain(points, chances.max(axis=1), count)


def margin_and_spread(points: np.ndarray, chances: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Texts of small margins that differ from each other."""
    return uncertain(points, _margins(chances), count)


def _margins(chances: np.ndarray) -> np.ndarray:
    two = np.sort(chances, axis=1)[:, -2:]
    return two[:, 1] - two[:, 0]


RULES: Mapping[str, tuple[Rule, Rule]] = {
    "random": (at_random, at_random),
    "least confident": (at_random, least_confident),
    "margin": (at_random, margin),
    "diverse": (spread, spread),
    "uncertain and diverse": (at_random, both),
    "margin and diverse": (at_random, margin_and_spread),
}
"""By name, the rule of the first round, and that of the later rounds."""

AFINA = "afina next"

RULES_OF_NUMBERS = ("random", "diverse")
"""The rules for numbers, which have no probabilities."""

ACCURACY, RECALL, ERROR = "accuracy", "mean recall", "minus RMSE"


class Simulated(NamedTuple):
    """A task: its address, the name of its features, how its pools are drawn, and its measure."""

    address: str
    name: str
    how: str = ""
    measure: str = ACCURACY


TASKS: Mapping[str, Simulated] = {
    "movies": Simulated("snippets:movies", "movies"),
    "products": Simulated("snippets:products", "products"),
    "domains": Simulated("snippets:domains", "domains"),
    "sst2": Simulated("sst2", "sst2"),
    "products, near-duplicates": Simulated("snippets:products", "products", "copies"),
    "products, 1 to 9": Simulated("snippets:products", "products", "rare", RECALL),
    "movies-3": Simulated("snippets:movies-3", "movies-3", "", RECALL),
    "ratings": Simulated("snippets:ratings", "ratings", "", ERROR),
}
"""The tasks by name. One in twenty texts of movies-3 is neutral."""


def probe(points: np.ndarray, labels: np.ndarray, classes: int) -> LinearFit:
    """A linear probe with the strength of all probes of this benchmark."""
    linear, strength = (LinearNumber(), OF_NUMBERS) if labels.dtype.kind == "f" else (LinearClasses(), STRENGTH)
    return fit_dense(linear, points, labels, classes, intercept=True, strength=strength)


def logits(fit: LinearFit, points: np.ndarray) -> np.ndarray:
    """The outputs of a probe, [N, classes]."""
    made: np.ndarray = points @ fit.weights.T + fit.biases
    return made


def probabilities(outputs: np.ndarray) -> np.ndarray:
    """The softmax of outputs [N, classes]."""
    powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    made: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return made


def measure(texts: Texts, outputs: np.ndarray, name: str) -> float:
    """A measure of outputs for the held-out texts; higher is better."""
    if name == ERROR:
        return -float(np.sqrt(np.mean((outputs[:, 0] - texts.right) ** 2)))
    right = outputs.argmax(axis=1) == texts.right
    of_class = [right[texts.right == one].mean() for one in np.unique(texts.right)]
    return float(np.mean(of_class) if name == RECALL else right.mean())


def chances_of(texts: Texts, labelled: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The outputs of a probe that is fitted to labelled texts, [N, classes]; of a single class, the same for all."""
    known = texts.labels[labelled]
    if texts.numbers or len(np.unique(known)) > 1:
        return logits(probe(texts.pool[labelled], known, texts.classes), points)
    return np.tile(np.eye(texts.classes)[known[0]], (len(points), 1))


def rounds(texts: Texts, rule: tuple[Rule, Rule], random: np.random.Generator, last: int) -> Iterator[np.ndarray]:
    """Yield the labelled texts after each round of a rule, up to `last` labels."""
    chances, every = np.full((len(texts.pool), texts.classes), 1 / texts.classes), np.arange(len(texts.pool))
    labelled = rule[0](texts.pool, chances, ROUND, random)
    while True:
        yield labelled
        if len(labelled) + ROUND > min(last, len(texts.pool)):
            return
        left = np.setdiff1d(every, labelled)
        chances = probabilities(chances_of(texts, labelled, texts.pool[left]))
        labelled = np.concatenate([labelled, left[rule[1](texts.pool[left], chances, ROUND, random)]])


def rounds_of_afina(texts: Texts, random: np.random.Generator, last: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the labelled texts after each round of `afina next`, and whether each was drawn at random.

    A tenth of a round is drawn from the reserved texts, and their labels do not choose other texts.
    """
    order, tenth = random.permutation(len(texts.pool)), math.ceil(RANDOM_SHARE * ROUND)
    reserved, others = np.split(order, [int(RESERVED * len(order))])
    drawn, chosen = reserved[:0], others[:0]
    while len(drawn) + len(chosen) + ROUND <= min(last, len(texts.pool)):
        left = np.setdiff1d(others, chosen)
        points, count = texts.pool[left], ROUND - tenth
        if len(chosen) and not texts.numbers:
            chances = probabilities(chances_of(texts, chosen, points))
            new = margin_and_spread(points, chances, count, random)
        else:
            new = diverse(points, count)
        drawn, chosen = reserved[: len(drawn) + tenth], np.concatenate([chosen, left[new]])
        yield np.concatenate([drawn, chosen]), np.arange(len(drawn) + len(chosen)) < len(drawn)


def curve(texts: Texts, name: str, random: np.random.Generator, measured_by: str, last: int) -> list[float]:
    """The measure of a rule after each round, up to `last` labels."""
    if name == AFINA:
        of_rounds = (labelled for labelled, _ in rounds_of_afina(texts, random, last))
    else:
        of_rounds = (labelled for labelled in rounds(texts, RULES[name], random, last))
    return [measure(texts, chances_of(texts, one, texts.held_out), measured_by) for one in of_rounds]


@dataclass(frozen=True)
class Estimated:
    """The accuracy after rounds of `afina next`, measured in three ways.

    Attributes:
        on_random: On the texts that were drawn at random, of a probe that is fitted to the other labelled texts.
        on_labelled: On all labelled texts, by cross-validation.
        true: On the held-out texts, of the probe of `on_random`.
        covers: Whether the 95 % interval of `on_random` contains `true`.
    """

    on_random: float
    on_labelled: float
    true: float
    covers: bool


def estimated(texts: Texts, random: np.random.Generator, labels: int = TARGET) -> Estimated:
    """The estimates of the accuracy after `labels` labels."""
    *_, (labelled, drawn_texts) = rounds_of_afina(texts, random, labels)
    fitted, asked, known = labelled[~drawn_texts], labelled[drawn_texts], texts.labels[labelled]
    right = chances_of(texts, fitted, texts.pool[asked]).argmax(axis=1) == texts.labels[asked]
    true = measure(texts, chances_of(texts, fitted, texts.held_out), ACCURACY)
    folds, crossed = random.permutation(len(labelled)) % 5, np.zeros(len(labelled), np.int64)
    for fold in range(5):
        seen = folds == fold
        crossed[seen] = chances_of(texts, labelled[~seen], texts.pool[labelled[seen]]).argmax(axis=1)
    covers = wilson(int(right.sum()), len(right)).contains(true)
    return Estimated(float(right.mean()), float((crossed == known).mean()), true, covers)


def smooth(values: np.ndarray) -> np.ndarray:
    """A curve at each number of labels from ROUND on: the quadratic function of log(labels) nearest to the values."""
    sizes = ROUND * np.arange(1, len(values) + 1)
    polynomial = np.polynomial.Polynomial.fit(np.log(sizes), values, 2)
    made: np.ndarray = polynomial(np.log(np.arange(ROUND, sizes[-1] + 1)))
    return made


def saved(curves: np.ndarray, of_random: np.ndarray, samples: int = 500) -> tuple[float, float, float]:
    """Labels saved at the value of random texts with TARGET labels, and the ends of the 95 % interval over seeds.

    A curve that does not reach the value saves minus infinity.
    """

    def of(seeds: np.ndarray) -> float:
        target = smooth(of_random[seeds].mean(axis=0))[TARGET - ROUND]
        reached = np.flatnonzero(smooth(curves[seeds].mean(axis=0)) >= target)
        return TARGET - (ROUND + float(reached[0])) if len(reached) else -math.inf

    random, count = np.random.default_rng(0), len(curves)
    made = sorted(of(random.integers(count, size=count)) for _ in range(samples))
    return of(np.arange(count)), made[int(0.025 * samples)], made[int(0.975 * samples)]


def measured(texts: Texts, task: Simulated, seeds: int, last: int) -> dict[str, dict[str, Any]]:
    """By rule, the mean curve on a task, and the labels that the rule saves with the ends of the interval."""
    curves = {}
    for name in (*(RULES_OF_NUMBERS if texts.numbers else RULES), AFINA):
        made = []
        for seed in range(seeds):
            pool = drawn(texts, task.how, np.random.default_rng([seed, 1]))
            made.append(curve(pool, name, np.random.default_rng([seed, 2]), task.measure, last))
        curves[name] = np.array(made)
    return {
        name: {"mean": found.mean(axis=0).round(4).tolist(), "saved": saved(found, curves["random"])}
        for name, found in curves.items()
    }


def estimates(texts: Texts, seeds: int) -> dict[str, float]:
    """The means of the fields of `Estimated` over pools and orders."""
    made = []
    for seed in range(seeds):
        pool = drawn(texts, "", np.random.default_rng([seed, 1]))
        made.append(asdict(estimated(pool, np.random.default_rng([seed, 3]))))
    return {name: float(np.mean([one[name] for one in made])) for name in made[0]}


def main() -> None:
    """Measure the tasks, and print a table for each and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--sst2", help="the directory of SST-2; without it, from the Hub")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--last", type=int, default=LAST, help="labels of the last round")
    parser.add_argument("--estimates", type=int, default=40, help="seeds of the accuracy on random texts")
    chosen = parser.parse_args()
    found: dict[str, Any] = {}
    for task in chosen.tasks:
        about = TASKS[task]
        texts = features(about.name, chosen.sst2 or about.address if task == "sst2" else about.address)
        rules = measured(texts, about, chosen.seeds, chosen.last)
        found[task] = {"rules": rules}
        print(f"{task}: {about.measure} at 100, 200, 300, 500 labels; labels saved")
        for rule, one in rules.items():
            some = "  ".join(f"{one['mean'][size // ROUND - 1]:.3f}" for size in (100, 200, 300, 500))
            print(f"  {rule:<22} {some}  {one['saved'][0]:>5.0f} ({one['saved'][1]:.0f} to {one['saved'][2]:.0f})")
        if about.measure == ACCURACY and not about.how:
            found[task]["estimated"] = estimates(texts, chosen.estimates)
            print(f"  accuracy after {TARGET} labels: {found[task]['estimated']}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
