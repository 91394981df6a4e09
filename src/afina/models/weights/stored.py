"""Tensors in the safetensors files of a directory, each mapped into memory alone, and only when it is needed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType

import torch
from torch import Tensor

from afina import tensorfile

_FILE = "model.safetensors"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file, which `stored[...]` reads, as transformers does."""

    file: Path
    name: str

    def __getitem__(self, all_of_it: EllipsisType) -> Tensor:
        found = tensorfile.read_rows(self.file, self.name, None)
        if found is None:
            raise KeyError(self.name)
        return found

    def rows(self, start: int, stop: int) -> Tensor:
        """Read the part [start:stop] of the first dimension; no other part of the file is read."""
        return tensorfile.read_part(self.file, self.name, start, stop)

    def look_up(self, index: Tensor) -> Tensor:
        """Read the rows `index`, int64 [N]."""
        found = tensorfile.read_rows(self.file, self.name, index.tolist())
        if found is None:
            raise KeyError(self.name)
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        return tensorfile.shape(self.file, self.name)


def stored_tensors(directory: Path) -> dict[str, StoredTensor] | None:
    """Return the tensors in a directory's safetensors files, by name; None: the directory has no such files.

    Raises OSError for a missing file, SafetensorError for a damaged file, and ValueError for a damaged index.
    """
    index = directory / f"{_FILE}.index.json"
    if (directory / _FILE).is_file():
        files = [directory / _FILE]
    elif index.is_file():
        listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        files = [directory / name for name in sorted(set(listed))]
    else:
        return None
    return {name: StoredTensor(file, name) for file in files for name in tensorfile.names(file)}


class FloatWeights(Mapping[str, Tensor]):
    """Float32 weights by name: from an open model, or read from files at each access."""

    def __init__(self, open_weights: Mapping[str, Tensor], stored: Mapping[str, StoredTensor]) -> None:
        self._weights: dict[str, Tensor | StoredTensor] = {**stored, **open_weights}

    def __getitem__(self, name: str) -> Tensor:
        return self._weights[name][...].detach().to(torch.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)
