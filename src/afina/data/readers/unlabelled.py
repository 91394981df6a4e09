"""Read a file of texts without labels, from which a student learns with its teacher.

The texts that a task has already are left out, and so are repetitions. Two texts are equal if their normalised forms
are equal (`splitting.identity`). This module does not know teachers and training.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from afina.data import problems
from afina.data.kinds import How, columns_in_words
from afina.data.readers import formats
from afina.data.readers.columns import LABEL
from afina.data.readers.formats import READERS
from afina.data.readers.missing_values import is_empty, means_missing
from afina.data.readers.splitting import first, identity
from afina.data.readers.texts import Row, chunks
from afina.data.reading_options import ReadingOptions
from afina.data.split import Example, Split

EVALUATION, TRAINING, REPEATED, MISSING = "evaluation", "training", "repeated", "missing"
"""The reasons for which texts of a file are left out: keys of `UnlabelledTexts.left_out`."""

_REASONS = {
    EVALUATION: "in the evaluation split",
    TRAINING: "in the labelled texts",
    REPEATED: "repeated",
    MISSING: "without a text",
}


@dataclass(frozen=True, eq=False)
class UnlabelledTexts:
    """The texts of a file without labels that the task does not have already.

    Attributes:
        split: The texts; their labels are 0 and have no meaning.
        left_out: The number of texts of the file that were left out, by reason; a reason without texts is not listed.
        columns: The names of the file's columns by role (`columns_in_words`). Empty: the file has one text a line.
        labelled: The number of rows with a value, by the name of a column that may hold labels, which is not read.
    """

    path: str
    split: Split
    left_out: Mapping[str, int]
    columns: Mapping[str, str]
    labelled: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.split)

    @property
    def note(self) -> str:
        read = f"{columns_in_words(self.columns)}. " if self.columns else ""
        gone = ", ".join(f"{count:,} {_REASONS[reason]}" for reason, count in self.left_out.items())
        return f"{self.path}: {read}{len(self):,} texts without labels." + (f" Left out: {gone}." if gone else "")


def unlabelled_file(file: str | os.PathLike[str]) -> Path:
    path = Path(file).expanduser()
    if not os.path.isfile(path):
        more = ", or one with one text a line"
        raise problems.FILE_MISSING(expected=list(READERS), path=file, field="unlabelled", _more=more)
    return path


def read_unlabelled(
    address: str,
    file: str | os.PathLike[str],
    asked: ReadingOptions,
    columns: Mapping[str, str],
    *,
    evaluation: Sequence[Split],
    training: Sequence[Split],
    written: bool = False,
) -> UnlabelledTexts:
    """Read the texts of a file that are in none of the task's splits.

    Args:
        columns: The columns of the task's own file by role, which are used if the file has them.
        training: All other splits of the task. Without a split, there is no task, and the columns are those in `asked`.
        written: Whether the targets of the task are texts.

    Raises NotFound, and InvalidData if a text is missing or unreadable, if the file has pairs of texts and the task
    single texts or the reverse, or if no text is left.
    """
    path = unlabelled_file(file)
    usual = ReadingOptions(text=columns.get("text"), text_pair=columns.get("text_pair"))
    sheet = asked.sheet if formats.has_sheet(path, asked.sheet) else None
    named = ReadingOptions() if training else ReadingOptions(text=asked.text, text_pair=asked.text_pair)
    with chunks(path, replace(named, sheet=sheet), usual, written=written) as stream:
        rows = [row for chunk in stream for row in chunk.rows]
        roles = dict(stream.columns)
    if not rows:
        expected = "texts without labels, in columns or one a line"
        raise problems.FILE_EMPTY(path=path, _problem="no texts", _expected=expected)
    found = "text_pair" in roles
    pairs = training[0].pairs is not None if training else found
    if found != pairs:
        words = {True: "pairs of texts", False: "single texts"}
        raise problems.PAIRS_MISMATCH(path=path, task=address, found=words[found], expected=words[pairs])
    others = [name for name in rows[0].columns if name not in roles.values()] if roles else []
    roles |= {"others": ", ".join(others)} if others else {}
    left_out: Counter[str] = Counter()
    kept: dict[str, Example] = {}
    known = {identity(example): TRAINING for split in training for example in split}
    known |= {identity(example): EVALUATION for split in evaluation for example in split}
    for row in rows:
        example = _example(row, asked.missing)
        if example is None:
            left_out[MISSING] += 1
        elif (same := identity(example)) in known:
            left_out[known[same]] += 1
        elif same in kept:
            left_out[REPEATED] += 1
        else:
            kept[same] = example
    counts = {reason: left_out[reason] for reason in _REASONS if left_out[reason]}
    if not kept:
        gone = ", ".join(f"{count:,} {_REASONS[reason]}" for reason, count in counts.items())
        raise problems.UNLABELLED_NONE_LEFT(path=path, rows=len(rows), _gone=gone)
    split = first(_split([*kept.values()], pairs, rows), asked.unlabelled_examples, "unlabelled_examples")
    return UnlabelledTexts(str(file), split, counts, roles, _labelled(rows, roles, columns))


def _labelled(rows: Sequence[Row], roles: Mapping[str, str], columns: Mapping[str, str]) -> Counter[str]:
    known = {*LABEL, *columns.get("label", "").casefold().split(",")}
    texts = [roles[role] for role in ("text", "text_pair") if role in roles]
    cells = ((name, cell) for row in rows for name, cell in row.columns.items() if name not in texts)
    return Counter(name for name, cell in cells if name.strip().casefold() in known and not is_empty(cell))


def _split(examples: Sequence[Example], pairs: bool, rows: Sequence[Row]) -> Split:
    spaced = any(row.spaced for row in rows)
    second = [one.text_pair or "" for one in examples] if pairs else None
    return Split([one.text for one in examples], np.zeros(len(examples), np.int64), second, spaced=spaced)


def _example(row: Row, how: How | None) -> Example | None:
    """Return the text of a row; None if the row has no text and is skipped. Raises InvalidData, which names the row."""
    cells = [value for value in (row.text, row.pair) if value is not None]
    words = [value for value in cells if how not in (None, "keep") and means_missing(value)]
    if row.text is not None and not words:
        return Example(row.text, 0, row.pair)
    if how == "skip":
        return None
    if words:
        raise problems.UNLABELLED_MEANS_MISSING(where=row.where, found=words[0].strip())
    raise problems.UNLABELLED_BLANK(where=row.where)
