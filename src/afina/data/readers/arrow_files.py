"""Read parquet files, Arrow files such as feather, and folders that `save_to_disk` of the `datasets` library wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from afina import file_io
from afina.data import problems
from afina.data.readers import source
from afina.data.readers.delimited import check_header
from afina.data.readers.source import RowStream, Source

AT_ONCE = 1024
"""The number of rows of a parquet file that are decoded together."""

_DIGITS = 18
"""The largest number of decimal digits of an integer that always fits into 64 bits."""

SPLITS, STATE = "dataset_dict.json", "state.json"
"""The files in a folder of `save_to_disk`: SPLITS of a DatasetDict, whose splits are folders; STATE of a Dataset."""


def is_saved(path: Path) -> bool:
    """Return whether `path` is a folder to which `Dataset.save_to_disk` wrote one data set."""
    return (path / STATE).is_file()


def saved_files(path: Path) -> list[Path]:
    """Return the files of a folder of `Dataset.save_to_disk`, in the order of their rows. Raises InvalidData."""
    state = file_io.read_object(path / STATE)
    names = [str(each.get("filename")) for each in state.get("_data_files") or () if isinstance(each, dict)]
    if not names or any(Path(name).name != name for name in names):
        raise _unreadable(path / STATE, ValueError("its _data_files are no names of files"))
    if state.get("_indices_data_files"):  # of early versions: the rows of the files that belong to the data set
        advice = " Load it with `datasets`, call flatten_indices(), and save it again."
        raise _unreadable(path / STATE, ValueError("it chooses rows of its files"), advice)
    return [path / name for name in names]


def parquet_rows(file: Source, path: Path) -> RowStream:
    from pyarrow import parquet

    with _reading(path, "parquet"):
        found = parquet.ParquetFile(file.stream)
        schema, count = found.schema_arrow, found.metadata.num_rows
    return _rows(path, schema, lambda: found.iter_batches(AT_ONCE), lambda done: done / count if count else None)


def arrow_rows(file: Source, path: Path) -> RowStream:
    with _reading(path, "Arrow"):
        schema, batches = _opened(file.stream)
    return _rows(path, schema, lambda: batches, lambda done: file.share)


@contextmanager
def saved_rows(path: Path) -> Iterator[RowStream]:
    with ExitStack() as stack:
        files = [stack.enter_context(source.opened(file)) for file in saved_files(path)]
        with _reading(path, "Arrow"):
            parts = [_opened(file.stream) for file in files]
        batches = chain.from_iterable(part for _, part in parts)
        yield _rows(path, parts[0][0], lambda: batches, lambda done: None)


def _opened(stream: BinaryIO) -> tuple[Any, Iterable[Any]]:
    """Return the schema and the batches of an Arrow file (feather), or of an Arrow stream, which `datasets` writes."""
    from pyarrow import ipc

    magic = stream.read(6)
    stream.seek(0)
    if magic != b"ARROW1":
        found = ipc.open_stream(stream)
        return found.schema, found
    found = ipc.open_file(stream)
    return found.schema, (found.get_batch(number) for number in range(found.num_record_batches))


def _rows(
    path: Path, schema: Any, batches: Callable[[], Iterable[Any]], share: Callable[[int], float | None]
) -> RowStream:
    check_header(str(path), schema.names)
    done = 0

    def rows() -> Iterator[tuple[int, Mapping[str, Any]]]:
        nonlocal done
        try:
            for batch in batches():
                for row in _plain(batch).to_pylist():
                    done += 1
                    yield done, row
        except _damaged() as error:
            raise problems.PARQUET_DAMAGED(path=path, row=done + 1, _error=str(error).splitlines()[0]) from None

    classes = _classes((schema.metadata or {}).get(b"huggingface", b""))
    return RowStream(str(path), schema.names, rows(), lambda: share(done), "row", classes)


def _damaged() -> tuple[type[Exception], ...]:
    import pyarrow

    return pyarrow.ArrowException, ValueError, *source.DAMAGED


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except _damaged() as error:
        raise _unreadable(path, error, kind=kind) from None


def _unreadable(path: Path, error: Exception, advice: str = "", kind: str = "Arrow") -> Exception:
    why = (str(error).splitlines() or [type(error).__name__])[0]
    return problems.NOT_READABLE(path=path, _kind=kind, _error=why, _advice=advice)


def _plain(batch: Any) -> Any:
    """Convert dates and times in a batch of a parquet file to ISO strings, and decimals to integers or floats."""
    import pyarrow
    from pyarrow import types

    for place, column in enumerate(batch.schema):
        made = None
        if types.is_date(column.type) or types.is_time(column.type) or types.is_timestamp(column.type):
            made = pyarrow.string()
        elif types.is_decimal(column.type):
            whole = column.type.scale == 0 and column.type.precision <= _DIGITS
            made = pyarrow.int64() if whole else pyarrow.float64()
        if made is not None:
            batch = batch.set_column(place, column.name, batch.column(place).cast(made))
    return batch


def _classes(metadata: bytes) -> dict[str, Sequence[str]]:
    """Return the class names of each column, from the metadata that the `datasets` library writes to parquet files."""
    try:
        features = json.loads(metadata)["info"]["features"]
        found: dict[str, Sequence[str]] = {}
        for column, feature in features.items():
            while isinstance(feature, list) or "feature" in feature:  # a list of the feature
                feature = feature[0] if isinstance(feature, list) else feature["feature"]
            if feature.get("_type") == "ClassLabel" and feature.get("names"):
                found[column] = [str(name) for name in feature["names"]]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):  # written by another program
        return {}
    return found
