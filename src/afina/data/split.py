"""Split: labelled texts in a fixed order, such as a training split; and the rule by which two texts count as equal.

`readers/splitting.py` divides texts into splits and cuts parts off. `tokenize.py` converts texts to token ids.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from afina import digest
from afina.data import problems
from afina.data.entities import are_entities
from afina.repr_html import ReprCard

# `\w` is str.isalnum() and the underscore.
_NEITHER_LETTER_NOR_DIGIT = re.compile(r"[\W_]+")
_OF_ASCII = bytes(code for code in range(128) if not chr(code).isalnum())


@dataclass(frozen=True)
class Example:
    """An example of a split: a labelled text, or a labelled pair of texts."""

    text: str
    label: Any
    text_pair: str | None = None


@dataclass(frozen=True, eq=False)
class FileRows:
    """The file (as messages name it) and the line or row number, from 1, of each of N texts."""

    files: Sequence[str]
    numbers: Sequence[int]
    unit: str = "line"

    def __len__(self) -> int:
        return len(self.files)

    def where(self, index: int) -> str:
        return f"{self.files[index]}, {self.unit} {self.numbers[index]}"

    def take(self, indices: Sequence[int] | np.ndarray) -> FileRows:
        return replace(self, files=[self.files[i] for i in indices], numbers=[self.numbers[i] for i in indices])

    @classmethod
    def joined(cls, parts: Sequence[FileRows]) -> FileRows:
        """Return the rows of all parts; their unit is "row" if the parts have different units."""
        units = {part.unit for part in parts}
        files = [file for part in parts for file in part.files]
        return cls(files, [one for part in parts for one in part.numbers], units.pop() if len(units) == 1 else "row")

    def of_file(self, path: str) -> FileRows:
        """Return the same rows of the file `path`, for texts that are kept in another file."""
        return FileRows([path] * len(self), self.numbers)


@dataclass(frozen=True, eq=False, repr=False)
class Split(ReprCard):
    """N labelled texts in a fixed order, such as the training split of a task.

    Attributes:
        texts: N strings.
        labels: The targets. If the kind of task is "classes", `labels` is int64 [N] with indices into the task's label
            names. If the kind is "number", `labels` is float64 [N]. If the kind is "labels", `labels` is int64 [N, L]
            with 1 where the text has the label, else 0. If the kind is "text", `labels` is object [N] with a tuple of
            one or more target texts for each text (`as_references`). If the kind is "entities", `labels` is object [N]
            with a tuple of `Entity` for each text (`as_entities`).
        pairs: N strings, the second text of each pair. None: the examples are single texts.
        groups: N strings, the group of each example, such as its article: if the split is divided, the examples of a
            group stay together. None: each text is a group.
        weights: float64 [N], the weight of each text in the loss, relative to the mean weight. None: all weights are 1.
        rows: The file and row of each text. They are not part of `digest`. None: the texts are not rows of files.
        spaced: Whether the texts were given as words, as in a CoNLL file; if so, a text is its words joined by single
            spaces.
    """

    texts: Sequence[str]
    labels: np.ndarray
    pairs: Sequence[str] | None = None
    groups: Sequence[str] | None = None
    weights: np.ndarray | None = None
    rows: FileRows | None = None
    spaced: bool = False

    def __post_init__(self) -> None:
        for name in ("texts", "pairs", "groups"):
            given = getattr(self, name)
            if isinstance(given, str):
                where = f"a split's {name}: "
                raise problems.ONE_STRING(found=given[:40], argument=name, _name=where, _items="texts")
            if given is not None and not isinstance(given, list | tuple):  # an array, a Series, a generator
                object.__setattr__(self, name, list(given))
        if not isinstance(self.labels, np.ndarray):
            given = list(self.labels)
            made = np.asarray(given) if not given or not isinstance(given[0], tuple) else _of_tuples(given)
            object.__setattr__(self, "labels", made)
        if self.labels.dtype.kind not in "biuf" and not self._are_texts and not self._are_entities:
            raise problems.LABELS_DTYPE(argument="labels", found=self.labels.dtype, _where="a split's labels")
        sizes = {
            len(one)
            for one in (self.texts, self.labels, self.pairs, self.groups, self.weights, self.rows)
            if one is not None
        }
        if len(sizes) != 1:
            raise problems.SPLIT_LENGTHS(found=sorted(sizes))

    @property
    def group_numbers(self) -> np.ndarray | None:
        """The number of each example's group, int64 [N], in the order of their first examples; None: no groups."""
        if self.groups is None:
            return None
        numbers = {name: number for number, name in enumerate(dict.fromkeys(self.groups))}
        return np.array([numbers[name] for name in self.groups], np.int64)

    def facts(self) -> dict[str, object]:
        texts = "texts" if self.pairs is None else "pairs of texts"
        if self._are_texts:
            return {texts: len(self), "references": sum(map(len, self.labels))}
        if self._are_entities:
            return {texts: len(self), "entities": sum(map(len, self.labels))}
        if self.labels.dtype.kind == "f":
            return {texts: len(self), "numbers": f"{self.labels.min():g} to {self.labels.max():g}"}
        if self.labels.ndim == 2:
            found, counts = np.arange(self.labels.shape[1]), self.labels.sum(axis=0)
        else:
            found, counts = np.unique(self.labels, return_counts=True)
        counted = tuple(f"{label}: {count:,}" for label, count in zip(found, counts, strict=True))
        return {texts: len(self), "of each label": counted}

    @cached_property
    def _are_texts(self) -> bool:
        return self.labels.dtype.kind == "O" and self.labels.ndim == 1 and are_references(self.labels)

    @cached_property
    def _are_entities(self) -> bool:
        return self.labels.dtype.kind == "O" and self.labels.ndim == 1 and are_entities(self.labels)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Example:
        pair = None if self.pairs is None else self.pairs[index]
        label = self.labels[index]
        return Example(self.texts[index], label if isinstance(label, tuple) else label.tolist(), pair)

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    def take(self, indices: Sequence[int] | np.ndarray) -> Split:
        pairs, groups = (None if each is None else [each[i] for i in indices] for each in (self.pairs, self.groups))
        chosen = np.asarray(indices, dtype=np.int64)
        weights = None if self.weights is None else self.weights[chosen]
        rows = None if self.rows is None else self.rows.take(indices)
        return Split([self.texts[i] for i in indices], self.labels[chosen], pairs, groups, weights, rows, self.spaced)

    @classmethod
    def joined(cls, parts: Sequence[Split]) -> Split:
        """Return the texts of all parts, one part after the other, without groups and weights."""
        texts = [text for part in parts for text in part.texts]
        pairs = [pair for part in parts for pair in part.pairs or ()]
        rows = [part.rows for part in parts if part.rows is not None]
        return cls(
            texts,
            np.concatenate([part.labels for part in parts]),
            pairs if parts[0].pairs is not None else None,
            rows=FileRows.joined(rows) if len(rows) == len(parts) else None,
            spaced=parts[0].spaced,
        )

    @cached_property
    def digest(self) -> str:
        """The digest of the split's texts, pairs and labels, in order, and of groups and weights if there are any."""
        pairs = self.pairs if self.pairs is not None else []
        if self._are_texts:
            ends = np.cumsum([len(one) for one in self.labels], dtype="<i8")
            texts = digest.of_strings(reference for one in self.labels for reference in one)
            labels = digest.of_json([texts, digest.of_bytes(ends.tobytes())])
        elif self._are_entities:
            labels = digest.of_json([self.spaced, *self.labels.tolist()])
        else:
            labels = digest.of_bytes(self.labels.astype("<f8" if self.labels.dtype.kind == "f" else "<i8").tobytes())
        groups = [] if self.groups is None else [digest.of_strings(self.groups)]
        weights = {} if self.weights is None else {"weights": digest.of_bytes(self.weights.astype("<f8").tobytes())}
        parts = [digest.of_strings(self.texts), digest.of_strings(pairs), labels, *groups, *weights.items()]
        return digest.of_json(parts)


def _of_tuples(found: Sequence[Any]) -> np.ndarray:
    return as_references(found) if are_references(found) else np.fromiter(found, dtype=object)


def are_references(found: Iterable[object]) -> bool:
    """Return whether each item of `found` is a tuple of one or more strings that are not blank."""
    return all(
        isinstance(one, tuple) and one and all(isinstance(text, str) and text.strip() for text in one) for one in found
    )


def as_references(found: Iterable[Sequence[str]]) -> np.ndarray:
    """Return the target texts of N texts as an object array [N] of tuples of strings."""
    # Not np.array, which makes a table of strings of tuples of equal length.
    return np.fromiter(map(tuple, found), dtype=object)


def normalised(text: str) -> str:
    """Return the casefolded Unicode letters and digits of `text`; texts with equal normalised forms count as equal."""
    if text.isascii():  # the same result in a tenth of the time
        return text.lower().encode().translate(None, _OF_ASCII).decode()
    return _NEITHER_LETTER_NOR_DIGIT.sub("", unicodedata.normalize("NFKC", text).casefold())


def key(example: Example) -> str:
    """Return the normalised text of an example, by which examples are compared; "" if it has no letter or digit."""
    if example.text_pair is None:
        return normalised(example.text)
    first, second = normalised(example.text), normalised(example.text_pair)
    return f"{first}\x1f{second}" if first or second else ""
