"""Convert data in memory, such as a DataFrame or lists of texts and labels, to FileTables and to files in the cache.

The columns of a task in memory are written to a file whose name is the digest of the content, because a run is executed
in another process, which reads its task at an address.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from afina import assets, digest, file_io
from afina.data import problems
from afina.data.readers.delimited import check_header
from afina.data.readers.formats import FileTable, as_text
from afina.data.readers.source import is_whole
from afina.data.readers.texts import as_lists, frame_columns

EXPECTED = (
    "Expected a DataFrame, a Dataset, a dict of columns or a list of dicts; or texts and their labels, such as "
    "Task.of(texts, labels)."
)

MISSING_TYPES = ("NAType", "NaTType")
"""The names of the types of pandas' missing values (`pandas.NA` and `pandas.NaT`)."""


COLLECTS = {"LazyFrame": "collect", "DuckDBPyRelation": "to_arrow_table", "RecordBatchReader": "read_all"}
"""For types of polars, DuckDB and pyarrow whose rows are not computed yet, the method that returns a frame."""


def is_frame(data: object) -> bool:
    """Return whether an object has named columns and a length, like a DataFrame, a pyarrow table or a data set."""
    return hasattr(data, "__len__") and (hasattr(data, "column_names") or hasattr(data, "columns"))


def table_of(data: Any, targets: Any = None) -> FileTable:
    """Convert a DataFrame, a dict of columns, a list of dicts, or texts and their targets to a FileTable.

    Cells become JSON values: a missing value becomes None, a date its ISO string, a decimal a number.
    """
    if collect := COLLECTS.get(type(data).__name__):
        data = getattr(data, collect)()
    if targets is not None:
        texts, pairs = as_lists(data)
        columns = {"text": texts, **({} if pairs is None else {"text_pair": pairs}), "label": _targets(targets)}
        return _made("the texts", columns, {})
    if isinstance(data, list | tuple) and data and all(isinstance(row, Mapping) for row in data):
        names = list(dict.fromkeys(name for row in data for name in row))
        return _made("the rows", {name: [row.get(name) for row in data] for name in names}, {})
    parts = isinstance(data, Mapping) and any(map(is_frame, data.values()))  # a dict of data sets
    if parts or not (isinstance(data, Mapping) or is_frame(data)):
        raise problems.ARGUMENT_OF_OTHER_TYPE(argument="data", found=type(data).__name__, _shape="", _expected=EXPECTED)
    kind = type(data).__name__
    names = list(data) if isinstance(data, Mapping) else frame_columns(data)
    if not names or not all(isinstance(name, str) and is_whole(name) for name in names):
        raise problems.COLUMN_NAMES_NOT_TEXTS(argument="data", found=kind, _names=names)
    check_header(kind, names)
    return _made(kind, {name: data[name] for name in names}, _classes(data))


def splits_of(data: Any) -> dict[str, Any] | None:
    """Return the data sets of a DatasetDict of the `datasets` library, by split; None for other data."""
    return dict(data) if isinstance(data, Mapping) and type(data).__name__ == "DatasetDict" else None


def _targets(targets: Any) -> Sequence[Any]:
    if isinstance(targets, str | bytes | Mapping) or not hasattr(targets, "__iter__"):
        raise problems.ARGUMENT_OF_OTHER_TYPE(
            argument="targets", found=type(targets).__name__, _shape="", _expected="Expected a label for each text."
        )
    return list(targets)


def _made(name: str, given: Mapping[str, Any], classes: Mapping[str, Sequence[str]]) -> FileTable:
    columns = {}
    for column, cells in given.items():
        if isinstance(cells, str | bytes) or not hasattr(cells, "__iter__"):
            place = f"{name}: column {column!r}"
            raise problems.CELL_OF_OTHER_TYPE(
                column=column, argument="data", found=type(cells).__name__, _place=place, _expected="a list of values"
            )
        columns[column] = [_plain(cell) for cell in cells]
    lengths = {column: len(cells) for column, cells in columns.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{column} {length:,}" for column, length in lengths.items())
        raise problems.COLUMN_LENGTHS_DIFFER(found=lengths, _found=found, _name=name)
    rows = range(1, next(iter(lengths.values()), 0) + 1)
    return FileTable(Path(name), columns, rows, "row", classes)


def _classes(data: Any) -> dict[str, Sequence[str]]:
    """Return the class names of each column, from the `features` of a data set of the `datasets` library."""
    features = getattr(data, "features", None)
    found: dict[str, Sequence[str]] = {}
    for column, feature in features.items() if isinstance(features, Mapping) else ():
        names = getattr(getattr(feature, "feature", feature), "names", None)  # of the feature, or of a list's
        if names:
            found[column] = [str(name) for name in names]
    return found


def _plain(cell: Any) -> Any:
    """Convert a cell to a JSON value; an object that JSON cannot represent is returned unchanged."""
    if isinstance(cell, np.generic):
        cell = cell.item()
    elif hasattr(cell, "as_py"):  # a scalar of Arrow
        cell = cell.as_py()
    if type(cell).__name__ in MISSING_TYPES or (isinstance(cell, float) and cell != cell):
        return None
    if isinstance(cell, str):
        return str(cell)
    if isinstance(cell, datetime | date | time):
        return as_text(cell)
    if isinstance(cell, Decimal):
        return int(cell) if cell == cell.to_integral_value() else float(cell)
    if isinstance(cell, list | tuple | np.ndarray):
        return [_plain(part) for part in cell]
    if isinstance(cell, Mapping):
        return {str(name): _plain(part) for name, part in cell.items()}
    return cell


def kept(table: FileTable, names: Sequence[str]) -> Path:
    """Write columns of a table to a jsonl file in the cache; return the path of the file.

    Tables with equal content have the same path. Raises InvalidData for a cell that JSON cannot represent, and
    CannotWrite if the cache is not writable.
    """
    lines = []
    for row in range(len(table.places)):
        cells = {name: table.columns[name][row] for name in names}
        for name, cell in cells.items():
            try:
                json.dumps(cell)
            except (TypeError, ValueError):
                place = f"{table.where(row)}: column {name!r}"
                wanted = "texts, numbers, truth values, or lists of these"
                raise problems.CELL_OF_OTHER_TYPE(
                    where=table.where(row), column=name, found=type(cell).__name__, _place=place, _expected=wanted
                ) from None
        lines.append(json.dumps(cells) + "\n")
    content = "".join(lines).encode()
    found = digest.of_bytes(content)
    path = assets.cache_directory() / "given" / f"{found.removeprefix(digest.PREFIX)[:16]}.jsonl"
    with suppress(OSError):
        if digest.of_file(path) == found:
            return path
    with file_io.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with file_io.replacing(path) as fresh:
        fresh.write_bytes(content)
    return path
