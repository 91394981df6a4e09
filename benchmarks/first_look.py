"""The accuracy of every method that trains, at the best of three learning rates, on 512 movie sentences.

    python benchmarks/first_look.py --shard 0/2   what is not in the records yet; shards may run side by side
    python benchmarks/first_look.py --page        the table, in docs/reference/methods.md

The texts are those of `words.py`: 200 texts select the learning rate, 400 others are held out, and the seed draws the
training texts. The rates are a third of the method's default, the default, and three times the default, all at seed 0.
Training takes one epoch in batches of 8. The head starts from words, which is the default of `afina train` for these
labels.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from afina import device as devices
from afina.data.batch import Loader
from afina.data.tokenize import Encoded, encode
from afina.methods import make
from afina.methods.method import Method
from afina.models.classifier import Classifier
from afina.models.objectives import Classes
from afina.predicting.predictor import logits
from afina.stats import classification
from afina.studies.choosing.floors import tfidf
from afina.studies.runs.prepared import attached
from afina.training.fit import Fit
from afina.training.optimizer import Recipe
from words import LENGTH, Cell, backbone, packed, part, question, task, unpacked
from words_page import grid

RECORDS = Path("results/first-look.jsonl")
KEPT = Path(__file__).resolve().parents[1] / "docs" / "first-look.jsonl"
PAGE = KEPT.parent / "reference" / "methods.md"
TASK, LABELS, BATCH = "movies", 512, 8
FACTORS = (1 / 3, 1.0, 3.0)
SEEDS = (0, 1)
CPU = torch.device("cpu")

Given = tuple[str, dict[str, Any]]
"""A method's key and what its table says."""

METHODS: dict[str, Given] = {
    "lora": ("lora", {}),
    "full": ("full", {}),
    "head": ("head", {}),
    "last": ("last", {}),
    "layernorm": ("layernorm", {}),
    "lora, dora": ("lora", {"dora": True}),
    "ia3": ("ia3", {}),
    "vera": ("vera", {}),
    "adapter": ("adapter", {}),
    "prompt": ("prompt", {}),
    "prefix": ("prefix", {}),
    "prelayer": ("prelayer", {}),
}
"""Not bitfit: the embedded model has no biases."""


def rates(method: Method) -> list[float]:
    """The learning rates that are tried."""
    return [float(f"{method.learning_rate * factor:.1e}") for factor in FACTORS]


def made(key: str) -> Method:
    """The method of that name here."""
    name, given = METHODS[key]
    return make(name, given).for_family(backbone().family)


def encoded(what: str, cell: Cell) -> tuple[Encoded, np.ndarray]:
    """Texts of a part in their template, and their labels."""
    split = part(TASK, what, cell)
    return encode(
        backbone().tokenizer, split.texts, max_length=LENGTH, template=question(TASK, "words").template
    ), split.labels


def train(key: str, rate: float, seed: int) -> Classifier:
    """A trained one."""
    names, method = task(TASK)[0], made(key)
    texts, labels = encoded("training", Cell(TASK, LABELS, key, "words", rate, seed))
    classifier = Classifier.open(backbone(), names, seed, question(TASK, "words").tokens)
    classifier = attached(classifier, method, seed, CPU)
    loader = Loader(texts, labels, BATCH, seed)
    recipe = Recipe(loader.steps_per_epoch, rate, 0.01, 1.0, seed)
    Fit(classifier, method, Classes(names), loader, recipe, devices.precision("auto", CPU)).advance()
    return classifier


def judge(classifier: Classifier, what: str) -> tuple[np.ndarray, float]:
    """Which predictions are right, and the log loss."""
    texts, labels = encoded(what, Cell(TASK, LABELS, "", "words", 0.0, 0))
    dtype = devices.precision("auto", CPU)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):  # as it trains
        outputs = logits(classifier, texts)
    finite = bool(np.isfinite(outputs).all())
    return (outputs.argmax(axis=1) == labels) & finite, classification.log_loss(labels, outputs) if finite else float(
        "inf"
    )


def measure(key: str) -> dict[str, Any]:
    """The rate that is best on the texts that choose, and which held-out answers are right, a line a seed."""
    tried: dict[float, tuple[float, float]] = {}
    best: Classifier | None = None
    for rate in rates(made(key)):
        trained = train(key, rate, SEEDS[0])
        right, loss = judge(trained, "choosing")
        tried[rate] = (float(right.mean()), -loss)
        if tried[rate] == max(tried.values()):
            best = trained
    assert best is not None
    rate = max(tried, key=lambda one: tried[one])
    count = sum(parameter.numel() for parameter in best.model.parameters() if parameter.requires_grad)
    right = [packed(judge(best, "held out")[0])]
    right += [packed(judge(train(key, rate, seed), "held out")[0]) for seed in SEEDS[1:]]
    return {
        "trained": count,
        "choosing": {f"{one:g}": [accuracy, -loss] for one, (accuracy, loss) in tried.items()},
        "rate": rate,
        "right": right,
        "dtype": str(devices.precision("auto", CPU)).removeprefix("torch."),
    }


def floors() -> dict[str, list[np.ndarray]]:
    """Which predictions of the untrained baselines are right, a line per seed."""
    split = part(TASK, "held out")
    names = task(TASK)[0]
    asked = Classifier.open(backbone(), names, 0, question(TASK, "words").tokens, exact=True)
    fitted = [tfidf(part(TASK, "training", Cell(TASK, LABELS, "tfidf", "", 0.0, seed))) for seed in SEEDS]
    return {
        "zero-shot": [judge(asked, "held out")[0]],
        "TF-IDF": [one.predict(split) == split.labels for one in fitted],
    }


def read() -> dict[str, dict[str, Any]]:
    """The measurements so far: those in docs/ and newer ones."""
    found = {}
    for path in (KEPT, *sorted(RECORDS.parent.glob(f"{RECORDS.stem}*.jsonl"))):
        for line in path.read_text("utf-8").splitlines() if path.is_file() else ():
            one = json.loads(line)
            found[one.pop("method")] = one
    return found


def measure_all(shard: int, of: int) -> None:
    """Every method of this shard that is not measured, then those of others."""
    torch.set_num_threads(1)
    RECORDS.parent.mkdir(parents=True, exist_ok=True)
    while left := [key for key in METHODS if key not in read()]:
        key = next((one for one in left if list(METHODS).index(one) % of == shard), left[-1])
        found = measure(key)
        with RECORDS.with_name(f"{RECORDS.stem}-{shard}.jsonl").open("a") as file:
            file.write(json.dumps({"method": key, **found}) + "\n")
        print(key, found["choosing"], [unpacked(one).mean() for one in found["right"]], flush=True)
        gc.collect()


def table(records: dict[str, dict[str, Any]], given: dict[str, list[np.ndarray]]) -> str:
    """In Markdown, the most accurate first."""
    lines = [(np.array(right), [key, "", ""]) for key, right in given.items()]
    for key, one in records.items():
        tried = ", ".join(f"{float(rate):g}" for rate in one["choosing"])
        right = np.array([unpacked(digits) for digits in one["right"]])
        lines.append((right, [f"`{key}`", f"{one['trained']:,}", f"{one['rate']:g} ({tried})"]))
    lines.sort(key=lambda line: -line[0].mean())
    rows = [[*texts, f"{right.mean():.3f}", ", ".join(f"{one.mean():.3f}" for one in right)] for right, texts in lines]
    return grid(["method", "trained", "rate (of)", "accuracy", "of the seeds"], rows)


def write() -> None:
    """The table between the page's marks, and the records beside it."""
    records = read()
    page = PAGE.read_text("utf-8")
    marks = re.compile(r"(<!-- begin: benchmarks/first_look.py -->\n).*?(<!-- end -->)", re.DOTALL)
    made_of = table(records, floors())
    PAGE.write_text(marks.sub(lambda found: f"{found[1]}\n{made_of}\n{found[2]}", page), "utf-8")
    KEPT.write_text("".join(json.dumps({"method": key, **records[key]}) + "\n" for key in METHODS if key in records))


def main() -> None:
    """Measure, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shard", default="0/1", help="this one of so many; each measures a part of its own first")
    parser.add_argument("--page", action="store_true", help="write the table instead")
    options = parser.parse_args()
    if options.page:
        write()
    else:
        measure_all(*map(int, options.shard.split("/")))


if __name__ == "__main__":
    main()
