"""Write each row of a user's file with its prediction, as JSON objects or as a table with the file's columns.

A row without a text gets a prediction whose values are all None, so that no row is missing in the output.
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
from afina.data.entities import with_texts
from afina.data.readers.texts import Chunk, Row
from afina.errors import CannotWrite
from afina.models.objective import Objective
from afina.predicting import problems
from afina.predicting.predictor import Predictor

CSV, JSONL = ".csv", ".jsonl"
REASON, ANSWERED, BETWEEN = "reason", "answered", ";"

Answer = dict[str, Any]


def answered_rows(predictor: Predictor, chunk: Chunk) -> tuple[list[Answer], int]:
    """Return a prediction (JSON values by name) for each row of a chunk, and the number of truncated texts."""
    objective, given, truncated = predictor.objective, iter(list[Answer]()), 0
    if chunk.texts:
        predictions, truncated = predictor.predict(chunk.texts, chunk.pairs, before=chunk.before, spaced=chunk.spaced)
        given = iter(list(objective.answers(predictions)))
    answers = []
    for row in chunk.rows:
        pair = {} if chunk.pairs is None else {"text_pair": row.pair}
        answer = {**objective.empty_answer, REASON: f"{row.where}: no text there"} if row.text is None else next(given)
        answers.append({"row": row.number, "text": row.text, **pair, **with_texts(answer, row.text or "")})
    return answers, truncated


def check_out(out: Path, file: Path | None) -> None:
    """Raise InvalidData or CannotWrite if `out` has an unknown suffix, is a directory, or is the input file."""
    if out.suffix.lower() not in (CSV, JSONL):
        raise problems.OUT_SUFFIX(path=out, expected=[CSV, JSONL])
    if out.is_dir():
        raise CannotWrite(out, "it is a directory")
    if file is not None and out.exists() and file.exists() and os.path.samefile(out, file):
        raise problems.OUT_IS_INPUT(path=out)


@contextmanager
def writing_rows(
    out: Path, objective: Objective, separator: str | None = None
) -> Iterator[Callable[[Chunk, Sequence[Answer]], None]]:
    """Yield a function that writes the rows of a chunk with their predictions to the file `out`, atomically.

    Temporary files of killed processes that wrote the same file are deleted first.

    The columns of the input file come first in the output. The output's further columns are `predicted_label`,
    `predicted_labels` or `predicted_value`, the probability of each label, and the reason for a missing prediction. If
    the adapter abstains, the column `answered` says whether a text was answered.

    Args:
        out: The output, a csv or jsonl file.
        separator: String between several labels of a text in csv. None: `BETWEEN`.

    Raises InvalidData if the input file has a column with the name of a further column, or (csv only) a row has columns
    that the first row does not have.
    """
    file_io.sweep_killed(out)
    with (
        file_io.replacing(out) as fresh,
        fresh.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        if out.suffix.lower() == CSV:
            yield _Table(csv.writer(_Lines(file)), objective, separator or BETWEEN)
        else:
            yield _Objects(file, objective)


@dataclass
class _Lines:
    r"""A csv file for a csv writer, with lines that end in \n.

    A csv writer whose line terminator is \n would not quote a cell with \r, which generated answers may contain.
    """

    file: TextIO

    def write(self, line: str) -> None:
        r"""Write a line that ends in \r\n."""
        self.file.write(line.removesuffix("\r\n") + "\n")


@dataclass
class _Table:
    """Writes rows with predictions to a csv table; the first row determines the columns."""

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
                raise problems.OUT_COLUMN_NEW(where=row.where, column=more[0])
            own = [row.columns.get(name) for name in self.columns]
            self.writer.writerow([*map(_cell, own), *map(_cell, said.values())])


@dataclass
class _Objects:
    """Writes rows with predictions to a jsonl file, one JSON object for each line."""

    file: TextIO
    objective: Objective

    def __call__(self, chunk: Chunk, answers: Sequence[Answer]) -> None:
        for row, answer in zip(chunk.rows, answers, strict=True):
            said = _nested(answer, self.objective)
            _check_free(row, said)
            self.file.write(json.dumps({**row.columns, **said}, ensure_ascii=False, default=str) + "\n")


def _check_free(row: Row, said: Answer) -> None:
    """Raise InvalidData if the row has a column with the name of a column that is to be added."""
    if taken := said.keys() & row.columns.keys():
        raise problems.OUT_COLUMN_TAKEN(where=row.where, column=min(taken))


def _nested(answer: Mapping[str, Any], objective: Objective) -> Answer:
    """Return the fields that a prediction adds to a row's JSON object."""
    chances = {"probabilities": answer["probabilities"]} if objective.has_probabilities else {}
    said = {f"predicted_{objective.column}": answer[objective.column], **chances}
    return {**said, **_abstention(answer), REASON: answer.get(REASON)}


def _flat(answer: Mapping[str, Any], objective: Objective, separator: str) -> Answer:
    """Return the columns that a prediction adds to a row of a table."""
    names = objective.label_names if objective.has_probabilities else ()
    chances = {f"probability_{label}": (answer["probabilities"] or {}).get(label) for label in names}
    value = objective.as_cell(answer, separator)
    return {f"predicted_{objective.column}": value, **chances, **_abstention(answer), REASON: answer.get(REASON)}


def _abstention(answer: Mapping[str, Any]) -> Answer:
    """Return the field `answered` of a prediction, which only the predictions of adapters that abstain have."""
    return {ANSWERED: answer[ANSWERED]} if ANSWERED in answer else {}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    as_json = isinstance(value, dict | list | bool)
    return json.dumps(value, ensure_ascii=False, default=str) if as_json else str(value)
