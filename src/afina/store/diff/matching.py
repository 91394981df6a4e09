"""Which rows and columns of two adapters are about the same: a head's by label, a bag of words' by term.

Knows no norm. Imports torch nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from afina.models.adapter import Adapter
from afina.models.architectures import is_output
from afina.store import kinds
from afina.store.diff.low_rank import Product
from afina.store.diff.weights import is_foreign

if TYPE_CHECKING:
    from torch import Tensor

FEW = 5
"""Names that a sentence tells of many."""

_ROWS, _COLUMNS = ("weights", "bias"), ("weights", "idf")
"""Tensors of a bag of words with a row for each label, and with a column for each term."""


@dataclass(frozen=True)
class Matching:
    """Of two adapters.

    sizes    labels of each
    rows     places of the labels that both have, in the order of the first; None where rows are matched by place
    columns  where each one's terms stand among those of both, which are `terms`; None where they have the same
    notes    what is so matched, a sentence each
    """

    sizes: tuple[int, int]
    rows: tuple[list[int], list[int]] | None
    columns: tuple[list[int], list[int]] | None
    terms: int
    notes: tuple[str, ...]

    @classmethod
    def of(cls, first: Adapter, second: Adapter) -> Self:
        """Labels of a number, and those of an adapter that names none, are matched by place."""
        one, other = first.manifest, second.manifest
        notes = []
        rows = None
        if is_foreign(one) != is_foreign(other):
            notes.append("One of them was made by peft and names no labels: rows of the head are compared in order.")
        elif one.label_names != other.label_names and all(kinds.of(made).by_label for made in (one, other)):
            rows, said = _by_label(one.label_names, other.label_names)
            notes += said
        columns, terms = None, 0
        if first.vocabulary is not None and second.vocabulary is not None and first.vocabulary != second.vocabulary:
            places = {term: place for place, term in enumerate(dict.fromkeys(first.vocabulary + second.vocabulary))}
            columns, terms = (
                ([places[t] for t in first.vocabulary], [places[t] for t in second.vocabulary]),
                len(places),
            )
            new, gone = (terms - len(set(words)) for words in (first.vocabulary, second.vocabulary))
            notes.append(
                f"Of the terms, {new:,} are new in the second and {gone:,} gone; one that is missing counts as 0."
            )
        return cls((len(one.label_names), len(other.label_names)), rows, columns, terms, tuple(notes))

    def matched(
        self, name: str, first: Product | Tensor, second: Product | Tensor
    ) -> tuple[Product | Tensor, Product | Tensor] | None:
        """Both, of the layer or tensor of that name, with rows and columns in one order; None where none is common."""
        if self.columns is not None and name in _COLUMNS:
            first, second = self._spread(first, 0), self._spread(second, 1)
        if self.rows is not None and (is_output(name) or name in _ROWS):
            if (first.shape[0], second.shape[0]) != self.sizes or not self.rows[0]:
                return None
            first, second = _chosen(first, self.rows[0]), _chosen(second, self.rows[1])
        return first, second

    def _spread(self, part: Product | Tensor, which: int) -> Product | Tensor:
        assert self.columns is not None
        places = self.columns[which]
        if isinstance(part, Product) or part.shape[-1] != len(places):
            return part
        made = part.new_zeros((*part.shape[:-1], self.terms))
        made[..., places] = part
        return made


def _chosen(part: Product | Tensor, places: list[int]) -> Product | Tensor:
    return part.rows(places) if isinstance(part, Product) else part[places]


def _by_label(first: Sequence[str], second: Sequence[str]) -> tuple[tuple[list[int], list[int]], list[str]]:
    common = [name for name in first if name in set(second)]
    alone = [name for name in (*first, *second) if name not in set(common)]
    notes = []
    if not common:
        notes.append("They have no label in common, so that their heads cannot be compared.")
    elif alone:
        notes.append(f"Rows of the head are compared by label; left out, since only one has it: {listed(alone)}.")
    else:
        notes.append("The labels are in another order; rows of the head are compared by label.")
    return ([first.index(name) for name in common], [second.index(name) for name in common]), notes


def listed(names: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    more = f" and {len(names) - FEW:,} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more
