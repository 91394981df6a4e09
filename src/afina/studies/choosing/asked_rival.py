"""`AskedRival`: a model behind an API that a recommendation compares with the methods that it tries.

The model is asked while candidates train. The model is no candidate: it is recommended only if its answers are
significantly better than those of the method that would be recommended otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from afina import meter
from afina.data.readers import splitting
from afina.data.reading_options import ReadingOptions
from afina.data.split import Split
from afina.endpoints.answers import EndpointForecast
from afina.errors import AfinaError
from afina.events import ignore
from afina.methods import make
from afina.methods.endpoint import AskedEndpoint
from afina.stats.comparison import Comparison, compare
from afina.stats.metrics import METRICS, Metric
from afina.studies import problems
from afina.studies.choosing.recommendation import NAME, Contender, Dropped, Recommendation
from afina.studies.choosing.setup import MOST_TEXTS, ChoiceSetup
from afina.studies.executors.executor import Cancelled, Overrun
from afina.studies.runs.endpoint_run import Inquiry
from afina.studies.runs.output_directory import OutputLock
from afina.studies.runs.record import Record, Result
from afina.studies.runs.run import Run
from afina.studies.runs.spec import Ask

_GRACE = 5.0
"""Seconds in which the process that asks must end after the time limit."""


def run_of(setting: ChoiceSetup, table: Mapping[str, Any], *, send_texts: bool) -> Run:
    """Return the run that asks an endpoint, with the settings `table`, for at most MOST_TEXTS held-out texts.

    Raises InvalidStudy or UnknownName for settings that an endpoint cannot have.
    """
    texts = min(MOST_TEXTS, len(setting.task.evaluation))
    return Run(
        task=setting.task.address,
        method=AskedEndpoint.name,
        hyperparameters=dict(table),
        data=replace(setting.data, evaluation_examples=texts),
        ask=Ask(template=setting.ask.template, words=setting.ask.words),
        metric=setting.metric,
        data_digest=setting.data_digest,
        without_digest=setting.without_digest,
        send_texts=send_texts,
    )


@dataclass
class AskedRival:
    """The run of a model behind an API beside the trainings; `dropped` says why it has no `result`."""

    setting: ChoiceSetup
    held: OutputLock
    run: Run
    result: Result | None = None
    dropped: Dropped | None = None

    @classmethod
    def of(
        cls, setting: ChoiceSetup, held: OutputLock, table: Mapping[str, Any] | None, *, send_texts: bool
    ) -> AskedRival | None:
        return None if table is None else cls(setting, held, run_of(setting, table, send_texts=send_texts))

    @property
    def name(self) -> str:
        return make(self.run.method, self.run.hyperparameters).title

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Ask while the block runs, and wait for the answers at its end; after an exception, send nothing more.

        Raises Refused before the block if texts would be sent without permission.
        """
        told = Inquiry.of(self.run, self.held.out).check_permission()
        if told:
            self.setting.watcher.says(told)
        known = self.held.known(self.run.key)
        if known is not None and not told:
            self.result = known
            yield
            return
        executor, out = self.setting.executor, self.held.begin(self.run.label)
        with ThreadPoolExecutor(1, "afina-endpoint") as pool:
            made = pool.submit(executor.carry_out, self.run, out, NAME, ignore, self.setting.clock.end)
            try:
                yield
                self._end(made)
            except BaseException as error:
                self.dropped = Dropped(why="ended") if isinstance(error, KeyboardInterrupt) else None
                executor.cancel(at_once=True)
                raise

    def _end(self, made: Future[Record]) -> None:
        """Keep the result of the run, or the reason why there is none at the time limit."""
        try:
            record = made.result(timeout=max(0.0, self.setting.clock.end - meter.now()) + _GRACE)
            self.result = self.held.keep(record, self.run.label)
            return
        except (Overrun, Cancelled, TimeoutError):
            self.dropped = Dropped(why="overrun")
            self.setting.executor.cancel(at_once=True)
        except AfinaError as error:
            self.dropped = Dropped(why="error", message=self.held.give_up(self.run.label, str(error)))
        self.setting.watcher.failed(self.run, self.dropped.message or "the time ended before all answers")

    def on(self, texts: int) -> Result | None:
        """Return the result on the `texts` held-out texts of the other contenders, if there is one."""
        if self.result is None:
            return None
        if texts >= self.result.record.examples:
            return self.result
        all_texts = self.setting.task.evaluation
        asked = _places(all_texts, self.result.record.examples)
        kept = np.flatnonzero(np.isin(asked, _places(all_texts, texts)))
        predictions = self.result.predictions.take(kept)
        figures = {"metrics": self.result.objective.metrics(predictions), "examples": len(kept)}
        return Result(self.result.record.model_copy(update=figures), predictions)

    def joined(self, made: Recommendation, scores: Mapping[str, np.ndarray], texts: int) -> Recommendation:
        """Return the recommendation with the model as a further contender, recommended if significantly better.

        `scores` are the per-example values of the metric on the held-out texts, [1, N], by contender.
        """
        result = self.on(texts)
        if result is None:
            reasons = {} if self.dropped is None else {self.name: self.dropped}
            return made.model_copy(update={"dropped": {**made.dropped, **reasons}})
        names = {one.name for one in made.contenders}
        shown = {name: one for name, one in scores.items() if name in names}
        compared = _comparisons(self.name, result, shown, METRICS[made.metric])
        record = result.record
        own = Contender(
            name=self.name,
            method=record.method,
            metrics=record.metrics,
            key=record.key,
            ask=record.ask,
            endpoint=record.endpoint,
        )
        better = any({one.first, one.second} == {self.name, made.recommended} and one.seen_from(self.name) == "better"
                     for one in compared)  # fmt: skip
        found: dict[str, Any] = {
            "contenders": (*made.contenders, own),
            "comparisons": (*made.comparisons, *compared),
            "instead_of": made.recommended if better else None,
            "seconds": self.setting.clock.spent,
        }
        return made.model_copy(update=found | ({"recommended": self.name, "adapter": None} if better else {}))


def _places(split: Split, count: int) -> np.ndarray:
    """Return the indices of the examples that `splitting.first` keeps of a split."""
    return np.array(splitting.first_places(split, count, "evaluation_examples"), np.int64)


def _comparisons(name: str, result: Result, scores: Mapping[str, np.ndarray], metric: Metric) -> list[Comparison]:
    """Return the comparisons with each other contender, which do not change the others' correction for several."""
    own = result.scores[None]
    same = {other: each for other, each in scores.items() if each.shape == own.shape and not np.isnan(each).any()}
    if not same or np.isnan(own).any():
        return []
    margin = metric.margin(result.targets)
    found = compare({**same, name: own}, metric=metric, margin=margin, references=[name])
    return [one for one in found if name in (one.first, one.second)]


def check_table(table: Mapping[str, Any] | None) -> None:
    """Raise InvalidStudy or UnknownName for settings that an endpoint cannot have."""
    if table is None:
        return
    if missing := [name for name in ("url", "model") if name not in table]:
        raise problems.ENDPOINT_INCOMPLETE(missing=missing[0])
    Run(task="-", method=AskedEndpoint.name, hyperparameters=dict(table))


def forecast_endpoint(table: Mapping[str, Any], task: str, data: ReadingOptions, ask: Ask) -> EndpointForecast:
    """Return what asking the endpoint `table` for the evaluation texts of a task would take; nothing is sent."""
    asked = {"template": ask.template, "words": ask.words}
    run = Run(task=task, method=AskedEndpoint.name, hyperparameters=dict(table), data=data, ask=asked)
    return Inquiry.of(run, Path()).foresee(anew=True)
