"""Tasks from files: a directory of train and dev files, or one file that is split by a hash.

Knows which files make a task; the formats are in `table`, the columns in `columns`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from afina.data.readers import columns, labels, source, table
from afina.data.readers.glue import GLUE
from afina.data.readers.labels import Form
from afina.data.readers.rows import Rows, hold_out
from afina.data.readers.table import Table
from afina.data.readers.targets import Read, splits
from afina.errors import InvalidData, NotFound

SST2 = GLUE["sst2"].names

EVALUATION = ("dev", "validation", "valid", "val")
TEST = "test"
"""Read only where texts to measure an adapter on are asked for, and nothing of EVALUATION is there."""


@dataclass(frozen=True)
class Asked:
    """Columns that the user named, and how the label's is read; None: the usual names, and what is found."""

    text: str | None = None
    text_pair: str | None = None
    label: str | None = None
    kind: str | None = None
    separator: str | None = None


def load(path: Path, asked: Asked, names: Sequence[str] | None, evaluation: Path | None = None) -> Read:
    """The files at `path`, which exists; with `evaluation`, all of that file is evaluated, and all of a file trains.

    names  the labels in their order, as in `splits`
    """
    train = table.read(_find(path, ("train",)) if path.is_dir() else path)
    if evaluation is None and not path.is_dir():
        return of_tables(train, asked=asked, names=names)
    return of_tables(train, table.read(evaluation or _find(path, EVALUATION)), asked=asked, names=names)


def of_tables(train: Table, held_out: Table | None = None, *, asked: Asked, names: Sequence[str] | None) -> Read:
    """Both splits; without `held_out` a part of `train` is kept aside."""
    rows, chosen = _rows(train, asked)
    if held_out is None:
        train_rows, evaluation_rows = hold_out(rows)
        if not len(evaluation_rows):
            raise InvalidData(
                f"{train.path}: its {len(rows)} examples hold no two different texts of a label, so none can be kept "
                "aside. Give more examples, or a file of its own to evaluate on with `evaluation`."
            )
        return replace(splits(train_rows, evaluation_rows, names), separator=chosen.separator)
    # The training table decides, so that both are read alike; what is missing in the other is an error there.
    held_out_rows, _ = _rows(held_out, chosen, Form(rows.kind, chosen.separator))
    own = SST2 if _is_sst2(train) and _is_sst2(held_out) else ()
    return replace(splits(rows, held_out_rows, names, own), separator=chosen.separator)


def to_measure(
    path: Path, asked: Asked, usual: Asked | None = None, form: Form | None = None
) -> tuple[Rows, tuple[str, ...], Path]:
    """All labelled rows of a file, or of a directory's evaluation file; what 0, 1, ... are called there; that file.

    usual  columns to take where the file has them and none is asked for
    form   how labels are read; None: what is found
    """
    if path.is_dir():
        try:
            path = _find(path, EVALUATION)
        except NotFound:
            if not any(source.stem(file) == TEST for file in path.iterdir()):
                raise
            path = _find(path, (TEST,))
    found = table.read(path)
    there = {key: name for key, name in vars(usual or Asked()).items() if name and _has(found, name)}
    rows, _ = _rows(
        found, Asked(**(there | {key: name for key, name in vars(asked).items() if name is not None})), form
    )
    return rows, SST2 if _is_sst2(found) else (), path


def _has(found: Table, name: str) -> bool:
    """Whether it has that column, or each of those that `a,b` names."""
    return name in found.columns or all(part.strip() in found.columns for part in name.split(","))


def _rows(found: Table, asked: Asked, form: Form | None = None) -> tuple[Rows, Asked]:
    """The rows, and what was chosen; form: how labels are read, where that is known."""
    chosen = columns.choose(found, asked.text, asked.text_pair, asked.label)
    form = form or labels.form_of(found, chosen.labels, asked.kind, asked.separator)
    rows = columns.rows(found, chosen, form)
    return rows, Asked(chosen.text, chosen.text_pair, rows.column, form.kind, form.separator)


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
            f"ending in {', '.join(table.READERS)}."
        )
    if len(found) > 1:
        raise InvalidData(
            f"{directory}: found {', '.join(path.name for path in found)}, expected only one of {wanted}. "
            "Remove or rename the others."
        )
    return found[0]


def _is_sst2(file: Table) -> bool:
    """Whether a file is GLUE SST-2's, whose label names its tsv does not tell."""
    return (
        source.kind(file.path) == ".tsv"
        and list(file.columns) == ["sentence", "label"]
        and set(file.columns["label"]) <= {"0", "1"}
    )
