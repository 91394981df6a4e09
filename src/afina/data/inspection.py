"""Inspection: what was recognised in the texts of a task, what is doubtful, and the reading options that mend it.

Nothing is repaired here: an inspection says what `Task.load` reads with the given options, or why it refuses. The
module does not tokenize.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from afina.data.addresses import named
from afina.data.kinds import KINDS, Kind
from afina.data.readers import formats
from afina.data.readers.target_kinds import TARGETS
from afina.data.reading_options import ReadingOptions
from afina.data.task import Task
from afina.errors import AfinaError, Json

LONGEST = 300
"""Characters of a text, and of a cell, that an inspection shows."""

EXAMPLES = 5
"""Texts that an inspection shows."""

MOST_LABELS = 1000
"""Labels whose texts an inspection counts; further labels are counted together."""

FEW_TEXTS = 200
"""Held-out texts below which few differences between methods are significant."""


@dataclass(frozen=True)
class Remedy:
    """Reading options that mend a doubt, and what they do, in words."""

    options: Mapping[str, Json]
    words: str


@dataclass(frozen=True)
class Doubt:
    """Something unexpected in the data.

    Attributes:
        code: The code of the error, or of the note: `note`.
        words: What was found, and where.
        refuses: Whether the task cannot be read before it is mended.
        remedies: The reading options to choose from; empty if only the data themselves can be changed.
    """

    code: str
    words: str
    refuses: bool = False
    remedies: Sequence[Remedy] = ()


@dataclass(frozen=True)
class LabelCount:
    """The number of training and of held-out texts with a label."""

    label: str
    train: int
    evaluation: int


@dataclass(frozen=True)
class TextExample:
    """A text with its target, both cut to LONGEST characters."""

    text: str
    target: str
    pair: str | None = None


@dataclass(frozen=True)
class FileColumn:
    """A column of a file, and the first value that is not empty."""

    name: str
    first: str


@dataclass(frozen=True)
class Inspection:
    """What was recognised at an address, and what is doubtful.

    Attributes:
        address: The address of the task.
        options: The reading options that were given.
        file_columns: The columns of the file; empty for another origin.
        kind: The kind of the task; None if the task cannot be read.
        columns: The recognised columns by role.
        words: How the task was read, in sentences.
        other: How to read the labels as another kind, in words, if the kind is a question.
        train, evaluation: Numbers of texts.
        labels: The texts of each label; empty for other kinds.
        further: The number of labels that are not in `labels`.
        numbers: For numbers: the least, the median and the greatest.
        characters: The lengths of texts in characters: median, 95th percentile and longest.
        leaked: Held-out texts that also occur in the training split.
        examples: The first training texts.
        doubts: What is unexpected, refusals first.
    """

    address: str
    options: Mapping[str, Any]
    file_columns: Sequence[FileColumn] = ()
    kind: Kind | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    words: Sequence[str] = ()
    other: str = ""
    train: int = 0
    evaluation: int = 0
    labels: Sequence[LabelCount] = ()
    further: int = 0
    numbers: Sequence[float] = ()
    characters: Sequence[int] = ()
    leaked: int = 0
    examples: Sequence[TextExample] = ()
    doubts: Sequence[Doubt] = ()


def inspect(address: str, options: ReadingOptions | None = None) -> Inspection:
    """Return what is read at an address with these options; an error of reading becomes a doubt.

    Raises NotFound if there is nothing at the address.
    """
    asked = options or ReadingOptions()
    found: dict[str, Any] = {"address": address, "options": asked.given, "file_columns": _file_columns(address, asked)}
    try:
        task = Task.load(address, asked)
    except AfinaError as error:
        if type(error).__name__ in ("NotFound", "UnknownName") and not found["file_columns"]:
            raise
        return Inspection(**found, doubts=[_refusal(error)])
    return Inspection(**found, **_of_task(task))


def _of_task(task: Task) -> dict[str, Any]:
    labels = _label_counts(task)
    parts = (task.train, task.evaluation)
    lengths = np.array([len(text) for part in parts for text in part.texts])
    words, *notes = task.told.split("\n")
    return {
        "kind": task.kind,
        "columns": dict(task.columns),
        "words": [words],
        "other": task.other,
        "train": len(task.train),
        "evaluation": len(task.evaluation),
        "labels": labels[:MOST_LABELS],
        "further": max(0, len(labels) - MOST_LABELS),
        "numbers": _numbers(task),
        "characters": [int(np.median(lengths)), int(np.quantile(lengths, 0.95)), int(lengths.max())],
        "leaked": task.leaked,
        "examples": _examples(task),
        "doubts": [*_doubts(task), *(Doubt("note", note) for note in notes)],
    }


def _doubts(task: Task) -> list[Doubt]:
    """Return what is doubtful in a task that can be read."""
    made = []
    if task.other:
        others = [kind for kind in KINDS if kind != task.kind and f"`kind` {kind}" in task.other]
        made.append(
            Doubt(
                "data.kind-ambiguous",
                f"The labels can also be read in another way: {task.other}.",
                remedies=[Remedy({"kind": one}, f"Read them as kind {one}") for one in others],
            )
        )
    if task.leaked:
        made.append(
            Doubt(
                "data.leakage",
                f"{task.leaked:,} of {len(task.evaluation):,} held-out texts also occur in the training split. Their "
                "answers are known from training, so figures on them are too high.",
            )
        )
    if len(task.evaluation) < FEW_TEXTS:
        made.append(
            Doubt(
                "data.few-texts",
                f"There are {len(task.evaluation):,} held-out texts. With fewer than {FEW_TEXTS}, intervals are wide "
                "and few differences between methods are significant. More labelled texts would help.",
            )
        )
    return made


def _refusal(error: AfinaError) -> Doubt:
    return Doubt(error.code, str(error), refuses=True, remedies=REMEDIES.get(error.code, ()))


REMEDIES: Mapping[str, Sequence[Remedy]] = {
    "data.labels-alike": [Remedy({"merge_labels": True}, "Merge the spellings; the most frequent one is kept")],
    "data.text-empty": [
        Remedy({"missing": "skip"}, "Leave out rows without a text or a label"),
        Remedy({"missing": "keep"}, "Read words such as NA as texts and labels"),
    ],
    "data.value-missing": [
        Remedy({"missing": "skip"}, "Leave out rows without a text or a label"),
        Remedy({"missing": "keep"}, "Read words such as NA as texts and labels"),
    ],
    "data.leakage": [
        Remedy({"allow_leakage": True}, "Accept texts in both splits; figures on them are too high"),
    ],
    "data.target-long": [Remedy({"long": "skip"}, "Leave out rows whose target text is too long")],
    "data.kind-ambiguous": [Remedy({"kind": kind}, f"Read the labels as kind {kind}") for kind in KINDS],
}
"""The reading options that mend an error of reading, by the error's code."""


def _label_counts(task: Task) -> list[LabelCount]:
    """Return the counts of all labels, the most frequent first; empty for a kind without label names."""
    kind = TARGETS[task.kind]
    if not kind.named:
        return []
    train, evaluation = (
        Counter(name for label in kind.spelled(task.label_names, part.labels) for name in kind.names(label))
        for part in (task.train, task.evaluation)
    )
    made = [LabelCount(name, train[name], evaluation[name]) for name in {**train, **evaluation}]
    return sorted(made, key=lambda one: (-one.train, one.label))


def _numbers(task: Task) -> list[float]:
    both = np.concatenate([task.train.labels, task.evaluation.labels])
    return [float(both.min()), float(np.median(both)), float(both.max())] if both.dtype.kind == "f" else []


def _examples(task: Task) -> list[TextExample]:
    few = task.train.take(np.arange(min(EXAMPLES, len(task.train))))
    targets = TARGETS[task.kind].spelled(task.label_names, few.labels)
    pairs: Sequence[str | None] = few.pairs or [None] * len(few)
    return [
        TextExample(text[:LONGEST], _in_words(target)[:LONGEST], pair and pair[:LONGEST])
        for text, target, pair in zip(few.texts, targets, pairs, strict=True)
    ]


def _in_words(target: Any) -> str:
    if isinstance(target, tuple):
        return ", ".join(map(str, target)) or "none"
    return f"{target:g}" if isinstance(target, float) else str(target)


def _file_columns(address: str, asked: ReadingOptions) -> list[FileColumn]:
    """Return the columns of a file from its first rows; empty if they cannot be read, which `Task.load` says."""
    path = Path(address).expanduser()
    if named(address) is not None or not path.is_file():
        return []
    with suppress(AfinaError), formats.opened(path, asked.sheet) as stream:
        rows = [row for _, row in islice(stream.rows, 20)]
        names = stream.names or list(dict.fromkeys(name for row in rows for name in row))
        return [FileColumn(name, next((_cell(row[name]) for row in rows if row.get(name)), "")) for name in names]
    return []


def _cell(value: Any) -> str:
    return str(value)[:LONGEST]
