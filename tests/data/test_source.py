"""Files as spreadsheets and archives leave them: separators, encodings, compression, long fields."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest

from afina.data.readers import formats
from afina.data.readers.texts import chunks
from afina.data.task import Task
from afina.errors import InvalidData

CSV = 'text,label\n"warm, very",good\nnaïve ☕,bad\n'


def columns(path: Path, content: bytes) -> dict[str, list[str]]:
    path.write_bytes(content)
    return formats.read(path).columns


EXPECTED = {"text": ["warm, very", "naïve ☕"], "label": ["good", "bad"]}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.CSV", CSV.encode()),
        ("a.csv", CSV.encode("utf-8-sig")),
        ("a.csv", CSV.encode("utf-16")),
        ("a.csv", b"\xfe\xff" + CSV.encode("utf-16-be")),
        ("a.csv", CSV.replace("\n", "\r").encode()),
        ("a.csv.gz", gzip.compress(CSV.encode(), mtime=0)),
        ("a.csv", b"text;label\nwarm, very;good\n" + "naïve ☕;bad\n".encode()),
        ("a.csv", b'"text";"label"\r\n"warm, very";"good"\r\n' + "naïve ☕;bad\r\n".encode()),
        ("a.csv", b"text\tlabel\nwarm, very\tgood\n" + "naïve ☕\tbad\n".encode()),
        ("a.tsv", 'text\tlabel\r\n"warm, very"\tgood\r\nnaïve ☕\tbad\r\n'.encode("utf-16")),
    ],
    ids=["CSV", "mark", "UTF-16", "UTF-16 BE", "old Mac", "gz", "semicolon", "quoted header", "tabs", "Unicode text"],
)
def test_a_table_is_read_as_programs_write_it(tmp_path: Path, name: str, content: bytes) -> None:
    assert columns(tmp_path / name, content) == EXPECTED
    with chunks(tmp_path / name) as parts:
        (chunk,) = parts
    assert chunk.texts == EXPECTED["text"]
    assert chunk.share == 1


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", CSV.encode("utf-16-le"), "line 1: a NUL character. If it is UTF-16 without a byte order mark, save"),
        ("a.csv", CSV.encode("utf-16")[:-1], "not UTF-16. Save the file as UTF-8."),
        ("a.csv.gz", gzip.compress(CSV.encode(), mtime=0)[:-9], "not a whole .gz file ("),
        ("a.csv.gz", CSV.encode(), "not a whole .gz file (Not a gzipped file"),
        (
            "a.csv",
            CSV.encode("latin-1", "replace").replace(b"\xef", b"\x8f"),
            "line 3: not UTF-8, and not Windows-1252 (byte 0x8f",
        ),
        (
            "a.csv",
            CSV.encode() + b"na\xefve,good\n",
            "line 4: not UTF-8 (byte 0xef), although the lines before it are.",
        ),
        (
            "a.csv",
            CSV.encode("latin-1", "replace") + CSV.encode(),
            "line 6: encoded as UTF-8, but line 3 is not. Save the whole",
        ),
        ("a.csv", ("text,label\n" + "хорошо,добро\n" * 9).encode("cp1251"), "more accented letters than any language"),
        ("a.csv", CSV.encode("utf-32"), "UTF-32, which is not read."),
        ("a.zip", b"PK", "cannot read .zip. Expected .csv, .tsv,"),
    ],
)
def test_what_cannot_be_read_says_what_to_do(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    with pytest.raises(InvalidData) as caught:
        columns(tmp_path / name, content)
    assert told in str(caught.value)


def test_a_field_of_a_csv_may_be_longer_than_the_csv_module_lets_it(tmp_path: Path) -> None:
    text = "long " * 60_000
    found = columns(tmp_path / "a.csv", f'text,label\n{text},good\n"{text}, quoted",bad\n'.encode())
    assert found["text"] == [text, f"{text}, quoted"]
    assert csv.field_size_limit() > 131_072


def test_a_directory_may_hold_compressed_files(tmp_path: Path) -> None:
    for stem in ("train", "dev"):
        content = "".join(f"{stem} {word},{label}\n" for word, label in (("warm", "good"), ("cold", "bad")))
        (tmp_path / f"{stem}.csv.gz").write_bytes(gzip.compress(f"text,label\n{content}".encode()))
    assert len(Task.load(str(tmp_path)).evaluation) == 2
