"""Tasks from files: a directory of train and dev files, or one file that is split by a hash.

Knows which files make a task; the formats are in `table`, the columns in `columns`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from afina.data.readers import columns, source, table
from afina.data.readers.rows import divide, splits
from afina.data.readers.sst2 import SST2
from afina.data.split import Split
from afina.errors import InvalidData, NotFound

EVALUATION = ("dev", "validation", "valid", "val")


def load(
    path: Path, text: str | None, text_pair: str | None, label: str | None, labels: Sequence[str] | None
) -> tuple[tuple[str, ...], Split, Split]:
    """Label names, training split and evaluation split of the files at `path`, which exists."""
    if path.is_dir():
        train, evaluation = table.read(_find(path, ("train",))), table.read(_find(path, EVALUATION))
        chosen = columns.choose(train, text, text_pair, label)
        # The training file decides, so that both are read alike; what is missing in the other is an error there.
        found = columns.choose(evaluation, chosen.text, chosen.text_pair, chosen.label)
        names = SST2 if _is_sst2(train) and _is_sst2(evaluation) else ()
        return splits(columns.rows(train, chosen), columns.rows(evaluation, found), labels, names)
    whole = table.read(path)
    rows = columns.rows(whole, columns.choose(whole, text, text_pair, label))
    train_rows, evaluation_rows = divide(rows)
    if not len(train_rows) or not len(evaluation_rows):
        raise InvalidData(
            f"{path}: splitting its {len(rows)} examples 80/20 left one side empty. "
            "Give more examples, or a directory with a train and a dev file."
        )
    return splits(train_rows, evaluation_rows, labels)


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


def _is_sst2(file: table.Table) -> bool:
    """Whether a file is GLUE SST-2's, whose label names its tsv does not tell."""
    return (
        source.kind(file.path) == ".tsv"
        and list(file.columns) == ["sentence", "label"]
        and set(file.columns["label"]) <= {"0", "1"}
    )
