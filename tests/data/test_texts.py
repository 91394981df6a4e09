"""Texts without labels: as they stand in the file, in its order, and never many of them at once."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from afina.data.readers import texts
from afina.data.readers.texts import FIRST, MOST, Chunk, chunks
from afina.data.reading_options import ReadingOptions
from afina.errors import InvalidData, NotFound
from raises import raises


def read(file: Path, text: str | None = None, pair: str | None = None) -> tuple[list[str], list[str] | None]:
    """All of a file."""
    with chunks(file, ReadingOptions(text=text, text_pair=pair)) as parts:
        every = list(parts)
    assert {chunk.pairs is None for chunk in every} in ({True}, {False})
    pairs = None if every[0].pairs is None else [pair for chunk in every for pair in chunk.pairs or ()]
    return [text for chunk in every for text in chunk.texts], pairs


def test_texts_are_read_one_a_line_and_jsonl_with_or_without_pairs(tmp_path: Path) -> None:
    plain, single, paired = tmp_path / "a.txt", tmp_path / "b.jsonl", tmp_path / "c.jsonl"
    plain.write_bytes("\ufeffone\r\n two \nlast".encode())
    assert read(plain) == (["one", " two ", "last"], None)
    single.write_text('{"text": "x", "label": 1}\n{"text": "y\\nz"}\n')
    assert read(single) == (["x", "y\nz"], None)
    paired.write_text('{"text": "x", "text_pair": "p"}\n{"text": "y", "text_pair": "q"}\n')
    assert read(paired) == (["x", "y"], ["p", "q"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "x"}\nnot json\n', {"code": "data.row-malformed", "where": "texts.jsonl, line 2"}),
        (
            b'{"words": "x"}\n',
            {"code": "data.column-missing", "field": "text", "where": "texts.jsonl, line 1", "found": ["words"]},
        ),
        (b'["x"]\n', {"code": "data.row-malformed", "where": "texts.jsonl, line 1"}),
        (
            b'{"text": "x"}\n{"text": "y", "text_pair": "p"}\n',
            {
                "code": "data.columns-differ",
                "where": "texts.jsonl, line 2",
                "found": ["text", "text_pair"],
                "expected": ["text"],
            },
        ),
        (
            b'{"text": "x", "text_pair": "p"}\n{"text": "y"}\n',
            {
                "code": "data.columns-differ",
                "where": "texts.jsonl, line 2",
                "found": ["text"],
                "expected": ["text", "text_pair"],
            },
        ),
        (
            b'{"text": true}\n',
            {"code": "data.type-wrong", "column": "text", "where": "texts.jsonl, line 1", "found": "bool"},
        ),
        (b"\xff\xff\n", {"code": "data.encoding-wrong", "path": "texts.jsonl", "line": 1}),
        (b'\xef\xbb\xbf{"text": "\xff"}\n', {"code": "data.encoding-wrong", "path": "texts.jsonl", "line": 1}),
        (b'{"text": "x"}\n{"text": "\xfe"}\n', {"code": "data.encoding-wrong", "path": "texts.jsonl", "line": 2}),
    ],
)
def test_a_file_of_texts_that_cannot_be_read_is_an_error_that_says_where(
    tmp_path: Path, content: bytes, message: dict[str, Any]
) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_bytes(content)
    with raises(InvalidData, **message):
        read(file)


def test_a_file_of_texts_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with raises(NotFound, code="file.unreadable", path="absent.txt"):
        read(tmp_path / "absent.txt")


def test_chunks_begin_small_grow_and_say_where_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "many.txt"
    lines = [f"text {number}" for number in range(3 * MOST)]
    file.write_text("\n".join(lines), encoding="utf-8")
    with chunks(file) as parts:
        every = list(parts)
    sizes = [len(chunk.texts) for chunk in every]
    assert sizes[0] == FIRST
    assert sizes[:-1] == sorted(sizes[:-1])
    assert max(sizes) == MOST
    assert [text for chunk in every for text in chunk.texts] == lines
    assert [chunk.before for chunk in every] == [sum(sizes[:index]) for index in range(len(sizes))]
    shares = [chunk.share or 0 for chunk in every]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_a_file_that_ends_with_a_chunk_has_no_empty_one_and_an_empty_file_has_none(tmp_path: Path) -> None:
    file = tmp_path / "few.txt"
    for content, expected in (("a\n" * FIRST, [FIRST]), ("", []), ("\n", [0])):
        file.write_text(content, encoding="utf-8")
        with chunks(file) as parts:
            assert [len(chunk.texts) for chunk in parts] == expected


def test_a_chunk_of_long_texts_ends_by_its_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "MOST_CHARACTERS", 20)
    (tmp_path / "long.txt").write_text("0123456789\n" * 5, encoding="utf-8")
    with chunks(tmp_path / "long.txt") as parts:
        assert [len(chunk.texts) for chunk in parts] == [2, 2, 1]


def test_an_error_further_down_comes_after_the_chunks_before_it(tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    good = json.dumps({"text": "x"})
    file.write_text("\n".join([*[good] * 100, "{}"]), encoding="utf-8")
    seen: list[Chunk] = []
    with (
        chunks(file) as parts,
        raises(InvalidData, code="data.column-missing", field="text", where="long.jsonl, line 101"),
    ):
        seen.extend(parts)
    assert [len(chunk.texts) for chunk in seen] == [16, 64]


def test_standard_input_is_read_as_utf_8_whatever_the_locale_and_its_size_is_not_known() -> None:
    code = (
        "from pathlib import Path; from afina.data.readers.texts import chunks\n"
        "with chunks(Path('-')) as parts: (chunk,) = parts\n"
        "print((chunk.texts, chunk.share) == (['na\\u00efve \\u2615'], None))"
    )
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", code],
        input="naïve ☕\n".encode(),
        capture_output=True,
        env=os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
    )
    assert (done.stdout.decode().strip(), done.stderr) == ("True", b"")


# By columns, as a task is read

SAID = ["warm", 'a "quoted" one, with a comma', "two\nlines", "tab\there", "naïve ☕"]


def _rows() -> list[dict[str, object]]:
    return [{"id": number, "review": text, "label": "good"} for number, text in enumerate(SAID)]


def _write(file: Path, rows: list[dict[str, object]]) -> Path:
    """As pandas would: quotation marks where they are needed."""
    if file.suffix == ".txt":
        file.write_text("".join(f"{row['text']}\n" for row in rows), encoding="utf-8")
    elif file.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with file.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.DictWriter(opened, list(rows[0]), delimiter="\t" if file.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return file


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_a_table_is_read_by_its_columns_and_its_labels_are_no_text(tmp_path: Path, name: str) -> None:
    file = _write(tmp_path / name, _rows())
    assert read(file) == (SAID, None)
    assert read(file, "label") == (["good"] * len(SAID), None)
    assert read(file, "review", "label") == (SAID, ["good"] * len(SAID))
    with raises(InvalidData, code="data.column-missing", column="body", field="text", found=["id", "review", "label"]):
        read(file, "body")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet"])
def test_a_row_without_a_text_keeps_its_place_and_is_counted(tmp_path: Path, name: str) -> None:
    file = _write(tmp_path / name, [{"text": text, "n": 1} for text in ("one", "  ", "two", "", "three")])
    with chunks(file) as found:
        (chunk,) = found
    assert chunk.texts == ["one", "two", "three"]
    assert [(row.number, row.text, row.columns["n"]) for row in chunk.rows] == [
        (number, text, chunk.rows[0].columns["n"])
        for number, text in enumerate(("one", None, "two", None, "three"), start=1)
    ]
    place = "row 2" if name.endswith("parquet") else f"line {2 if name.endswith('jsonl') else 3}"
    assert found.note == f"{file}, {place}: no text there, as in 1 more, so no answer."


def test_a_blank_line_keeps_its_place_and_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n \t\u200b\ntwo", encoding="utf-8")
    with chunks(tmp_path / "a.txt") as found:
        (chunk,) = found
    assert chunk.texts == ["one", "two"]
    assert [(row.number, row.text) for row in chunk.rows] == [(1, "one"), (2, None), (3, None), (4, "two")]
    assert found.note == f"{tmp_path / 'a.txt'}, line 2: no text there, as in 1 more, so no answer."


def test_lines_of_no_table_have_no_columns_to_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n", encoding="utf-8")
    with raises(InvalidData, code="data.option-inapplicable", option="text", path="a.txt"):
        read(tmp_path / "a.txt", "body")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl", ".parquet"])
def test_memory_does_not_grow_with_the_number_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(texts, "MOST", 1024)

    def peak(rows: int) -> int:
        file = _write(tmp_path / f"{rows}{suffix}", [{"text": f"a text of some length, {n}"} for n in range(rows)])
        tracemalloc.start()
        with chunks(file) as parts:
            assert sum(len(chunk.texts) for chunk in parts) == rows
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(100)  # what is imported on the way
    assert peak(12 * texts.MOST) < 1.3 * peak(4 * texts.MOST)


@pytest.mark.parametrize("name", ["new.xls", "new.pdf", "new.tar.gz", "new.csv.zst"])
def test_what_is_no_text_is_not_read_line_by_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04junk\n")
    with raises(InvalidData, code="data.format-unknown"), chunks(tmp_path / name):
        pass
