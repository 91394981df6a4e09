"""Choose: which way of adapting to use for a task, within a number of minutes. Starts without torch.

In order: the floors (`baselines.py`), what fits in memory (`cost.py`), what a step costs here, the race on a
validation cut (`halving.py`), then the two best on as much of the training split as there is time for, and one
evaluation of all on the same held-out texts. What the race saw chooses who is trained; the held-out texts only say how
good that is.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from afina import atomic, meter
from afina.data.task import Task
from afina.errors import AfinaError, Busy, InvalidData, NotFound
from afina.methods import METHODS
from afina.report.rows import READABLE
from afina.report.tables import size
from afina.stats import metrics
from afina.stats.comparison import compare
from afina.studies import baselines, record
from afina.studies.baselines import Floor
from afina.studies.executors import local
from afina.studies.executors.local import Overrun
from afina.studies.halving import EPOCHS, Speed, Standing, measure, race
from afina.studies.recommendation import FILE, Choice, Row, recommend, sentences
from afina.studies.record import Record
from afina.studies.run import Run
from afina.studies.spec import Data, Training

RACE_SHARE = 0.4
"""Of the time that is left when every method's pace is known; the rest trains and evaluates the best."""

FINALISTS = 2
VALIDATION, MOST_VALIDATION = 0.2, 300
"""Share of the training texts in the cut, and most of them: scoring more would cost the time to train."""

AT_FIRST = 2_000
"""Training texts that are read before it is known how many there is time for."""

FLOAT32, REOPENING = 3.0, 0.8
"""Held-out texts are scored in float32, which takes up to three times as long as in training's precision; the model is
opened once more for it, in this share of what starting took."""

EVALUATION_SHARE, FEWEST = 0.3, 100
"""Share of a finalist's time that scoring may take, and how many texts are scored whatever it takes."""

MARGIN = 0.03
"""Share of the minutes that is kept back."""


@dataclass(frozen=True)
class Hearing:
    """Who is told: a phase begins, and a process goes on."""

    says: Callable[[str], None] = field(default=lambda text: None)
    progress: Callable[[Any], None] = field(default=lambda progress: None)


def choose(
    task: str,
    minutes: float,
    *,
    memory: int | None = None,
    backbone: str = "embedded",
    out: str | Path = "results/choose",
    data: Mapping[str, Any] | None = None,
    hearing: Hearing | None = None,
    began: float | None = None,
) -> Choice:
    """Recommend a method for `task`, and train its adapter under `out`, in about `minutes` and at most 10 % more.

    memory  bytes that a process may have; None: what is available here
    data    columns, labels and `allow_leakage`, as in `Data`
    began   `meter.now()` of the start, where that was earlier
    Raises whatever reading the task or the backbone does, InvalidData, NotFound, Busy.
    """
    if not 0 < minutes < math.inf:
        raise InvalidData(f"--minutes {minutes:g}: expected more than 0; from 5 up the answer is of use.")
    out = Path(out)
    began = meter.now() if began is None else began
    whole = Task.load(task, **(data or {}))
    fresh = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NotFound(f"--out {out}: cannot be made a directory ({error.strerror}).") from None
    try:
        with FileLock(out / ".lock", timeout=0):
            for place in (out, out / "adapters", out / "checkpoints"):
                atomic.sweep(place)
            # Leakage has been checked in the whole; a part of the texts may have more of it by chance.
            known = {**(data or {}), "allow_leakage": True}
            setting = _Choosing(whole, minutes, memory, backbone, out, known, hearing or Hearing(), began)
            made = setting.choose()
            atomic.write_text(out / FILE, made.model_dump_json(indent=2) + "\n")
    except Timeout:
        raise Busy(f"--out {out}: something else is writing there. Wait for it, or name another --out.") from None
    except AfinaError:
        if fresh:
            shutil.rmtree(out)
        raise
    return made


@dataclass
class _Choosing:
    whole: Task
    minutes: float
    memory: int | None
    backbone: str
    out: Path
    data: dict[str, Any]
    hearing: Hearing
    began: float
    dropped: dict[str, str] = field(default_factory=dict)

    @property
    def hard(self) -> float:
        """When the clock stops whatever goes on."""
        return self.began + 60 * self.minutes * (1 + MARGIN)

    @property
    def left(self) -> float:
        """Seconds, less what is kept back."""
        return self.began + 60 * self.minutes * (1 - MARGIN) - meter.now()

    def choose(self) -> Choice:
        self.hearing.says("fitting what needs no language model")
        whole = self.whole
        floors = [baselines.majority(whole.train), baselines.tfidf(whole.train)]
        names = self._that_fit()
        cut = min(VALIDATION, MOST_VALIDATION / min(len(whole.train), AT_FIRST))
        runs = {name: self._run(name, train_examples=AT_FIRST, validation=cut) for name in names}
        speeds = self._paces(runs)
        standings: list[Standing] = []
        records: dict[str, Record] = {}
        texts = math.ceil(cut * min(len(whole.train), AT_FIRST))
        held = len(whole.evaluation)
        if speeds and self.left > 0:
            held = self._affordable(len(whole.evaluation), speeds)
            standings = self._race({name: runs[name] for name in speeds}, speeds, texts, len(whole.train))
            finalists = [one for one in standings if one.accuracy is not None][:FINALISTS]
            for number, one in enumerate(finalists):
                made = self._final(one, speeds[one.method], len(whole.train), held, len(finalists) - number)
                if made is not None:
                    records[one.method] = made
        held_out = Task.load(self.whole.address, **self.data, evaluation_examples=held).evaluation
        return self._answer(floors, held_out.labels, [f.predict(held_out) for f in floors], standings, records)

    def _that_fit(self) -> list[str]:
        from afina.studies import cost  # it loads torch

        free = [size for size in (meter.memory_available(), meter.machine_memory()) if size is not None]
        limit = self.memory if self.memory is not None else min(free, default=None)
        practical = [kind() for kind in METHODS.values() if kind.practical]
        fitting = []
        for one in cost.forecast(
            self.backbone,
            practical,
            task=self.whole.address,
            data=Data(**self.data),
            training=Training(),
            memory=limit,
            calibrate=False,
        ):
            if one.fits:
                fitting.append(one.method)
            else:
                self.dropped[one.method] = f"needs about {size(one.peak)} of memory, there is {size(one.terms.memory)}"
        return fitting

    def _run(self, method: str, *, rate: float | None = None, steps: int | None = None, **data: Any) -> Run:
        return Run(
            backbone=self.backbone,
            task=self.whole.address,
            method=method,
            data=Data(**self.data, **data),
            training=Training(epochs=EPOCHS, learning_rate=rate, max_steps=steps),
        )

    def _paces(self, runs: Mapping[str, Run]) -> dict[str, Speed]:
        speeds: dict[str, Speed] = {}
        problem: AfinaError | None = None
        for name, run in runs.items():
            self.hearing.says(f"measuring what a step of {name} takes")
            try:
                speeds[name] = measure(run, self.hearing.progress, self.hard)
            except Overrun:
                self.dropped[name] = "there was no time left to start it"
            except AfinaError as error:
                problem = error
                self.dropped[name] = str(error).removeprefix(f"run {name}: ")
        if problem and not speeds:
            raise problem  # nothing can be trained here at all: its reason is what the user needs
        return speeds

    def _affordable(self, there: int, speeds: Mapping[str, Speed]) -> int:
        each = self.left * (1 - RACE_SHARE) / FINALISTS * EVALUATION_SHARE
        slowest = max(speed.text for speed in speeds.values()) * FLOAT32
        return min(there, max(FEWEST, int(each / max(slowest, 1e-9))))

    def _race(self, runs: Mapping[str, Run], speeds: Mapping[str, Speed], texts: int, examples: int) -> list[Standing]:
        def trying(run: Run, number: int) -> Callable[[Any], None]:
            self.hearing.says(f"race, candidate {number}: {run.method}")
            return self.hearing.progress

        batch = Training().batch_size
        longest = EPOCHS * math.ceil(min(examples, AT_FIRST) * (1 - VALIDATION) / batch)
        return race(runs, speeds, texts, longest, RACE_SHARE * self.left, trying)

    def _final(self, one: Standing, speed: Speed, examples: int, held: int, to_come: int) -> Record | None:
        """The record of a finalist, or None where there was no time for it."""
        seconds = self.left / to_come
        batch = Training().batch_size
        steps = speed.steps(seconds - REOPENING * speed.opening, held * FLOAT32)
        steps = min(steps, EPOCHS * math.ceil(examples / batch))
        if steps < 1:
            self.dropped[one.method] = "there was no time left to train and evaluate it"
            return None
        used = min(examples, steps * batch)
        run = self._run(one.method, rate=one.rate, steps=steps, train_examples=used, evaluation_examples=held)
        self.hearing.says(f"training {one.method} on {used:,} of {examples:,} texts")
        try:
            return local.carry_out(run, self.out, "choose", self.hearing.progress, self.hard)
        except Overrun:
            self.dropped[one.method] = "its last training took longer than there was time for"
            return None
        except AfinaError as error:
            self.dropped[one.method] = str(error).removeprefix(f"run {one.method}: ")
            return None
        finally:
            (self.out / "checkpoints" / f"{run.label}.safetensors").unlink(missing_ok=True)
            for place in ("adapters", "checkpoints"):
                atomic.sweep(self.out / place)

    def _answer(
        self,
        floors: Sequence[Floor],
        gold: np.ndarray,
        floor_predictions: Sequence[np.ndarray],
        standings: Sequence[Standing],
        records: Mapping[str, Record],
    ) -> Choice:
        whole = self.whole
        right = {name: (np.array(made.predicted) == gold)[None] for name, made in records.items()}
        by_floor = {f.name: (p == gold)[None] for f, p in zip(floors, floor_predictions, strict=True)}
        compared = compare({READABLE.get(n, n): r for n, r in (right | by_floor).items() if n != baselines.MAJORITY})
        recommended = recommend(list(right), right, by_floor, compared)
        rows = [
            Row(
                name=f.name,
                accuracy=metrics.accuracy(gold, p),
                f1=metrics.f1(gold, p, len(whole.label_names)),
                examples=min(len(whole.train), baselines.MOST),
                remark=f.setting,
            )
            for f, p in zip(floors, floor_predictions, strict=True)
        ]
        rows += [self._row(one, records.get(one.method)) for one in standings]
        path = self.out / "records.jsonl"
        kept = {one.key: one for one in record.read(path)} | {one.key: one for one in records.values()}
        record.write(path, kept.values())
        chosen = records.get(recommended)
        return Choice(
            task=self.whole.address,
            backbone=self.backbone,
            recommended=recommended,
            recommendation=sentences(recommended, rows, compared, chosen, len(gold)),
            adapter=str(self.out / chosen.adapter) if chosen else None,
            rows=tuple(rows),
            comparisons=tuple(one.words for one in compared),
            dropped=self.dropped,
            train_examples=len(whole.train),
            examples=len(gold),
            minutes=self.minutes,
            seconds=meter.now() - self.began,
        )

    def _row(self, one: Standing, made: Record | None) -> Row:
        rounds = f"{one.rounds} round{'s' * (one.rounds > 1)}"
        race = f"raced {rounds}, learning rate {one.rate:.2g}" + (
            "" if one.accuracy is not None else ", did not finish"
        )
        if made is None:
            return Row(name=one.method, race=race)
        return Row(
            name=one.method,
            accuracy=made.accuracy,
            f1=made.f1,
            race=race,
            examples=made.train_examples,
            steps=made.steps,
            seconds=made.seconds.train,
            memory=made.memory.rss_peak,
            adapter=str(self.out / made.adapter),
        )
