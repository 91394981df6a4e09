"""Predictions: what a model said of texts. Opaque above `models`: what they mean, an `Objective` says.

Knows a file of them; no label, no metric and no text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from afina import digest, file_io, tensorfile
from afina.errors import CorruptAdapter, InvalidData

_ENDS = "_ends"
"""Suffix of the name under which a file of strings has the place where each ends, in bytes of UTF-8."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """A model's answers to N texts, in their order, and the targets where they are known.

    outputs  an answer a text: rows of numbers, float [N, width], or strings, object [N]
    targets  [N, ...], in the form that the kind of task has; None where they are not known
    """

    outputs: np.ndarray
    targets: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.outputs)

    def take(self, indices: Sequence[int] | np.ndarray) -> Self:
        """Those at `indices`, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return replace(
            self,
            outputs=self.outputs[chosen],
            targets=None if self.targets is None else self.targets[chosen],
        )

    def against(self, targets: np.ndarray) -> Self:
        """The same answers, with what was right of each."""
        return replace(self, targets=targets)

    @property
    def right(self) -> np.ndarray:
        """The targets. Raises ValueError where they are not known."""
        if self.targets is None:
            raise ValueError("expected predictions with targets, found none")
        return self.targets

    @property
    def right_as_bytes(self) -> bytes:
        """The targets as bytes: those of two runs are equal where the same was right of the same texts."""
        return b"".join(part.tobytes() for part in _as_arrays("targets", self.right).values())

    @property
    def finite(self) -> bool:
        """Whether no number is NaN or infinite; true of strings."""
        return self.outputs.dtype.kind != "f" or bool(np.isfinite(self.outputs).all())

    def write(self, path: Path) -> str:
        """Write the file `path`, whole or not at all; its digest. Numbers are kept as float32."""
        outputs = self.outputs.astype(np.float32) if self.outputs.dtype.kind == "f" else self.outputs
        given = {"outputs": outputs} | ({} if self.targets is None else {"targets": self.targets})
        with file_io.replacing(path) as fresh:
            arrays = {name: part for each, array in given.items() for name, part in _as_arrays(each, array).items()}
            tensorfile.write_arrays(fresh, arrays)
        return digest.of_file(path)

    @classmethod
    def read(cls, path: Path, expected: str) -> Self:
        """Of the file with the digest `expected`. Raises InvalidData."""
        try:
            if digest.of_file(path) != expected:
                raise InvalidData(
                    f"{path}: changed since it was recorded. Remove the file, and run the study again.",
                    code="results.changed",
                    path=path,
                )
            arrays = tensorfile.read_arrays(path)
            return cls(_of_arrays("outputs", arrays), _of_arrays("targets", arrays) if "targets" in arrays else None)
        except (OSError, KeyError, ValueError, CorruptAdapter):
            raise InvalidData(
                f"{path}: missing or damaged. Run the study again; it makes again what is missing.",
                code="results.damaged",
                path=path,
            ) from None


def _as_arrays(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """An array as a file holds it: strings are their bytes, and where each ends."""
    if array.dtype.kind not in "OU":
        return {name: array}
    encoded = [str(one).encode() for one in array]
    whole = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    return {name: whole, f"{name}{_ENDS}": np.cumsum([len(one) for one in encoded], dtype=np.int64)}


def _of_arrays(name: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    array = arrays[name]
    if f"{name}{_ENDS}" not in arrays:
        return array
    ends = arrays[f"{name}{_ENDS}"].tolist()
    whole = array.tobytes()
    return np.array([whole[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)], dtype=object)
