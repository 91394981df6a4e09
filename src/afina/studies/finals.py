"""Finals: the best of a race trained on as much of the training split as there is time for, and evaluated once.

Time is spent by what was measured: the first finalist by the pace of its trial, the next by that and by what the first
one really took. What is left when one has all its texts and epochs is the others'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from afina import meter
from afina.errors import AfinaError
from afina.studies.executors.executor import Overrun
from afina.studies.halving import EPOCHS, Speed, Standing
from afina.studies.holding import Held
from afina.studies.recommendation import NAME, Dropped
from afina.studies.record import Record
from afina.studies.result import Result
from afina.studies.run import Run
from afina.studies.setting import BATCH, Setting, reason

FLOAT32, REOPENING = 3.0, 0.8
"""Where training computes in bfloat16, held-out texts are scored in float32, which takes up to three times as long, and
the model is opened once more for it, in this share of what starting took. A guess until the first finalist is done."""

EVALUATION_SHARE, FEWEST = 0.3, 100
"""Share of a finalist's time that scoring may take, and how many texts are scored whatever it takes."""


def expected(seen: Speed, *, lowered: bool) -> Speed:
    """What a finalist will cost that cost so much before; `lowered` says that it trains in bfloat16."""
    if not lowered:
        return seen
    return Speed(seen.opening * (1 + REOPENING), seen.step, seen.text * FLOAT32)


def texts_to_score(there: int, paces: Mapping[str, Speed], finalists: int, seconds: float) -> int:
    """How many held-out texts each of so many finalists can score in its share of `seconds`, the slowest included."""
    each = seconds / finalists * EVALUATION_SHARE
    return min(there, max(FEWEST, int(each / max(*(pace.text for pace in paces.values()), 1e-9))))


@dataclass
class Finals:
    """The finalists that are done, and those that could not be.

    texts  held-out texts that each is evaluated on
    paces  what each will cost, by method, corrected as it is known better
    """

    setting: Setting
    held: Held
    texts: int
    paces: dict[str, Speed] = field(default_factory=dict)
    results: dict[str, Result] = field(default_factory=dict)
    dropped: dict[str, Dropped] = field(default_factory=dict)

    def carry_out(self, finalists: Sequence[Standing]) -> None:
        """Train and evaluate each, the best first."""
        for number, one in enumerate(finalists):
            pace, later = self.paces[one.method], finalists[number + 1 :]
            steps = min(pace.steps(self._share(later), self.texts, slack=1.0), self.most)
            if steps < 1:
                self.dropped[one.method] = Dropped(why="train")
                continue
            self._carry_out(one, steps, number + 1, len(finalists))

    def evaluate(self, quick: Sequence[str], read: int, seconds: float) -> None:
        """Evaluate methods that train nothing, or the head alone, each in so many seconds at most; at most `read`
        training texts are read.
        """
        read = min(read, len(self.setting.task.train))
        for number, method in enumerate(quick, start=1):
            if seconds > 0:
                run = self.setting.run(method, train_examples=read, evaluation_examples=self.texts)
                self._execute(run, number, len(quick), meter.now() + seconds)
            else:
                self.dropped[method] = Dropped(why="start")

    @property
    def most(self) -> int:
        """Steps of all texts and epochs."""
        return EPOCHS * math.ceil(len(self.setting.task.train) / BATCH)

    def _share(self, later: Sequence[Standing]) -> float:
        """Seconds of the next finalist: as many as those after it, or what these can make no use of."""
        left = self.setting.clock.left
        needed = sum(self.paces[one.method].seconds(self.most, self.texts) for one in later)
        return max(left / (1 + len(later)), left - needed)

    def _carry_out(self, one: Standing, steps: int, number: int, total: int) -> None:
        setting = self.setting
        used = min(len(setting.task.train), steps * BATCH)
        run = setting.run(one.method, rate=one.rate, steps=steps, train_examples=used, evaluation_examples=self.texts)
        began = meter.now()
        made = self._execute(run, number, total, setting.clock.end)
        if made:
            self._learn(one.method, made, meter.now() - began)

    def _execute(self, run: Run, number: int, total: int, until: float) -> Record | None:
        """Carry it out, and keep its result, or why there is none."""
        setting, watcher = self.setting, self.setting.watcher
        watcher.started(run, number, total)
        try:
            made = setting.executor.carry_out(run, self.held.out, NAME, partial(watcher.progress, run), until)
        except Overrun:
            self._drop(run, Dropped(why="overrun"), f"run {run.title}: its time was up.")
        except AfinaError as error:
            self._drop(run, Dropped(why="error", message=reason(run, error)), str(error))
        else:
            self.results[run.method] = self.held.keep(made, run.label)
            watcher.finished(run, made, now=True)
            return made
        return None

    def _drop(self, run: Run, why: Dropped, message: str) -> None:
        self.dropped[run.method] = why
        self.held.abandon(run.label)
        self.setting.watcher.failed(run, message)

    def _learn(self, method: str, made: Record, seconds: float) -> None:
        """Correct what the others will cost by what this one really cost."""
        seen = made.seconds
        real = Speed(seconds - seen.train - seen.evaluate, seen.train / made.steps, seen.evaluate / made.examples)
        guess = self.paces[method]
        self.paces = {
            name: Speed(
                pace.opening * _ratio(real.opening, guess.opening),
                pace.step * _ratio(real.step, guess.step),
                pace.text * _ratio(real.text, guess.text),
            )
            for name, pace in self.paces.items()
        }


def _ratio(real: float, guess: float) -> float:
    return real / guess if real > 0 and guess > 0 else 1.0
