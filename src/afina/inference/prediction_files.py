"""The rows of a file with an answer each, as objects, and as a table beside the file's own columns.

A row without a text has an answer without a value, so that rows line up. Knows no model.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from afina import file_io
from afina.data.readers.texts import Chunk, Row
from afina.errors import CannotWrite, InvalidData
from afina.inference.predictor import Predictor
from afina.models.objective import Objective

CSV, JSONL = ".csv", ".jsonl"
REASON, BETWEEN = "reason", ";"

Answer = dict[str, Any]


def answered_rows(predictor: Predictor, chunk: Chunk) -> tuple[list[Answer], int]:
    """An answer for each row of a chunk, JSON values by name, and how many of its texts were cut.

    Raises as `Predictor.predict` does.
    """
    objective, given, truncated = predictor.objective, iter(list[Answer]()), 0
    if chunk.texts:
        predictions, truncated = predictor.predict(chunk.texts, chunk.pairs, before=chunk.before)
        given = iter(list(objective.answers(predictions)))
    answers = []
    for row in chunk.rows:
        pair = {} if chunk.pairs is None else {"text_pair": row.pair}
        answer = {**objective.empty_answer, REASON: f"{row.where}: no text there"} if row.text is None else next(given)
        answers.append({"row": row.number, "text": row.text, **pair, **answer})
    return answers, truncated


def check_out(out: Path, file: Path | None) -> None:
    """Raise InvalidData where answers cannot be written to `out`: of another kind, or what they are read from."""
    if out.suffix.lower() not in (CSV, JSONL):
        raise InvalidData(
            f"`out` {out}: expected a name that ends in {CSV} or {JSONL}.",
            code="data.format-unknown",
            path=out,
            expected=[CSV, JSONL],
        )
    if out.is_dir():
        raise CannotWrite(out, "it is a directory")
    if file is not None and out.exists() and file.exists() and os.path.samefile(out, file):
        raise InvalidData(
            f"`out` {out}: the texts are read from this file. Name another one.", code="argument.invalid", path=out
        )


@contextmanager
def writing_rows(
    out: Path, objective: Objective, separator: str | None = None
) -> Iterator[Callable[[Chunk, Sequence[Answer]], None]]:
    """What writes the rows of a chunk with their answers to `out`, which appears whole or not at all.

    The file's own columns come first, then `predicted_label`, `predicted_labels` or `predicted_value`, the probability
    of each label, and the reason where there is none. Raises InvalidData where the file has a column of such a name,
    and where a row has other columns than those before it, in CSV.
    separator  between several labels, in CSV
    """
    with (
        file_io.replacing(out) as fresh,
        fresh.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        if out.suffix.lower() == CSV:
            yield _Table(csv.writer(file, lineterminator="\n"), objective, separator or BETWEEN)
        else:
            yield _Objects(file, objective)


@dataclass
class _Table:
    """Rows of a table; its columns are those of the first."""

    writer: Any
    objective: Objective
    separator: str
    columns: list[str] = field(default_factory=list)

    def __call__(self, chunk: Chunk, answers: Sequence[Answer]) -> None:
        for row, answer in zip(chunk.rows, answers, strict=True):
            said = _flat(answer, self.objective, self.separator)
            _check_free(row, said)
            if not self.columns:
                self.columns = [*row.columns]
                self.writer.writerow([*row.columns, *said])
            if more := [name for name in row.columns if name not in self.columns]:
                raise InvalidData(
                    f"{row.where}: has a column {more[0]!r}, which the rows before it have not. Give `out` a name that "
                    f"ends in {JSONL}.",
                    code="data.columns-differ",
                    where=row.where,
                    column=more[0],
                )
            own = [row.columns.get(name) for name in self.columns]
            self.writer.writerow([*map(_cell, own), *map(_cell, said.values())])


@dataclass
class _Objects:
    """Rows of JSON, one object a line."""

    file: TextIO
    objective: Objective

    def __call__(self, chunk: Chunk, answers: Sequence[Answer]) -> None:
        for row, answer in zip(chunk.rows, answers, strict=True):
            said = _nested(answer, self.objective)
            _check_free(row, said)
            self.file.write(json.dumps({**row.columns, **said}, ensure_ascii=False, default=str) + "\n")


def _check_free(row: Row, said: Answer) -> None:
    """Raise InvalidData where the row has a column that answers add."""
    if taken := said.keys() & row.columns.keys():
        raise InvalidData(
            f"{row.where}: has a column {min(taken)!r}, which `out` adds. Rename that column.",
            code="data.column-repeated",
            where=row.where,
            column=min(taken),
        )


def _nested(answer: Mapping[str, Any], objective: Objective) -> Answer:
    """The columns that answers add to a JSON object."""
    chances = {"probabilities": answer["probabilities"]} if objective.has_probabilities else {}
    return {f"predicted_{objective.column}": answer[objective.column], **chances, REASON: answer.get(REASON)}


def _flat(answer: Mapping[str, Any], objective: Objective, separator: str) -> Answer:
    """The columns that answers add to a table."""
    names = objective.label_names if objective.has_probabilities else ()
    chances = {f"probability_{label}": (answer["probabilities"] or {}).get(label) for label in names}
    value = objective.as_cell(answer, separator)
    return {f"predicted_{objective.column}": value, **chances, REASON: answer.get(REASON)}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, dict | list) else str(value)
