"""Record: a fact. What one run asked for, what was measured, in what environment; frozen JSON. Result: a record with
what the run predicted, which lies in a file beside it.

What each figure means is defined in docs/reference/figures.md. Starts without torch. Knows nothing
of how a figure was obtained.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    model_validator,
)

from afina import file_io
from afina.errors import InvalidData
from afina.models import objectives
from afina.models.objective import Objective, Predictions
from afina.repr_html import ReprCard
from afina.schema import Count, Figure, Frozen, Problem, Sealed, Sparing
from afina.stats import classification, metrics
from afina.stats.metrics import METRICS, Answered

TOLD = 2
"""Figures that a card shows, beside the headline; a record has more."""


def _below(path: str) -> str:
    """A path as it is, if it names something below the directory that it is relative to."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
        raise ValueError(f"expected a path below the output directory, found {path[:80]!r}")
    return path


Below = Annotated[str, AfterValidator(_below)]
"""A path relative to the output directory, and below it."""


def _printable(text: str) -> str:
    """A text as it is, if a terminal can show it without being told to do something."""
    if any(unicodedata.category(letter) == "Cc" and not letter.isspace() for letter in text):
        raise ValueError(f"expected no control characters, found {text[:80]!r}")
    return text


Printable = Annotated[str, AfterValidator(_printable)]
Duration = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Seconds(Frozen):
    """Wall-clock seconds by phase, summed over the parts of a resumed run."""

    load: Duration
    encode: Duration
    train: Duration
    evaluate: Duration
    save: Duration


class Memory(Frozen):
    """Bytes; None where this device cannot measure it or nothing was trained."""

    state_bytes: Count
    activation_bytes: Count | None
    activation_tokens: Count | None
    rss_peak: Count | None
    allocated_end: Count | None
    allocated_peak: Count | None
    reserved_peak: Count | None


class Environment(Frozen):
    """Where a run took place. Names no host and no path."""

    versions: dict[str, str]
    platform: str
    processor: str
    device: str
    threads: int
    dtype: str
    git_commit: str | None
    git_dirty: bool | None
    backbone_digest: str
    tokenizer_digest: str
    train_digest: str
    evaluation_digest: str


class Prompting(Frozen):
    """How texts were asked about, as an adapter's manifest has it; see `afina.models.adapter`."""

    template: str | None = None
    words: dict[str, tuple[str, ...]] | None = None
    offset: tuple[float, ...] | None = None


class Selection(Frozen):
    """How a trained model did on texts of the training split that were set aside to select it, or another, by.

    value, loss  the headline metric, and the loss, of `examples` texts
    """

    value: Figure
    loss: float
    examples: int


class Record(ReprCard, Sparing, Sealed):
    """One finished run.

    key              digest of the intention; a study skips runs whose key is recorded
    name             the run's name in its study, `method` unless one method appears twice
    trainable        body + head parameters that training may change; `total` counts the unadapted classifier
    tokens_per_second  real tokens trained on per second of `seconds.train`; None where nothing was trained
    train_examples, examples  texts in the training split as used, those for calibration included, and in the evaluation
                     split
    columns          of a file, which column was taken as what, and in `others` those that were not read
    notes            in sentences, what was found or done in reading the task that the user may not expect
    truncated        training and evaluation texts longer than the maximum length
    losses           (step, mean loss since the previous entry), at most some hundreds of entries
    title            what tables call the method
    kind, metric     of the task's objective, and the headline metric
    objective        what was asked beside the labels' names, as an adapter's manifest has it
    metrics          by name, the kind's usual headline first; what each is: docs/reference/figures.md
    selection        on texts that were set aside to select by, where the run asked for that
    ceiling          likewise, how well one human tells what others say of the evaluation texts, where that is known
    predictions      path of the file of what was predicted, relative to the study's output directory, and its digest
    adapter          path of the adapter, relative to the study's output directory
    digest           the adapter's digest
    data_digest      of what the task's files held, which the key covers; None where the address says which data
                     these are
    at_once          the most runs that this machine carried out at once meanwhile, which makes seconds longer;
                     left out where it was this one alone
    content_digest   of every other field
    """

    unwritten: ClassVar[frozenset[str]] = frozenset({"at_once"})

    key: str
    study: Printable
    name: Printable
    method: Printable
    title: Printable
    seed: Count
    status: Literal["done"] = "done"
    backbone: str
    task: str
    label_names: tuple[str, ...] = Field(min_length=1)
    columns: dict[str, str] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    hyperparameters: dict[str, Any]
    training: dict[str, Any]
    ask: Prompting = Prompting()
    kind: str
    objective: dict[str, Any] | None = None
    metric: str
    metrics: dict[str, Figure]
    selection: Selection | None = None
    ceiling: dict[str, float] = Field(default_factory=dict)
    train_examples: Count
    examples: Count
    trainable: Count
    body: Count
    head: Count
    total: Count
    steps: Count
    tokens: Count
    tokens_per_second: Duration | None
    truncated: Count
    leaked: Count
    seconds: Seconds
    memory: Memory
    losses: tuple[tuple[int, float], ...]
    predictions: Below
    predictions_digest: str
    adapter: Below
    digest: str
    environment: Environment
    data_digest: str | None = None
    at_once: int = Field(default=1, ge=1)

    def beside(self, most: int) -> Self:
        """The record of a run beside which so many were carried out at once, itself counted."""
        return self if most == self.at_once else self.model_copy(update={"at_once": most}).sealed()

    @model_validator(mode="after")
    def _of_a_known_kind(self) -> Self:
        known = metrics.of_kind(self.kind)
        if self.metric not in known or self.metric not in self.metrics or not self.metrics.keys() <= set(known):
            raise ValueError(f"a task of kind {self.kind!r}, measured in {self.metric!r}, is not known")
        try:
            asked = objectives.make(self.label_names, self.objective)
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"its objective {str(self.objective)[:80]} is not known") from None
        if asked.kind != self.kind:
            raise ValueError(f"its kind is {self.kind!r}, and its objective is of {asked.kind!r}")
        return self

    def facts(self) -> dict[str, object]:
        """The facts that its repr shows."""
        return {
            "name": self.name,
            "seed": self.seed,
            self.metric: self.metrics[self.metric],
            **dict(list(self.metrics.items())[:TOLD]),
            "evaluation texts": self.examples,
            "trained parameters": self.trainable,
            "training, in seconds": round(self.seconds.train, 2) if self.steps else None,
            "backbone": self.backbone,
            "task": self.task,
            "adapter, in its directory": self.adapter,
        }

    @property
    def accuracy(self) -> float:
        """Share of right answers, of a task of classes."""
        return self.metrics["accuracy"]

    @property
    def f1(self) -> float:
        """As docs/reference/figures.md defines it, of a task of classes."""
        return self.metrics["f1"]


def read_records(path: Path) -> list[Record]:
    """The records in a `records.jsonl`; none where the file is not there.

    Raises InvalidData with the line, also where a record was changed since it was made.
    """
    if not path.exists():
        return []
    # Bytes, not text: str.splitlines also breaks at U+2028 and the like, which a label's name may hold.
    return [_read(line, f"{path}, line {number}") for number, line in enumerate(path.read_bytes().splitlines(), 1)]


def _read(line: bytes, where: str) -> Record:
    try:
        made = Record.model_validate_json(line)
    except ValidationError as error:
        wrong = Problem.of(error)
        raise InvalidData(
            f"{where}: not a record of this version of afina "
            f"({wrong.field or 'the line'}: {wrong.message}). "
            "Remove that line, or name another `out`.",
            code="results.damaged",
            where=where,
            field=wrong.field,
        ) from None
    if problem := made.refuses(line):
        raise InvalidData(
            f"{where}: the record of {made.name}, seed {made.seed}, was changed after it was made: {problem}. "
            "Restore the line, or remove it and run the study again.",
            code="results.changed",
            where=where,
            run=made.name,
            seed=made.seed,
        )
    return made


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Replace the file at `path` with one line per record."""
    file_io.write_text(path, "".join(record.model_dump_json() + "\n" for record in records))


_CLOSE = 1e-6
"""Two computations of one metric differ by less."""


@dataclass(frozen=True)
class Result:
    """One finished run. Two are equal whose records are: these have the digest of the predictions."""

    record: Record
    predictions: Predictions = field(compare=False)

    @cached_property
    def objective(self) -> Objective:
        """What was asked of each text."""
        return objectives.make(self.record.label_names, self.record.objective)

    def check_shapes(self, where: object) -> None:
        """Raise InvalidData where the predictions can be none of the record's kind and labels."""
        given, asked = self.predictions, self.objective
        if not asked.fits(given):
            raise InvalidData(
                f"{where}: these are no predictions of {self.record.name}, seed {self.record.seed}: outputs "
                f"{given.outputs.shape} and targets {self.targets.shape}, for {asked.width} outputs a text. Remove the "
                "file, and run the study again.",
                code="results.changed",
                where=where,
                run=self.record.name,
                seed=self.record.seed,
            )

    def check(self, where: object) -> None:
        """Raise InvalidData where a metric of the record is not what the predictions give.

        For a record without a digest of its own. What is undefined here, or not computed, is not looked at.
        """
        found = self.objective.metrics(self.predictions)
        for name, said in self.record.metrics.items():
            given = found.get(name, math.nan)
            if math.isnan(given) or math.isnan(said) or math.isclose(said, given, rel_tol=_CLOSE, abs_tol=_CLOSE):
                continue
            if math.isclose(said, self._as_before(name, given), rel_tol=_CLOSE, abs_tol=_CLOSE):
                continue
            raise InvalidData(
                f"{where}: the record of {self.record.name}, seed {self.record.seed}, says {name} {said:.4f}, its "
                f"stored predictions give {given:.4f}: it was changed after it was made. Restore its line, or remove "
                "it and run the study again.",
                code="results.changed",
                where=where,
                run=self.record.name,
                seed=self.record.seed,
                metric=name,
            )

    def _as_before(self, metric: str, given: float) -> float:
        """What an earlier afina made of it: macro F1 counted a label that neither occurs nor is answered as 0."""
        if metric not in ("f1", "macro_f1") or self.objective.width < 3:
            return given
        if metric == "f1":
            return float(np.nan_to_num(classification.per_class(self.answered)[2]).mean())
        targets, answers = self.targets.astype(bool), self.answers.astype(bool)
        counted = np.maximum(targets.sum(axis=0) + answers.sum(axis=0), 1)
        return float((2 * (targets & answers).sum(axis=0) / counted).mean())

    @property
    def targets(self) -> np.ndarray:
        """What was right, [N]."""
        return self.predictions.right

    @cached_property
    def answered(self) -> Answered:
        """What metrics are computed from."""
        return self.objective.answered(self.predictions)

    @cached_property
    def answers(self) -> np.ndarray:
        """What was predicted, in the form of targets, [N]."""
        return self.answered.answers

    @cached_property
    def scores(self) -> np.ndarray:
        """What each answer adds to the headline metric, [N]; for accuracy whether it is right."""
        return self.values(self.record.metric)

    def values(self, metric: str) -> np.ndarray:
        """What each answer adds to a metric, [N]."""
        made = METRICS[metric].values
        assert made is not None
        return made(self.answered)

    @cached_property
    def chances(self) -> np.ndarray | None:
        """Probabilities, [N, width], where the kind has such."""
        return self.answered.chances
