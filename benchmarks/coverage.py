"""How often the 95 % intervals of every metric contain the true value: for one method, and for the difference of two.

    python benchmarks/coverage.py            all cells, a table per kind of task (docs/background/coverage.md)
    python benchmarks/coverage.py --studies 200 --only f1 mcc
    python benchmarks/coverage.py --studies 200 --kind text --cells 1x50 1x200

Each simulated study has two methods with correlated predictions. A prediction comes from a latent normal variable. The
variable is a sum of effects: of the example (standard deviation 1), of the example for the method (0.5), of the seed
for the method, and of chance (0.6). A seed changes two things: how closely the prediction follows the truth, by 5 %,
and a bias that all examples share, by 0.1.

- classes: two; class 1 has a share of 0.5 or 0.1. In the first case, the accuracies are about 0.88 and 0.87. The
  probabilities are calibrated.
- numbers: the targets are ratings from 1 to 5, rounded; the predictions are not rounded.
- labels: five, with shares of 0.5, 0.3, 0.2, 0.1 and 0.04. They occur together more often than by chance.
- texts: one or two references of one to eight phrases; 120 phrases, some much more frequent than others. An answer
  copies the first reference. The latent variable decides how many phrases are replaced by others, and whether the
  answer repeats itself.
- texts in groups, such as the questions about one article: the same texts, but the texts of a group share a part of the
  variance of the effect of an example, and of its effect for the method. The intervals do not take groups into account.
- entities: about 1.5 in a text, of three labels. The latent variable of a text decides which entities are found, and
  how many words are answered as entities that are none. An entity that is not found right is missed, or has another
  label or another border.
- entities in documents: the same texts, in documents of random sizes (geometric distribution). The texts of a document
  share a part of the variance of the effects, and of the number of entities. The intervals take documents into account.

With several seeds, the true value is the mean over many seeds. With one seed, it is the value of the trained model, so
seeds do not vary then. Both are computed from 400,000 examples, or 20,000 texts. NIST grows with the number of
references, so its true value is the mean over the simulated studies of the same size. Standard errors: 0.004 with one
seed, 0.007 with several; texts take longer, so there are a fifth as many studies of them, 0.009 and 0.015, and half as
many of entities, 0.006 and 0.010.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.special import expit, ndtri

from afina.stats.intervals import Interval, estimate
from afina.stats.metrics import METRICS, Answered, of_kind
from afina.stats.significance import Evidence

MANY_EXAMPLES = 400_000
METHODS = 2
PER_METHOD, PER_SEED, SIGNAL_SD, BIAS_SD = 0.5, 0.6, 0.05, 0.1
VARIANCE = 1 + PER_METHOD**2 + PER_SEED**2
LABEL_SHARES = np.array([0.5, 0.3, 0.2, 0.1, 0.04])
PHRASES = 120
GROWING = ("nist",)
"""Metrics whose true value depends on the number of examples."""


class Seeds(NamedTuple):
    """The differences between trained models: [methods, seeds], standard normal."""

    signal: np.ndarray
    bias: np.ndarray


def drawn(generator: np.random.Generator, seeds: int, *, vary: bool) -> Seeds:
    """Draw the effects of `seeds` seeds; all are 0 if `vary` is false."""
    return Seeds(*(generator.standard_normal((2, METHODS, seeds)) * vary))


@dataclass(frozen=True)
class Task:
    """A kind of task to simulate; `make` gives, for each method, what each seed answered.

    The true value is that of `many` examples, and there are `dearer` times fewer studies. `alone`, if given, replaces
    `make` for the true value: groups do not change it. `documents`: whether the intervals take groups into account.
    """

    name: str
    kind: str
    make: Callable[[np.random.Generator, Seeds, int], list[list[Answered]]]
    many: int = MANY_EXAMPLES
    dearer: int = 1
    alone: Callable[[np.random.Generator, Seeds, int], list[list[Answered]]] | None = None
    documents: bool = False

    @property
    def metrics(self) -> list[str]:
        """The metrics that have an interval."""
        return [name for name in of_kind(self.kind) if METRICS[name].values]


def _noise(
    generator: np.random.Generator,
    seeds: int,
    shape: tuple[int, ...],
    groups: np.ndarray | None = None,
    shared: float = 0.0,
) -> Iterator[Iterator[np.ndarray]]:
    """For each method, for each seed: the latent variable without truth, seed and bias.

    The examples of a group, whose numbers are `groups` [examples], share this part of the variance of their effects.
    """
    example = _effect(generator, shape, groups, shared)
    for _ in range(METHODS):
        own = example + PER_METHOD * _effect(generator, shape, groups, shared)
        yield (own + PER_SEED * generator.standard_normal(shape) for _ in range(seeds))


def _effect(
    generator: np.random.Generator, shape: tuple[int, ...], groups: np.ndarray | None, shared: float
) -> np.ndarray:
    """Standard normal effects of examples, of which groups share a part of the variance."""
    own = generator.standard_normal(shape)
    if groups is None:
        return own
    common = generator.standard_normal((int(groups[-1]) + 1, *shape[1:]))[groups]
    mixed: np.ndarray = np.sqrt(1 - shared) * own + np.sqrt(shared) * common
    return mixed


def _followed(seeds: Seeds, method: int, seed: int, strengths: Sequence[float]) -> tuple[float, float]:
    """How closely this model follows the truth, and its bias."""
    strength = strengths[method] * (1 + SIGNAL_SD * seeds.signal[method, seed])
    return strength, BIAS_SD * float(seeds.bias[method, seed])


def classes(share: float) -> Callable[[np.random.Generator, Seeds, int], list[list[Answered]]]:
    """Two classes, of which class 1 has that share."""
    strengths = [float(ndtri(right)) * VARIANCE**0.5 for right in (0.88, 0.87)]

    def make(generator: np.random.Generator, seeds: Seeds, examples: int) -> list[list[Answered]]:
        targets = (generator.random(examples) < share).astype(np.int64)
        found = []
        for method, noises in enumerate(_noise(generator, seeds.signal.shape[1], (examples,))):
            answers = []
            for seed, noise in enumerate(noises):
                strength, bias = _followed(seeds, method, seed, strengths)
                latent = strength * (2 * targets - 1) + noise + bias
                chance = expit(2 * strengths[method] * latent / VARIANCE + np.log(share / (1 - share)))
                chances = np.stack([1 - chance, chance], axis=1)
                answers.append(Answered(targets, (chance > 0.5).astype(np.int64), chances))
            found.append(answers)
        return found

    return make


def numbers(generator: np.random.Generator, seeds: Seeds, examples: int) -> list[list[Answered]]:
    """Ratings."""
    rating = generator.standard_normal(examples)
    targets = np.clip(np.round(3 + rating), 1, 5)
    found = []
    for method, noises in enumerate(_noise(generator, seeds.signal.shape[1], (examples,))):
        answers = []
        for seed, noise in enumerate(noises):
            strength, bias = _followed(seeds, method, seed, (0.9, 0.87))
            answers.append(Answered(targets, 3 + strength * rating + 0.4 * noise + bias))
        found.append(answers)
    return found


def labels(generator: np.random.Generator, seeds: Seeds, examples: int) -> list[list[Answered]]:
    """Five labels."""
    shape, at = (examples, len(LABEL_SHARES)), ndtri(LABEL_SHARES)
    truth = np.sqrt(0.8) * generator.standard_normal(shape) + np.sqrt(0.2) * generator.standard_normal((examples, 1))
    targets = truth + at > 0
    found = []
    for method, noises in enumerate(_noise(generator, seeds.signal.shape[1], shape)):
        answers = []
        for seed, noise in enumerate(noises):
            strength, bias = _followed(seeds, method, seed, (1.0, 0.97))
            latent = strength * truth + at + 0.4 * noise + bias
            answers.append(Answered(targets, latent > 0, expit(2 * latent)))
        found.append(answers)
    return found


def texts(
    generator: np.random.Generator, seeds: Seeds, examples: int, group: int = 1, shared: float = 0.0
) -> list[list[Answered]]:
    """Texts of phrases, with one or two references each, in groups that share a part of the variance."""
    words = np.random.default_rng(0).integers(0, 60, (PHRASES, 3))  # the same phrases in every study
    phrases = [" ".join(f"w{word}" for word in one[: 1 + place % 3]) for place, one in enumerate(words)]
    frequent = 1 / np.arange(2, PHRASES + 2)
    frequent /= frequent.sum()
    lengths = generator.integers(1, 9, examples)
    ends = np.cumsum(lengths)
    first, second = generator.choice(PHRASES, (2, ends[-1]), p=frequent)
    second = np.where(generator.random(ends[-1]) < 0.6, first, second)
    references = [_sentences(phrases, one, ends) for one in (first, second)]
    targets = np.empty(examples, dtype=object)
    targets[:] = [pair[: 1 + place % 2] for place, pair in enumerate(zip(*references, strict=True))]
    tokens = 2 * lengths * (1 + np.arange(examples) % 2) + 1
    found = []
    groups = None if group == 1 else np.arange(examples) // group
    for method, noises in enumerate(_noise(generator, seeds.signal.shape[1], (examples,), groups, shared)):
        answers = []
        for seed, noise in enumerate(noises):
            strength, bias = _followed(seeds, method, seed, (1.0, 0.94))
            latent = strength + 0.8 * noise + bias
            kept = generator.random(ends[-1]) < np.repeat(expit(latent), lengths)
            written = _sentences(phrases, np.where(kept, first, generator.choice(PHRASES, ends[-1], p=frequent)), ends)
            again = generator.random(examples) < expit(-2 - latent)
            given = np.empty(examples, dtype=object)
            given[:] = [f"{text} {text}" if twice else text for text, twice in zip(written, again, strict=True)]
            nll = tokens * np.exp(0.2 * generator.standard_normal(examples) - 0.4 * latent)
            extras = {"nll": nll, "reference_tokens": tokens, "ended": generator.random(examples) < expit(3 + latent)}
            answers.append(Answered(targets, given, None, extras))
        found.append(answers)
    return found


def _sentences(phrases: Sequence[str], chosen: np.ndarray, ends: np.ndarray) -> list[str]:
    """The phrases of each text, joined."""
    return [" ".join(phrases[one] for one in part) for part in np.split(chosen, ends[:-1])]


SLOTS = 16
"""A text has places for so many entities of two words, with a word between two places."""


def entities(
    generator: np.random.Generator, seeds: Seeds, examples: int, size: int = 1, shared: float = 0.0
) -> list[list[Answered]]:
    """Entities of three labels, in documents of `size` texts on average that share a part of the variance."""
    documents = None if size == 1 else np.cumsum(generator.random(examples) < 1 / size)
    count = np.minimum(generator.poisson(1.2 * np.exp(0.6 * _effect(generator, (examples,), documents, shared))), 8)
    slots = np.arange(SLOTS)
    label = generator.choice(3, (examples, SLOTS), p=[0.6, 0.3, 0.1])
    targets = _placed(slots < count[:, None], label, np.full((examples, SLOTS), 2))
    words = np.stack([3 * np.arange(3 * SLOTS), 3 * np.arange(3 * SLOTS) + 2], axis=1)
    extras = {"words": _objects([words] * examples)} | ({} if documents is None else {"document": documents})
    found = []
    for method, noises in enumerate(_noise(generator, seeds.signal.shape[1], (examples,), documents, shared)):
        answers = []
        for seed, noise in enumerate(noises):
            strength, bias = _followed(seeds, method, seed, (1.0, 0.94))
            latent = strength + 0.8 * noise + bias
            drawn = generator.random((3, examples, SLOTS))
            right = drawn[0] < expit(latent)[:, None]
            there = slots < count[:, None]
            other = ~right & (drawn[1] < 0.25)
            shorter = ~right & (drawn[1] >= 0.25) & (drawn[1] < 0.5)
            spurious = drawn[2] < 0.06 * expit(-latent)[:, None]
            given = np.where(there, right | other | shorter, spurious)
            written = np.where(there & other, (label + 1) % 3, label)
            answered = _placed(given, written, np.where(there & shorter, 1, 2))
            answers.append(Answered(targets, answered, None, extras))
        found.append(answers)
    return found


def _placed(given: np.ndarray, label: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The entities of texts, of the given places, labels and numbers of words, [texts, SLOTS] each."""
    text, slot = np.nonzero(given)
    starts, ends = (9 * slot).tolist(), (9 * slot + 3 * words[text, slot] - 1).tolist()
    made = [(*one[:2], "ABC"[one[2]]) for one in zip(starts, ends, label[text, slot].tolist(), strict=True)]
    last = np.cumsum(given.sum(axis=1)).tolist()
    return _objects([tuple(made[start:end]) for start, end in zip([0, *last], last, strict=False)])


def _objects(found: Sequence[object]) -> np.ndarray:
    return np.fromiter(found, dtype=object, count=len(found))


TASKS = [
    Task("two classes, half of class 1", "classes", classes(0.5)),
    Task("two classes, a tenth of class 1", "classes", classes(0.1)),
    Task("ratings", "number", numbers),
    Task("five labels", "labels", labels),
    Task("texts", "text", texts, many=20_000, dearer=5),
    Task("texts in groups of 10", "text", partial(texts, group=10, shared=0.15), many=20_000, dearer=5, alone=texts),
    Task("texts in groups of 25", "text", partial(texts, group=25, shared=0.5), many=20_000, dearer=5, alone=texts),
    Task("entities", "entities", entities, many=100_000, dearer=2),
    Task(
        "entities in documents of about 10 texts",
        "entities",
        partial(entities, size=10, shared=0.4),
        many=100_000,
        dearer=2,
        alone=entities,
        documents=True,
    ),
]


def truth(task: Task, names: Sequence[str], *, seeds_vary: bool) -> dict[str, np.ndarray]:
    """The true value of each metric, float [methods]. Gauss-Hermite quadrature gives the mean over seeds."""
    at, weights = np.polynomial.hermite_e.hermegauss(3 if seeds_vary else 1)
    weights = np.outer(weights, weights).ravel() / weights.sum() ** 2
    seeds = Seeds(*(np.tile(one.ravel(), (METHODS, 1)) for one in np.meshgrid(at, at)))
    found = (task.alone or task.make)(np.random.default_rng(1), seeds, task.many)
    return {
        name: np.array([weights @ [METRICS[name].value(one) for one in answers] for answers in found]) for name in names
    }


def values(task: Task, names: Sequence[str], seeds: int, examples: int, index: int) -> dict[str, np.ndarray]:
    """The values of each metric in one study, [methods, seeds, examples]."""
    generator = np.random.default_rng([TASKS.index(task), seeds, examples, index])
    found = task.make(generator, drawn(generator, seeds, vary=seeds > 1), examples)
    return {name: np.array([[METRICS[name].values(one) for one in answers] for answers in found]) for name in names}


MORE_OF_ONE_SEED = 3
"""Times as many studies of one seed: they take less time, and their intervals are the tighter ones."""

CELLS = [(seeds, examples) for seeds in (1, 3, 5) for examples in (200, 1000)]


def coverage(
    task: Task, true: dict[str, np.ndarray], seeds: int, examples: int, studies: int
) -> dict[str, tuple[float, float]]:
    """For each metric, the coverage of the interval of the first method and of that of the difference.

    Studies in which the method has no interval, because there are fewer than ten documents, do not count for it.
    """
    found: dict[str, list[tuple[Interval, Interval, np.ndarray]]] = {name: [] for name in true}
    for index in range(studies):
        for name, both in values(task, list(true), seeds, examples, index).items():
            metric, (first, second) = METRICS[name], both
            of_pair = (
                Evidence.of(first, second)
                if metric.counted
                else Evidence.linear(first, second, metric, 1.0, few=task.documents)
            )
            found[name].append(
                (estimate(first, metric, few=task.documents).interval, of_pair.interval, both.mean(axis=(1, 2)))
            )
    shares = {}
    for name, studied in found.items():
        one, other = true[name] if name not in GROWING else np.mean([means for _, _, means in studied], axis=0)
        alone = [single.contains(one) for single, _, _ in studied if not np.isnan(single.low)]
        shares[name] = (float(np.mean(alone)), float(np.mean([pair.contains(one - other) for _, pair, _ in studied])))
    return shares


def table(task: Task, only: Sequence[str], studies: int, cells: Sequence[tuple[int, int]]) -> str:
    """In Markdown: a line for each metric, of one method / of the difference in each cell."""
    names = [name for name in task.metrics if not only or name in only]
    true = {vary: truth(task, names, seeds_vary=vary) for vary in {seeds > 1 for seeds, _ in cells}}
    columns = [
        coverage(task, true[seeds > 1], seeds, examples, studies * (MORE_OF_ONE_SEED if seeds == 1 else 1))
        for seeds, examples in cells
    ]
    titles = [f"{seeds} seed{'s' * (seeds > 1)}, {examples:,}" for seeds, examples in cells]
    lines = [f"| {task.name} | " + " | ".join(titles) + " |", "| --- |" + " --- |" * len(cells)]
    for name in names:
        figures = (f"{column[name][0]:.3f} / {column[name][1]:.3f}" for column in columns)
        lines.append(f"| {name} | " + " | ".join(figures) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000, help="in each cell (1,000; three times that of one seed)")
    parser.add_argument("--only", nargs="*", default=[], help="metrics (all)")
    parser.add_argument("--kind", help="tasks of this kind alone (all)")
    parser.add_argument("--task", help="the task of this name alone (all)")
    parser.add_argument("--cells", nargs="*", type=_cell, default=CELLS, help="SEEDSxEXAMPLES, such as 1x200 (six)")
    options = parser.parse_args(arguments)
    for task in TASKS:
        asked = options.kind in (None, task.kind) and options.task in (None, task.name)
        if asked and (not options.only or set(options.only) & set(task.metrics)):
            print(table(task, options.only, options.studies // task.dearer, options.cells), end="\n\n", flush=True)


def _cell(given: str) -> tuple[int, int]:
    """A number of seeds and a number of examples."""
    seeds, _, examples = given.partition("x")
    return int(seeds), int(examples)


if __name__ == "__main__":
    main()
