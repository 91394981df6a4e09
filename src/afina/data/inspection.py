"""Inspection: what was recognised in the texts of a task, what is doubtful, and the reading options that mend it.

The module does not tokenize: the caller measures texts in tokens (`token_lengths.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from afina.data.addresses import named
from afina.data.kinds import Kind, rare_labels
from afina.data.readers import formats
from afina.data.readers.files import files_of
from afina.data.readers.rows import Contradictions
from afina.data.readers.splitting import repeated
from afina.data.readers.target_kinds import TARGETS
from afina.data.reading_options import ReadingOptions
from afina.data.remedies import ONCE, ONLY_AGREED, SKIP_LONG, Remedy, of_kind, remedies_of
from afina.data.task import Task, other_kinds
from afina.data.token_lengths import TokenLengths
from afina.errors import AfinaError, NotFound, UnknownName
from afina.events import Says, silent
from afina.sentence import Json, Option, Sentence

LONGEST = 300
"""Characters of a text, and of a cell, that an inspection shows."""

EXAMPLES = 5
"""Texts that an inspection shows."""

LONGEST_WORDS = 2000
"""Characters of a sentence of an inspection."""

MOST_COLUMNS = 200
"""Columns of a file that an inspection names."""

MOST_LABELS = 1000
"""Labels whose texts an inspection counts; further labels are counted together."""

FIRST_ROWS = 20
"""Rows in which the first value of a column is looked for."""

FEW_TEXTS = 200
"""Held-out texts below which few differences between methods are significant."""


@dataclass(frozen=True)
class Doubt:
    """Something unexpected in the data.

    Attributes:
        code: The code of the error, or `note`.
        remedies: Empty if only the data themselves can be changed.
    """

    code: str
    words: str
    refuses: bool = False
    remedies: Sequence[Remedy] = ()

    @property
    def heading(self) -> str:
        return "Refused" if self.refuses else "Note" if self.code == "note" else "Doubtful"

    def as_json(self) -> dict[str, Json]:
        """Return the doubt as JSON values; `parts` are the parts of `words`, with options by name."""
        return {**asdict(self), "parts": Sentence([self.words]).as_json()}


@dataclass(frozen=True)
class LabelCount:
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
    name: str
    first: str


@dataclass(frozen=True)
class Inspection:
    """The task that was recognised at an address, and doubts about it.

    Attributes:
        options: The reading options that were given.
        file_columns: The first MOST_COLUMNS columns of the file whose names have at most LONGEST characters; empty for
            another origin.
        kind: None if the task cannot be read.
        columns: The recognised columns by role.
        words: How the task was read, in sentences.
        other: How to read the labels as another kind, in words, if the kind is a question.
        labels: The number of texts or entities of each label; empty for other kinds.
        counted: What `labels` counts: "texts" or "entities".
        further: The number of labels that are not in `labels`.
        numbers: For numbers: the least, the median and the greatest.
        characters: The lengths of texts in characters: median, 95th percentile and longest.
        repeated: Rows that have the text of an earlier row of the same split.
        leaked: Held-out texts that also occur in the training split.
        doubts: Refusals first.
    """

    address: str
    options: Mapping[str, Any]
    file_columns: Sequence[FileColumn] = ()
    further_columns: int = 0
    sheets: Sequence[str] = ()
    kind: Kind | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    words: Sequence[str] = ()
    other: str = ""
    train: int = 0
    evaluation: int = 0
    labels: Sequence[LabelCount] = ()
    counted: str = "texts"
    further: int = 0
    numbers: Sequence[float] = ()
    characters: Sequence[int] = ()
    repeated: int = 0
    leaked: int = 0
    tokens: Sequence[TokenLengths] = ()
    examples: Sequence[TextExample] = ()
    doubts: Sequence[Doubt] = ()

    def as_json(self) -> dict[str, Json]:
        """Return the inspection as JSON values; `parts` are the parts of `words` and of each doubt's words."""
        parts: list[Json] = [Sentence([line]).as_json() for line in self.words]
        return {**asdict(self), "parts": parts, "doubts": [doubt.as_json() for doubt in self.doubts]}


def inspect(
    address: str,
    options: ReadingOptions | None = None,
    *,
    measured: Callable[[Task], Sequence[TokenLengths]] | None = None,
    says: Says = silent,
) -> Inspection:
    """Return what is read at an address with these options; an error of reading becomes a doubt.

    `measured` returns the token lengths of a task that can be read, for each backbone. Raises NotFound if there is
    nothing at the address.
    """
    asked = options or ReadingOptions()
    columns, sheets = _file_columns(address, asked), _sheets(address)
    shown = [one for one in columns if len(one.name) <= LONGEST][:MOST_COLUMNS]
    found: dict[str, Any] = {
        "address": address,
        "options": asked.given,
        "file_columns": shown,
        "further_columns": len(columns) - len(shown),
        "sheets": sheets,
    }
    try:
        task = Task.load(address, asked, says=says)
    except AfinaError as error:
        if isinstance(error, NotFound | UnknownName) and not columns:
            raise
        remedies = remedies_of(error, [column.name for column in shown])
        refusal = Doubt(error.code, _sentence(error.sentence), refuses=True, remedies=remedies)
        return Inspection(**found, doubts=[refusal])
    says("counting labels and repeated texts")
    return Inspection(**found, **_of_task(task, measured(task) if measured is not None else []))


def _of_task(task: Task, tokens: Sequence[TokenLengths]) -> dict[str, Any]:
    labels, parts = _label_counts(task), (task.train, task.evaluation)
    again = sum(map(repeated, parts))
    lengths = np.array([len(text) for part in parts for text in part.texts])
    words, *notes = task.lines
    return {
        "kind": task.kind,
        "columns": {role: _short(name) for role, name in task.columns.items()},
        "words": [_sentence(words)],
        "other": other_kinds(task.other),
        "train": len(task.train),
        "evaluation": len(task.evaluation),
        "labels": labels[:MOST_LABELS],
        "counted": TARGETS[task.kind].counted,
        "further": max(0, len(labels) - MOST_LABELS),
        "numbers": _numbers(task),
        "characters": [int(np.median(lengths)), int(np.quantile(lengths, 0.95)), int(lengths.max())],
        "repeated": again,
        "leaked": task.leaked,
        "tokens": tokens,
        "examples": _examples(task),
        "doubts": [*_doubts(task, again, tokens, labels), *(_noted(note, task) for note in notes)],
    }


def _noted(note: str, task: Task) -> Doubt:
    mends = isinstance(note, Contradictions) and not _has(task, ONLY_AGREED)
    return Doubt("note", _sentence(note), remedies=[ONLY_AGREED] if mends else [])


def _has(task: Task, remedy: Remedy) -> bool:
    return task.data is not None and remedy.options.items() <= task.data.given.items()


def _doubts(task: Task, again: int, tokens: Sequence[TokenLengths], labels: Sequence[LabelCount]) -> list[Doubt]:
    made = []
    if task.other:
        how = Sentence(["The labels can also be read in another way: ", other_kinds(task.other), "."])
        made.append(
            Doubt(
                "data.kind-ambiguous",
                how,
                remedies=[of_kind(one) for one in (task.kind, *(each.kind for each in task.other))],
            )
        )
    if task.leaked:
        words = (
            f"{task.leaked:,} of {len(task.evaluation):,} held-out texts also occur in the training split. Their "
            "answers are known from training, so figures on them are too high. Remove the duplicates from one of the "
            "two files."
        )
        made.append(Doubt("data.leakage", words, remedies=[ONCE]))
    if again:
        words = (
            f"{again:,} of {len(task.train) + len(task.evaluation):,} rows repeat the text of an earlier row. A text "
            "that occurs twice counts twice, in training and in each figure. Equal texts are on one side of a cut, so "
            "they do not leak. Remove repeated rows unless their number means something."
        )
        made.append(
            Doubt("data.repeated", words, remedies=[ONCE] if repeated(task.train) and not _has(task, ONCE) else [])
        )
    cut = not TARGETS[task.kind].of_words  # long texts with entities are read in windows
    made += [doubt for one in tokens for doubt in _token_doubts(one, task.long, cut=cut)]
    return [*made, *_few(task, labels)]


def _token_doubts(one: TokenLengths, long: str, *, cut: bool) -> list[Doubt]:
    """Return doubts about texts, which may be `cut`, and targets that are longer than the backbone reads."""
    made = []
    if one.truncated and cut:
        words = (
            f"{_share(one.truncated, one.sampled)} of the texts have more than the {one.most:,} tokens that "
            f"{one.backbone} reads (measured on {one.sampled:,} texts). The rest of such a text is cut off and has no "
            "influence. Choose a backbone that reads longer texts, or shorten the texts yourself."
        )
        made.append(Doubt("data.truncated", words))
    if one.long_targets and long != "skip":
        words = (
            f"{_share(one.long_targets, one.sampled)} of the target texts have more than {one.most // 2:,} tokens, "
            f"half of what {one.backbone} reads. Training refuses such target texts."
        )
        made.append(Doubt("data.target-long", words, remedies=[SKIP_LONG]))
    return made


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if part * 100 >= whole else "Fewer than 1%"


def _few(task: Task, labels: Sequence[LabelCount]) -> list[Doubt]:
    held_out = [(one.label, one.evaluation) for one in labels]
    rare = [Doubt("data.few-of-label", words) for words in rare_labels(held_out, "F1", TARGETS[task.kind].counted)]
    if len(task.evaluation) >= FEW_TEXTS:
        return rare
    words = (
        f"There are {len(task.evaluation):,} held-out texts. With fewer than {FEW_TEXTS}, intervals are wide and few "
        "differences between methods are significant. More labelled texts would help."
    )
    return [Doubt("data.few-texts", words), *rare]


def _short(words: str, most: int = LONGEST_WORDS) -> str:
    """Return words cut to `most` characters, with `?` for half of a surrogate pair, which is no character."""
    whole = words[: most + 1].encode("utf-8", "replace").decode()
    return whole if len(whole) <= most else f"{whole[:most]}…"


def _sentence(words: str) -> Sentence:
    parts, left = list[str](), LONGEST_WORDS
    for part in words.parts if isinstance(words, Sentence) else (words,):
        if left <= 0:
            break
        parts.append(part if isinstance(part, Option) else _short(part, left))
        left -= len(part)
    return Sentence(parts)


def _label_counts(task: Task) -> list[LabelCount]:
    """Return the counts of all labels, the most frequent first; empty for a kind without label names."""
    kind = TARGETS[task.kind]
    if not kind.named:
        return []
    train, evaluation = (
        Counter(name for label in kind.spelled(task.label_names, part.labels) for name in kind.names(label))
        for part in (task.train, task.evaluation)
    )
    made = [LabelCount(name[:LONGEST], train[name], evaluation[name]) for name in {**train, **evaluation}]
    return sorted(made, key=lambda one: (-one.train, one.label))


def _numbers(task: Task) -> list[float]:
    both = np.concatenate([task.train.labels, task.evaluation.labels])
    return [float(both.min()), float(np.median(both)), float(both.max())] if both.dtype.kind == "f" else []


def _examples(task: Task) -> list[TextExample]:
    few = task.train.take(np.arange(min(EXAMPLES, len(task.train))))
    kind = TARGETS[task.kind]
    targets = kind.spelled(task.label_names, few.labels)
    pairs: Sequence[str | None] = few.pairs or [None] * len(few)
    return [
        TextExample(text[:LONGEST], kind.in_words(target, text)[:LONGEST], pair and pair[:LONGEST])
        for text, target, pair in zip(few.texts, targets, pairs, strict=True)
    ]


def _file_columns(address: str, asked: ReadingOptions) -> list[FileColumn]:
    """Return the columns of the first file from its first rows, as far as they can be read."""
    rows: list[Mapping[str, Any]] = []
    names: Sequence[str] = ()
    for path in _files(address)[:1]:
        with (
            suppress(AfinaError),
            formats.opened(path, asked.sheet, asked.encoding) as stream,
        ):  # `Task.load` says what is wrong
            names = stream.names or ()
            for _, row in islice(stream.rows, FIRST_ROWS):
                rows.append(row)
    names = names or list(dict.fromkeys(name for row in rows for name in row))
    return [FileColumn(_name(name), next((_cell(row[name]) for row in rows if row.get(name)), "")) for name in names]


def _files(address: str) -> list[Path]:
    """Return the user's file of training texts; empty for another origin, and if there is none."""
    if named(address) is not None:
        return []
    path = Path(address).expanduser()
    with suppress(AfinaError):
        return files_of(path, evaluated=False) if path.is_dir() else [path] * path.is_file()
    return []


def _sheets(address: str) -> list[str]:
    return [name for path in _files(address) for name in formats.sheet_names(path)]


def _name(name: str) -> str:
    """Return a column's name whole, because an option may name the column, with `?` for half of a surrogate pair."""
    return name.encode("utf-8", "replace").decode()


def _cell(value: Any) -> str:
    return _short(str(value), LONGEST)
