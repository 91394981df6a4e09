"""Find the columns of text, second text and target: the columns that the user names, or columns with usual names.

This module uses only the names of the columns, not the cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from afina.data import problems
from afina.data.kinds import Kind
from afina.data.readers.formats import FileTable
from afina.data.readers.target_kinds import TARGETS, of_kind
from afina.data.reading_options import ReadingOptions

TEXT = ("text", "sentence", "sentence1", "review", "content", "comment", "tweet", "message", "body", "question")
LABEL = ("label", "labels", "target", "sentiment", "class", "category", "rating", "score", "stars", "tags")
PAIRS = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
)
"""Usual names of two text columns that form pairs, as in data sets of the Hub and in GLUE.

Two columns with the names of a pair in PAIRS are read if the user names no text column.
"""

BESIDE = frozenset(
    ("title", "headline", "subject", "summary", "description", "abstract", "answer", "answers", "context", "passage")
) | {"document", "article", "paragraph", "query", "response", "reply", "prompt", "text1", "text2"}
"""Names of other columns that may hold the text. If a file has a column of BESIDE and a column of TEXT or PAIRS, the
user has to name the text column."""


WRITTEN = (
    ("context", "question", "answers"),
    ("context", "question", "answer"),
    ("input", None, "output"),
    ("prompt", None, "completion"),
    ("document", None, "summary"),
    ("mr", None, "ref"),
)
"""Usual column names of text-to-text tasks: text, second text (None: no second text), target."""

STEERS = frozenset(("instruction", "instructions", "system"))
"""Names of columns that may be another part of the input of a text-to-text task, such as an instruction."""

ARTICLE = "title"
"""The column that groups the questions of an article, so that they stay together if a split is divided. If a file has
no column `title`, the column of contexts groups the questions."""


@dataclass(frozen=True)
class ColumnNames:
    """The names of a file's columns by role.

    Attributes:
        labels: The names of the label columns: empty if no label is read, several if each label has a column.
        others: The names of the columns that are not read.
        kind: The kind of task that follows from the column names or the user's options. None: the kind is recognised
            from the labels.
        group: The name of a column whose value is the row's group: rows of a group stay in the same split.
    """

    text: str
    text_pair: str | None = None
    labels: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    kind: Kind | None = None
    group: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text,) if self.text_pair is None else (self.text, self.text_pair)

    @property
    def read(self) -> list[str]:
        return list(dict.fromkeys([*self.texts, *self.labels, *([self.group] if self.group else [])]))

    @property
    def roles(self) -> dict[str, str]:
        """The column names by role: `text`, `text_pair`, `label` or `target`, `group`, and `others` (not read)."""
        target = TARGETS[self.kind].role if self.kind else "label"
        found = {"text": self.text, "text_pair": self.text_pair, target: ",".join(self.labels), "group": self.group}
        return {role: name for role, name in (found | {"others": ", ".join(self.others)}).items() if name}


def of_texts(
    where: str,
    names: Iterable[str],
    text: str | None,
    text_pair: str | None,
    *,
    label: Sequence[str] = (),
    first: bool = False,
    written: bool = False,
) -> ColumnNames:
    """Return the text columns: the columns that the user names, or columns with usual names, regardless of case.

    Args:
        where: The beginning of error messages.
        label: The names of columns that hold labels, not texts.
        first: Whether to take the first name in TEXT if several columns may be the text; else this is an error.
        written: Whether the task is text-to-text, so that the column names in WRITTEN are usual names too.

    Raises InvalidData if a column is missing or several columns may be the text.
    """
    names = list(names)
    usual = _usual(names)
    if text is None and text_pair is None:
        if written and (inputs := _inputs(where, names, label)):
            return inputs
        for one, other in PAIRS:
            if one in usual and other in usual:
                found = ColumnNames(usual[one], usual[other])
                if not first:
                    _check_one(where, names, found.texts, {*found.texts, *label})
                return found
    left = [name for name in names if name not in label and name != text_pair]
    if not _among(left, TEXT):
        left = names  # the caller raises if one column has two roles
    known = (*TEXT, *dict.fromkeys(inputs[0] for inputs in WRITTEN)) if written else TEXT
    found = ColumnNames(_column(where, left if text is None else names, text, known, "text"))
    if text is None and not first:
        _check_one(where, left, found.texts, found.texts)
    if text_pair is None:
        return found
    second = _column(where, names, text_pair, (), "text_pair")
    if second == found.text:
        raise problems.SECOND_TEXT_IS_TEXT(where=where, field="text_pair", column=second)
    return ColumnNames(found.text, second)


def _inputs(where: str, names: Sequence[str], label: Sequence[str]) -> ColumnNames | None:
    """Return the input columns of a text-to-text task by an entry of WRITTEN; None if the file fits no entry.

    Raises InvalidData if the file has other columns that may be part of the input.
    """
    usual = _usual([name for name in names if name not in label])
    shapes = dict.fromkeys((text, pair) for text, pair, _ in WRITTEN)
    found = [(text, pair) for text, pair in shapes if text in usual and (pair is None or pair in usual)]
    if not found:
        return None
    text, pair = (None if name is None else usual[name] for name in found[0])
    assert text is not None
    taken = (text,) if pair is None else (text, pair)
    inputs = {name for shape in found for name in shape if name}
    others = [name for name in _among(names, {*TEXT, *STEERS, *inputs}) if name not in (*taken, *label)]
    if others:
        _refuse_several(where, taken, others)
    return ColumnNames(text, pair)


def _of_written(table: FileTable, asked: ReadingOptions, *, asks: bool, first: bool) -> ColumnNames | None:
    """Return the columns of a text-to-text task; None if the table does not look like one.

    Args:
        asks: Whether the user has set the kind "text". If the user has not set this kind, the table must have the
            column names of WRITTEN.
    """
    text, text_pair, target = asked.text, asked.text_pair, asked.label
    where, names = str(table.path), list(table.columns)
    usual = _usual(names)
    named = text is not None or text_pair is not None
    fits = [
        written
        for *inputs, written in WRITTEN
        if written in usual
        and (target is None or usual[written] == target)
        and all(name is None or name in usual for name in inputs)
        and (not named or [name and usual[name] for name in inputs] == [text, text_pair])
    ]
    if not asks and not fits:
        return None
    if target is None:
        left = [name for name in names if name not in (text, text_pair)]
        several = [usual[name] for name in dict.fromkeys(fits)] or _among(
            left, {*LABEL, *(each[2] for each in WRITTEN)}
        )
        if len(several) > 1:
            raise problems.TARGET_COLUMN_AMBIGUOUS(where=where, field="target", found=several)
        target = several[0] if several else None
    target = _column(where, names, target, tuple(each[2] for each in WRITTEN), "target")
    texts = of_texts(where, names, text, text_pair, label=(target,), first=first, written=True)
    _check_apart(where, (target,), texts.texts, "target")
    questions = {name.strip().casefold() for name in texts.texts} == set(WRITTEN[0][:2])
    group = next(usual[name] for name in (ARTICLE, "context") if name in usual) if questions else None
    read = (*texts.texts, target, group)
    others = tuple(name for name in names if name not in read)
    written = next(kind for kind, made in TARGETS.items() if made.written)
    return replace(texts, labels=(target,), others=others, kind=written, group=group)


def choose(table: FileTable, asked: ReadingOptions, *, first: bool = False, kind: str | None = None) -> ColumnNames:
    """Return the text columns and target columns of a table; the option `label` may name several columns as `a,b,c`.

    Args:
        first: Whether to take the first usual name if several columns may be the text or the label.
        kind: The kind of task, or None if it is unknown. An unknown kind is "text" if the table has the column names of
            WRITTEN and no usual name of a label column.
    """
    where, names, label = str(table.path), list(table.columns), asked.label
    asks = kind is not None and of_kind(kind).written
    if asks or (kind is None and label is None and not _among(names, LABEL)):
        written = _of_written(table, asked, asks=asks, first=first)
        if written is not None:
            return written
    labels = [label] if label is None or label in names else [name.strip() for name in label.split(",")]
    texts = of_texts(where, names, asked.text, asked.text_pair, label=[name for name in labels if name], first=first)
    found = tuple(dict.fromkeys(_label(where, names, name, texts.texts, first) for name in labels))
    _check_apart(where, found, texts.texts, "label")
    others = tuple(name for name in names if name not in (*texts.texts, *found))
    return ColumnNames(texts.text, texts.text_pair, found, others)


def _check_apart(where: str, found: Sequence[str], texts: Sequence[str], field: str) -> None:
    """Raise InvalidData if a target column is also a text column."""
    for name in found:
        if name in texts:
            raise problems.LABEL_IS_TEXT(where=where, field=field, column=name)


def _usual(names: Sequence[str]) -> dict[str, str]:
    return {name.strip().casefold(): name for name in reversed(names)}


def _among(names: Iterable[str], usual: Iterable[str]) -> list[str]:
    usual = set(usual)
    return [name for name in names if name.strip().casefold() in usual]


def _check_one(where: str, names: Sequence[str], taken: Sequence[str], known: Iterable[str]) -> None:
    """Raise InvalidData if a file has another column, besides those in `taken` and `known`, that may be the text."""
    usual = {*TEXT, *BESIDE, *(name for pair in PAIRS for name in pair)}
    others = [name for name in _among(names, usual) if name not in set(known)]
    if others:
        _refuse_several(where, taken, others)


def _refuse_several(where: str, taken: Sequence[str], others: Sequence[str]) -> NoReturn:
    one, other = taken[0], (taken[1] if len(taken) > 1 else others[0])
    raise problems.TEXT_COLUMN_AMBIGUOUS(where=where, field="text", found=[*taken, *others], _one=one, _other=other)


def _label(where: str, names: list[str], named: str | None, texts: Sequence[str], first: bool) -> str:
    found = _column(where, names, named, LABEL, "label")
    several = [name for name in _among(names, LABEL) if name not in texts]
    if named is None and not first and len(several) > 1:
        raise problems.LABEL_COLUMN_AMBIGUOUS(
            where=where, field="label", found=several, _usual=found, _all=",".join(several)
        )
    return found


def _column(where: str, names: list[str], named: str | None, candidates: tuple[str, ...], field: str) -> str:
    if named is not None:
        if named in names:
            return named
        raise problems.COLUMN_MISSING(where=where, field=field, column=named, found=names)
    usual = _usual(names)
    for name in candidates:
        if name in usual:
            return usual[name]
    more = ", or a column of texts to write with `target`" if candidates == LABEL else ""
    raise problems.NO_SUCH_ROLE(where=where, field=field, found=names, expected=candidates, _more=more)
