"""`Predictions`: a model's outputs for texts, with the targets if they are known, in memory and in a file.

An output is a row of numbers, a generated string, or a label without probabilities; a model that answers in words may
leave a text without an answer. Only an `Objective` knows what the outputs mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np

from afina import digest, file_io, tensorfile
from afina.data.entities import are_entities, as_entities
from afina.data.split import as_references
from afina.errors import CorruptAdapter
from afina.models import problems
from afina.stats.answered import MISSING

_ENDS, _LAST = "_ends", "_last"
"""Suffixes of arrays in a file that stores strings. Arrays with the suffix `_ends` have the end of each string, in
bytes of UTF-8. If an example has several strings, arrays with the suffix `_last` have the number of strings up to the
example's last string."""

_EACH, _COUNTS, _PLACES, _LABELS = "_each", "_counts", "_places", "_labels"
"""Suffixes of arrays in a file that stores an array or some entities for each example: the rows or entities of all
examples, and how many each example has. Entities have their starts and ends in `_places` and their labels apart."""

_EXTRA = "extra."
"""Prefix of the names under which a file stores the arrays of `Predictions.extras`."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """A model's outputs for N texts in order, with the targets if they are known.

    Attributes:
        outputs: The model's output for each text: float [N, width], or generated strings, object [N]. For entities, an
            output for each word: object [N], float32 [W, width] for a text of W words. Labels without
            probabilities, such as those that a model behind an API writes: int64, in the form of the targets, with
            MISSING for a missing answer.
        targets: The right answers [N, ...], in a form that depends on the kind of task; tuples of strings and tuples of
            entities are object [N]. None: unknown.
        extras: Further arrays [N] by name that metrics of the kind of task need; empty for most kinds. `missing`: for
            numbers and texts, whether the answer is missing, bool. `words`: for entities, the start and end of each
            word, object [N], int32 [W, 2]. `document`: for entities, the number of the text's document, int64, if
            documents are known.
    """

    outputs: np.ndarray
    targets: np.ndarray | None = None
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.outputs)

    def take(self, indices: Sequence[int] | np.ndarray) -> Self:
        chosen = np.asarray(indices, dtype=np.int64)
        return replace(
            self,
            outputs=self.outputs[chosen],
            targets=None if self.targets is None else self.targets[chosen],
            extras={name: array[chosen] for name, array in self.extras.items()},
        )

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Self:
        """Return the predictions of all parts, which have the same extras; with targets if all parts have some."""
        known = [part.targets for part in parts if part.targets is not None]
        names = parts[0].extras
        return cls(
            np.concatenate([part.outputs for part in parts]),
            np.concatenate(known) if len(known) == len(parts) else None,
            {name: np.concatenate([part.extras[name] for part in parts]) for name in names},
        )

    def against(self, targets: np.ndarray) -> Self:
        """Return the same outputs with other targets."""
        return replace(self, targets=targets)

    @property
    def right(self) -> np.ndarray:
        """The targets. Raises ValueError if the targets are unknown."""
        if self.targets is None:
            raise ValueError("expected predictions with targets, found none")
        return self.targets

    @property
    def right_as_bytes(self) -> bytes:
        """The targets as bytes, which are equal for two runs exactly if the targets are equal."""
        return b"".join(part.tobytes() for part in _as_arrays("targets", self.right).values())

    @property
    def are_labels(self) -> bool:
        """Whether the outputs are labels without probabilities."""
        return self.outputs.dtype.kind == "i"

    @property
    def missing(self) -> np.ndarray:
        """Whether the answer to each text is missing, bool [N]."""
        if self.are_labels:
            absent: np.ndarray = (self.outputs.reshape(len(self), -1) == MISSING).any(axis=1)
            return absent
        return self.extras.get("missing", np.zeros(len(self), dtype=bool))

    @property
    def finite(self) -> bool:
        """Whether all outputs are finite; for generated strings, whether the references' likelihoods are finite."""
        arrays = (part for array in (self.outputs, *self.extras.values()) for part in _numbers(array))
        return all(bool(np.isfinite(array).all()) for array in arrays)

    def write(self, path: Path) -> str:
        """Write the predictions to the file `path` atomically, numbers as float32; return the file's digest."""
        outputs = self.outputs.astype(np.float32) if self.outputs.dtype.kind == "f" else self.outputs
        given = {"outputs": outputs} | ({} if self.targets is None else {"targets": self.targets})
        given |= {f"{_EXTRA}{name}": array for name, array in self.extras.items()}
        with file_io.replacing(path) as fresh:
            arrays = {name: part for each, array in given.items() for name, part in _as_arrays(each, array).items()}
            tensorfile.write_arrays(fresh, arrays)
        return digest.of_file(path)

    @classmethod
    def read(cls, path: Path, expected: str) -> Self:
        """Read predictions from a file. Raises InvalidData if it is missing, damaged or has another digest."""
        try:
            if digest.of_file(path) != expected:
                raise problems.PREDICTIONS_CHANGED(path=path)
            arrays = tensorfile.read_arrays(path)
            stems = {name.removesuffix(_EACH).removesuffix(_PLACES).removesuffix(_ENDS) for name in arrays}
            targets = _of_arrays("targets", arrays) if "targets" in stems else None
            extras = {
                stem.removeprefix(_EXTRA): _of_arrays(stem, arrays)
                for stem in sorted(stems)
                if stem.startswith(_EXTRA) and not stem.endswith(_COUNTS)
            }
            return cls(_of_arrays("outputs", arrays), targets, extras)
        except (OSError, KeyError, ValueError, CorruptAdapter):
            raise problems.PREDICTIONS_DAMAGED(path=path) from None


def _numbers(array: np.ndarray) -> Iterable[np.ndarray]:
    """Return the arrays of floats that `array` is or contains."""
    if array.dtype.kind == "f":
        return (array,)
    return (one for one in array if isinstance(one, np.ndarray) and one.dtype.kind == "f") if _is_ragged(array) else ()


def _is_ragged(array: np.ndarray) -> bool:
    """Whether an array contains an array for each example."""
    return array.dtype.kind == "O" and len(array) > 0 and isinstance(array[0], np.ndarray)


def _is_of_entities(array: np.ndarray) -> bool:
    return array.dtype.kind == "O" and len(array) > 0 and are_entities(array)


def _as_arrays(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays that a file stores for one array; strings become their bytes and the end of each string."""
    if array.dtype.kind not in "OU":
        return {name: array}
    if _is_ragged(array):
        return {f"{name}{_EACH}": np.concatenate(array), f"{name}{_COUNTS}": np.array([*map(len, array)], np.int64)}
    if _is_of_entities(array):
        places = [(one.start, one.end) for each in array for one in each]
        labels = np.array([one.label for each in array for one in each], dtype=object)
        return {
            f"{name}{_PLACES}": np.array(places, np.int64).reshape(-1, 2),
            f"{name}{_COUNTS}": np.array([*map(len, array)], np.int64),
            **_as_arrays(f"{name}{_LABELS}", labels),
        }
    if any(isinstance(one, tuple) for one in array):
        strings = np.array([string for one in array for string in one], dtype=object)
        return {**_as_arrays(name, strings), f"{name}{_LAST}": np.cumsum([len(one) for one in array], dtype=np.int64)}
    encoded = [str(one).encode() for one in array]
    whole = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    return {name: whole, f"{name}{_ENDS}": np.cumsum([len(one) for one in encoded], dtype=np.int64)}


def _of_arrays(name: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    if f"{name}{_COUNTS}" in arrays:
        ends = np.cumsum(arrays[f"{name}{_COUNTS}"])
        if f"{name}{_EACH}" in arrays:
            return np.fromiter(np.split(arrays[f"{name}{_EACH}"], ends)[:-1], dtype=object)
        labels, places = _of_arrays(f"{name}{_LABELS}", arrays).tolist(), arrays[f"{name}{_PLACES}"].tolist()
        entities = [(*place, label) for place, label in zip(places, labels, strict=True)]
        return as_entities(entities[start:end] for start, end in zip([0, *ends], ends, strict=False))
    array = arrays[name]
    if f"{name}{_ENDS}" not in arrays:
        return array
    ends = arrays[f"{name}{_ENDS}"].tolist()
    whole = array.tobytes()
    strings = [whole[start:end].decode() for start, end in zip([0, *ends], ends, strict=False)]
    if f"{name}{_LAST}" not in arrays:
        return np.array(strings, dtype=object)
    last = arrays[f"{name}{_LAST}"].tolist()
    return as_references(strings[start:end] for start, end in zip([0, *last], last, strict=False))
