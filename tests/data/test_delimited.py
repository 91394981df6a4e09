"""Quotation marks of a tsv: taken off where they are a way of writing, kept where they are text, never half."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from afina.data.readers import formats
from afina.errors import InvalidData

SAID = ["plain", 'say "hi"', "tab\there", "two\nlines", 'both\t"x"\n', "a, b"]


def texts(tmp_path: Path, content: str) -> list[str]:
    (tmp_path / "a.tsv").write_bytes(content.encode())
    return formats.read(tmp_path / "a.tsv").columns["text"]


def written(quoting: int, end: str = "\n") -> str:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter="\t", quoting=quoting, lineterminator=end)  # type: ignore[arg-type]
    writer.writerow(("text", "label"))
    writer.writerows((text, index % 2) for index, text in enumerate(SAID))
    return file.getvalue()


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_pandas_and_csv_quoted_is_read_without_the_quotes(tmp_path: Path, quoting: int, end: str) -> None:
    assert texts(tmp_path, written(quoting, end)) == SAID


@pytest.mark.parametrize("mark", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize("before", ["", "\n"])
def test_line_ends_in_some_texts_and_an_empty_first_line_are_read(tmp_path: Path, mark: str, before: str) -> None:
    said = [f"first line{mark if index % 3 else ' '}second {index}" for index in range(12)]
    file = io.StringIO(before, newline="")
    file.seek(0, io.SEEK_END)
    csv.writer(file, delimiter="\t").writerows([("text", "label"), *((text, "good") for text in said)])
    assert texts(tmp_path, file.getvalue()) == said


def test_a_spreadsheet_quotes_whatever_has_a_comma(tmp_path: Path) -> None:
    content = 'text\tlabel\n"warm, and good"\t1\ndull\t0\n"good, too"\t1\n'
    assert texts(tmp_path, content) == ["warm, and good", "dull", "good, too"]


@pytest.mark.parametrize(
    "content",
    [
        'text\tlabel\n"half a quote \t1\nit\'s "x" \t0\n',
        'text\tlabel\n"a whole one"\t1\nand a "stray" one\t0\n',
        'text\tlabel\n"opens\t1\ncloses"\t0\nplain\t0\n',
        'text\tlabel\n"" doubled ""\t1\nplain\t0\n',
    ],
)
def test_quotation_marks_inside_unquoted_fields_are_text(tmp_path: Path, content: str) -> None:
    assert texts(tmp_path, content) == [line.split("\t")[0] for line in content.splitlines()[1:]]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('text\tlabel\n"Great!"\t1\nplain\t0\n', "line 2: quotation marks may quote fields or belong to the text"),
        (
            'text\tlabel\n"a"\t1\n"b"\t0\n"c"\t0\nd "e"\t1\n',
            "line 5: a field that is not quoted has a quotation mark inside",
        ),
        ('text\tlabel\n"a\tb"\t1\nc "d"\t0\n', "line 2: found 3 fields in the row that begins with '\"a'. "),
        ('text\tlabel\n"a\tb\t1\nplain\t0\n', "line 2: found 3 fields in the row that begins with"),
    ],
    ids=["both ways", "half", "half, with tabs", "never closed"],
)
def test_what_can_be_read_both_ways_or_half_is_refused(tmp_path: Path, content: str, told: str) -> None:
    with pytest.raises(InvalidData) as caught:
        texts(tmp_path, content)
    assert told in str(caught.value)
    assert "Save the file as csv or jsonl" in str(caught.value)


@pytest.mark.shared
def test_glue_is_unquoted(shared: Path) -> None:
    found = formats.read(shared / "sst2" / "dev.tsv")
    lines = (shared / "sst2" / "dev.tsv").read_text(encoding="utf-8").removesuffix("\n").split("\n")[1:]
    assert found.columns["sentence"] == [line.split("\t")[0] for line in lines]
