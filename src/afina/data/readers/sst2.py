"""Tasks from the Hub: GLUE's SST-2. Knows the Hub's names; the only place that imports `datasets`."""

from __future__ import annotations

from collections.abc import Sequence

from afina.data.readers.rows import Rows, splits
from afina.data.split import Split
from afina.errors import NotFound

REPOSITORY = "nyu-mll/glue"
SST2 = ("negative", "positive")


def load(labels: Sequence[str] | None = None) -> tuple[tuple[str, ...], Split, Split]:
    """SST-2's standard training (67,349) and validation (872) splits, labels `negative` and `positive`.

    R. Socher et al., Recursive Deep Models for Semantic Compositionality, EMNLP 2013. Raises NotFound
    without network and cached copy.
    """
    import datasets
    from huggingface_hub import constants, snapshot_download

    try:
        if not constants.HF_HUB_OFFLINE:
            # Fails in a second without network and cached copy, where load_dataset retries for half a minute.
            snapshot_download(REPOSITORY, repo_type="dataset", allow_patterns=["README.md"], etag_timeout=10)
        found = datasets.load_dataset(REPOSITORY, "sst2")
    # ValueError: the Hub cannot be reached, and another task of GLUE is cached.
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise NotFound(
            f"task sst2: the Hub's {REPOSITORY} cannot be reached and no copy is cached ({type(error).__name__}).\n"
            "Give a directory with GLUE's train.tsv and dev.tsv (columns sentence and label) as the task instead."
        ) from error
    return splits(_rows(found["train"], "train"), _rows(found["validation"], "validation"), labels)


def _rows(part: object, name: str) -> Rows:
    columns = part[:]  # type: ignore[index]  # datasets.Dataset, which is untyped
    return Rows(
        columns["sentence"], None, [SST2[label] for label in columns["label"]], lambda i: f"sst2, {name} row {i + 1}"
    )
