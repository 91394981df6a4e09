"""The contract of a kind of task in `data`; its entries are in `kinds.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from afina.data.kinds import Kind
from afina.data.readers.labels import Cells, Form, Label, Reads
from afina.data.readers.rows import Rows
from afina.data.readers.table import Table
from afina.data.readers.targets import Read
from afina.data.split import Split


class TargetKind(ABC):
    """A kind of task as `data` reads and shows it.

    kind      its name
    expected  what stands in a cell, in words;  plural  the same of many
    named     whether label names go with it
    several   whether a text has any number of labels at once, which a separator or several columns tell apart
    usual     whether it is what a manifest that names no kind is of
    stratified  whether a label needs a text on either side, where a file is cut
    """

    kind: ClassVar[Kind]
    expected: ClassVar[str] = "a label"
    plural: ClassVar[str] = "labels"
    named: ClassVar[bool] = True
    several: ClassVar[bool] = False
    usual: ClassVar[bool] = False
    stratified: ClassVar[bool] = False

    @property
    def told(self) -> Kind | None:
        """Its name; None for the usual kind, which is left out of manifests and cards."""
        return None if self.usual else self.kind

    def holds(self, found: np.ndarray) -> bool:
        """Whether targets of this kind may be of that type."""
        return found.dtype.kind in "biuf"

    def optional(self, form: Form, columns: Sequence[str]) -> bool:
        """Whether an empty cell is an answer, and no missing value."""
        return False

    @abstractmethod
    def form(self, cells: Cells, asked: Reads) -> Form:
        """How a column is read where the user says that it is of this kind. Raises InvalidData."""

    def form_to_measure(
        self, form: Form, table: Table, columns: Sequence[str], labels: Sequence[str] | None, known: Sequence[str]
    ) -> Form:
        """The form in which other texts of the kind are read, of which `known` are the labels that may occur."""
        return form

    @abstractmethod
    def parse(self, table: Table, columns: Sequence[str], form: Form) -> list[Label]:
        """The label of every row. Raises InvalidData that names the row."""

    @abstractmethod
    def strata(self, rows: Rows) -> list[str]:
        """The stratum of each row: a held-out part is drawn from each stratum."""

    @abstractmethod
    def names(self, label: Label) -> tuple[str, ...]:
        """The names in a label, as the data spell them."""

    @abstractmethod
    def same(self, label: Label) -> Label:
        """A label in the form in which two are compared."""

    @abstractmethod
    def splits(self, train: Rows, evaluation: Rows, labels: Sequence[str] | None, names: Sequence[str]) -> Read:
        """As `splits`, of rows of this kind."""

    @abstractmethod
    def matched(
        self,
        rows: Rows,
        label_names: Sequence[str],
        labels: Sequence[str] | None,
        names: Sequence[str],
        whose: str,
    ) -> Split:
        """As `matched`, of rows of this kind."""

    @abstractmethod
    def spelled(self, label_names: Sequence[str], found: np.ndarray) -> list[Label]:
        """Targets as the data would spell them: the inverse of `splits`."""

    @abstractmethod
    def shown(self, label_names: Sequence[str], found: np.ndarray) -> str:
        """The targets in words: `2 classes (no, yes)`, `numbers from 1 to 5`."""

    @abstractmethod
    def check_varied(self, address: str, label_names: Sequence[str], found: np.ndarray) -> None:
        """Raise InvalidData where one thing is right of all training texts."""

    def check_positive(self, label_names: Sequence[str]) -> str | None:
        """What speaks against calling one of two labels positive: `3 classes`, `kind number`; None: nothing."""
        return f"kind {self.kind}"
