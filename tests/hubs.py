"""A Hub of our own: data sets that it has, as parquet files in its form, and what is cached of them here."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pyarrow
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from pyarrow import parquet

from afina import hub

CONVERTED = "refs/convert/parquet"


def classes(*names: str) -> dict[str, Any]:
    """A column of classes, in the words of the `datasets` library."""
    return {"names": list(names), "_type": "ClassLabel"}


def several(*names: str) -> dict[str, Any]:
    """A column of any number of classes."""
    return {"feature": classes(*names), "length": -1, "_type": "Sequence"}


def written(columns: dict[str, list[Any]], features: dict[str, Any] | None = None) -> bytes:
    """A parquet file as the Hub has it: `features` of columns that are not plain stand in its schema."""
    table = pyarrow.table(columns)
    told = {name: {"dtype": "string", "_type": "Value"} for name in columns} | (features or {})
    table = table.replace_schema_metadata({b"huggingface": json.dumps({"info": {"features": told}}).encode()})
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(table, sink)
    return bytes(sink.getvalue())


class Hub:
    """Stands in for the Hub's library in `afina.hub`.

    sets     by repository and revision, the content of each file
    answers  whether it can be reached
    raised   what it answers with instead, if anything
    asked    (repository, revision, patterns) of each download that asked the network
    """

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.sets: dict[tuple[str, str | None], dict[str, bytes]] = {}
        self.answers = True
        self.raised: Exception | None = None
        self.asked: list[tuple[str, str | None, list[str]]] = []

    def install(self, patch: pytest.MonkeyPatch) -> Hub:
        patch.setattr(hub, "snapshot_download", self._download)
        patch.setattr(hub, "HfApi", lambda: SimpleNamespace(dataset_info=self._info))
        return self

    def _files(self, name: str, revision: str | None) -> dict[str, bytes]:
        if self.raised is not None:
            raise self.raised
        if not self.answers:
            raise NoAnswer
        if not any(name == repository for repository, _ in self.sets):
            raise RepositoryNotFoundError("404", response=Mock())
        if (name, revision) not in self.sets:
            raise RevisionNotFoundError("404", response=Mock())
        return self.sets[name, revision]

    def _info(self, name: str, *, revision: str, timeout: float) -> Any:
        assert timeout <= 10
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in self._files(name, revision)])

    def _download(
        self,
        name: str,
        *,
        repo_type: str,
        revision: str | None,
        allow_patterns: list[str],
        local_files_only: bool,
        **_: Any,
    ) -> str:
        assert repo_type == "dataset"
        folder = self.cache / name / (revision or "main")
        try:
            if local_files_only:
                raise NoAnswer
            files = self._files(name, revision)
            self.asked.append((name, revision, allow_patterns))
        except NoAnswer:
            if not folder.is_dir():
                raise LocalEntryNotFoundError("nothing is cached") from None
            return str(folder)
        for file, content in files.items():
            if any(fnmatch.fnmatch(file, pattern) for pattern in allow_patterns):
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_bytes(content)
        return str(folder)


class NoAnswer(Exception):
    """Of a library of which afina knows nothing, as that of the Hub's client is."""
