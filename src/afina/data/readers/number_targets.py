"""NumberTargets: how the targets of regression (a number for each text) are read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from afina.data import problems
from afina.data.kinds import NUMBER
from afina.data.readers.formats import FileTable
from afina.data.readers.label_column import Label, LabelColumn, LabelFormat
from afina.data.readers.label_recognition import notation_of
from afina.data.readers.number_notation import PLAIN
from afina.data.readers.splitting import LabelledRows, TaskData
from afina.data.readers.target_kind import TargetKind, split_of
from afina.data.reading_options import ReadingOptions
from afina.data.split import Split

_INFINITE = re.compile(r"[-+]?inf(?:inity)?", re.IGNORECASE)


class NumberTargets(TargetKind):
    """Targets of regression: float64 [N], a number for each text."""

    kind = NUMBER
    expected = "a number"
    plural = "numbers"
    means = "each value is a number that measures something"
    named = False

    def form(self, column: LabelColumn, asked: ReadingOptions) -> LabelFormat:
        """Return the format with the notation that fits all numbers. Raises InvalidData if several fit."""
        return LabelFormat(self.kind, notation=notation_of(column))

    def parse(self, table: FileTable, columns: Sequence[str], form: LabelFormat) -> list[Label]:
        if form.notation is None:
            form = replace(form, notation=notation_of(LabelColumn.of(table, columns[0], form.keeps)))
        return super().parse(table, columns, form)

    def read(self, column: LabelColumn, row: int, form: LabelFormat) -> float:
        value, where, notation = column.cells.get(row), column.where(row), form.notation or PLAIN
        if value is None:
            raise problems.NUMBER_MISSING(where=where)
        made = notation.value(value)
        if made is not None:
            return made
        if (isinstance(value, float) and math.isinf(value)) or _INFINITE.fullmatch(str(value)):
            raise problems.NUMBER_INFINITE(where=where)
        example = {None: "3.5", "decimal": "3,5", "thousands": "1,234.5"}[notation.comma] + " %" * notation.percent
        raise problems.NUMBER_MALFORMED(where=where, found=str(value)[:40], kind=self.kind, _example=example)

    def splits(
        self,
        train: LabelledRows,
        evaluation: LabelledRows,
        labels: Sequence[str] | None = None,
        names: Sequence[str] = (),
    ) -> TaskData:
        self.refuse_names(labels)
        found = self.matched(train), self.matched(evaluation)
        return TaskData((train.column,), *found, self.kind)

    def matched(self, rows: LabelledRows, *_: object) -> Split:
        """Return the rows as a split; unlike classes, numbers need not be matched with an adapter's label names."""
        return split_of(rows, np.array(rows.labels, dtype=np.float64))

    def spelled(self, label_names: Sequence[str], found: np.ndarray) -> list[Label]:
        return list(found.tolist())

    def answers(
        self, label_names: Sequence[str], found: np.ndarray, words: Mapping[str, Sequence[str]] | None = None
    ) -> list[str]:
        """Return the numbers with all their digits, without a point if they are whole."""
        return [np.format_float_positional(number, trim="-") for number in found.tolist()]

    def drawn_strata(self, found: np.ndarray, count: int) -> np.ndarray:
        """Return the quantile of each number, one of `count`, so that the drawn numbers are spread."""
        order = np.argsort(np.argsort(found, kind="stable"), kind="stable")
        return order * count // max(len(found), 1)

    def shown(self, label_names: Sequence[str], found: np.ndarray) -> str:
        return f"numbers from {found.min():g} to {found.max():g}"

    def check_varied(self, address: str, label_names: Sequence[str], found: np.ndarray) -> None:
        if len(np.unique(found)) < 2:
            raise problems.ONE_VALUE(_target="number", found=float(found[0]), task=address, examples=len(found))
        with np.errstate(over="ignore", invalid="ignore"):
            spread = found.std()
        if not np.isfinite(spread):
            raise problems.NUMBERS_TOO_LARGE(found=np.abs(found).max(), task=address)
