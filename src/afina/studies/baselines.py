"""A study's baselines without a language model, such as TF-IDF with logistic regression: fit, measure, write, read.

The file `baselines.json` has the baselines' metrics and the paths of their predictions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from pydantic import ValidationError

from afina import digest, file_io, meter
from afina.data.task import Task
from afina.models import objectives
from afina.models.objective import Objective
from afina.models.predictions import Predictions
from afina.schema import Count, Figure, Frozen, Sealed, check_format
from afina.stats.answered import Answered
from afina.stats.metrics import METRICS
from afina.studies import problems
from afina.studies.choosing import floors
from afina.studies.choosing.floors import Floor
from afina.studies.runs.output_directory import OutputDirectory, OutputLock
from afina.studies.runs.record import Below, Duration, Printable, Result
from afina.studies.runs.spec import RunSpec

LABEL = "without-a-model-{}"
"""The label of a baseline in the name of its predictions file, which differs from the labels of runs."""


class BaselineRecord(Frozen):
    """The metrics, fit time and predictions file of one baseline.

    `seconds` are those of the fit and of the predictions. `predictions` is relative to the output directory.
    """

    name: Printable
    setting: Printable
    train_examples: Count
    seconds: Duration
    metrics: dict[str, Figure]
    predictions: Below
    predictions_digest: str


class BaselineRecords(Sealed):
    """The content of the file `baselines.json`.

    `data` is a digest of the task's address and reading options, and of the content of files. `objective` has the form
    of `Record.objective`.
    """

    data: str
    evaluation_digest: str
    label_names: tuple[str, ...]
    objective: dict[str, Any] | None
    baselines: tuple[BaselineRecord, ...]


@dataclass(frozen=True)
class MeasuredBaseline:
    record: BaselineRecord
    evaluation_digest: str
    objective: Objective = field(compare=False, repr=False)
    predictions: Predictions = field(compare=False, repr=False)

    @property
    def measured_on(self) -> tuple[str, bytes]:
        """A key of the evaluation split and its targets."""
        return self.evaluation_digest, self.predictions.right_as_bytes

    @cached_property
    def answered(self) -> Answered:
        return self.objective.answered(self.predictions)

    def beside(self, result: Result) -> MeasuredBaseline:
        """Return the baseline measured only on the texts of `result`; generation leaves out too long targets."""
        digest, targets = result.record.environment.evaluation_digest, result.targets
        if digest != self.evaluation_digest or result.predictions.right_as_bytes == self.predictions.right_as_bytes:
            return self
        kept = np.delete(np.arange(len(self.predictions)), np.array(result.record.too_long_rows, np.int64))
        if len(kept) != len(targets):
            return self
        predictions = self.predictions.take(kept).against(targets)
        record = self.record.model_copy(update={"metrics": self.objective.metrics(predictions)})
        return replace(self, record=record, predictions=predictions)

    def values(self, metric: str) -> np.ndarray:
        """Return per-example values, [N], whose mean is the metric."""
        made = METRICS[metric].values
        assert made is not None
        return made(self.answered)


def measure(
    run: RunSpec, held: OutputLock, slow: Sequence[str] = (), *, fresh: bool = False
) -> tuple[MeasuredBaseline, ...]:
    """Fit the baselines of a run's task, measure them, and write them into the output directory.

    Baselines of the same data that were written before are read instead, unless `fresh` is set. `slow` names those that
    take minutes and are fitted too (`FloorKind.slow`). Raises NotFound, InvalidData, InvalidStudy or CannotWrite.
    """
    beside = [*([run.without_digest] if run.without_digest else []), *slow]
    data = digest.of_settings(run.task, run.data.given, run.data_digest, *beside)
    found = _read(held.directory)
    if found is not None and found.data == data and not fresh and _is_whole(found, held.directory):
        return tuple(_with_predictions(found, held.directory))
    task = Task.load(run.task, run.data)
    objective = objectives.make(task.label_names, {"kind": task.kind}).of(task.train.labels)
    _check(slow, objective)
    made, began = [], meter.now()
    fitted = chain(floors.fit(task.train, objective), (floors.fit_slow(name, task.train, objective) for name in slow))
    for number, floor in enumerate(fitted):
        made.append(_measured(floor, task, held.directory, LABEL.format(number), began))
        began = meter.now()
    records = BaselineRecords(
        data=data,
        evaluation_digest=task.evaluation.digest,
        label_names=task.label_names,
        objective=objective.settings,
        baselines=tuple(made),
    ).sealed()
    file_io.write_text(held.directory.baselines, records.model_dump_json(indent=2) + "\n")
    return tuple(_with_predictions(records, held.directory))


def _check(names: Sequence[str], objective: Objective) -> None:
    known = floors.FLOORS[objective.kind].slow
    for name in names:
        if name not in known:
            expected = (
                f"one of {', '.join(map(repr, known))}" if known else "true, because this kind of task has no others"
            )
            raise problems.BASELINE_UNKNOWN(found=name, _expected=expected)


def read(directory: OutputDirectory) -> tuple[MeasuredBaseline, ...]:
    """Return the measured baselines in an output directory; () if there are none. Raises InvalidData."""
    found = _read(directory)
    return () if found is None else tuple(_with_predictions(found, directory))


def _measured(floor: Floor, task: Task, directory: OutputDirectory, label: str, began: float) -> BaselineRecord:
    predictions, path = floor.predictions(task.evaluation), directory.predictions(label)
    seconds = meter.now() - began
    with file_io.writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    return BaselineRecord(
        name=floor.name,
        setting=floor.setting,
        train_examples=floor.examples,
        seconds=seconds,
        metrics=floor.objective.metrics(predictions),
        predictions_digest=predictions.write(path),
        predictions=directory.relative(path),
    )


def _read(directory: OutputDirectory) -> BaselineRecords | None:
    if not directory.baselines.is_file():
        return None
    try:
        text = directory.baselines.read_bytes()
        check_format(text, directory.baselines, "Remove the file, and run the study again.")
        made = BaselineRecords.model_validate_json(text)
        problem = made.refuses(text)
    except (OSError, ValidationError):
        problem = "it is damaged"
    if problem:
        raise problems.FILE_EDITED(
            problem=problem, path=directory.baselines, _instead="Remove the file, and run the study again."
        )
    return made


def _is_whole(found: BaselineRecords, directory: OutputDirectory) -> bool:
    return all((directory.out / one.predictions).is_file() for one in found.baselines)


def _with_predictions(found: BaselineRecords, directory: OutputDirectory) -> Iterator[MeasuredBaseline]:
    objective = objectives.make(found.label_names, found.objective)
    for one in found.baselines:
        predictions = Predictions.read(directory.out / one.predictions, one.predictions_digest)
        yield MeasuredBaseline(one, found.evaluation_digest, objective, predictions)
