"""Drift: false alarms in weeks without drift, and after how many texts a change of the texts is noticed.

    python benchmarks/drift.py --cache results/drift.npz
    python benchmarks/drift.py --repeats 5 --adapters 2

A linear probe on the features of `minilm` learns the sentiment of sentences of the task `snippets`. Everything else is
as afina has it: the counts of the evaluation texts that a manifest keeps, the counts that a server makes, and the
tests of `afina drift`. With `--cache`, the features are computed once. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from afina import Backbone
from afina.data.readers.snippets import NEUTRAL, SIGNS, Snippet, read
from afina.data.tokenize import Encoded, encode
from afina.models.answer_profile import AnswerProfile
from afina.models.objectives import Classes
from afina.models.predictions import Predictions
from afina.predicting.text_features import text_features
from afina.stats.drift import EFFECT, LEVEL, Drift
from afina.stats.intervals import wilson
from afina.stats.linear_models import fit_dense

LENGTH = 128
STRENGTH = 0.01
"""What cross-validation chooses for 2,000 sentences of movies."""

OBJECTIVE = Classes(SIGNS)
SIZES = (25, 50, 100, 200, 300, 500)
"""Numbers of served texts."""

TRAINING, EVALUATION, WEEK, WEEKS = 2000, 500, 400, 10
"""Numbers of texts, and the weeks of one adapter."""


@dataclass(frozen=True, eq=False)
class Domain:
    """Sentences with their features, tokens and labels."""

    features: np.ndarray
    encoded: Encoded
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> Domain:
        encoded = Encoded.of([self.encoded[index] for index in indices])
        return Domain(self.features[indices], encoded, self.labels[indices])

    def split(self, random: np.random.Generator, *sizes: int) -> list[Domain]:
        """Parts of these sizes at random, and the rest."""
        order = random.permutation(len(self))
        return [self.take(part) for part in np.split(order, np.cumsum(sizes))]


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear probe with the counts of its evaluation texts."""

    weights: np.ndarray
    biases: np.ndarray
    reference: AnswerProfile

    @classmethod
    def of(cls, training: Domain, evaluation: Domain) -> Probe:
        given = OBJECTIVE.linear, training.features, training.labels, OBJECTIVE.width
        made = fit_dense(*given, intercept=True, strength=STRENGTH)
        return cls(made.weights, made.biases, _profile(evaluation, made.weights, made.biases))

    def accuracy(self, texts: Domain) -> float:
        return float(np.mean((texts.features @ self.weights.T + self.biases).argmax(axis=1) == texts.labels))

    def drift(self, served: Domain, level: float = LEVEL) -> Drift:
        now = _profile(served, self.weights, self.biases)
        return self.reference.drift(now, one_label=OBJECTIVE.one_label, level=level, effect=EFFECT)


def _profile(texts: Domain, weights: np.ndarray, biases: np.ndarray) -> AnswerProfile:
    found = OBJECTIVE.profile(Predictions(texts.features @ weights.T + biases), texts.encoded.each)
    assert found is not None
    return found


def domains(cache: Path | None, most: int | None) -> dict[str, Domain]:
    """Sentences that are not neutral: of movies, tweets and products, and reviews of two kinds of products."""
    backbone, made = Backbone.load("minilm"), dict[str, Domain]()
    known: Mapping[str, np.ndarray] = np.load(cache) if cache is not None and cache.exists() else {}
    kept = dict(known)
    for name in ("movies", "tweets", "products"):
        snippets = _clear(name, most)
        texts = [one.text for one in snippets]
        if name not in kept:
            kept[name] = text_features(backbone, texts)
        labels = np.array([int(one.rating > 0) for one in snippets])
        made[name] = Domain(kept[name], encode(backbone.tokenizer, texts, None, max_length=LENGTH), labels)
        if name == "products":
            reviews = np.array([int(one.number.partition("_")[0]) for one in snippets])
            made["DVD players"] = made[name].take(np.flatnonzero(reviews < 100))
            made["cameras"] = made[name].take(np.flatnonzero((reviews >= 100) & (reviews < 180)))
    if cache is not None and kept.keys() != {*known}:
        np.savez(cache, **kept)
    return made


def _clear(name: str, most: int | None) -> list[Snippet]:
    found = [one for one in read(name) if abs(one.rating) >= NEUTRAL]
    order = np.random.default_rng(0).permutation(len(found))[:most]
    return [found[index] for index in order]


def false_alarms(home: Domain, adapters: int, week: int = WEEK) -> Iterator[list[Drift]]:
    """The comparisons of WEEKS weeks without drift, of each adapter; all weeks have other texts."""
    for seed in range(adapters):
        training, evaluation, rest = home.split(np.random.default_rng(seed), TRAINING, EVALUATION)
        probe = Probe.of(training, evaluation)
        weeks = rest.split(np.random.default_rng(seed), *[week] * WEEKS)[:WEEKS]
        yield [probe.drift(one, LEVEL) for one in weeks if len(one) == week]


def _biased(texts: Domain, random: np.random.Generator) -> Domain:
    """Texts of which three in four are positive."""
    positive, negative = np.flatnonzero(texts.labels == 1), np.flatnonzero(texts.labels == 0)
    few = random.choice(negative, len(positive) // 3, replace=False)
    return texts.take(random.permutation(np.concatenate([positive, few])))


def _repeated(texts: Domain, random: np.random.Generator) -> Domain:
    """Every text ten times, one after the other."""
    return texts.take(np.repeat(np.arange(len(texts) // 10), 10))


def noticed(home: Domain, other: Domain | None, change: Any, repeats: int, sizes: Sequence[int]) -> dict[str, Any]:
    """In how many repeats a change is noticed, by the number of served texts, and by which tests at the largest one.

    Args:
        other: The domain of the served texts. None: that of the training.
        change: A function that changes the served texts. None: they stay as they are.
    """
    most = min(len(home) // 4 if other is None else len(other), max(sizes))
    counts, tests = {size: 0 for size in sizes if size <= most}, dict[str, int]()
    training_size = min(TRAINING, len(home) // 2)
    accuracies = []
    for seed in range(repeats):
        random = np.random.default_rng(seed)
        training, evaluation, rest = home.split(random, training_size, min(EVALUATION, len(home) // 4))
        probe = Probe.of(training, evaluation)
        served = rest if other is None else other
        served = served.take(random.permutation(len(served)))
        served = served if change is None else change(served, random)
        accuracies.append((probe.accuracy(rest), probe.accuracy(served)))
        for size in counts:
            found = probe.drift(served.take(np.arange(size)))
            counts[size] += found.state == "drift"
            if size == max(counts):
                for one in found.tests:
                    tests[one.of] = tests.get(one.of, 0) + (one.adjusted <= LEVEL and one.distance >= EFFECT)
    before, after = np.mean(accuracies, axis=0)
    return {
        "evaluation": probe.reference.texts,
        "noticed": counts,
        "tests": tests,
        "accuracy": [float(before), float(after)],
    }


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="file for the features")
    parser.add_argument("--texts", type=int, default=6500, help="sentences of each domain")
    parser.add_argument("--adapters", type=int, default=20, help="adapters, with ten weeks each")
    parser.add_argument("--repeats", type=int, default=50)
    options = parser.parse_args()
    found = domains(options.cache, options.texts)
    weeks = [one for each in false_alarms(found["movies"], options.adapters) for one in each]
    alarms = {f"{level:g}": sum(one.p <= level for one in weeks) for level in (0.01, 0.05)}
    for level, count in alarms.items():
        ends = wilson(count, len(weeks))
        interval = f"95 % interval {ends.low:.3f} to {ends.high:.3f}"
        print(f"level {level}: alarms in {count} of {len(weeks)} weeks without drift ({interval})")
    arms: dict[str, tuple[str, str | None, Any]] = {
        "movies, then movies": ("movies", None, None),
        "movies, then products": ("movies", "products", None),
        "movies, then tweets": ("movies", "tweets", None),
        "DVD players, then cameras": ("DVD players", "cameras", None),
        "movies, then three in four positive": ("movies", None, _biased),
        "movies, each text ten times": ("movies", None, _repeated),
    }
    results = {}
    for name, (home, other, change) in arms.items():
        results[name] = noticed(found[home], None if other is None else found[other], change, options.repeats, SIZES)
        print(f"{name}: {results[name]}")
    print(json.dumps({"weeks": len(weeks), "alarms": alarms, "repeats": options.repeats, "arms": results}))


if __name__ == "__main__":
    main()
