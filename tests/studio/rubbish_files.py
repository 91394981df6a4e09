"""Forty files that are no texts with labels, or nearly so: name, content, and words that the page says of each."""

from __future__ import annotations

import bz2
import csv
import datetime
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow
from openpyxl import Workbook
from pyarrow import parquet

ROWS = [(f"text number {i}", "ny"[i % 2]) for i in range(24)]
PLAIN = ("text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS)).encode()
LINES = b"".join(json.dumps({"text": text, "label": label}).encode() + b"\n" for text, label in ROWS)
NAIVE = PLAIN.decode().replace("number", "naïve")


def as_parquet(**columns: Any) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


def as_xlsx(**sheets: Sequence[Sequence[Any]]) -> bytes:
    book = Workbook()
    book.remove(book.worksheets[0])
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def as_zip(**files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "."), content)
    return file.getvalue()


def labels(values: Sequence[str]) -> bytes:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(
        [("text", "label"), *((f"text {i}", value) for i, value in enumerate(values))]
    )
    return file.getvalue().encode()


HEADER, TEXTS = ("text", "label"), [text for text, _ in ROWS]

RUBBISH: Mapping[str, tuple[str, bytes, str]] = {
    "an empty file": ("a.csv", b"", "the file is empty"),
    "a file of blank lines": ("a.csv", b"\n\n \n", "no text column"),
    "only names of columns": ("a.csv", b"text,label\n", "no rows below the column names"),
    "no names of columns": ("a.csv", PLAIN.split(b"\n", 1)[1], "no text column"),
    "names of columns again": ("a.csv", PLAIN + b"text,label\n", "line 26: this row repeats the column names"),
    "a column twice": ("a.csv", b"text,label,label\nx,y,z\n", "line 1: column 'label' occurs more than once"),
    "one column": ("a.csv", b"text\none\ntwo\n", "no label column"),
    "too many fields": ("a.csv", PLAIN + b"one,two,three\n", "line 26: found 3 fields"),
    "too few fields": ("a.csv", PLAIN + b"one\n", "line 26: found 1 fields"),
    "a quote that is never closed": ("a.csv", PLAIN + b'"never closed,y\nmore,n\n', "line 26: unexpected end of data"),
    "a text after a quote": ("a.csv", PLAIN + b'"fine" film,y\n', "line 26: ',' expected after"),
    "quotes of two kinds": (
        *("a.tsv", b'text\tlabel\n"Great!"\ty\n' + PLAIN.split(b"\n", 1)[1].replace(b",", b"\t")),
        "line 2: quotation marks may quote fields or belong to the text",
    ),
    "Cyrillic in an old code page": (
        *("a.csv", b"text,label\n" + "".join(f"хорошо {i},y\n" for i in range(24)).encode("cp1251")),
        "line 2: not UTF-8",
    ),
    "two encodings": ("a.csv", NAIVE.encode() + b"na\xefve,y\n", "line 26: not UTF-8 (byte 0xef), although"),
    "UTF-32": ("a.csv", NAIVE.encode("utf-32"), "UTF-32, which is not read"),
    "half of UTF-16": ("a.csv", NAIVE.encode("utf-16")[:-1], "line 25: not UTF-16"),
    "a NUL character": ("a.csv", PLAIN.replace(b"number 7", b"num\0ber 7"), "line 9: a NUL character"),
    "an empty text": ("a.csv", PLAIN + b",y\n", "line 26: column 'text' is empty"),
    "an empty label": ("a.csv", PLAIN + b"one more,\n", "line 26: column 'label' is empty"),
    "a label NA": ("a.csv", PLAIN + b"one more,NA\n", "line 26"),
    "one label only": ("a.csv", PLAIN.replace(b",n\n", b",y\n"), "so there is nothing to learn"),
    "a label of one text": ("a.csv", PLAIN + b"one more,rare\n", "line 26: the only text of label 'rare'"),
    "spellings of a label": ("a.csv", labels(["Good", "bad", "good"] * 8), "'Good' and 'good'"),
    "numbers or classes": ("a.csv", labels([str(i) for i in range(23)] * 2), "each whole number from 0 to 22"),
    "a word among numbers": ("a.csv", labels([*(f"{i / 7:.3f}" for i in range(24)), "good"]), "line 26"),
    "dates as labels": ("a.csv", labels([f"2020-01-{i + 1:02}" for i in range(24)]), "holds dates"),
    "lists that are not closed": ("a.csv", labels([*(["[1, 0]", "[0, 1]"] * 12), "[2, 1]"]), "line 26"),
    "a cut line of JSON": ("a.jsonl", LINES[:-9], "line 24: not JSON"),
    "a list among objects": ("a.jsonl", LINES + b"[1, 2]\n", "line 25: found a list"),
    "a key twice": (
        "a.jsonl",
        LINES + b'{"text": "x", "label": "y", "label": "n"}\n',
        "line 25: column 'label' occurs",
    ),
    "half a surrogate pair": (
        "a.jsonl",
        LINES + b'{"text": "\\ud800", "label": "y"}\n',
        "line 25: column 'text' holds",
    ),
    "half a surrogate pair at once": (
        *("a.jsonl", b'{"text": "\\ud800", "label": "y"}\n' + LINES),
        "line 1: column 'text' holds",
    ),
    "half a surrogate pair in a name": (
        "a.jsonl",
        b'{"te\\ud800xt": "x", "label": "y"}\n',
        "a column name holds half a surrogate",
    ),
    "a text that is true": (
        "a.jsonl",
        LINES + b'{"text": true, "label": "y"}\n',
        "line 25: column 'text' holds a bool",
    ),
    "deep nesting": (
        *("a.jsonl", LINES + b'{"text": "x", "label": ' + b"[" * 2000 + b"]" * 2000 + b"}\n"),
        "line 25: not JSON",
    ),
    "a list of numbers": ("a.json", b"[1]", "item 1: found a int"),
    "no parquet": ("a.parquet", b"PAR1junk", "not a parquet file"),
    "bytes as labels": (
        "a.parquet",
        as_parquet(text=TEXTS, label=[b"a", b"b"] * 12),
        "row 1: column 'label' holds a bytes",
    ),
    "dates in parquet": (
        *("a.parquet", as_parquet(text=TEXTS, label=[datetime.date(2020, 1, 1 + i) for i in range(24)])),
        "holds dates",
    ),
    "no workbook": ("a.xlsx", b"PK\x03\x04 no zip", "not a readable xlsx file"),
    "two sheets": ("a.xlsx", as_xlsx(One=[HEADER, *ROWS], Two=[HEADER, *ROWS]), "2 sheets are not empty: One, Two"),
    "a cell beside the table": ("a.xlsx", as_xlsx(One=[HEADER, *ROWS, ("x", "y", "aside")]), "row 26: 'aside'"),
    "an empty workbook": ("a.xlsx", as_xlsx(One=[]), "the sheet 'One' is empty"),
    "no gzip": ("a.csv.gz", PLAIN, "not a readable .gz file"),
    "half of a gzip": ("a.csv.gz", gzip.compress(PLAIN, mtime=0)[:-9], "not a readable .gz file"),
    "half of a bz2": ("a.csv.bz2", bz2.compress(PLAIN)[:-9], "not a readable .bz2 file"),
    "half of an xz": ("a.csv.xz", lzma.compress(PLAIN)[:-9], "not a readable .xz file"),
    "no archive": ("a.zip", b"PK", "not a readable .zip file"),
    "an archive of two files": ("a.zip", as_zip(a__csv=PLAIN, b__txt=b"b"), "the archive has 2 files"),
    "an archive of a document": ("a.zip", as_zip(a__pdf=b"%PDF"), "cannot read .pdf"),
    "a document": ("a.pdf", b"%PDF", "its suffix is none of a file of texts"),
    "a file without a suffix": ("reviews", PLAIN, "its suffix is none of a file of texts"),
}
