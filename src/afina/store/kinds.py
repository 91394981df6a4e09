"""How a store compares answers and writes a model card, for each kind of task: one entry for each kind.

No other module of this package compares with a kind. Knows manifests and answers, no model and no store.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from afina.data.kinds import CLASSES, LABELS, NUMBER, TEXT
from afina.models import objectives
from afina.models.manifest import Manifest
from afina.stats.answered import Answered


class Changes(NamedTuple):
    """How many answers of two adapters differ, and by how much; None for counts that the kind does not have."""

    flipped: int | None = None
    right_to_wrong: int | None = None
    wrong_to_right: int | None = None
    wrong_to_wrong: int | None = None
    mean_change: float | None = None


class AdapterKind(ABC):
    """A kind of task, as the store needs it.

    Attributes:
        title: name of such an adapter in a model card.
        pipeline_tag: the Hub's pipeline tag.
        auto_class: transformers' auto class for the backbone.
        labels: text above the labels in a model card.
        by_label: whether outputs are matched by the names of their labels.
    """

    title: ClassVar[str] = "A text classifier"
    pipeline_tag: ClassVar[str] = "text-classification"
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    labels: ClassVar[str]
    by_label: ClassVar[bool]

    def base(self, address: str, labels: int) -> str:
        """Return the Python expression that opens a backbone.

        `address`: its first arguments; `labels`: number of labels.
        """
        return f"{self.auto_class}.from_pretrained({address}, num_labels={labels})"

    @abstractmethod
    def reordered(self, answered: Answered, own: Sequence[str], names: Sequence[str]) -> Answered:
        """Return answers and probabilities of an adapter with labels `own`, in the order of `names`."""

    @abstractmethod
    def changes(self, first: Answered, second: Answered) -> Changes:
        """Return how the answers of two adapters differ."""

    @abstractmethod
    def changed(self, first: Answered, second: Answered) -> Sequence[int]:
        """Return the indices of texts with different answers, the most important first."""

    @abstractmethod
    def json_value(self, value: Any, names: Sequence[str]) -> Any:
        """Return a target or an answer as a JSON value."""


class _ByLabel(AdapterKind):
    """Answers that are right or wrong. A multi-label answer is right if every label is right."""

    by_label = True

    def changes(self, first: Answered, second: Answered) -> Changes:
        before, after, flipped = _right(first), _right(second), _flipped(first, second)
        return Changes(
            flipped=int(flipped.sum()),
            right_to_wrong=int((before & ~after).sum()),
            wrong_to_right=int((~before & after).sum()),
            wrong_to_wrong=int((flipped & ~before & ~after).sum()),
        )

    def changed(self, first: Answered, second: Answered) -> Sequence[int]:
        """Return the indices of changed answers; changes from right to wrong stand first."""
        lost = _right(first) & ~_right(second)
        return sorted(map(int, np.flatnonzero(_flipped(first, second))), key=lambda index: (not lost[index], index))


class _Classes(_ByLabel):
    """Exactly one label."""

    labels = "One of these labels for each text, in the order of the model's outputs:"

    def reordered(self, answered: Answered, own: Sequence[str], names: Sequence[str]) -> Answered:
        order = [own.index(name) for name in names]
        return Answered(answered.targets, np.argsort(order)[answered.answers], _columns(answered.chances, order))

    def json_value(self, value: Any, names: Sequence[str]) -> Any:
        return names[int(value)]


class _Labels(_ByLabel):
    """Any number of labels (multi-label)."""

    labels = "Any number of these labels for each text, in the order of the model's outputs:"

    def reordered(self, answered: Answered, own: Sequence[str], names: Sequence[str]) -> Answered:
        order = [own.index(name) for name in names]
        return Answered(answered.targets, answered.answers[:, order], _columns(answered.chances, order))

    def json_value(self, value: Any, names: Sequence[str]) -> Any:
        return tuple(name for name, has in zip(names, value, strict=True) if has)


class _Number(AdapterKind):
    """A number (regression), in the unit of the targets. Its only label is the name of the number."""

    labels = "A number for each text:"
    by_label = False

    def reordered(self, answered: Answered, own: Sequence[str], names: Sequence[str]) -> Answered:
        return answered

    def changes(self, first: Answered, second: Answered) -> Changes:
        return Changes(mean_change=float(_size(first, second).mean()))

    def changed(self, first: Answered, second: Answered) -> Sequence[int]:
        """Return the largest changes first."""
        size = _size(first, second)
        return [int(index) for index in np.argsort(-size, kind="stable") if size[index] > 0]

    def json_value(self, value: Any, names: Sequence[str]) -> Any:
        return float(value)


class _Text(AdapterKind):
    """A text. An answer is right if it equals a reference."""

    title = "A text generator"
    pipeline_tag = "text-generation"
    auto_class = "AutoModelForCausalLM"
    labels = "A text for each text:"
    by_label = False

    def base(self, address: str, labels: int) -> str:
        return f"{self.auto_class}.from_pretrained({address})"

    def reordered(self, answered: Answered, own: Sequence[str], names: Sequence[str]) -> Answered:
        return answered

    def changes(self, first: Answered, second: Answered) -> Changes:
        before, after, flipped = _among(first), _among(second), first.answers != second.answers
        return Changes(
            flipped=int(flipped.sum()),
            right_to_wrong=int((before & ~after).sum()),
            wrong_to_right=int((~before & after).sum()),
            wrong_to_wrong=int((flipped & ~before & ~after).sum()),
        )

    def changed(self, first: Answered, second: Answered) -> Sequence[int]:
        """Return texts whose answer was a reference and is not any longer first."""
        lost = _among(first) & ~_among(second)
        flipped = np.flatnonzero(first.answers != second.answers)
        return sorted(map(int, flipped), key=lambda index: (not lost[index], index))

    def json_value(self, value: Any, names: Sequence[str]) -> Any:
        return value if isinstance(value, str) else list(value)


def _among(answered: Answered) -> np.ndarray:
    """Return whether each answer equals one of its references, bool [N]."""
    return np.array([one in many for one, many in zip(answered.answers, answered.targets, strict=True)], bool)


def _right(answered: Answered) -> np.ndarray:
    """Return whether every label of a text is right, bool [N]."""
    return _by_row(answered.answers == answered.targets, np.all)


def _flipped(first: Answered, second: Answered) -> np.ndarray:
    return _by_row(first.answers != second.answers, np.any)


def _by_row(table: np.ndarray, joined: Callable[..., np.ndarray]) -> np.ndarray:
    return joined(table, axis=1) if table.ndim == 2 else table


def _columns(chances: np.ndarray | None, order: list[int]) -> np.ndarray | None:
    return None if chances is None else chances[:, order]


def _size(first: Answered, second: Answered) -> np.ndarray:
    size: np.ndarray = np.abs(second.answers - first.answers)
    return size


ADAPTER_KINDS: Mapping[str, AdapterKind] = {CLASSES: _Classes(), NUMBER: _Number(), LABELS: _Labels(), TEXT: _Text()}


def of(manifest: Manifest) -> AdapterKind:
    """Return the kind of task of an adapter."""
    return ADAPTER_KINDS[objectives.make(manifest.label_names, manifest.objective).kind]
