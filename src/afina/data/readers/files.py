"""Tasks from files: a directory of train and dev files, or one file of which a part is held out.

The module knows which files make a task. `formats` knows the formats, and `columns` the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from afina.data import problems
from afina.data.kinds import CLASSES, LABELS
from afina.data.readers import columns, formats, source
from afina.data.readers.doubtful_labels import Spellings, contradictions, folded
from afina.data.readers.formats import FileTable
from afina.data.readers.label_column import LabelColumn, LabelFormat
from afina.data.readers.label_recognition import form_found, form_of_several
from afina.data.readers.rows import check_how, labelled
from afina.data.readers.splitting import LabelledRows, TaskData, hold_out
from afina.data.readers.target_kind import TargetKind
from afina.data.readers.target_kinds import TARGETS, of_kind, splits
from afina.data.reading_options import ReadingOptions
from afina.errors import NotFound

SST2 = ("negative", "positive")

EVALUATION = ("dev", "validation", "valid", "val")
TEST = "test"
"""The file name that is read only for measuring an adapter, if there is no file of EVALUATION."""


def load(path: Path, asked: ReadingOptions, evaluation: Path | None = None) -> TaskData:
    """Read the files at `path`, which exists. With `evaluation`, that file is evaluated, and a file all trains."""
    tables = [formats.read(_find(path, ("train",)) if path.is_dir() else path, asked.sheet)]
    if evaluation is not None or path.is_dir():
        held_out = evaluation or _find(path, EVALUATION)
        tables.append(formats.read(held_out, asked.sheet if formats.has_sheet(held_out, asked.sheet) else None))
    named, asked = with_class_names(tables, asked)
    return of_tables(*named, asked=asked)


UNLABELLED = -1
"""The class index of rows without a label, such as those of a test split whose labels are not published."""


def with_class_names(
    tables: Sequence[FileTable], asked: ReadingOptions, *, first: bool = False, known: Sequence[str] = ()
) -> tuple[Sequence[FileTable], ReadingOptions]:
    """Return the tables with names instead of class indices, if the files name the classes of the label column.

    `FileTable.classes` then has the label column alone, or nothing. Also return what is asked, with column and kind.

    Args:
        first: As in `columns.choose`.
        known: The labels that may occur; the indices stay if none is a name.
    """
    chosen = columns.choose(tables[0], asked, first=first, kind=asked.kind)
    column = chosen.labels[0] if len(chosen.labels) == 1 else ""
    names = tables[0].classes.get(column, ())
    indices = known and not set(known) & set(names)
    if not names or indices or (asked.kind is not None and not of_kind(asked.kind).named):
        return [replace(each, classes={}) for each in tables], asked
    tables = [_named(each, column, each.classes.get(column, names)) for each in tables]
    single = not any(isinstance(cell, list) for cell in tables[0].columns[column])
    return tables, replace(asked, label=column, kind=CLASSES if single and asked.kind is None else asked.kind)


def _named(found: FileTable, column: str, names: Sequence[str]) -> FileTable:
    """Return the table with names of classes instead of class indices, and None instead of UNLABELLED."""

    def name(value: Any) -> Any:
        if isinstance(value, list):
            return [name(each) for each in value]
        if not isinstance(value, int):
            return value
        return None if value == UNLABELLED else names[value] if 0 <= value < len(names) else value

    if column not in found.columns:  # choosing the columns reports the missing column
        return found
    cells = [name(value) for value in found.columns[column]]
    return replace(found, columns=found.columns | {column: cells}, classes={column: names})


def of_tables(
    train: FileTable,
    held_out: FileTable | None = None,
    *,
    asked: ReadingOptions,
    published: bool = False,
) -> TaskData:
    """Return both splits; without `held_out`, a part of `train` is held out.

    With `published`, the data are the Hub's, and are read as they were when runs on them were first recorded. Words
    such as `NA` are kept, the first usual column is taken, and labels keep their spelling.
    """
    names = asked.labels
    rows, chosen, form = _rows(train, asked, published=published)
    spellings = Spellings.of(rows, names, merge=asked.merge_labels) if not published else Spellings({})
    rows = spellings.applied(rows)
    if held_out is None:
        kind = TARGETS[rows.kind]
        notes = (*rows.notes, *contradictions(rows), *kind.findings(rows))
        train_rows, evaluation_rows = hold_out(rows, kind.strata(rows), both_sides=kind.stratified)
        if not len(evaluation_rows):
            lacks = "no label has two different texts" if kind.stratified else "there are no two different texts"
            raise problems.NOTHING_TO_HOLD_OUT(path=train.path, examples=len(rows), _lacks=lacks)
        found = splits(train_rows, evaluation_rows, names)
    else:
        # Both tables are read as the training table. A column that the other table lacks is an error.
        held_out_rows, _, _ = _rows(held_out, chosen, published=published, form=form)
        held_out_rows = spellings.applied(held_out_rows)
        both = (*contradictions(rows, held_out_rows), *TARGETS[rows.kind].findings(rows, held_out_rows))
        notes = tuple(dict.fromkeys((*rows.notes, *held_out_rows.notes, *both)))
        own = SST2 if _is_sst2(train) and _is_sst2(held_out) else ()
        found = splits(rows, held_out_rows, names, own)
    left_out = [name for name in rows.names if name not in found.label_names]
    if left_out:
        notes += (f"No training text has the label {' or '.join(left_out)}, so this label is left out.",)
    return replace(found, separator=form.separator, columns=rows.columns, other=rows.other, notes=notes)


def to_measure(
    path: Path,
    asked: ReadingOptions,
    usual: ReadingOptions | None = None,
    form: LabelFormat | None = None,
    known: Sequence[str] = (),
) -> tuple[LabelledRows, tuple[str, ...], Path]:
    """Return all labelled rows of a file or of a directory's evaluation file, the names of 0, 1, ..., and the file.

    Args:
        usual: Columns to take if the file has them and none is named, and how to treat missing values.
        form: How labels are read. None: recognised.
        known: The labels that may occur.
    """
    if path.is_dir():
        try:
            path = _find(path, EVALUATION)
        except NotFound:
            if not any(source.stem(file) == TEST for file in path.iterdir()):
                raise
            path = _find(path, (TEST,))
    found = formats.read(path, asked.sheet)
    _check_separator(asked.separator, None if form is None else TARGETS[form.kind])
    usual = usual or ReadingOptions()
    columns = {key: getattr(usual, key) for key in ("text", "text_pair", "label")}
    if asked.label is None:
        _check_all(found, usual.label)
    there = {key: name for key, name in columns.items() if name and _has(found, name)}
    there |= {key: getattr(usual, key) for key in ("missing", "merge_labels") if getattr(usual, key)}
    asked = replace(ReadingOptions(**there), **asked.given)
    if form is not None:
        asked = replace(asked, kind=form.kind)
    (found,), asked = with_class_names([found], asked, known=known)
    rows, _, _ = _rows(found, asked, form=form, known=known)
    kind = TARGETS[rows.kind]
    rows = replace(rows, notes=(*rows.notes, *contradictions(rows), *kind.findings(rows)))
    if asked.merge_labels and known and kind.named:
        rows = Spellings({folded(name): name for name in known}).applied(rows)
    return rows, SST2 if _is_sst2(found) else (), path


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


def _rows(
    found: FileTable,
    asked: ReadingOptions,
    *,
    published: bool = False,
    form: LabelFormat | None = None,
    known: Sequence[str] = (),
) -> tuple[LabelledRows, ReadingOptions, LabelFormat]:
    """Return the rows, the chosen columns, and how labels are read, which is `form` if given."""
    how = check_how(asked.missing or "refuse")
    kind = form.kind if form else asked.kind
    chosen = columns.choose(found, asked, first=published, kind=kind)
    if form is None:
        reads = replace(asked, kind=chosen.kind or asked.kind)
        form = label_format(found, chosen.labels, reads, published)
    else:
        form = TARGETS[form.kind].form_to_measure(form, found, chosen.labels, asked.labels, known)
    rows = labelled(found, chosen, form, None if published and asked.missing is None else how)
    texts = replace(asked, text=chosen.text, text_pair=chosen.text_pair)
    return rows, replace(texts, label=rows.column, kind=form.kind, separator=form.separator), form


def files_of(directory: Path, *, evaluated: bool = True) -> list[Path]:
    """Return the training file of a directory, and its evaluation file if `evaluated`."""
    return [_find(directory, ("train",)), *([_find(directory, EVALUATION)] if evaluated else [])]


def _find(directory: Path, stems: Sequence[str]) -> Path:
    """Return the only readable file in `directory` with one of these stems."""
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
