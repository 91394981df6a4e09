"""Convert X and y, in the forms that scikit-learn users pass, to texts, pairs of texts and targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import Any

import numpy as np
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from afina.data.entities import Entity, as_entities
from afina.data.readers.frames import MISSING_TYPES
from afina.data.readers.source import is_whole
from afina.data.readers.texts import as_lists, column_names, refuse_blank
from afina.data.words import words_of
from afina.errors import InvalidData
from afina.estimators import problems


@dataclass(frozen=True)
class TextInputs:
    """The texts in the X that a user passes to an estimator.

    Attributes:
        pairs: The second text of each pair. None: X has single texts.
        names: The column names of a DataFrame.
        columns: None: X has no columns.
    """

    texts: list[str]
    pairs: list[str] | None
    names: list[str] | None
    columns: int | None

    @classmethod
    def of(cls, X: Any) -> TextInputs:
        try:
            texts, pairs = as_lists(X)
            refuse_blank(texts, pairs)
        except InvalidData as error:
            raise problems.X_UNUSABLE(reason=error, cause=error.code, of_cause=error.fields) from None
        if not len(texts):
            raise problems.NO_TEXTS()
        second = None if pairs is None else [str(text) for text in pairs]
        has_columns = second is not None or len(getattr(X, "shape", ())) == 2
        columns = (1 if second is None else 2) if has_columns else None
        return cls([str(text) for text in texts], second, column_names(X), columns)

    def weighted(self, y: Any, sample_weight: Any) -> tuple[TextInputs, np.ndarray, np.ndarray | None]:
        """Leave out the texts of weight 0; return the others, their labels and their weights (None: equal ones)."""
        labels = _column(y, self.texts)
        if sample_weight is None:
            return self, labels, None
        given = np.asarray(sample_weight)
        if given.ndim != 1:
            raise problems.WEIGHTS_NOT_A_VECTOR(found=given.ndim)
        weights = check_array(given, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
        check_consistent_length(self.texts, weights)
        if (weights < 0).any() or not weights.any():
            what = "all weights are zero" if not weights.any() else f"found {weights.min():g}"
            raise problems.WEIGHTS_INVALID(_found=what, found=float(weights.min()))
        kept = np.flatnonzero(weights)
        if len(kept) < len(weights):
            pairs = None if self.pairs is None else [self.pairs[i] for i in kept]
            seen = replace(self, texts=[self.texts[i] for i in kept], pairs=pairs)
        else:
            seen = self
        weights = weights[kept]
        return seen, labels[kept], None if (weights == weights[0]).all() else weights


def classes_of(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted classes of the labels, and the index of each label in the classes, int64 [N]."""
    kinds = _types(labels)
    if len(kinds) > 1 and not kinds <= {"int", "float"}:
        raise problems.TYPES_MIXED(found=sorted(kinds))
    if labels.dtype == object and "str" not in kinds:  # scikit-learn calls these labels of an unknown type
        labels = np.asarray(labels.tolist())
    check_classification_targets(labels)
    classes, indices = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise problems.ONE_CLASS(label=classes.tolist()[0], texts=len(labels))
    return classes, indices.astype(np.int64)


def numbers_of(labels: np.ndarray) -> np.ndarray:
    """Convert the targets of regression to float64 [N]."""
    if labels.dtype.kind in "mM":  # dates and durations, which numpy would convert
        raise problems.NOT_NUMBERS(found=str(labels.dtype))
    try:
        numbers: np.ndarray = check_array(labels, ensure_2d=False, dtype=np.float64, input_name="y")
        with np.errstate(over="ignore", invalid="ignore"):
            if not np.isfinite(numbers.std()):
                raise OverflowError
    except OverflowError:
        raise problems.NUMBERS_TOO_LARGE() from None
    except TypeError:
        raise problems.NOT_NUMBERS(found=sorted(_types(labels))) from None
    if len(np.unique(numbers)) < 2:
        found = "one sample has" if len(numbers) == 1 else f"all {len(numbers):,} texts have"
        raise problems.ONE_NUMBER(_who=found, number=numbers[0], texts=len(numbers))
    return numbers


def entities_of(y: Any, texts: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Convert the entities of texts to targets, object [N] of tuples of `Entity`, and their labels, sorted.

    `y` has (start, end, label), or a dict with these keys, for each entity of each text, in any order.
    """
    if y is None:
        raise problems.TARGET_MISSING()
    check_consistent_length(texts, given := list(y))
    targets = [_entities(one, text, row) for row, (one, text) in enumerate(zip(given, texts, strict=True), start=1)]
    names = tuple(sorted({entity.label for one in targets for entity in one}))
    if not names:
        raise problems.NO_ENTITIES(texts=len(texts))
    return as_entities(targets), names


def _entities(given: Any, text: str, row: int) -> tuple[Entity, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise problems.ENTITY_MALFORMED(row=row, found=given)
    made = tuple(sorted(_entity(one, row) for one in given))
    before = 0
    for place, entity in enumerate(made):
        if not 0 <= entity.start < entity.end <= len(text):
            raise problems.ENTITY_OUTSIDE(row=row, found=tuple(entity), length=len(text))
        if entity.start < before:
            raise problems.ENTITIES_OVERLAP(row=row, first=tuple(made[place - 1]), second=tuple(entity))
        before = entity.end
    words = words_of(text)
    for start, end, _ in made:
        inside = words[(words[:, 0] < end) & (words[:, 1] > start)]
        whole = slice(int(inside[0, 0]), int(inside[-1, 1])) if len(inside) else slice(0, 0)
        if whole != slice(start, end):
            raise problems.ENTITY_WITHIN_WORD(row=row, found=text[start:end], words=text[whole])
    return made


def _entity(given: Any, row: int) -> Entity:
    found: Any = [given.get(name) for name in Entity._fields] if isinstance(given, Mapping) else given
    try:
        start, end, label = found
        made = Entity(index(start), index(end), label)
    except (TypeError, ValueError):
        raise problems.ENTITY_MALFORMED(row=row, found=given) from None
    if not isinstance(label, str) or not label.strip():
        raise problems.ENTITY_MALFORMED(row=row, found=given)
    if not is_whole(label):
        raise problems.LONE_SURROGATE(found=label, row=row)
    return made


def _types(labels: Iterable[Any]) -> set[str]:
    return {type(label.item() if isinstance(label, np.generic) else label).__name__ for label in labels}


def _column(y: Any, texts: Sequence[str]) -> np.ndarray:
    if y is None:
        raise problems.TARGET_MISSING()
    column: np.ndarray = column_or_1d(y, warn=True)
    if isinstance(y, list | tuple) and len(_types(y)) > 1:
        column = np.array(y, dtype=object)  # without a dtype, [1, "1"] is two texts, and [1, True] two numbers
    check_consistent_length(texts, column)
    for number, label in enumerate(column.tolist(), start=1):
        if label is None or type(label).__name__ in MISSING_TYPES or (isinstance(label, float) and label != label):
            raise problems.LABEL_MISSING(found=label, row=number)
        if isinstance(label, str) and not is_whole(label):
            raise problems.LONE_SURROGATE(found=label, row=number)
    return column
