"""GLUE's SST-2 from the Hub. Knows the names of its files and columns; how they get here is `afina.hub`'s."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from afina.data.readers import table
from afina.data.readers.rows import Rows
from afina.data.readers.targets import Read, splits
from afina.errors import NotFound

REPOSITORY = "nyu-mll/glue"
FILES = {"train": "sst2/train-*.parquet", "validation": "sst2/validation-*.parquet"}
SST2 = ("negative", "positive")


def load(labels: Sequence[str] | None = None) -> Read:
    """SST-2's standard training (67,349) and validation (872) splits, labels `negative` and `positive`.

    R. Socher et al., Recursive Deep Models for Semantic Compositionality, EMNLP 2013. Raises NotFound
    without network and cached copy, InvalidData where that copy is damaged.
    """
    from afina import hub  # takes a fifth of a second, which other tasks need not spend

    try:
        path = hub.dataset_snapshot(REPOSITORY, list(FILES.values()))
    except NotFound as error:
        raise NotFound(
            f"task sst2: {error}\n"
            "Give a directory with GLUE's train.tsv and dev.tsv (columns sentence and label) as the task instead."
        ) from error
    return splits(_rows(path, "train"), _rows(path, "validation"), labels)


def _rows(path: Path, name: str) -> Rows:
    texts: list[str] = []
    named: list[str] = []
    for file in sorted(path.glob(FILES[name])):
        columns = table.read(file).columns
        texts += columns["sentence"]
        named += [SST2[label] for label in columns["label"]]
    return Rows(texts, None, named, lambda i: f"sst2, {name} row {i + 1}")
