"""X and y of scikit-learn users, converted to texts, pairs and targets. The module does not know models or runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from afina.data.readers.texts import as_lists, column_names, refuse_blank
from afina.errors import InvalidData


class InvalidInput(InvalidData, ValueError):
    """X or y cannot be used. A ValueError too, as scikit-learn users expect."""

    code = "input.invalid"


@dataclass(frozen=True)
class TextInputs:
    """The content of X.

    Attributes:
        texts: The texts.
        pairs: The second texts of pairs, or None.
        names: The column names of a frame, or None.
        columns: The number of columns: of a frame or an array of two dimensions, and 2 for pairs; else None.
    """

    texts: list[str]
    pairs: list[str] | None
    names: list[str] | None
    columns: int | None

    @classmethod
    def of(cls, X: Any) -> TextInputs:
        """Convert X: a list, array or Series of texts, or a frame with one column of texts or two columns of pairs.

        Raises InvalidInput.
        """
        try:
            texts, pairs = as_lists(X)
            refuse_blank(texts, pairs)
        except InvalidData as error:
            raise InvalidInput(f"X: {error}", cause=error.code, of_cause=error.fields) from None
        if not len(texts):
            raise InvalidInput("X: found 0 sample(s), expected at least 1 text.", code="input.empty")
        second = None if pairs is None else [str(text) for text in pairs]
        has_columns = second is not None or len(getattr(X, "shape", ())) == 2
        columns = (1 if second is None else 2) if has_columns else None
        return cls([str(text) for text in texts], second, column_names(X), columns)

    def weighted(self, y: Any, sample_weight: Any) -> tuple[TextInputs, np.ndarray, np.ndarray | None]:
        """Return the texts, labels and weights of the texts whose weight is not 0; weights None: all are equal.

        Raises InvalidInput, and scikit-learn's ValueError if a length differs or a weight is not a finite number.
        """
        labels = _column(y, self.texts)
        if sample_weight is None:
            return self, labels, None
        given = np.asarray(sample_weight)
        if given.ndim != 1:
            raise InvalidInput(
                f"sample_weight: found {given.ndim} dimensions. Sample weights must be 1D: a number for each text.",
                code="input.weights-invalid",
                found=given.ndim,
            )
        weights = check_array(given, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
        check_consistent_length(self.texts, weights)
        if (weights < 0).any() or not weights.any():
            what = "all weights are zero" if not weights.any() else f"found {weights.min():g}"
            raise InvalidInput(
                f"sample_weight: {what}. Expected numbers of 0 or more, and some above 0.",
                code="input.weights-invalid",
                found=float(weights.min()),
            )
        kept = np.flatnonzero(weights)
        if len(kept) < len(weights):
            pairs = None if self.pairs is None else [self.pairs[i] for i in kept]
            seen = replace(self, texts=[self.texts[i] for i in kept], pairs=pairs)
        else:
            seen = self
        weights = weights[kept]
        return seen, labels[kept], None if (weights == weights[0]).all() else weights


def classes_of(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted classes, and the index of each label among them, int64 [N].

    Raises InvalidInput, and scikit-learn's ValueError if the labels are not classes.
    """
    try:
        check_classification_targets(labels)
        classes, indices = np.unique(labels, return_inverse=True)
    except TypeError:
        kinds = sorted({type(label).__name__ for label in labels.tolist()})
        raise InvalidInput(
            f"y: found labels of several types ({', '.join(kinds)}). Expected labels of one type.",
            code="input.types-mixed",
            found=kinds,
        ) from None
    if len(classes) < 2:
        raise InvalidInput(
            f"y: all {len(labels):,} texts have one class, {classes.tolist()[0]!r}. Expected at least two classes.",
            code="input.one-value",
            texts=len(labels),
        )
    return classes, indices.astype(np.int64)


def numbers_of(labels: np.ndarray) -> np.ndarray:
    """Return the numbers, float64 [N]. Raises InvalidInput, and scikit-learn's ValueError for NaN and non-numbers."""
    numbers: np.ndarray = check_array(labels, ensure_2d=False, dtype=np.float64, input_name="y")
    if len(np.unique(numbers)) < 2:
        found = "one sample has" if len(numbers) == 1 else f"all {len(numbers):,} texts have"
        raise InvalidInput(
            f"y: {found} the number {numbers[0]:g}. Expected texts with different numbers.",
            code="input.one-value",
            texts=len(numbers),
        )
    return numbers


def _column(y: Any, texts: Sequence[str]) -> np.ndarray:
    if y is None:
        raise InvalidInput("requires y to be passed, but the target y is None.", code="input.target-missing")
    column: np.ndarray = column_or_1d(y, warn=True)
    check_consistent_length(texts, column)
    for number, label in enumerate(column.tolist(), start=1):
        if label is None or type(label).__name__ in MISSING or (isinstance(label, float) and label != label):
            raise InvalidInput(
                f"y: label {number} is missing ({label}). Give a label, or remove the text.",
                code="input.target-missing",
                row=number,
            )
        if isinstance(label, str) and not _is_unicode(label):
            raise InvalidInput(
                f"y: label {number}, {label!r}, holds half a surrogate pair. Repair the label.",
                code="input.surrogate",
                row=number,
            )
    return column


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


MISSING = ("NAType", "NaTType")
"""The names of pandas' types for missing values."""
