"""Find the columns of text, second text and target: the columns that the user names, or columns with usual names.

This module uses only the names of the columns, not the cells, except for entities: lists of spans or of tags are
recognised by their items.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from afina.data import problems
from afina.data.kinds import Kind
from afina.data.readers.cells import is_empty, list_in
from afina.data.readers.conll import SUFFIXES, TAGS
from afina.data.readers.entity_targets import hold_tags, hold_words, look_like_tags, match_words
from afina.data.readers.formats import FileTable
from afina.data.readers.source import counted
from afina.data.readers.source import kind as file_kind
from afina.data.readers.spans import hold_spans
from afina.data.readers.target_kinds import TARGETS, of_kind
from afina.data.reading_options import ReadingOptions
from afina.sentence import Sentence

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
    ("question", None, "answer"),
    ("document", None, "summary"),
    ("mr", None, "ref"),
)
"""Usual column names of text-to-text tasks: text, second text (None: no second text), target."""

STEERS = frozenset(("instruction", "instructions", "system"))
"""Names of columns that may be another part of the input of a text-to-text task, such as an instruction."""

WORDS = ("tokens", "words")
"""Usual names of a column of words, which is the text if there is no column with a name in TEXT."""

ANNOTATED = ("entities", "spans", "ner_tags", "named_entities", "ner")
"""Usual names of a column of entities. A column of LABEL has entities too if its cells are lists of spans, or
lists with a tag for each word of a column of WORDS."""

DOCUMENTS = ("document", "document_id", "doc_id")
"""Usual names of a column that says to which document a text with entities belongs."""

LONGEST_NAME = 200
"""Characters of the name of a document."""

VERDICT, VERDICTS = "answer", frozenset(("accept", "reject", "ignore"))
"""The column of Prodigy that says whether a person accepted the annotation of a text, and its values."""

ARTICLE = "title"
"""The column that groups the questions of an article, so that they stay together if a split is divided. If a file has
no column `title`, the column of contexts groups the questions."""


@dataclass(frozen=True)
class ColumnNames:
    """The names of a file's columns by role.

    Attributes:
        labels: Empty if no label is read, several if each label has a column.
        others: The columns that are not read.
        kind: The kind of task that follows from the columns or options. None: it is recognised from the labels.
        group: The column of groups; rows of a group stay in the same split.
    """

    text: str
    text_pair: str | None = None
    labels: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    kind: Kind | None = None
    group: str | None = None
    notes: tuple[str, ...] = ()

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
    words: bool = False,
) -> ColumnNames:
    """Return the text columns: the columns that the user names, or columns with usual names, regardless of case.

    Args:
        label: The names of columns that hold labels, not texts.
        first: Whether to take the first name in TEXT if several columns may be the text; else this is an error.
        written: Whether the column names in WRITTEN are usual names too.
        words: Whether a column of WORDS is the text if no column has a name in TEXT.
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
    if words and text is None and not _among(left, known):
        known = (*known, *WORDS)
    found = ColumnNames(_column(where, left if text is None else names, text, known, "text"))
    if text is None and not first:
        _check_one(where, left, found.texts, found.texts)
    if text_pair is None:
        return found
    second = _column(where, names, text_pair, (), "text_pair")
    if second == found.text:
        raise problems.COLUMN_IS_TEXT(where=where, field="text_pair", column=second)
    return ColumnNames(found.text, second)


def _inputs(where: str, names: Sequence[str], label: Sequence[str]) -> ColumnNames | None:
    """Return the input columns of a text-to-text task by an entry of WRITTEN; None if the file fits no entry."""
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
    """Return the columns of a text-to-text task.

    None if the user does not ask, and the columns are not those of WRITTEN.
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


def _of_entities(table: FileTable, asked: ReadingOptions, *, asks: bool, first: bool) -> ColumnNames | None:
    """Return the columns of a task of entities; None if the table does not look like one and the user does not ask."""
    where, names = str(table.path), list(table.columns)
    words = [asked.text] if asked.text is not None else _among(names, WORDS)
    words = [name for name in words if name in names and hold_words(table.columns[name])]
    plain = not asks and asked.text is None and _has_text(names)
    usual = [asked.label] if asked.label is not None else _among(names, {*ANNOTATED, *LABEL})
    found = _annotated(table, usual, words, plain=plain)
    if asked.label is None and not found and not _among(names, LABEL):  # no text has an entity
        found = [name for name in _among(names, ANNOTATED) if any(list_in(cell) == [] for cell in table.columns[name])]
    if not found and not asks:
        if words and not plain and asked.label is not None and not {*asked.label.split(",")} & {*names}:
            raise problems.COLUMN_MISSING(where=where, field="label", column=asked.label, found=names)
        return None
    label = asked.label
    if label is None:
        rivals = [] if asks and found else [name for name in _among(names, LABEL) if name not in (*found, *words)]
        if rivals and not asks and (first or (plain and _are_beside(table, found, rivals))):
            return None
        several = sorted([*found, *rivals], key=names.index)
        if len(several) > 1 and not first:
            raise problems.LABEL_COLUMN_AMBIGUOUS(
                where=where, field="label", found=several, _usual=several[0], _all=",".join(several)
            )
        label = min(found, key=_rank, default=None)
    label = _column(where, names, label, (*ANNOTATED, *LABEL), "label")
    cells = [cell for cell in table.columns[label] if not is_empty(cell)]
    if cells and not any(list_in(cell) is not None for cell in cells):
        raise problems.NO_ENTITY_COLUMN(where=where, column=label)
    text = _annotated_text(table, asked, label, words, first=first)
    _check_apart(where, (label,), (text,), "label")
    left = [name for name in names if name not in (text, label)]
    group = next((name for name in _among(left, DOCUMENTS) if _names_documents(table, name)), None)
    of_words = next(kind for kind, made in TARGETS.items() if made.of_words)
    return ColumnNames(text, None, (label,), tuple(name for name in left if name != group), of_words, group)


def _rank(name: str) -> int:
    usual = (*ANNOTATED, *LABEL)
    return usual.index(name.strip().casefold())


def _has_text(names: Sequence[str]) -> bool:
    usual = _usual(names)
    return bool(_among(names, TEXT)) or any(one in usual and other in usual for one, other in PAIRS)


def _are_beside(table: FileTable, found: Sequence[str], labels: Sequence[str]) -> bool:
    """Return whether entities stand in columns of ANNOTATED only, and a column among `labels` has values."""
    apart = len(_among(found, ANNOTATED)) == len(found)
    return apart and any(not is_empty(cell) for name in labels for cell in table.columns[name])


def _annotated(table: FileTable, names: Iterable[str], words: Sequence[str], *, plain: bool = False) -> list[str]:
    """Return the columns among `names` that hold spans, or a tag for each word of a column of words.

    With a column of texts beside the words (`plain`), lists in a column of LABEL may be several labels of the text.
    """
    columns = [(name, table.columns[name]) for name in names if name in table.columns and name not in words]
    return [
        name
        for name, cells in columns
        if hold_spans(cells)
        or (
            any(match_words(cells, table.columns[one]) for one in words)
            and (not plain or _among([name], ANNOTATED) or look_like_tags(cells, table.classes.get(name, ())))
        )
        or (_among([name], ANNOTATED) and hold_tags(cells))
    ]


def _not_entities(table: FileTable, asked: ReadingOptions, chosen: ColumnNames) -> tuple[str, ...]:
    """Return notes about columns that may hold entities and are read otherwise, or not at all."""
    left = [] if asked.label is not None else _among(chosen.others, ANNOTATED)
    words = [name for name in _among(chosen.others, WORDS) if hold_words(table.columns[name])]
    notes = [
        Sentence.of(
            "{path}: column {name!r} may hold entities, and is not read. To read it, give `kind` entities.",
            path=table.path,
            name=name,
        )
        for name in _annotated(table, left, words)
    ]
    both = [(name, one) for name in chosen.labels for one in words]
    for name, one in both:
        if match_words(table.columns[name], table.columns[one]):
            said = Sentence.of(
                "{path}: column {name!r} has as many values as {words!r} has words, and is read as labels of the text. "
                "To read them as tags of the words, give `kind` entities.",
                path=table.path,
                name=name,
                words=one,
            )
            notes.append(said)
    return tuple(notes)


def _annotated_text(table: FileTable, asked: ReadingOptions, label: str, words: Sequence[str], *, first: bool) -> str:
    """Return the column of the words, if the column `label` has tags, or of the text, if it has spans."""
    where, names = str(table.path), list(table.columns)
    if hold_tags(table.columns[label]):
        if len(words) > 1 and not first:
            raise problems.TEXT_COLUMN_AMBIGUOUS(where=where, field="text", found=words, _one=words[0], _other=words[1])
        if asked.text_pair is None:
            return words[0] if words else _column(where, names, asked.text, WORDS, "text")
    left = [name for name in names if name == asked.text or not (name in words or _is_verdict(table, name))]
    if words and asked.text is None and not _among(left, TEXT):
        raise problems.SPANS_OF_WORDS(where=where, column=label, found=words[0])
    texts = of_texts(where, left or names, asked.text, asked.text_pair, label=(label,), first=first)
    if texts.text_pair is not None:
        raise problems.ENTITIES_OF_PAIRS(where=where, found=texts.texts, field="text_pair")
    return texts.text


def _is_verdict(table: FileTable, name: str) -> bool:
    """Return whether a column is Prodigy's, with the verdict of a person on the annotation of each text."""
    return name == VERDICT and all(isinstance(cell, str) and cell in VERDICTS for cell in table.columns[name])


def accepted(table: FileTable, chosen: ColumnNames) -> FileTable:
    """Return the rows of a table of entities whose annotation a person has accepted, with a note about the others."""
    if VERDICT not in chosen.others or chosen.kind is None or not TARGETS[chosen.kind].of_words:
        return table
    if not _is_verdict(table, VERDICT):
        return table
    rows = [row for row, cell in enumerate(table.columns[VERDICT]) if cell == "accept"]
    if not rows:
        raise problems.NONE_ACCEPTED(path=table.path, column=VERDICT, rows=len(table.places))
    left_out = len(table.places) - len(rows)
    note = f"{table.path}: {counted(left_out, 'row')} left out, not accepted by column {VERDICT!r}."
    return replace(table.take(rows), notes=(*table.notes, note)) if left_out else table


def _names_documents(table: FileTable, name: str) -> bool:
    """Return whether a column names the documents of texts: its values are short, and there are several."""
    cells = [cell for cell in table.columns[name] if cell is not None]
    short = all(isinstance(cell, int) or (isinstance(cell, str) and len(cell) <= LONGEST_NAME) for cell in cells)
    return short and len(set(cells)) > 1


def choose(table: FileTable, asked: ReadingOptions, *, first: bool = False, kind: str | None = None) -> ColumnNames:
    """Return the text columns and target columns of a table; the option `label` may name several columns as `a,b,c`.

    Args:
        first: Whether to take the first usual name if several columns may be the text or the label.
        kind: None: it is "entities" if a usual column has lists of spans, or of tags beside words; with a column of
            texts, another column of LABEL wins over a column of ANNOTATED. It is "text" if the table has the column
            names of WRITTEN and no usual name of a label column.
    """
    where, names, label = str(table.path), list(table.columns), asked.label
    if file_kind(table.path) in SUFFIXES and TAGS not in names:
        raise problems.CONLL_WITHOUT_TAGS(path=table.path)
    asks = kind is not None and of_kind(kind).of_words
    if asks or kind is None:
        annotated = _of_entities(table, asked, asks=asks, first=first)
        if annotated is not None:
            return annotated
    asks = kind is not None and of_kind(kind).written
    if asks or (kind is None and label is None and not _among(names, LABEL)):
        written = _of_written(table, asked, asks=asks, first=first)
        if written is not None:
            return written
    labels = [label] if label is None or label in names else [name.strip() for name in label.split(",")]
    texts = of_texts(where, names, asked.text, asked.text_pair, label=[name for name in labels if name], first=first)
    found = tuple(dict.fromkeys(_label(table, name, texts.texts, first) for name in labels))
    _check_apart(where, found, texts.texts, "label")
    others = tuple(name for name in names if name not in (*texts.texts, *found))
    chosen = ColumnNames(texts.text, texts.text_pair, found, others)
    return chosen if kind is not None else replace(chosen, notes=_not_entities(table, asked, chosen))


def _check_apart(where: str, found: Sequence[str], texts: Sequence[str], field: str) -> None:
    for name in found:
        if name in texts:
            raise problems.COLUMN_IS_TEXT(where=where, field=field, column=name)


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


MOST_VALUES = 20
"""A column of at most this many values, each of which several rows have, is offered as the column of labels."""


def _label(table: FileTable, named: str | None, texts: Sequence[str], first: bool) -> str:
    where, names = str(table.path), list(table.columns)
    if named is None and not _among(names, LABEL):
        few = [name for name in names if name not in texts and _has_few_values(table.columns[name])]
        such = Sentence.of(", such as {column}", column=few[0]) if len(few) == 1 else ""
        more = Sentence.joined([such, Sentence.of(", or a column of texts to write with `target`")], "")
        likely = [*few, *(name for name in names if name not in (*few, *texts))]
        raise problems.NO_SUCH_ROLE(where=where, field="label", found=names, expected=LABEL, likely=likely, _more=more)
    found = _column(where, names, named, LABEL, "label")
    several = [name for name in _among(names, LABEL) if name not in texts]
    if named is None and not first and len(several) > 1:
        raise problems.LABEL_COLUMN_AMBIGUOUS(
            where=where, field="label", found=several, _usual=found, _all=",".join(several)
        )
    return found


def _has_few_values(cells: Sequence[Any]) -> bool:
    values = {str(cell) for cell in cells if not is_empty(cell)}
    return 1 < len(values) <= min(MOST_VALUES, len(cells) // 3)


def _column(where: str, names: list[str], named: str | None, candidates: tuple[str, ...], field: str) -> str:
    if named is not None:
        if named in names:
            return named
        raise problems.COLUMN_MISSING(where=where, field=field, column=named, found=names)
    usual = _usual(names)
    for name in candidates:
        if name in usual:
            return usual[name]
    raise problems.NO_SUCH_ROLE(where=where, field=field, found=names, expected=candidates, _more="")
