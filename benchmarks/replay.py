"""`afina choose` itself on recorded learning curves: its code decides, the clock and the runs are simulated.

A simulated run takes the seconds that were measured for its steps and texts, reports its progress, and ends with the
recorded answers of the nearer length. Orders and expected advantages are those learnt from other cells.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from afina import digest, meter
from afina.data.split import Split
from afina.events import Listener, Progress, ValidationScore
from afina.methods import is_fitted
from afina.models.backbone_spec import FLOAT
from afina.models.objective import Objective
from afina.models.predictions import Predictions
from afina.studies.choosing import floors, recommend, recorded_curves
from afina.studies.choosing.eligibility import Eligible
from afina.studies.choosing.floors import Floor
from afina.studies.choosing.recorded_curves import Lessons
from afina.studies.choosing.setup import ChoiceSetup, Way
from afina.studies.executors.executor import Executor, Overrun
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.record import Environment, Memory, Record, Seconds, Selection
from afina.studies.runs.run import Run
from afina.training.settings import Products
from learning_curves import HELD_OUT
from lessons import KINDS, LearntOver, backbone_of, named_setting, only, taught
from policies import FLOORS, ON, Kept, Recorded

LABELS = ("negative", "positive")


Policy = Callable[[Recorded, float, Sequence[Recorded]], np.ndarray]
"""From a cell, minutes, and the other cells to the right held-out answers of what is recommended."""


@dataclass
class Replay(Executor):
    """Simulated runs of a cell.

    Attributes:
        slower: How many times as long as measured everything takes.
        faster: How many times as fast as measured the steps of runs with products in int8 are.
        time: The simulated clock.
        made: The recorded model of each adapter that was made.
    """

    cell: Recorded
    slower: float = 1.0
    faster: float = 1.0
    time: float = 0.0
    made: dict[str, Kept] = field(default_factory=dict)

    def passes(self, seconds: float, until: float | None) -> None:
        """Let time pass; raise Overrun at `until`."""
        self.time += self.slower * seconds
        if until is not None and self.time > until:
            self.time = until
            raise Overrun

    def pace(self, run: Run) -> Mapping[str, float]:
        """The seconds of a run; the untrained model opens and scores as the head alone does."""
        known, head = self.cell.paces, f"head{ON}{run.backbone}"
        return known.get(f"{run.method}{ON}{run.backbone}") or known[head]

    def check_products(self, products: str) -> None:
        """Simulated runs compute no product."""

    def try_out(self, *given: Any, **options: Any) -> ValidationScore:
        """No run only measures."""
        raise NotImplementedError

    def carry_out(self, run: Run, out: Path, study: str, listen: Listener, until: float | None = None) -> Record:
        """Take the time of the run, and write its recorded answers."""
        pace, read = self.pace(run), run.data.train_examples or 0
        texts, aside = run.data.evaluation_examples or HELD_OUT, round((run.data.selection or 0) * read)
        steps = run.training.max_steps or 0
        if is_fitted(run.method):
            steps = 1
        units = read if is_fitted(run.method) else steps
        step = pace["step"] / (1.0 if run.training.products == FLOAT else self.faster)
        listen(Progress("load"))
        self.passes(pace["opening"], until)
        began = self.time
        for done in range(1, units + 1):
            self.passes(pace["text"] if is_fitted(run.method) else step, until)
            listen(Progress("train", done, units))
        trained = self.time
        listen(Progress("evaluate", 0, texts))
        for done in range(1, texts + aside + 1):
            self.passes(pace["text"], until)
            listen(Progress("evaluate", done, texts + aside))
        kept = self._kept(run, steps)
        made = _record(run, kept, out, texts, aside, steps, study)
        self.made[made.adapter] = kept
        seconds = Seconds(load=0, encode=0, train=trained - began, evaluate=self.time - trained, save=0)
        return made.model_copy(update={"seconds": seconds})

    def _kept(self, run: Run, steps: int) -> Kept:
        if run.method == "zero-shot":
            shots = run.hyperparameters.get("shots", 0)
            name = f"{run.method}-{shots}-shots" if shots else run.method
            return Kept((name, 0.0), 0.0, 0.0, self.cell.untrained[name])
        setting = f"{run.method}{ON}{run.backbone}", 0.0 if is_fitted(run.method) else run.training.learning_rate
        return self.cell.ends[setting] if is_fitted(run.method) else self.cell.whole(setting, steps)


def _record(run: Run, kept: Kept, out: Path, texts: int, aside: int, steps: int, study: str) -> Record:
    """The record of a run, with its adapter and its predictions below `out`."""
    directory, gold = OutputDirectory(out), np.arange(len(kept.right)) % 2
    answers = np.where(kept.right, gold, 1 - gold)[:texts]
    written = Predictions(np.eye(2, dtype=np.float32)[answers], gold[:texts])
    adapter, predictions = directory.adapter(run.label), directory.predictions(run.label)
    adapter.mkdir(parents=True)
    predictions.parent.mkdir(parents=True, exist_ok=True)
    of_predictions = written.write(predictions)
    body = 0 if run.method == "zero-shot" else 1
    return Record(
        key=run.key,
        study=study,
        name=run.title,
        method=run.method,
        title=run.title,
        seed=run.seed,
        backbone=run.backbone,
        task=run.task,
        label_names=LABELS,
        hyperparameters={},
        training={"learning_rate": run.training.learning_rate, "max_length": 128},
        kind="classes",
        metric="accuracy",
        metrics={"accuracy": float(kept.right[:texts].mean())},
        train_examples=(run.data.train_examples or 0) - aside,
        examples=texts,
        selection=Selection(value=kept.validation, loss=min(kept.loss, 1e9), examples=aside) if aside else None,
        trainable=body,
        body=body,
        head=0,
        total=1,
        steps=steps,
        tokens=steps,
        tokens_per_second=None,
        truncated=0,
        leaked=0,
        seconds=Seconds(load=0, encode=0, train=0, evaluate=0, save=0),
        memory=Memory(
            state_bytes=1,
            activation_bytes=None,
            activation_tokens=None,
            rss_peak=1,
            allocated_end=None,
            allocated_peak=None,
            reserved_peak=None,
        ),
        losses=(),
        predictions=directory.relative(predictions),
        predictions_digest=of_predictions,
        adapter=directory.relative(adapter),
        digest=digest.of_json([run.key, steps]),
        environment=Environment(
            versions={},
            platform="",
            processor="",
            device="cpu",
            threads=1,
            dtype="float32",
            git_commit=None,
            git_dirty=None,
            backbone_digest="",
            tokenizer_digest="",
            train_digest="",
            evaluation_digest="",
        ),
    )


def replayed(
    backbones: Sequence[str],
    slower: float = 1.0,
    *,
    faster: float | None = None,
    timed: bool = True,
    prior: bool = True,
    lessons: Callable[[Sequence[Recorded]], Lessons] | None = None,
) -> Policy:
    """The policy of `afina choose` on these backbones.

    Args:
        slower: How many times as slow as measured the machine is.
        faster: How many times as fast as measured a step with products in int8 is. None: products in float.
        timed: Whether the order over backbones counts seconds.
        prior: Whether recorded trainings count when a candidate is selected.
        lessons: What the other cells teach. None: the lessons of trainings on many texts.
    """

    def policy(cell: Recorded, minutes: float, known: Sequence[Recorded]) -> np.ndarray:
        executor = Replay(only(cell, backbones), slower, faster or 1.0)
        there = [only(one, backbones) for one in known]
        learned = lessons(there) if lessons else of_many(taught(there, timed=timed), backbones, prior=prior)
        with tempfile.TemporaryDirectory() as folder, _simulated(executor, learned, backbones):
            task, out = _written(Path(folder) / "task", cell), Path(folder) / "out"
            products: Products = "float" if faster is None else "int8"
            found = recommend.recommend(
                task, minutes, backbone=list(backbones), out=out, memory=1, products=products, executor=executor
            ).recommendation
        assert found is not None
        if found.adapter is not None:
            return executor.made[found.adapter].right
        return cell.untrained[_FLOORS[found.recommended]]

    return policy


def _written(folder: Path, cell: Recorded) -> str:
    folder.mkdir()
    for name, count in (("train", cell.cell.size), ("validation", cell.held_out)):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            rows = [(f"{name} text {number}", LABELS[number % 2]) for number in range(count)]
            csv.writer(file).writerows([("text", "label"), *rows])
    return str(folder)


def of_many(taught: LearntOver, backbones: Sequence[str], *, prior: bool = True) -> Lessons:
    """What cells with many texts teach, in the form of `recorded_curves`. prior: whether it counts when selecting."""
    kinds = {one: KINDS[one] for one in backbones}
    return Lessons(
        orders={frozenset(kinds.values()): tuple(map(named_setting, taught.order))},
        ahead={named_setting(name): float(value) for one in taught.each.values() for name, value in one.ahead.items()},
        counts={kinds[name]: one.counts if prior else 0 for name, one in taught.each.items()},
        levels={kinds[name]: value for name, value in taught.levels.items()},
        level_counts=taught.level_counts,
    )


@contextmanager
def _simulated(executor: Replay, lessons: Lessons, backbones: Sequence[str]) -> Iterator[None]:
    """Replace the clock, what is learnt, the baselines and the forecasts of memory."""
    cell, kinds = executor.cell, {one: KINDS[one] for one in backbones}

    def fit(train: Split, objective: Objective) -> list[Floor]:
        executor.passes(FLOORS / 2, None)  # the report takes the other half
        return [_floor(name, cell.untrained[key], objective) for name, key in _FLOORS.items()]

    def eligible(setting: ChoiceSetup, memory: int | None) -> Eligible:
        ways = dict.fromkeys(Way(backbone_of(one), one[0].partition(ON)[0]) for one in cell.ends)
        asked = [Way(one, "zero-shot") for one in backbones if kinds[one] == "causal"]
        return Eligible([*ways, *asked], dict(kinds))

    changes: list[tuple[Any, str, Any]] = [
        (meter, "now", lambda: executor.time),
        (floors, "fit", fit),
        (recommend, "eligible", eligible),
        (recommend, "fitted_on_cheapest", lambda setting, memory: Eligible()),
        (recorded_curves, "lessons", lambda labels: lessons),
    ]
    with ExitStack() as stack:
        for where, name, value in changes:
            stack.enter_context(patch.object(where, name, value))
        yield


_FLOORS = {floors.MAJORITY: "majority", floors.TFIDF: "tfidf"}


def _floor(name: str, right: np.ndarray, objective: Objective) -> Floor:
    def outputs(split: Split) -> np.ndarray:
        answers = np.where(right[: len(split)], split.labels, 1 - split.labels)
        made: np.ndarray = np.eye(2, dtype=np.float32)[answers]
        return made

    return Floor(name, objective, outputs, 0)
