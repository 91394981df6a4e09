"""Tasks from files: a directory of train and dev files, or one file of which a part is held out.

`formats.py` reads the formats of files, and `columns.py` finds the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from afina.data import problems
from afina.data.kinds import CLASSES, LABELS
from afina.data.readers import columns, formats, source
from afina.data.readers.columns import ColumnNames
from afina.data.readers.doubtful_labels import Spellings, contradictions, folded
from afina.data.readers.formats import FileTable
from afina.data.readers.label_column import LabelColumn, LabelFormat
from afina.data.readers.label_recognition import form_found, form_of_several
from afina.data.readers.rows import check_how, labelled
from afina.data.readers.splitting import LabelledRows, TaskData, hold_out
from afina.data.readers.target_kind import TargetKind
from afina.data.readers.target_kinds import TARGETS, of_kind
from afina.data.reading_options import USUAL, ReadingOptions
from afina.errors import NotFound

SST2 = ("negative", "positive")

EVALUATION = ("dev", "validation", "valid", "val")
TEST = "test"
"""The file name that is read only for measuring an adapter, if there is no file of EVALUATION."""


UNLABELLED = -1
"""The class index of rows without a label, such as those of a test split whose labels are not published."""


def load(path: Path, asked: ReadingOptions, evaluation: Path | None = None) -> TaskData:
    """Read the files at the existing `path`. With `evaluation`, this file is evaluated, and all of `path` trains."""
    tables = [formats.read(_find(path, ("train",)) if path.is_dir() else path, asked.sheet)]
    if evaluation is not None or path.is_dir():
        tables.append(evaluation_table(evaluation or _find(path, EVALUATION), asked))
    return TableReading.of(tables, asked).splits()


def evaluation_table(path: Path, asked: ReadingOptions) -> FileTable:
    """Return the table of an evaluation file: of the sheet in `asked.sheet`, or of the only sheet."""
    return formats.read(path, asked.sheet if formats.has_sheet(path, asked.sheet) else None)


@dataclass(frozen=True)
class TableReading:
    """How the tables of a task are read: the columns, and how their cells become targets.

    Attributes:
        tables: The table to train on, or to measure with, and the evaluation table, if there is one; with names
            instead of class indices if the files name the classes of the label column.
        columns: The columns of the first table.
        form: How labels are read.
        asked: The user's reading options. With `published`, data of the Hub are read by the first version's rules,
            since recorded runs used these: words such as `NA` are kept, the first usual column is taken, and labels
            keep their spelling.
    """

    tables: tuple[FileTable, ...]
    columns: ColumnNames
    form: LabelFormat
    asked: ReadingOptions
    published: bool = False

    @classmethod
    def of(
        cls,
        tables: Sequence[FileTable],
        asked: ReadingOptions,
        *,
        published: bool = False,
        form: LabelFormat | None = None,
        known: Sequence[str] = (),
    ) -> TableReading:
        """Choose columns and format by the first table. Raises InvalidData or UnknownName.

        Args:
            form: How labels are read. None: recognised.
            known: The labels that may occur; class indices stay if none is the name of a class.
        """
        chosen = columns.choose(tables[0], asked, first=published, kind=form.kind if form else asked.kind)
        column = chosen.labels[0] if len(chosen.labels) == 1 else ""
        names = tables[0].classes.get(column, ())
        indices = known and not set(known) & set(names)
        if not names or indices or (asked.kind is not None and not of_kind(asked.kind).named):
            tables = [replace(each, classes={}) for each in tables]
        else:
            tables = [_named(each, column, each.classes.get(column, names), published) for each in tables]
            single = not any(isinstance(cell, list) for cell in tables[0].columns[column])
            asked = replace(asked, label=column, kind=CLASSES if single and asked.kind is None else asked.kind)
            chosen = columns.choose(tables[0], asked, first=published, kind=form.kind if form else asked.kind)
        if published and not tables[-1].places:  # a test split without published labels
            tables = tables[:1]
        check_how(asked.missing or "refuse")
        if form is None:
            reads = replace(asked, kind=chosen.kind or asked.kind)
            form = label_format(tables[0], chosen.labels, reads, published)
        else:
            form = TARGETS[form.kind].form_to_measure(form, tables[0], chosen.labels, asked.labels, known)
        return cls(tuple(tables), chosen, form, asked, published)

    def rows(self) -> LabelledRows:
        return self._rows(self.tables[0], self.columns)

    def _rows(self, table: FileTable, chosen: ColumnNames) -> LabelledRows:
        kept = self.published and self.asked.missing is None
        return labelled(table, chosen, self.form, None if kept else check_how(self.asked.missing or "refuse"))

    def _held_out_rows(self) -> LabelledRows:
        """Return the rows of the evaluation table, read with the columns of the training table."""
        chosen, (_, table) = self.columns, self.tables
        texts = replace(self.asked, text=chosen.text, text_pair=chosen.text_pair, separator=self.form.separator)
        asked = replace(texts, label=",".join(chosen.labels), kind=self.form.kind)
        return self._rows(table, columns.choose(table, asked, first=self.published, kind=self.form.kind))

    def splits(self) -> TaskData:
        """Return both splits; without an evaluation table, a part of the training table is held out."""
        rows, names = self.rows(), self.asked.labels
        merge = self.asked.merge_labels
        spellings = Spellings({}) if self.published else Spellings.of(rows, names, merge=merge)
        rows = spellings.applied(rows)
        kind = TARGETS[rows.kind]
        if len(self.tables) == 1:
            notes = (*rows.notes, *contradictions(rows), *kind.findings(rows))
            train_rows, evaluation_rows = hold_out(rows, kind.strata(rows), both_sides=kind.stratified)
            if not len(evaluation_rows):
                lacks = "no label has two different texts" if kind.stratified else "there are no two different texts"
                raise problems.NOTHING_TO_HOLD_OUT(path=self.tables[0].path, examples=len(rows), _lacks=lacks)
            found = kind.splits(train_rows, evaluation_rows, names)
        else:
            held_out = spellings.applied(self._held_out_rows())
            both = (*contradictions(rows, held_out), *kind.findings(rows, held_out))
            notes = tuple(dict.fromkeys((*rows.notes, *held_out.notes, *both)))
            found = kind.splits(rows, held_out, names, SST2 if all(map(_is_sst2, self.tables)) else ())
        left_out = [name for name in rows.names if name not in found.label_names]
        if left_out:
            notes += (f"No training text has the label {' or '.join(left_out)}, so this label is left out.",)
        return replace(found, separator=self.form.separator, columns=rows.columns, other=rows.other, notes=notes)


def _named(found: FileTable, column: str, names: Sequence[str], published: bool) -> FileTable:
    """Return the table with names of classes instead of class indices, and None instead of UNLABELLED.

    Rows without a label of published data are left out.
    """

    def name(value: Any) -> Any:
        if isinstance(value, list):
            return [name(each) for each in value]
        if not isinstance(value, int):
            return value
        return None if value == UNLABELLED else names[value] if 0 <= value < len(names) else value

    if column not in found.columns:  # choosing the columns reports the missing column
        return found
    cells = [name(value) for value in found.columns[column]]
    named = replace(found, columns=found.columns | {column: cells}, classes={column: names})
    return named.take([row for row, cell in enumerate(cells) if cell is not None]) if published else named


def to_measure(
    path: Path, asked: ReadingOptions, form: LabelFormat, known: Sequence[str], usual: ReadingOptions = USUAL
) -> tuple[LabelledRows, tuple[str, ...], Path]:
    """Return all labelled rows of a file or of a directory's evaluation file, the names of 0, 1, ..., and the file.

    Args:
        form: How labels are read.
        known: The labels that may occur.
        usual: Columns to take if the file has them and none is named, and how to treat missing values.
    """
    if path.is_dir():
        try:
            path = _find(path, EVALUATION)
        except NotFound:
            if not any(source.stem(file) == TEST for file in path.iterdir()):
                raise
            path = _find(path, (TEST,))
    table, kind = formats.read(path, asked.sheet), TARGETS[form.kind]
    _check_separator(asked.separator, kind)
    if asked.label is None:
        _check_all(table, usual.label)
    columns = {key: getattr(usual, key) for key in ("text", "text_pair", "label")}
    there = {key: name for key, name in columns.items() if name and _has(table, name)}
    there |= {key: getattr(usual, key) for key in ("missing", "merge_labels") if getattr(usual, key)}
    asked = replace(replace(ReadingOptions(**there), **asked.given), kind=form.kind)
    rows = TableReading.of([table], asked, form=form, known=known).rows()
    rows = replace(rows, notes=(*rows.notes, *contradictions(rows), *kind.findings(rows)))
    if asked.merge_labels and known and kind.named:
        rows = Spellings({folded(name): name for name in known}).applied(rows)
    return rows, SST2 if _is_sst2(table) else (), path


def _has(found: FileTable, name: str) -> bool:
    """Return whether a table has this column, or each of the columns that `a,b` names."""
    return name in found.columns or all(part.strip() in found.columns for part in name.split(","))


def _check_all(found: FileTable, label: str | None) -> None:
    """Raise InvalidData if the file has some of the columns that `a,b` names, and not all."""
    names = [] if label is None or _has(found, label) else [name.strip() for name in label.split(",")]
    there = [name for name in names if name in found.columns]
    if there:
        lacking = ", ".join(name for name in names if name not in there)
        raise problems.ADAPTER_COLUMNS_MISSING(
            path=found.path,
            field="label",
            found=list(found.columns),
            expected=names,
            _lacking=lacking,
            _there=",".join(there),
        )


def files_of(directory: Path, *, evaluated: bool = True) -> list[Path]:
    """Return the training file of a directory, and its evaluation file if `evaluated`."""
    return [_find(directory, ("train",)), *([_find(directory, EVALUATION)] if evaluated else [])]


def _find(directory: Path, stems: Sequence[str]) -> Path:
    """Return the only readable file in `directory` whose name without suffix is in `stems`."""
    wanted = ", ".join(f"{stem}.*" for stem in stems)
    found = sorted(
        path
        for path in directory.iterdir()
        if source.stem(path) in stems and source.kind(path) in formats.READERS and path.is_file()
    )
    if not found:
        there = ", ".join(sorted(path.name for path in directory.iterdir())[:10]) or "nothing"
        raise problems.NO_FILE_OF_SPLIT(
            file=stems[0], found=there, expected=wanted, path=directory, _formats=", ".join(formats.READERS)
        )
    if len(found) > 1:
        raise problems.SEVERAL_FILES_OF_SPLIT(expected=wanted, path=directory, found=[path.name for path in found])
    return found[0]


def _is_sst2(file: FileTable) -> bool:
    """Return whether a file is GLUE SST-2's tsv, which does not have the label names."""
    return (
        source.kind(file.path) == ".tsv"
        and list(file.columns) == ["sentence", "label"]
        and set(file.columns["label"]) <= {"0", "1"}
    )


def _check_separator(separator: str | None, kind: TargetKind | None) -> None:
    """Raise InvalidData for a separator if a text has one label."""
    if separator is not None and kind and not kind.several:
        raise problems.SEPARATOR_OF_ONE_LABEL(kind=kind.kind, separator=separator)


def label_format(table: FileTable, columns: Sequence[str], asked: ReadingOptions, published: bool) -> LabelFormat:
    """Return how the label columns are read, recognised unless `asked` says it. Raises InvalidData or UnknownName."""
    separator, kind = asked.separator, None if asked.kind is None else of_kind(asked.kind)
    _check_separator(separator, kind)
    if len(columns) > 1:
        if (kind and not kind.several) or separator is not None:
            raise problems.SEVERAL_LABEL_COLUMNS(columns=len(columns), path=table.path)
        return LabelFormat(LABELS)
    cells = LabelColumn.of(table, columns[0], asked.missing == "keep")
    if separator is not None and not any(isinstance(value, str) and separator in value for value in cells.values):
        raise problems.SEPARATOR_ABSENT(path=table.path, separator=separator, column=columns[0])
    if separator is not None:
        return form_of_several(cells, separator, asked.labels)
    return form_found(cells, asked.labels, published) if kind is None else kind.form(cells, asked)
