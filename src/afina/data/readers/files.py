"""Tasks from files: a directory of train and dev files, or one file that is split by a hash.

Knows which files make a task; the formats are in `table`, the columns in `columns`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from afina.data.readers import columns, source, table, workbook
from afina.data.readers.doubts import Spellings, contradictions, folded
from afina.data.readers.glue import GLUE
from afina.data.readers.kinds import TARGETS, form_of, splits
from afina.data.readers.labels import Form, Reads
from afina.data.readers.missing import check_how
from afina.data.readers.rows import Rows, hold_out
from afina.data.readers.table import Table
from afina.data.readers.targets import Read
from afina.errors import InvalidData, NotFound

SST2 = GLUE["sst2"].names

EVALUATION = ("dev", "validation", "valid", "val")
TEST = "test"
"""Read only where texts to measure an adapter on are asked for, and nothing of EVALUATION is there."""


@dataclass(frozen=True)
class Asked:
    """Columns that the user named, and how they are read; None: the usual names, and what is found.

    Fields as the arguments of `Task.load`.
    """

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    kind: str | None = None
    separator: str | None = None
    missing: str | None = None
    merge_labels: bool | None = None
    sheet: str | None = None


def load(path: Path, asked: Asked, names: Sequence[str] | None, evaluation: Path | None = None) -> Read:
    """The files at `path`, which exists; with `evaluation`, all of that file is evaluated, and all of a file trains.

    names  the labels in their order, as in `splits`
    """
    train = table.read(_find(path, ("train",)) if path.is_dir() else path, asked.sheet)
    if evaluation is None and not path.is_dir():
        return of_tables(train, asked=asked, names=names)
    held_out = evaluation or _find(path, EVALUATION)
    sheet = asked.sheet if workbook.has(held_out, asked.sheet) else None
    return of_tables(train, table.read(held_out, sheet), asked=asked, names=names)


def of_tables(
    train: Table,
    held_out: Table | None = None,
    *,
    asked: Asked,
    names: Sequence[str] | None,
    published: bool = False,
) -> Read:
    """Both splits; without `held_out` a part of `train` is kept aside.

    published  the Hub's data, which are read as they were when runs on them were first recorded: a word such as `NA` is
               what it says, of several columns the first usual one is taken, labels are spelled as they stand
    """
    rows, chosen, form = _rows(train, asked, names, published=published)
    spellings = Spellings.of(rows, names, merge=bool(asked.merge_labels)) if not published else Spellings({})
    rows = spellings.applied(rows)
    if held_out is None:
        notes = (*rows.notes, *contradictions(rows))
        kind = TARGETS[rows.kind]
        train_rows, evaluation_rows = hold_out(rows, kind.strata(rows), both_sides=kind.stratified)
        if not len(evaluation_rows):
            raise InvalidData(
                f"{train.path}: its {len(rows)} examples hold no two different texts of a label, so none can be kept "
                "aside. Give more examples, or a file of its own to evaluate on with `evaluation`.",
                code="data.too-few-texts",
                path=train.path,
                examples=len(rows),
            )
        found = splits(train_rows, evaluation_rows, names)
    else:
        # The training table decides, so that both are read alike; what is missing in the other is an error there.
        held_out_rows, _, _ = _rows(held_out, chosen, names, published=published, form=form)
        held_out_rows = spellings.applied(held_out_rows)
        notes = tuple(dict.fromkeys((*rows.notes, *held_out_rows.notes, *contradictions(rows, held_out_rows))))
        own = SST2 if _is_sst2(train) and _is_sst2(held_out) else ()
        found = splits(rows, held_out_rows, names, own)
    left_out = [name for name in rows.names if name not in found.label_names]
    if left_out:
        notes += (f"No training text has the label {' or '.join(left_out)}, which is left out.",)
    return replace(found, separator=form.separator, columns=rows.columns, other=rows.other, notes=notes)


def to_measure(
    path: Path,
    asked: Asked,
    usual: Asked | None = None,
    form: Form | None = None,
    labels: Sequence[str] | None = None,
    known: Sequence[str] = (),
) -> tuple[Rows, tuple[str, ...], Path]:
    """All labelled rows of a file, or of a directory's evaluation file; what 0, 1, ... are called there; that file.

    usual   columns to take where the file has them and none is asked for, and how missing values are taken
    form    how labels are read; None: what is found
    labels  what the places of multi-hot lists are called, where that is said;  known  the labels that may occur
    """
    if path.is_dir():
        try:
            path = _find(path, EVALUATION)
        except NotFound:
            if not any(source.stem(file) == TEST for file in path.iterdir()):
                raise
            path = _find(path, (TEST,))
    found = table.read(path, asked.sheet)
    usual = usual or Asked()
    columns = {key: getattr(usual, key) for key in ("text", "text_pair", "label")}
    there = {key: name for key, name in columns.items() if name and _has(found, name)}
    there |= {key: getattr(usual, key) for key in ("missing", "merge_labels") if getattr(usual, key)}
    asked = replace(Asked(**there), **{key: name for key, name in vars(asked).items() if name is not None})
    rows, _, _ = _rows(found, asked, labels, form=form, known=known)
    rows = replace(rows, notes=(*rows.notes, *contradictions(rows)))
    if asked.merge_labels and known:
        rows = Spellings({folded(name): name for name in known}).applied(rows)
    return rows, SST2 if _is_sst2(found) else (), path


def _has(found: Table, name: str) -> bool:
    """Whether it has that column, or each of those that `a,b` names."""
    return name in found.columns or all(part.strip() in found.columns for part in name.split(","))


def _rows(
    found: Table,
    asked: Asked,
    labels: Sequence[str] | None,
    *,
    published: bool = False,
    form: Form | None = None,
    known: Sequence[str] = (),
) -> tuple[Rows, Asked, Form]:
    """The rows, what was chosen, and how labels are read; form: that, where it is known."""
    how = check_how(asked.missing or "refuse")
    chosen = columns.choose(found, asked.text, asked.text_pair, asked.label, first=published)
    if form is None:
        reads = Reads(asked.kind, asked.separator, labels, how == "keep", published)
        form = form_of(found, chosen.labels, reads)
    else:
        form = TARGETS[form.kind].form_to_measure(form, found, chosen.labels, labels, known)
    rows = columns.rows(found, chosen, form, None if published and asked.missing is None else how)
    settled = replace(
        asked,
        text=chosen.text,
        text_pair=chosen.text_pair,
        label=rows.column,
        kind=form.kind,
        separator=form.separator,
    )
    return rows, settled, form


def files_of(directory: Path, *, evaluated: bool = True) -> list[Path]:
    """The file of a directory that trains, and the one to evaluate on unless another stands in for that."""
    return [_find(directory, ("train",)), *([_find(directory, EVALUATION)] if evaluated else [])]


def _find(directory: Path, stems: Sequence[str]) -> Path:
    """The one readable file in `directory` with one of these stems."""
    wanted = ", ".join(f"{stem}.*" for stem in stems)
    found = sorted(
        path
        for path in directory.iterdir()
        if source.stem(path) in stems and source.kind(path) in table.READERS and path.is_file()
    )
    if not found:
        there = ", ".join(sorted(path.name for path in directory.iterdir())[:10]) or "nothing"
        raise NotFound(
            f"{directory}: no {stems[0]} file. Found: {there}. Expected one of {wanted}, "
            f"ending in {', '.join(table.READERS)}.",
            code="task.missing",
            path=directory,
        )
    if len(found) > 1:
        raise InvalidData(
            f"{directory}: found {', '.join(path.name for path in found)}, expected only one of {wanted}. "
            "Remove or rename the others.",
            code="task.files-ambiguous",
            path=directory,
            found=[path.name for path in found],
        )
    return found[0]


def _is_sst2(file: Table) -> bool:
    """Whether a file is GLUE SST-2's, whose label names its tsv does not tell."""
    return (
        source.kind(file.path) == ".tsv"
        and list(file.columns) == ["sentence", "label"]
        and set(file.columns["label"]) <= {"0", "1"}
    )
