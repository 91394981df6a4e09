"""Read tasks from files: a directory with a training and an evaluation file, or a file of which a part is held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from afina.data import problems
from afina.data.kinds import CLASSES, HOWS, LABELS, NUMBER, one_of
from afina.data.readers import arrow_files, columns, formats, label_studio, source
from afina.data.readers.cells import is_empty, points_undecided
from afina.data.readers.columns import ColumnNames
from afina.data.readers.formats import FileTable
from afina.data.readers.label_column import LabelColumn, LabelFormat, form_found, form_of_several
from afina.data.readers.rows import Spellings, contradictions, folded, labelled
from afina.data.readers.splitting import LabelledRows, TaskData, hold_out, without_known
from afina.data.readers.target_kind import TargetKind
from afina.data.readers.target_kinds import TARGETS, of_kind
from afina.data.reading_options import USUAL, ReadingOptions
from afina.errors import NotFound
from afina.events import Says, silent

EVALUATION = ("dev", "validation", "valid", "val")
TEST = "test"
"""The name, without suffix, of a test file: it is read only to evaluate an adapter, if no name in EVALUATION exists."""


UNLABELLED = -1
"""The class index that marks a row without a label, such as in a test split whose labels are not published."""


def load(path: Path, asked: ReadingOptions, evaluation: Path | None = None, says: Says = silent) -> TaskData:
    """Read a task from a file or directory; with the file `evaluation`, all texts of `path` are training texts."""
    training, *further = files_of(path, evaluated=evaluation is None) if path.is_dir() else [path]
    tables = [formats.read(training, asked.sheet, says, encoding=asked.encoding)]
    tables += [evaluation_table(file, asked, says) for file in (*further, evaluation) if file is not None]
    if (path / arrow_files.SPLITS).is_file():
        tables[0] = replace(tables[0], notes=(splits_note(str(path), [training.name, *(one.name for one in further)]),))
    says(f"looking at the texts and labels of {source.counted(sum(len(one.places) for one in tables), 'row')}")
    return TableReading.of(tables, asked).splits()


def evaluation_table(path: Path, asked: ReadingOptions, says: Says = silent) -> FileTable:
    """Return the rows of an evaluation file; of a workbook, the sheet `asked.sheet` or the only sheet."""
    sheet = asked.sheet if formats.has_sheet(path, asked.sheet) else None
    return formats.read(path, sheet, says, encoding=asked.encoding)


@dataclass(frozen=True)
class TableReading:
    """The tables of a task, their text and label columns, and how the cells of the label column become targets.

    Attributes:
        tables: The training table (or the only table, of texts to evaluate an adapter on), and the evaluation table if
            there is one. Class indices are replaced by class names if the files name the classes.
        columns: The columns of the first table.
        published: Whether the data are from the Hub. They are read by the rules of afina's first version, because
            recorded runs used these rules: words such as `NA` are kept, of several possible columns the first is taken,
            and labels keep their spelling.
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
        """Choose the columns and the format of labels by the first table. Raises InvalidData or UnknownName.

        Args:
            form: None: the format is recognised.
            known: The labels that may occur. If none of them is a class name of the file, class indices stay integers.
        """
        asked = _of_annotators(tables[0], asked)
        kind = form.kind if form else asked.kind
        chosen = columns.choose(tables[0], asked, first=published, kind=kind)
        column = chosen.labels[0] if len(chosen.labels) == 1 else ""
        names = tables[0].classes.get(column, ())
        of_names = of_kind(form.kind).names_of(names) if form else names
        indices = known and not set(known) & set(of_names)
        if not names or indices or (kind is not None and not of_kind(kind).named):
            tables = [replace(each, classes={}) for each in tables]
        else:
            tables = [_named(each, column, each.classes.get(column, names), published) for each in tables]
            single = not any(isinstance(cell, list) for cell in tables[0].columns[column])
            asked = replace(asked, label=column, kind=CLASSES if single and kind is None else asked.kind)
            again = columns.choose(tables[0], asked, first=published, kind=form.kind if form else asked.kind)
            chosen = replace(again, notes=chosen.notes)
        if published and not tables[-1].places:  # a test split without published labels
            tables = tables[:1]
        one_of("missing", asked.missing or "refuse", HOWS)
        if column and not published and asked.kind is None and chosen.kind is None:
            _check_points([LabelColumn.of(each, column, False) for each in tables if column in each.columns])
        if form is None:
            reads = replace(asked, kind=chosen.kind or asked.kind)
            form = label_format(tables[0], chosen.labels, reads, published)
        else:
            form = TARGETS[form.kind].form_to_measure(form, tables[0], chosen.labels, asked.labels, known)
            form = replace(form, repair=asked.repair)
        if asked.repair and not TARGETS[form.kind].of_words:
            raise problems.REPAIR_INAPPLICABLE(path=tables[0].path, kind=form.kind, option="repair")
        return cls(tuple(tables), chosen, form, asked, published)

    def rows(self) -> LabelledRows:
        return self._rows(self.tables[0], self.columns)

    def _rows(self, table: FileTable, chosen: ColumnNames) -> LabelledRows:
        kept = self.published and self.asked.missing is None
        table = columns.accepted(_annotated(table, chosen.labels), chosen)
        how = one_of("missing", self.asked.missing or "refuse", HOWS)
        return labelled(table, chosen, self.form, None if kept else how)

    def _held_out_rows(self) -> LabelledRows:
        chosen, (_, table) = self.columns, self.tables
        texts = replace(self.asked, text=chosen.text, text_pair=chosen.text_pair, separator=self.form.separator)
        asked = replace(texts, label=",".join(chosen.labels), kind=self.form.kind)
        return self._rows(table, columns.choose(table, asked, first=self.published, kind=self.form.kind))

    def splits(self) -> TaskData:
        """Return the training and evaluation splits; without an evaluation table, training texts are held out."""
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
            if kind.of_words:
                new, said = without_known(found.evaluation, found.train, "evaluation")
                found, notes = replace(found, evaluation=new), (*notes, *said)
        else:
            held_out = spellings.applied(self._held_out_rows())
            both = (*contradictions(rows, held_out), *kind.findings(rows, held_out))
            notes = tuple(dict.fromkeys((*rows.notes, *held_out.notes, *both)))
            found = kind.splits(rows, held_out, names)
        left_out = [name for name in rows.names if name not in found.label_names]
        if left_out:
            notes += (f"No training text has the label {' or '.join(left_out)}, so this label is left out.",)
        notes += kind.better_kind(found)
        return replace(found, separator=self.form.separator, columns=rows.columns, other=rows.other, notes=notes)


def _check_points(parts: Sequence[LabelColumn]) -> None:
    """Raise InvalidData if the points of the numbers in the label columns of all tables have two readings."""
    found = points_undecided([value for part in parts for value in part.values])
    if found is not None:
        grouped, whole = found
        where = next(part.where(row) for part in parts for row, value in part.known.items() if value == grouped)
        raise problems.POINTS_AMBIGUOUS(where=where, found=grouped, kinds=[CLASSES, NUMBER], _other=whole)


def _of_annotators(found: FileTable, asked: ReadingOptions) -> ReadingOptions:
    """Return the options with the only column of annotators as the label, unless the user names a label."""
    if asked.label is not None or found.unit != label_studio.UNIT:
        return asked
    if not found.answers:
        raise problems.LABEL_STUDIO_NOT_ANNOTATED(path=found.path, tasks=len(found.places))
    return replace(asked, label=found.answers[0]) if len(found.answers) == 1 else asked


def _annotated(found: FileTable, labels: Sequence[str]) -> FileTable:
    """Return the rows that annotators have answered; all rows of a table that names no columns of annotators."""
    if not found.answers:
        return found
    rows = [row for row in range(len(found.places)) if not all(is_empty(found.columns[name][row]) for name in labels)]
    if not rows:
        raise problems.LABEL_STUDIO_NOT_ANNOTATED(path=found.path, tasks=len(found.places))
    return found.take(rows)


def _named(found: FileTable, column: str, names: Sequence[str], published: bool) -> FileTable:
    """Return the table with class names instead of class indices.

    A row without a label (UNLABELLED) gets None; if the data are published on the Hub, it is left out.
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
) -> tuple[LabelledRows, Path]:
    """Read the labelled rows of a file, or of a directory's evaluation file, on which an adapter is evaluated.

    `known` are the labels that may occur. `usual`, the options of the adapter's task, are defaults; those of columns
    only if the file has them.
    """
    if path.is_dir() and not arrow_files.is_saved(path):
        try:
            path = _find(path, EVALUATION)
        except NotFound:
            if not any(source.stem(file) == TEST for file in path.iterdir()):
                raise
            path = _find(path, (TEST,))
    table, kind = formats.read(path, asked.sheet, encoding=asked.encoding), TARGETS[form.kind]
    _check_separator(asked.separator, kind)
    if asked.label is None:
        _check_all(table, usual.label)
    columns = {key: getattr(usual, key) for key in ("text", "text_pair", "label")}
    there = {key: name for key, name in columns.items() if name and _has(table, name)}
    lacking = [name for key, name in columns.items() if name and key not in there and key not in asked.given]
    there |= {key: getattr(usual, key) for key in ("missing", "merge_labels", "repair") if getattr(usual, key)}
    asked = replace(ReadingOptions(**there), **asked.given)
    rows = TableReading.of([table], asked, form=form, known=known).rows()
    rows = replace(rows, notes=(*rows.notes, *contradictions(rows), *kind.findings(rows)))
    if asked.merge_labels and known and kind.named:
        rows = Spellings({folded(name): name for name in known}).applied(rows)
    if lacking:
        lost = " and ".join(map(repr, lacking))
        rows = replace(rows, notes=(f"{path}: no column {lost}, from which the adapter learnt.", *rows.notes))
    return rows, path


def _has(found: FileTable, name: str) -> bool:
    return name in found.columns or all(part.strip() in found.columns for part in name.split(","))


def _check_all(found: FileTable, label: str | None) -> None:
    """Raise InvalidData if a table has some, but not all, of the label columns that a name such as `a,b` lists."""
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
    """Return the training file and the evaluation file in a directory; a split that `datasets` saved is a directory.

    A folder of one data set is the only file, and a DatasetDict without a split for evaluation has one.
    """
    if arrow_files.is_saved(directory):
        return [directory]
    if (directory / arrow_files.SPLITS).is_file():
        there = sorted(path.name for path in directory.iterdir() if arrow_files.is_saved(path))
        return [directory / name for name in splits_read(there, str(directory))][: 1 + evaluated]
    return [_find(directory, ("train",)), *([_find(directory, EVALUATION)] if evaluated else [])]


def splits_read(names: Sequence[str], where: str) -> list[str]:
    """Return the training split and the split for evaluation, if there is one, of a DatasetDict, as of the Hub."""
    from afina import hub  # takes a fifth of a second, which other tasks need not spend

    chosen = hub.splits_read(names)
    if hub.TRAIN not in chosen:
        raise problems.NO_TRAINING_SPLIT(path=where, found=list(names), expected=hub.TRAIN)
    return chosen


def splits_note(where: str, names: Sequence[str]) -> str:
    training, *other = names
    rest = f"the split {other[0]!r} is for evaluation" if other else "a part of it is held out for evaluation"
    return f"{where}: the split {training!r} is for training, and {rest}."


def _find(directory: Path, stems: Sequence[str]) -> Path:
    """Return the file in `directory` whose name without suffix is in `stems`. Raises an error unless there is one."""
    wanted = ", ".join(f"{stem}.*" for stem in stems)
    found = sorted(path for path in directory.iterdir() if source.stem(path) in stems and formats.has_columns(path))
    if not found:
        there = source.names_in(directory)
        raise problems.NO_FILE_OF_SPLIT(
            file=stems[0], found=there, expected=wanted, path=directory, _formats=", ".join(formats.READERS)
        )
    if len(found) > 1:
        raise problems.SEVERAL_FILES_OF_SPLIT(expected=wanted, path=directory, found=[path.name for path in found])
    return found[0]


def _check_separator(separator: str | None, kind: TargetKind | None) -> None:
    if separator is not None and kind and not kind.several:
        raise problems.SEPARATOR_OF_ONE_LABEL(kind=kind.kind, separator=separator, option="separator")


def label_format(table: FileTable, columns: Sequence[str], asked: ReadingOptions, published: bool) -> LabelFormat:
    """Return the format of the label columns: the one that the options give, else the recognised format.

    Raises InvalidData or UnknownName.
    """
    separator, kind = asked.separator, None if asked.kind is None else of_kind(asked.kind)
    _check_separator(separator, kind)
    if len(columns) > 1:
        if (kind and not kind.several) or separator is not None:
            raise problems.SEVERAL_LABEL_COLUMNS(columns=len(columns), path=table.path)
        return LabelFormat(LABELS)
    cells = LabelColumn.of(table, columns[0], asked.missing == "keep")
    if separator is not None and not any(isinstance(value, str) and separator in value for value in cells.values):
        raise problems.SEPARATOR_ABSENT(path=table.path, separator=separator, column=columns[0], option="separator")
    if separator is not None:
        return form_of_several(cells, separator, asked.labels)
    return form_found(cells, asked.labels, published) if kind is None else kind.form(cells, asked)
