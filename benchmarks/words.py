"""The gain of asking in words: untrained, LoRA and full fine-tuning, compared with a random head.

    python benchmarks/words.py --shard 0/2   what is not in the records yet; shards may run side by side

There are three tasks of the snippets asset. For each, 400 texts are held out, and 200 others select the learning rate;
no arm is trained or evaluated on them. The seed draws the training texts from 2,000 others, the smaller sets within the
larger. The rate is the best of three on 256 labels at seed 0. Product reviews use the rate of movie sentences, because
both have the same template and labels. Every size except the smallest takes as many steps as the 256 labels.
docs/background/words.md has the results.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from afina import Backbone
from afina import device as devices
from afina.data.batch import Loader
from afina.data.readers import snippets, splitting
from afina.data.split import Example, Split
from afina.data.tokenize import Encoded, encode
from afina.digest import derive_seed
from afina.methods import make
from afina.methods.attachment import attach
from afina.models.classifier import Classifier
from afina.models.objectives import Classes
from afina.models.verbalizer import Verbalizer
from afina.predicting.predictor import logits
from afina.stats import classification
from afina.studies.choosing import floors
from afina.training.fit import Fit
from afina.training.recipe import Recipe
from afina.training.settings import Training

RECORDS = Path("results/words.jsonl")
KEPT = Path(__file__).resolve().parents[1] / "docs" / "words.jsonl"
TASKS = ("movies", "products", "domains")
HELD_OUT, CHOOSING, POOL = 400, 200, 2_000
LENGTH = 64
SEEDS = (0, 1, 2)
RATES = {"lora": (5e-4, 1.5e-3, 4.5e-3), "full": (3e-5, 1e-4, 3e-4)}
HEADS = ("random", "template", "words")


@dataclass(frozen=True)
class Size:
    """labels, and how they are gone through."""

    labels: int
    epochs: int
    batch: int


SIZES = {size.labels: size for size in (Size(16, 8, 8), Size(64, 4, 8), Size(256, 1, 8), Size(1024, 1, 32))}
CHOSEN_AT = 256
CHOSEN_ON = {"movies": "movies", "products": "movies", "domains": "domains"}


@dataclass(frozen=True)
class Cell:
    """One measurement: of an arm (method, or tfidf), its head, and what it is trained on."""

    task: str
    labels: int
    method: str
    head: str
    rate: float
    seed: int


Figures = dict[str, Any]
"""accuracy (held out) and which answers are `right`; of arms with a rate also choosing, and the log losses of both."""

Records = dict[Cell, Figures]


@cache
def backbone() -> Backbone:
    """The embedded one."""
    return Backbone.load("embedded")


@cache
def task(name: str) -> tuple[tuple[str, ...], Split]:
    """Label names, and all texts in a fixed order that has nothing to do with their place in the files."""
    kinds = tuple(sorted(snippets.DOMAINS)) if name == "domains" else ("negative", "positive")
    found: dict[str, int] = {}
    for domain in snippets.DOMAINS if name == "domains" else (name,):
        read = snippets.rows(domain)
        for text, label in zip(read.texts, read.labels, strict=True):
            found.setdefault(text, kinds.index(domain if name == "domains" else str(label)))
    texts = sorted(found, key=lambda text: splitting.rank(Example(text, 0)))
    if name == "domains":  # as many of each
        by = [[text for text in texts if found[text] == kind] for kind in range(len(kinds))]
        texts = [each[place] for place in range(min(map(len, by))) for each in by]
    return kinds, Split(texts, np.array([found[text] for text in texts]))


def part(name: str, what: str, cell: Cell | None = None) -> Split:
    """The held-out texts, those that choose, or the training texts of a cell."""
    whole = task(name)[1]
    if what == "held out":
        return whole.take(np.arange(HELD_OUT))
    if what == "choosing":
        return whole.take(np.arange(HELD_OUT, HELD_OUT + CHOOSING))
    assert cell is not None
    start = HELD_OUT + CHOOSING
    most = min(POOL, len(whole) - start)
    order = np.random.Generator(np.random.PCG64(derive_seed(cell.seed, "labels"))).permutation(most)
    return whole.take(start + order[: cell.labels])


def cells(records: Records) -> Iterator[Cell]:
    """All cells whose rates are known; a cell that depends on others comes after them."""
    for name in TASKS:
        yield Cell(name, 0, "zero-shot", "words", 0.0, 0)
        for labels in SIZES:
            yield from (Cell(name, labels, "tfidf", "", 0.0, seed) for seed in SEEDS)
    arms = [(name, method, head) for name in TASKS for head in HEADS for method in RATES]
    searched = [arm for arm in arms if arm[0] in CHOSEN_ON.values()]
    yield from (
        Cell(name, CHOSEN_AT, method, head, rate, 0) for name, method, head in searched for rate in RATES[method]
    )
    for few in (True, False):  # the large sets take as long as all others: they come last
        for seed, labels in itertools.product(SEEDS, [each for each in SIZES if (each < 1024) == few]):
            for name, method, head in arms:
                chosen = rate_of(records, name, method, head)
                if chosen is not None:
                    yield Cell(name, labels, method, head, chosen, seed)


def rate_of(records: Records, name: str, method: str, head: str) -> float | None:
    """The best rate on the texts that choose; None while one is not measured."""
    tried = [Cell(CHOSEN_ON[name], CHOSEN_AT, method, head, rate, 0) for rate in RATES[method]]
    if any(one not in records for one in tried):
        return None
    return max(tried, key=lambda one: (records[one]["choosing"], -records[one]["choosing_loss"])).rate


def accuracy(records: Records, task: str, size: int, method: str, head: str) -> float | None:
    """The mean over the recorded seeds, at the arm's rate; None where none is recorded."""
    rate = rate_of(records, task, method, head) or 0.0
    cells = [Cell(task, size, method, head, rate, seed) for seed in SEEDS]
    correct = [unpacked(records[cell]["right"]) for cell in cells if cell in records]
    return float(np.mean(correct)) if correct else None


def costs(records: Records) -> dict[int, tuple[float, float, float]]:
    """By the number of texts: mean, least and most points that a random head loses to one of words."""
    arms = [(task, method) for task in TASKS for method in RATES]
    points = {}
    for size in SIZES:
        pairs = [[accuracy(records, task, size, method, head) for head in ("words", "random")] for task, method in arms]
        lost = [100 * (words - random) for words, random in pairs if words is not None and random is not None]
        if lost:
            points[size] = (round(float(np.mean(lost)), 1), round(min(lost), 1), round(max(lost), 1))
    return points


def question(name: str, head: str) -> Verbalizer:
    """The verbalizer of an arm: none, a template alone, or template and words."""
    names = task(name)[0]
    asked = Verbalizer.of(names, backbone().tokenizer, pairs=False, head="words")
    if head == "words":
        return asked
    return Verbalizer(asked.template if head == "template" else None)


def measure(cell: Cell) -> Figures:
    """Train, and score on both."""
    names = task(cell.task)[0]
    if cell.method == "tfidf":
        held_out = part(cell.task, "held out")
        _, tfidf = floors.fit(part(cell.task, "training", cell), Classes(names))
        right = tfidf.predict(held_out) == held_out.labels
        return {"accuracy": float(right.mean()), "right": packed(right)}
    asked = question(cell.task, cell.head)
    dtype = devices.precision("auto", torch.device("cpu"))

    def encoded(split: Split) -> Encoded:
        return encode(backbone().tokenizer, split.texts, max_length=LENGTH, template=asked.template)

    method = make(cell.method).for_family(backbone().family)
    classifier = Classifier.open(backbone(), names, cell.seed, asked.tokens, exact=method.trains_nothing)
    torch.manual_seed(derive_seed(cell.seed, "adapter"))
    attach(classifier, method)
    if not method.trains_nothing:
        size, training = SIZES[cell.labels], part(cell.task, "training", cell)
        loader = Loader(encoded(training), training.labels, size.batch, cell.seed)
        recipe = Recipe(Training(), size.epochs * loader.steps_per_epoch, cell.rate, cell.seed)
        Fit(classifier, method, Classes(names), loader, recipe, dtype).advance()
    made = {}
    for what, key in (("choosing", "choosing"), ("held out", "accuracy")):
        if key == "choosing" and (cell.seed or cell.labels not in (0, CHOSEN_AT)):
            continue
        split = part(cell.task, what)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):  # as it trains
            outputs = logits(classifier, encoded(split))
        finite = np.isfinite(outputs).all()
        right = (outputs.argmax(axis=1) == split.labels) & finite
        made[key] = float(right.mean())
        made[key + "_loss"] = classification.log_loss(split.labels, outputs) if finite else float("inf")
        if key == "accuracy":
            made["right"] = packed(right)
    return made


def packed(right: np.ndarray) -> str:
    """Which predictions are right, as hexadecimal digits."""
    return np.packbits(right).tobytes().hex()


def unpacked(digits: str, texts: int = HELD_OUT) -> np.ndarray:
    """bool [texts]."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8), count=texts).astype(bool)


def read() -> Records:
    """The measurements so far: those in docs/ and newer ones."""
    found = {}
    for path in (KEPT, *sorted(RECORDS.parent.glob(f"{RECORDS.stem}*.jsonl"))):
        for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
            one = json.loads(line)
            found[Cell(**one["cell"])] = one["figures"]
    return found


def line_of(cell: Cell, figures: Figures) -> str:
    """A record."""
    return json.dumps({"cell": asdict(cell), "figures": figures}) + "\n"


def measure_all(shard: int, of: int, most: int) -> None:
    """Every cell of this shard that is not measured, then those of others, until none is left or `most` are done."""
    torch.set_num_threads(1)
    RECORDS.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(most):
        records = read()
        left = [cell for cell in dict.fromkeys(cells(records)) if cell not in records]
        mine = [cell for cell in left if hash_of(cell) % of == shard] or left
        if not mine:
            return
        figures = measure(mine[0])
        with RECORDS.with_name(f"{RECORDS.stem}-{shard}.jsonl").open("a") as file:
            file.write(line_of(mine[0], figures))
        print(mine[0], figures, flush=True)


def hash_of(cell: Cell) -> int:
    """A hash of a cell that is the same in every process."""
    return derive_seed(0, json.dumps(asdict(cell)))


def main() -> None:
    """Measure the cells of a shard."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shard", default="0/1", help="this one of so many; each measures a part of its own first")
    parser.add_argument("--most", type=int, default=1_000, help="measurements by this process, whose memory grows")
    given = parser.parse_args()
    measure_all(*map(int, given.shard.split("/")), given.most)


if __name__ == "__main__":
    main()
