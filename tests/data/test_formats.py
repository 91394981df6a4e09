"""Workbooks: which sheet is read, and what is said of those that cannot be read."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from openpyxl import Workbook

from afina import Task
from afina.data.readers.texts import chunks
from afina.errors import AfinaError

ROWS = [("text", "stars"), *((f"text number {i}", i % 5 + 1) for i in range(30))]


def workbook(path: Path, **sheets: list[tuple[Any, ...]]) -> Path:
    book = Workbook()
    book.remove(book.worksheets[0])
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path / "mine.xlsx")
    return path / "mine.xlsx"


def refused(address: Path, **options: Any) -> str:
    with pytest.raises(AfinaError) as caught:
        Task.load(address, **options)
    return str(caught.value)


def test_the_only_sheet_that_holds_something_is_read_and_said(tmp_path: Path) -> None:
    mine = workbook(tmp_path, Empty=[], Ratings=ROWS)
    task = Task.load(mine)
    assert (task.kind, len(task.train) + len(task.evaluation)) == ("number", 30)
    assert task.notes == (f"{mine}: the sheet 'Ratings' is read.",)
    with chunks(mine) as parts:
        assert sum(len(chunk.texts) for chunk in parts) == 30


def test_of_several_sheets_one_is_named(tmp_path: Path) -> None:
    mine = workbook(tmp_path, First=ROWS, Second=[("text", "label"), *((f"t {i}", "yn"[i % 2]) for i in range(20))])
    assert "2 sheets are not empty: First, Second. Name the sheet to read with `sheet`." in refused(mine)
    assert "no sheet 'Third'. Found: First, Second." in refused(mine, sheet="Third")
    assert Task.load(mine, sheet="Second").label_names == ("n", "y")
    other = tmp_path / "other"
    other.mkdir()
    held_out = Task.load(mine, sheet="First", evaluation=workbook(other, Ratings=[ROWS[0], ("new", 3)]))
    assert held_out.evaluation.labels.tolist() == [3.0]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], "the sheet 'One' is empty. Expected a first row that names the columns."),
        ([*ROWS, ("more", 1, "aside")], "row 32: 'aside' is in a column without a name."),
        ([("text", "text"), *ROWS[1:]], "row 1: column 'text' occurs more than once."),
        ([*ROWS, (None, 3)], "row 32: column 'text' is empty."),
        ([*ROWS, ("x", "#N/A")], "row 32: column 'stars' holds '#N/A', a word for a missing value."),
        ([*ROWS, (True, 3)], "row 32: column 'text' holds a bool. Expected a text."),
    ],
)
def test_what_is_wrong_in_a_sheet_is_told_with_its_row(tmp_path: Path, rows: list[Any], told: str) -> None:
    assert told in refused(workbook(tmp_path, One=rows))


def test_a_file_that_is_no_workbook_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.xlsx").write_bytes(b"PK\x03\x04 no zip")
    assert "mine.xlsx: not a readable xlsx file (" in refused(tmp_path / "mine.xlsx")
    (tmp_path / "mine.csv").write_text("text,label\na,b\n")
    assert "`sheet` One:" in refused(tmp_path / "mine.csv", sheet="One")


def test_dates_and_numbers_of_a_sheet_are_texts(tmp_path: Path) -> None:
    rows = [("text", "label", "when"), *((f"t {i}", "yn"[i % 2], datetime.datetime(2020, 1, 1 + i)) for i in range(20))]
    mine = workbook(tmp_path, One=[*rows, (2012, "y", datetime.datetime(2020, 2, 1, 9, 30))])
    task = Task.load(mine, text="text", text_pair="when")
    pairs = dict(
        zip([*task.train.texts, *task.evaluation.texts], [*task.train.pairs, *task.evaluation.pairs], strict=True)
    )
    assert (pairs["t 3"], pairs["2012"]) == ("2020-01-04", "2020-02-01 09:30:00")
    assert "numbers in column 'text' are read as texts (row 22)" in task.told
    assert "holds dates, such as '2020-01-01'" in refused(mine, label="when")
