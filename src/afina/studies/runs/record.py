"""`Record`: the description, measurements and environment of a finished run. `Result`: a record and its predictions.

A record is a line of JSON; the predictions are in another file. A record is never changed, except for the costs of a
model behind an API whose prices the study has changed. docs/reference/figures.md defines each field of a record.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    model_validator,
)

from afina import file_io
from afina.endpoints.answers import REPLIED
from afina.models import objectives
from afina.models.objective import Objective
from afina.models.predictions import Predictions
from afina.repr_html import ReprCard
from afina.schema import Count, Figure, Frozen, Sealed, WrongValue, check_format
from afina.sentence import Sentence
from afina.stats import metrics
from afina.stats.abstention import AnsweredShare
from afina.stats.metrics import METRICS, Answered
from afina.studies import problems

TOLD = 2
"""A record's summary in a notebook shows the headline metric and at most this number of other metrics."""


def _below(path: str) -> str:
    """Return a relative path that stays within the output directory; else raise ValueError."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
        raise ValueError(f"expected a path below the output directory, found {path[:80]!r}")
    return path


Below = Annotated[str, AfterValidator(_below)]
"""A path that is relative to the output directory and stays within it."""


def _printable(text: str) -> str:
    """Return a text without control characters, such as escape codes; else raise ValueError."""
    if any(unicodedata.category(letter) == "Cc" and not letter.isspace() for letter in text):
        raise ValueError(f"expected no control characters, found {text[:80]!r}")
    return text


Printable = Annotated[str, AfterValidator(_printable)]


def _moment(text: str) -> str:
    """Return a moment in ISO 8601 with its time zone; else raise ValueError."""
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(f"expected a moment with its time zone, found {text[:80]!r}")
    return text


Moment = Annotated[str, AfterValidator(_moment)]
"""A moment in ISO 8601 with its time zone, such as 2026-11-30T09:00:00+00:00."""


Duration = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A time in seconds."""


class HeadFit(Frozen):
    """Facts about scikit-learn's fit of the head of a linear probe or of SetFit; figures.md defines each field.

    `strength` is the value of `parameter`. None as `iterations`: a closed formula solves ridge regression.
    """

    parameter: Literal["C", "alpha"]
    strength: float
    seconds: Duration
    iterations: Count | None
    converged: bool
    pooling: Literal["first", "last", "mean"]
    normalize: bool
    label_texts: dict[str, tuple[str, ...]] | None = None


class EndpointUse(Frozen):
    """Facts about the answers of a model behind an API to the evaluation texts; figures.md defines each field.

    None as a field: the server or the record does not tell. `missing` has the indices of texts without an answer, by
    reason. `asked_again` and `differed` are of earlier versions, which asked some texts twice. `unread` may repeat
    words of a text.
    """

    host: Printable
    model: Printable
    models: tuple[str, ...] = ()
    examples: Count
    kept: Count
    requests: Count
    missing: dict[str, tuple[Count, ...]] = Field(default_factory=dict)
    seconds_p50: Duration | None
    seconds_p95: Duration | None
    tokens_in: Count | None
    tokens_out: Count | None
    cost: float | None
    cost_per_1000: float | None
    temperature: bool
    structure: Literal["used", "refused", "none"]
    asked_again: Count = 0
    differed: Count = 0
    price_in: float | None = None
    price_out: float | None = None
    unread: tuple[Printable, ...] = ()
    retries: Count | None = None
    first_answer: Moment | None = None
    last_answer: Moment | None = None

    @property
    def missing_texts(self) -> int:
        return sum(map(len, self.missing.values()))

    @property
    def replied(self) -> int:
        """The number of texts with a reply, maybe a refusal or an answer that is no label."""
        return self.examples - sum(len(rows) for reason, rows in self.missing.items() if reason not in REPLIED)


class Retention(Frozen):
    """The language-model loss of a model on neutral sentences, before and after its adaptation.

    A loss is the mean over all tokens, in nats per token. Each interval is a 95 % interval over sentences. `change` is
    `after` minus `before`, with the interval of the same sentences' differences. `seconds` are part of no phase.
    """

    source: str
    texts_digest: str
    sentences: Count
    tokens: Count
    before: float
    after: float
    change: float
    before_interval: tuple[float, float]
    after_interval: tuple[float, float]
    change_interval: tuple[float, float]
    seconds: Duration


class Seconds(Frozen):
    """The wall-clock seconds of each phase of a run; for a resumed run, summed over its parts."""

    load: Duration
    encode: Duration
    train: Duration
    evaluate: Duration
    save: Duration


class LeftOutCounts(Frozen):
    """The number of rows of the file `without` by the part of the task in which they are.

    Only those in `training` were left out. `aside`: set aside for validation, selection or calibration. `unused`: among
    the training texts that the run did not use. `corrected`: with another label than in the task's file. `added`: with
    a label, and not in the task's file.
    """

    training: Count = 0
    evaluation: Count = 0
    aside: Count = 0
    unused: Count = 0
    corrected: Count = 0
    added: Count = 0


class UnlabelledCounts(Frozen):
    """The number of texts without labels from which a run learned, and of those that were left out of their file.

    Left out were texts that are also in the evaluation split or in another split (`training`), that repeat another text
    of the file, and rows without a text.
    """

    texts: Count
    evaluation: Count = 0
    training: Count = 0
    repeated: Count = 0
    missing: Count = 0


class Memory(Frozen):
    """The memory of a run in bytes (`activation_tokens`: in tokens).

    A field of the memory is None if the device cannot measure it, or if nothing was trained.
    """

    state_bytes: Count
    activation_bytes: Count | None
    activation_tokens: Count | None
    rss_peak: Count | None
    allocated_end: Count | None
    allocated_peak: Count | None
    reserved_peak: Count | None


class Devices(Frozen):
    """The processes (ranks) that computed a run together, each on its own device.

    Peaks are in bytes, in the order of the ranks; None: not measured, or no GPU. Of a resumed run, only the first RSS
    is the peak of all its parts.
    """

    count: Count
    shards: bool = False
    rss_peaks: tuple[Count | None, ...]
    allocated_peaks: tuple[Count | None, ...]

    @property
    def shown(self) -> str:
        """A phrase after the threads of a process, such as " in each of 2 processes"."""
        return f" in each of {self.count} processes" + ", which share the backbone's weights" * self.shards


class Environment(Frozen):
    """The versions, device and threads with which a run was executed, without the host's name and without paths."""

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
    """The prompt template, label words and logit offset of a run, in the form of an adapter's manifest."""

    template: str | None = None
    words: dict[str, tuple[str, ...]] | None = None
    offset: tuple[float, ...] | None = None


class Selection(Frozen):
    """The headline metric and mean loss of a trained model on the validation set that selects one of several."""

    value: Figure
    loss: float
    examples: int


class TextPairs(Frozen):
    """The numbers of pairs of training texts on which a run trained; figures.md defines each field.

    `positive` and `negative` are drawn, with repetitions; `all_...` are the different pairs that exist.
    """

    positive: Count
    negative: Count
    all_positive: Count
    all_negative: Count
    wanted: Count
    single: Count = 0
    alone: bool = False


class AnsweredCounts(Frozen):
    """The numbers of texts, of answered texts, and of wrong answers among the answered texts."""

    texts: Count
    answered: Count
    errors: Count

    @property
    def share(self) -> AnsweredShare:
        return AnsweredShare(self.texts, self.answered, self.errors)


class Abstention(Frozen):
    """How the threshold was chosen below which an adapter leaves a text unanswered.

    `error` is the promised largest share of wrong answers, and `confidence` the probability of keeping the promise.
    None as `threshold`: none keeps the promise, so no text is answered. `calibration`: the texts of the choice.
    """

    error: float
    confidence: float
    threshold: float | None
    calibration: AnsweredCounts
    evaluation: AnsweredCounts


class Record(ReprCard, Sealed):
    """The record of one finished run. docs/reference/figures.md defines each field.

    Attributes:
        key: The digest of the run's description. A study skips runs whose key is recorded.
        study: The name of the study.
        name: The run's name in its study: that of `method`, unless the study gives the run another name.
        title: The method's name in tables.
        columns: For a task in a file, the role of each column that was read; the key `others` has the other columns.
        notes: Warnings from reading the task.
        kind: The kind of the task.
        objective: The objective's settings without the label names, in the form of an adapter's manifest.
        metric: The name of the headline metric.
        metrics: All metrics by name; the default headline metric of the kind comes first.
        signatures: sacrebleu's signatures of BLEU and chrF. None: the run has no such metric.
        selection: The metric and loss on the validation set on which a model is selected, if the run has one.
        ceiling: The metrics of one human annotator against the others on the evaluation texts, if known.
        train_examples: The number of texts of the training split that were used, including calibration texts. Sentences
            and tables print `trained_on`.
        examples: The number of texts in the evaluation split.
        trainable: The number of trainable parameters, including those of the head.
        total: The number of parameters of the classifier without the adapter.
        tokens_per_second: The number of training tokens, without padding, per second of `seconds.train`. None if
            nothing was trained.
        truncated: The number of training and evaluation texts that are longer than the maximum length.
        losses: The training losses as pairs (step, mean loss since the previous pair), at most some hundreds.
        predictions: The path of the predictions file, relative to the study's output directory.
        adapter: The path of the adapter, relative to the study's output directory. None: the run has no adapter.
        digest: The adapter's digest; None if the run has no adapter.
        data_digest: The digest of the task's files, a part of `key`. None if the address identifies the data.
        teacher: The digest of the adapter from whose outputs the run learned. None: the run learned from labels only.
        teacher_seconds: The wall-clock seconds in which the teacher answered the texts, or its answers were read from
            the cache. None: the run learned from labels only.
        unlabelled: The number of texts without labels, and of those that were left out. None: there are no such texts.
        unlabelled_digest: The digest of the file of texts without labels, a part of `key`.
        left_out: The number of rows that were left out of the training texts, and of those kept. None: the run has no
            file of rows to leave out.
        without_digest: The digest of the file of rows to leave out, a part of `key`.
        backbone_files: The digest of the files of a backbone in a directory, a part of `key`. None if the address
            identifies the backbone.
        too_long_rows: The indices, in the evaluation split, of texts that were left out because their targets are too
            long.
        at_once: The largest number of runs that this machine executed at the same time, this run included. More runs at
            once make `seconds` longer.
        fitted: Facts about scikit-learn's fit of the head. None: scikit-learn did not fit the head.
        retention: The language-model loss on neutral sentences before and after training, if measured.
        weight_bytes: The bytes of all weights in the evaluation, including the adapter's. `weight_bytes` is None if
            `precision` is "float", because each parameter then has four bytes.
        trunk: How an earlier version of afina computed the frozen lower blocks, which it could keep.
        pairs: The numbers of pairs of training texts. None: the run did not train on pairs.
        abstention: How the threshold was chosen below which the adapter leaves a text unanswered. None: the adapter
            answers every text.
        temperature_examples: The number of texts that were set aside to fit the temperature. None: no text was, or an
            earlier version of afina made the record.
        endpoint: Facts about the answers of a model behind an API. None: the answers were computed on this machine.
        devices: The processes that computed the run together. None: one process computed the run.
    """

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
    signatures: dict[str, str] | None = None
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
    adapter: Below | None
    digest: str | None
    environment: Environment
    data_digest: str | None = None
    backbone_files: str | None = None
    teacher: str | None = None
    teacher_seconds: Duration | None = None
    unlabelled: UnlabelledCounts | None = None
    unlabelled_digest: str | None = None
    left_out: LeftOutCounts | None = None
    without_digest: str | None = None
    too_long_rows: tuple[Count, ...] = ()
    at_once: int = Field(default=1, ge=1)
    fitted: HeadFit | None = None
    retention: Retention | None = None
    weight_bytes: Count | None = None
    trunk: dict[str, Any] | None = None
    pairs: TextPairs | None = None
    abstention: Abstention | None = None
    temperature_examples: Count | None = None
    endpoint: EndpointUse | None = None
    devices: Devices | None = None

    @property
    def calibration_examples(self) -> int:
        """The number of texts of `train_examples` that chose the temperature or the threshold of abstention."""
        return (self.temperature_examples or 0) + (self.abstention.calibration.texts if self.abstention else 0)

    @property
    def trained_on(self) -> int:
        """The number of labelled texts on which the run was trained."""
        return self.train_examples - self.calibration_examples

    @property
    def set_aside(self) -> int:
        """The number of texts of the training split on which the run was not trained."""
        return self.calibration_examples + (self.selection.examples if self.selection else 0)

    @property
    def place(self) -> str:
        """The device and the threads of a process, with the number of processes if there are several, for a report."""
        threads = self.environment.threads
        return f"{self.environment.device}, {threads} threads{self.devices.shown if self.devices else ''}"

    @property
    def label(self) -> str:
        """The name of the run's files in an output directory, without extension."""
        return PurePosixPath(self.predictions).stem

    def beside(self, most: int) -> Self:
        """Return a copy whose `at_once` is `most`, the number of runs at the same time, this run included."""
        return self if most == self.at_once else self.model_copy(update={"at_once": most}).sealed()

    def called(self, name: str) -> Self:
        """Return a copy with the given name, which a study has for the run."""
        return self if name == self.name else self.model_copy(update={"name": name})

    @model_validator(mode="after")
    def _of_a_known_kind(self) -> Self:
        known = metrics.of_kind(self.kind)
        if self.metric not in known or self.metric not in self.metrics or not self.metrics.keys() <= set(known):
            raise ValueError(f"kind {self.kind!r} with metric {self.metric!r} is unknown")
        try:
            asked = objectives.make(self.label_names, self.objective)
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"objective {str(self.objective)[:80]} is unknown") from None
        if asked.kind != self.kind:
            raise ValueError(f"the kind is {self.kind!r}, but the objective is of kind {asked.kind!r}")
        return self

    @model_validator(mode="after")
    def _adapter_has_a_digest(self) -> Self:
        if (self.adapter is None) != (self.digest is None):
            raise ValueError("expected both `adapter` and `digest`, or null for both")
        return self

    def facts(self) -> dict[str, object]:
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
        """The accuracy of the run; only for single-label classification."""
        return self.metrics["accuracy"]

    @property
    def f1(self) -> float:
        """The F1 score as docs/reference/figures.md defines it; only for single-label classification."""
        return self.metrics["f1"]


def read_records(path: Path) -> list[Record]:
    """Return the records in a file `records.jsonl`; [] if the file does not exist.

    Raises InvalidData, which names the line, if a record is damaged, was changed by hand, or has another format.
    """
    if not path.exists():
        return []
    # Bytes, not text: str.splitlines also breaks at U+2028 and the like, which a label's name may hold.
    lines = path.read_bytes().splitlines()
    for line in lines:
        check_format(line, path, Sentence.of("Run again with another `out`."))
    return [_read(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def _read(line: bytes, where: str) -> Record:
    try:
        made = Record.model_validate_json(line)
    except ValidationError as error:
        wrong = WrongValue.of(error)
        raise problems.RECORD_DAMAGED(
            _what=wrong.field or "the line", reason=wrong.message, where=where, field=wrong.field
        ) from None
    if problem := made.refuses(line):
        raise problems.RECORD_CHANGED(problem=problem, where=where, run=made.name, seed=made.seed)
    return made


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Replace the file at `path` by one line of JSON for each record."""
    file_io.write_text(path, "".join(record.model_dump_json() + "\n" for record in records))


@dataclass(frozen=True)
class Result:
    """The record and the predictions of one finished run.

    Two results are equal if their records are equal, because a record has the digest of its predictions.
    """

    record: Record
    predictions: Predictions = field(compare=False)

    @cached_property
    def objective(self) -> Objective:
        return objectives.make(self.record.label_names, self.record.objective)

    def check_shapes(self, where: object) -> None:
        """Raise InvalidData if the shape of the predictions does not match the record's kind and labels."""
        given, asked = self.predictions, self.objective
        if not asked.fits(given):
            raise problems.PREDICTIONS_OF_ANOTHER_RUN(
                _outputs=given.outputs.shape,
                _targets=self.targets.shape,
                expected=asked.width,
                where=where,
                run=self.record.name,
                seed=self.record.seed,
            )

    @property
    def targets(self) -> np.ndarray:
        return self.predictions.right

    @cached_property
    def answered(self) -> Answered:
        return self.objective.answered(self.predictions)

    @cached_property
    def answers(self) -> np.ndarray:
        """The predictions in the same form as the targets, such as class ids, [N]."""
        return self.answered.answers

    @cached_property
    def scores(self) -> np.ndarray:
        """The headline metric's per-example values, [N], whose mean is the metric; for accuracy, 1 if right."""
        return self.values(self.record.metric)

    def values(self, metric: str) -> np.ndarray:
        """Return per-example values, [N], whose mean is the metric."""
        made = METRICS[metric].values
        assert made is not None
        return made(self.answered)

    @cached_property
    def chances(self) -> np.ndarray | None:
        """The predicted probabilities, [N, width]; None if the kind of task has no probabilities."""
        return self.answered.chances
