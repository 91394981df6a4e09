"""Files that a task has beside its labelled texts: texts without labels, and changes of the training texts.

A student learns from texts without labels with its teacher. The texts that a task has already are left out, and so are
repetitions. Two texts are equal if their normalised forms are equal (`splitting.identity`).

A row to leave out, such as a doubtful label that `afina doubts` lists, names a file, a row in it, and its text. A row
is found by all three, so a list that was made of another version of the texts is refused. Paths are compared by their
last part, because files may be moved. The evaluation split, and the parts that are set aside, keep all their rows.
Otherwise they would lack the texts on which models are wrong.

A row with a label in the column `corrected` is not left out: all equal training texts get this label. Such a row may
name no file and row; if the task does not have its text, the text joins the training texts. The evaluation split never
changes, so that models that were trained before and after a correction are measured on the same texts and labels.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from afina.data import problems
from afina.data.kinds import How, columns_in_words
from afina.data.readers import formats
from afina.data.readers.cells import is_empty, means_missing, text_of
from afina.data.readers.columns import LABEL
from afina.data.readers.formats import FileTable
from afina.data.readers.label_column import Label, LabelFormat
from afina.data.readers.source import counted
from afina.data.readers.splitting import LabelledRows, TaskData, first, identity
from afina.data.readers.target_kinds import NO_LABELS, TARGETS
from afina.data.readers.texts import Row, chunks
from afina.data.reading_options import ReadingOptions
from afina.data.split import Example, Split
from afina.errors import InvalidData
from afina.spreadsheet_cells import restored

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
    """Read the texts of a file that are in none of the task's splits. Raises NotFound, InvalidData.

    Args:
        columns: The columns of the task's own file by role, which are used if the file has them.
        training: All other splits of the task. Empty: there is no task, and the columns are those in `asked`.
        written: Whether the targets of the task are texts.
    """
    path = formats.named_file("unlabelled", file)
    usual = ReadingOptions(text=columns.get("text"), text_pair=columns.get("text_pair"))
    sheet = asked.sheet if formats.has_sheet(path, asked.sheet) else None
    named = ReadingOptions() if training else ReadingOptions(text=asked.text, text_pair=asked.text_pair)
    with chunks(path, replace(named, sheet=sheet, encoding=asked.encoding), usual, written=written) as stream:
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
        raise problems.CELL_MEANS_MISSING(where=row.where, found=words[0].strip(), expected="a text", _more="")
    raise problems.CELL_MISSING(where=row.where, expected="a text", _more="")


FILE, ROW, TEXT, TEXT_PAIR, LISTED = "file", "row", "text", "text_pair", "label"
"""The columns of the file that are read; `text_pair` only if the task has pairs, and `label` only if it is there."""

CORRECTED = "corrected"
"""The column with the right label of a row that is not left out; also the key of `LeftOutRows.counts` of such rows."""

TRAINING, EVALUATION, ASIDE, UNUSED, ADDED = "training", "evaluation", "aside", "unused", "added"
"""The parts of a task in which a row of the file is found: keys of `LeftOutRows.counts`. ADDED: it was in none."""

_KEPT = {
    EVALUATION: "in the evaluation split",
    ASIDE: "set aside for validation, selection or calibration",
    UNUSED: "among the training texts that are not used",
}


@dataclass(frozen=True, eq=False)
class LeftOutRows:
    """The training texts that the rows of a file leave out.

    `counts` is the number of rows of the file by the part of the task in which they are: TRAINING, EVALUATION, ASIDE or
    UNUSED. Only the rows in TRAINING are left out. Rows whose texts have another label now are counted as CORRECTED,
    and rows whose texts joined the training texts as ADDED.
    """

    path: str
    split: Split
    counts: Mapping[str, int]

    @property
    def note(self) -> str:
        gone, right, new = (self.counts.get(part, 0) for part in (TRAINING, CORRECTED, ADDED))
        kept = ", ".join(f"{self.counts[part]:,} {words}" for part, words in _KEPT.items() if part in self.counts)
        said = [f"{_are(gone, 'row')} left out of the training texts"] if gone or not (right or new) else []
        said += [f"{_are(right, 'label')} corrected"] if right else []
        said += [f"{_are(new, 'text')} added to the training texts"] if new else []
        return f"{self.path}: {', '.join(said)}." + (f" Kept: {kept}." if kept else "")


def _are(number: int, noun: str) -> str:
    return f"{counted(number, noun)} {'is' if number == 1 else 'are'}"


@dataclass(frozen=True)
class _Listed:
    """A file of rows to leave out or to correct: its table, and the right labels of the rows that have one."""

    table: FileTable
    right: Split | None
    corrected: Sequence[int]

    @classmethod
    def of(cls, address: str, path: Path, found: TaskData) -> _Listed:
        table = formats.read(path)
        cells = table.columns.get(CORRECTED, ())
        corrected = [row for row, cell in enumerate(cells) if not is_empty(cell)]
        if not corrected:
            return cls(table, None, ())
        needed = [TEXT, *([TEXT_PAIR] if found.train.pairs is not None else [])]
        _check_columns(table, needed)
        named = table.take(corrected)
        named = replace(named, columns={name: list(map(_restored, cells)) for name, cells in named.columns.items()})
        texts = [[_text(named, name, row) for row in range(len(corrected))] for name in needed]
        kind, form = TARGETS[found.kind], LabelFormat(found.kind, keeps=True)
        named, _ = kind.prepared(named, TEXT, [CORRECTED], form)
        if kind.several:
            labels: list[Label] = [_several(str(cell), found) for cell in named.columns[CORRECTED]]
        else:
            labels = kind.parse(named, [CORRECTED], form)
        pairs = texts[1] if len(needed) > 1 else None
        rows = LabelledRows(texts[0], pairs, labels, named.where, found.kind, CORRECTED, rows=named.rows)
        return cls(table, kind.matched(rows, found.label_names, whose=f"those of {address}"), corrected)

    @property
    def placed(self) -> list[int]:
        """The rows that name a row of the task: all but corrected ones that name neither a file nor a row."""
        free = {row for row in self.corrected if all(is_empty(_cell(self.table, name, row)) for name in (FILE, ROW))}
        return [row for row in range(len(self.table.places)) if row not in free]


def _cell(table: FileTable, name: str, row: int) -> Any:
    return table.columns[name][row] if name in table.columns else None


def _restored(cell: Any) -> Any:
    return restored(cell) if isinstance(cell, str) else cell


def _several(cell: str, found: TaskData) -> tuple[str, ...]:
    """Return the labels in a cell, between the separator of the task, semicolons or commas; NO_LABELS: none."""
    for mark in (found.separator, ";", ","):
        parts = [part.strip() for part in cell.split(mark)] if mark else []
        if parts and {*parts} <= {*found.label_names}:
            return tuple(parts)
    return () if cell.strip() == NO_LABELS else (cell.strip(),)


def change_rows(
    address: str, file: str | os.PathLike[str], found: TaskData, train: Split, aside: Mapping[str, Split]
) -> tuple[Split, dict[str, Split], LeftOutRows]:
    """Return the training split, and the parts `aside` that were cut off it, as the rows of a file change them.

    Raises NotFound. Raises InvalidData if the task does not have a row of the file, if a row has another text or label
    than the task, if no text of a label is left, or if a corrected label is none of the task.
    """
    path = formats.named_file("without", file)
    listed = _Listed.of(address, path, found)
    table, placed = listed.table, listed.placed
    if TARGETS[found.kind].written and {*range(len(table.places))} != {*listed.corrected}:
        raise problems.WITHOUT_OF_TEXTS(task=address, field="without")
    if found.train.rows is None and placed:
        raise problems.WITHOUT_ROWS(task=address, field="without")
    wanted = _wanted(table, placed, pairs=train.pairs is not None) if placed or not listed.corrected else {}
    parts = {TRAINING: [train], ASIDE: [*aside.values()], EVALUATION: [found.evaluation], UNUSED: [found.train]}
    places = _places({name: [one for one in splits if one.rows] for name, splits in parts.items()}, wanted)
    gone, counts = list[int](), Counter[str]()
    for (name, number), (row, same) in wanted.items():
        here = places.get((name, number), [])
        place = next((one for one in here if identity(one[1][one[2]]) == same), None)
        if place is None:
            raise _unknown(address, table, row, (name, number), here, [found.train, found.evaluation])
        part, split, index = place
        _check_label(table, found, row, split, index)
        if row not in listed.corrected:
            counts[part] += 1
            gone += [index] if part == TRAINING else []
    rest = sorted({*range(len(train))} - {*gone})
    _check_rest(str(file), found, train, rest)
    out, kept, made = train.take(sorted(gone)), train.take(rest), dict(aside)
    if listed.right is not None:
        kept, made, right = _corrected(listed.right, found, kept, aside, {identity(one) for one in out})
        counts += right
    order = [*parts, CORRECTED, ADDED]
    return kept, made, LeftOutRows(str(file), out, {part: counts[part] for part in order if counts[part]})


def _corrected(
    right: Split, found: TaskData, train: Split, aside: Mapping[str, Split], gone: Set[str]
) -> tuple[Split, dict[str, Split], Counter[str]]:
    """Return the parts with the right labels, and the number of right labels by what became of them.

    Of equal texts among the right ones, the last counts. `gone` are the texts that were left out, which may come back.
    """
    of_text = {identity(example): place for place, example in enumerate(right)}
    known = {EVALUATION: {identity(one) for one in found.evaluation}}
    known |= {UNUSED: {identity(one) for one in found.train} - gone}
    counts, new, there = Counter[str](), list[int](), set[str]()
    train, seen = _relabelled(train, right, of_text, found)
    there |= seen
    made = dict(aside)
    for name, split in aside.items():
        made[name], seen = _relabelled(split, right, of_text, found)
        there |= seen
    for same, place in of_text.items():
        part = CORRECTED if same in there else next((name for name in known if same in known[name]), ADDED)
        counts[part] += 1
        new += [place] if part == ADDED else []
    return _joined(train, right.take(new)) if new else train, made, counts


def _relabelled(split: Split, right: Split, of_text: Mapping[str, int], found: TaskData) -> tuple[Split, set[str]]:
    """Return a split with the right labels of its texts, and the texts that have one.

    Entities have places in the text as it stands in the file of corrections, so they bring their text.
    """
    labels, texts, seen = split.labels.copy(), list(split.texts), set[str]()
    for index, example in enumerate(split):
        if (place := of_text.get(same := identity(example))) is not None:
            labels[index] = right.labels[place]
            texts[index] = right.texts[place] if TARGETS[found.kind].of_words else texts[index]
            seen.add(same)
    return replace(split, labels=labels, texts=texts), seen


def _joined(train: Split, new: Split) -> Split:
    """Return the training split with new texts, each of which is a group of its own."""
    groups = None if train.groups is None else [*train.groups, *new.texts]
    return replace(Split.joined([train, new]), groups=groups)


_Key = tuple[str, int]
"""The last part of a file's path, and the number of a row."""

_Place = tuple[str, Split, int]
"""A part of a task, a split of this part, and the index of a text in the split."""


def _check_columns(table: FileTable, needed: Sequence[str]) -> None:
    if lacking := [name for name in needed if name not in table.columns]:
        raise problems.WITHOUT_COLUMNS(path=table.path, found=list(table.columns), expected=needed, missing=lacking)


def _wanted(table: FileTable, rows: Sequence[int], *, pairs: bool) -> dict[_Key, tuple[int, str]]:
    needed = [FILE, ROW, TEXT, *([TEXT_PAIR] if pairs else [])]
    _check_columns(table, needed)
    if not table.places:
        raise problems.WITHOUT_EMPTY(path=table.path, field="without")
    wanted: dict[_Key, tuple[int, str]] = {}
    for row in rows:
        cells = {name: _text(table, name, row) for name in needed if name != ROW}
        number = _whole(table.columns[ROW][row])
        if number is None:
            raise problems.WITHOUT_ROW_MALFORMED(where=table.where(row), found=str(table.columns[ROW][row])[:40])
        example = Example(restored(cells[TEXT]), 0, restored(cells[TEXT_PAIR]) if pairs else None)
        wanted.setdefault((_last(restored(cells[FILE])), number), (row, identity(example)))
    return wanted


def _text(table: FileTable, name: str, row: int) -> str:
    text = text_of(table.columns[name][row], name, lambda: table.where(row))
    if text is None:
        raise problems.WITHOUT_CELL_EMPTY(where=table.where(row), column=name)
    return text


_WHOLE = re.compile(r"\s*([0-9]{1,18})(?:\.0*)?\s*")


def _whole(value: Any) -> int | None:
    """Return the number of a row in a cell, which a spreadsheet may have written as `7.0`; None for another value."""
    found = _WHOLE.fullmatch(str(value))
    return int(found[1]) if found else None


def _last(path: str) -> str:
    return re.split(r"[\\/]", path.strip())[-1]


def _places(parts: Mapping[str, Sequence[Split]], wanted: Mapping[_Key, Any]) -> dict[_Key, list[_Place]]:
    found: dict[_Key, list[_Place]] = {}
    for part, splits in parts.items():
        for split in splits:
            assert split.rows is not None
            names = {file: _last(file) for file in set(split.rows.files)}
            for index, (file, number) in enumerate(zip(split.rows.files, split.rows.numbers, strict=True)):
                if (key := (names[file], number)) in wanted:
                    found.setdefault(key, []).append((part, split, index))
    return found


def _unknown(
    address: str, table: FileTable, row: int, key: _Key, here: Sequence[_Place], whole: Sequence[Split]
) -> InvalidData:
    name, number = key
    if here:
        _, split, index = here[0]
        assert split.rows is not None
        there = split.rows.where(index)
        shown = _text(table, TEXT, row)[:40], split.texts[index][:40]
        return problems.WITHOUT_TEXT_DIFFERS(where=table.where(row), found=shown[0], expected=shown[1], _there=there)
    files = {_last(file) for split in whole if split.rows for file in split.rows.files}
    numbers = [
        each
        for split in whole
        if split.rows
        for file, each in zip(split.rows.files, split.rows.numbers, strict=True)
        if _last(file) == name
    ]
    if not numbers:
        return problems.WITHOUT_FILE_UNKNOWN(
            where=table.where(row), found=name, expected=sorted(files)[:5], task=address
        )
    return problems.WITHOUT_ROW_UNKNOWN(
        where=table.where(row), row=number, file=name, _first=min(numbers), _last=max(numbers)
    )


def _check_label(table: FileTable, found: TaskData, row: int, split: Split, index: int) -> None:
    """Raise InvalidData if a row of the file has another label than the task; several labels of a text are not read."""
    kind = TARGETS[found.kind]
    if LISTED not in table.columns or not kind.named or kind.several or kind.of_words:
        return
    cell = table.columns[LISTED][row]
    if is_empty(cell):
        return
    label = str(kind.spelled(found.label_names, split.labels[index : index + 1])[0])
    listed = restored(str(cell)).strip()
    if listed.casefold() != label.strip().casefold() and listed.removesuffix(".0") != label:
        assert split.rows is not None
        raise problems.WITHOUT_LABEL_DIFFERS(
            where=table.where(row), label=label, found=listed[:40], _there=split.rows.where(index)
        )


def _check_rest(path: str, found: TaskData, train: Split, rest: Sequence[int]) -> None:
    if not rest:
        raise problems.WITHOUT_NONE_LEFT(path=path, examples=len(train))
    kind = TARGETS[found.kind]
    if not kind.named:
        return
    before, after = (
        {name for label in kind.spelled(found.label_names, labels) for name in kind.names(label)}
        for labels in (train.labels, train.labels[rest])
    )
    lost = [name for name in found.label_names if name in before - after]
    if lost:
        raise problems.WITHOUT_LABEL_LOST(path=path, label=lost[0], rows=len(train) - len(rest))
