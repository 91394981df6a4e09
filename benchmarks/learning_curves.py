"""Learning curves for `choose.py`: methods and learning rates on two snippet domains at two sizes, recorded once.

    python benchmarks/learning_curves.py --paces         the time of steps and scoring; run it while nothing else runs
    python benchmarks/learning_curves.py --shard 0/2     the curves that are not recorded yet; shards may run at once
    python benchmarks/learning_curves.py --keep          what is recorded, into docs/learning-curves.jsonl

`--backbone bge` records the packaged encoder in place of the packaged language model. `--minutes 9` ends after the
curve that is being recorded then; the same command continues.

Each domain has `SIZES` training texts, from which `afina choose` cuts its validation set, and `HELD_OUT` other texts.
Every setting is trained twice: to the end, and to an eighth of the steps with its own learning-rate decay, because a
short run ends differently from a long run at the same step. A curve counts steps, not seconds; the step times are
measured separately. No text is stored; a held-out prediction is stored as one bit.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import machine
from afina import device as devices
from afina import meter
from afina.data.reading_options import ReadingOptions
from afina.data.task import Task
from afina.data.token_cache import EncodedSplit, EncodedTask
from afina.events import ignore
from afina.meter import Meter
from afina.methods import make
from afina.models import objectives
from afina.models.predictions import Predictions
from afina.predicting.predictor import logits
from afina.studies.choosing import floors
from afina.studies.runs.prepared import Prepared, prepare
from afina.studies.runs.spec import RunSpec
from afina.training.fit import Fit
from afina.training.settings import Training

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "results" / "learning-curves.jsonl"
KEPT = ROOT / "docs" / "learning-curves.jsonl"
DOMAINS = ("products", "tweets")
SIZES = (200, 1_500)
HELD_OUT = 300
FACTORS = {"full": (1 / 3, 1.0, 3.0), "lora": (1 / 3, 1.0, 3.0), "head": (1.0,), "ia3": (1.0,)}
"""For each method, multiples of its default learning rate on language models."""

OF_ENCODERS = {"full": (0.5, 1.0, 2.0, 4.0), "lora": (1.0, 3.0), "head": (10.0,), "ia3": (10.0,)}
"""The same for an encoder."""

ENCODER = "bge"
"""The packaged encoder."""

FACTORS_OF = {"embedded": FACTORS, ENCODER: OF_ENCODERS}

FITTED = "linear_probe"
"""The method that scikit-learn fits: it has no learning rate and no steps, so its curve is one point."""

SHORT = 1 / 8
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)
HELD_OUT_AT = (1 / 2, 1.0)
"""Shares of a curve's steps after which validation and held-out texts are scored."""

BATCH, EPOCHS, MOST_TEXTS = 16, 3, 1_500
"""The full budget is three epochs, of many texts fewer, down to one."""

VALIDATION, MOST_VALIDATION = 0.2, 200


@dataclass(frozen=True, order=True)
class Cell:
    """Where policies are judged: a domain, and how many labelled texts there are."""

    domain: str
    size: int

    @property
    def cut(self) -> float:
        """Share of the texts that choose."""
        return min(VALIDATION, MOST_VALIDATION / self.size)

    @property
    def steps(self) -> int:
        """The steps of the full budget."""
        texts = self.size - math.ceil(self.size * self.cut)
        return math.ceil(texts / BATCH) * max(1, min(EPOCHS, MOST_TEXTS // texts))


@dataclass(frozen=True)
class Curve:
    """One run: `steps` is its length, by which its learning rate decays."""

    cell: Cell
    method: str
    rate: float
    steps: int
    backbone: str = "embedded"

    def described(self) -> dict[str, Any]:
        """The fields in the form of the records, where the embedded model is left out."""
        fields = asdict(self)
        return fields if self.backbone != "embedded" else {k: v for k, v in fields.items() if k != "backbone"}


def cells() -> list[Cell]:
    """The small ones first."""
    return [Cell(domain, size) for size in SIZES for domain in DOMAINS]


def curves(backbone: str = "embedded") -> Iterator[Curve]:
    """All curves of a backbone, cell by cell."""
    for cell, (method, factors) in itertools.product(cells(), FACTORS_OF[backbone].items()):
        for factor, share in itertools.product(factors, (1.0, SHORT)):
            rate = float(f"{factor * make(method).learning_rate:.3g}")
            yield Curve(cell, method, rate, max(1, round(share * cell.steps)), backbone)
    for cell in cells():
        yield Curve(cell, FITTED, 0.0, 1, backbone)


def run_of(curve: Curve) -> RunSpec:
    """The run of a curve, scored on the validation cut."""
    trained = {"learning_rate": curve.rate, "max_steps": curve.steps} if curve.method != FITTED else {}
    return RunSpec(
        backbone=curve.backbone,
        task=f"snippets:{curve.cell.domain}",
        method=curve.method,
        data=ReadingOptions(train_examples=curve.cell.size, validation=curve.cell.cut),
        training=Training(epochs=EPOCHS, batch_size=BATCH, **trained),
    )


def held_out(cell: Cell) -> Task:
    """All labelled texts of a cell, and those that are held out."""
    return Task.load(f"snippets:{cell.domain}", train_examples=cell.size, evaluation_examples=HELD_OUT)


def record(curve: Curve) -> dict[str, Any]:
    """Train it, scoring on the way."""
    prepared, fit = prepare(run_of(curve), Meter(devices.choose()), ignore)
    others = _encoded(prepared, held_out(curve.cell))
    short = curve.steps < curve.cell.steps  # also the single step of a fit
    points = []
    for share in (1.0,) if short else SHARES:
        fit.advance(max(1, round(share * curve.steps)))
        score = fit.score(prepared.task.evaluation, "accuracy", prepared.predict)
        point: dict[str, Any] = {"step": score.step, "validation": score.value, "loss": score.loss}
        if short or share in HELD_OUT_AT:
            point["right"] = packed(_right(fit, others))
        points.append({key: round(each, 5) if isinstance(each, float) else each for key, each in point.items()})
    return {"curve": curve.described(), "points": points}


def untrained(cell: Cell) -> dict[str, Any]:
    """Which predictions of the baselines (fitted on all labelled texts) and of the untrained model are right."""
    task = held_out(cell)
    objective = objectives.make(task.label_names, {"kind": task.kind}).of(task.train.labels)
    fitted = dict(zip(("majority", "tfidf"), floors.fit(task.train, objective), strict=True))
    right = {name: objective.values("accuracy", floor.predictions(task.evaluation)) for name, floor in fitted.items()}
    run = run_of(Curve(cell, "zero-shot", 1.0, 1))
    prepared, fit = prepare(run, Meter(devices.choose()), ignore)
    right["zero-shot"] = _right(fit, _encoded(prepared, task))
    return {"untrained": asdict(cell), "right": {name: packed(each) for name, each in right.items()}}


def _encoded(prepared: Prepared, task: Task) -> EncodedSplit:
    tokenizer, digest = prepared.backbone.tokenizer, prepared.backbone.tokenizer_digest
    return EncodedTask.of(task, tokenizer, digest, prepared.task.max_length, prepared.question.template).evaluation


def _right(fit: Fit, split: EncodedSplit) -> np.ndarray:
    found = Predictions(logits(fit.classifier, split.encoded), split.labels)
    return np.asarray(fit.objective.values("accuracy", found)).astype(bool)


def packed(right: np.ndarray) -> str:
    """Bits as hexadecimal digits."""
    return np.packbits(np.asarray(right).reshape(-1).astype(bool)).tobytes().hex()


def unpacked(told: str) -> np.ndarray:
    """The bits of HELD_OUT texts."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(told), np.uint8))[:HELD_OUT].astype(bool)


def paces(backbone: str = "embedded", repeats: int = 3) -> dict[str, Any]:
    """Seconds per method of a step, of scoring a text and of starting a process, measured as in `choose`."""
    from afina.studies.executors.local_executor import LocalExecutor
    from afina.studies.runs.run import Run

    found = {}
    for method in FACTORS_OF[backbone]:
        curve = Curve(Cell(DOMAINS[0], SIZES[-1]), method, make(method).learning_rate, 8, backbone)
        run = Run.model_validate(run_of(curve).model_dump())
        each = []
        for _ in range(repeats):
            began = meter.now()
            score = LocalExecutor().try_out(run, (1.0,), 4, lambda score: False, ignore)
            beside = meter.now() - began - score.train_seconds - score.evaluate_seconds
            each.append((beside, score.train_seconds / score.step, score.evaluate_seconds / score.examples))
        medians = np.median(each, axis=0)
        found[method] = dict(zip(("opening", "step", "text"), np.round(medians, 4).tolist(), strict=True))
        print(method, found[method], flush=True)
    return {"paces": found, "backbone": backbone, "machine": machine.describe()}


def read(path: Path) -> list[dict[str, Any]]:
    """Records so far; a line that a killed process left half-written is none."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def add(record: dict[str, Any]) -> None:
    """To the records."""
    RECORDS.parent.mkdir(exist_ok=True)
    with RECORDS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def main() -> None:
    """Run the benchmark with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paces", action="store_true", help="measure what steps and scoring cost")
    parser.add_argument("--shard", default="0/1", help="every N-th curve, from the one given on")
    parser.add_argument("--backbone", default="embedded", choices=[*FACTORS_OF])
    parser.add_argument("--repeats", type=int, default=3, help="measurements of --paces, of which the median counts")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no curve after so many minutes")
    parser.add_argument("--keep", action="store_true", help="put what is recorded into docs/")
    options = parser.parse_args()
    if options.keep:
        KEPT.write_text("".join(json.dumps(one) + "\n" for one in read(RECORDS)), encoding="utf-8")
        return
    if not RECORDS.exists() and KEPT.exists():  # go on with what is kept
        RECORDS.parent.mkdir(exist_ok=True)
        RECORDS.write_bytes(KEPT.read_bytes())
    if options.paces:
        add(paces(options.backbone, options.repeats))
        return
    start = meter.now()
    mine, of = map(int, options.shard.split("/"))
    for number, cell in enumerate(cells()):
        if number % of == mine and asdict(cell) not in [one.get("untrained") for one in read(RECORDS)]:
            add(untrained(cell))
    for number, curve in enumerate(curves(options.backbone)):
        if meter.now() - start > 60 * options.minutes:
            print("there is more to record", flush=True)
            return
        if number // 2 % of == mine and curve.described() not in [one.get("curve") for one in read(RECORDS)]:
            began = meter.now()
            add(record(curve))
            print(f"{curve}: {meter.now() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
