"""Files that are no texts with labels, or nearly so: name, content, and words that the page says of each.

Every reader has its own tests in `tests/data`; these are one or two of each: refused, an error, a doubt.
"""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Mapping, Sequence

from openpyxl import Workbook

ROWS = [(f"text number {i}", "ny"[i % 2]) for i in range(24)]
PLAIN = ("text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS)).encode()


def two_sheets() -> bytes:
    book = Workbook()
    for sheet in (book.worksheets[0], book.create_sheet("Two")):
        for row in (("text", "label"), *ROWS):
            sheet.append(row)
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def archive_of_two_files() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.csv", PLAIN)
        archive.writestr("b.txt", b"b")
    return file.getvalue()


def labels(values: Sequence[str]) -> bytes:
    return ("text,label\n" + "".join(f"text {row},{value}\n" for row, value in enumerate(values))).encode()


RUBBISH: Mapping[str, tuple[str, bytes, str]] = {
    "an empty file": ("a.csv", b"", "the file is empty"),
    "a column twice": ("a.csv", b"text,label,label\nx,y,z\n", "line 1: column 'label' occurs more than once"),
    "one column": ("a.csv", b"text\none\ntwo\n", "no label column"),
    "too many fields": ("a.csv", PLAIN + b"one,two,three\n", "line 26: found 3 fields"),
    "Cyrillic in an old code page": ("a.csv", PLAIN.replace(b"text ", "текст ".encode("cp1251")), "not UTF-8"),
    "an empty label": ("a.csv", PLAIN + b"one more,\n", "line 26: column 'label' is empty"),
    "one label only": ("a.csv", PLAIN.replace(b",n\n", b",y\n"), "so there is nothing to learn"),
    "a label of one text": ("a.csv", PLAIN + b"one more,rare\n", "line 26: the only text of label 'rare'"),
    "spellings of a label": ("a.csv", labels(["Good", "bad", "good"] * 8), "'Good' and 'good'"),
    "numbers or classes": ("a.csv", labels([str(i) for i in range(23)] * 2), "each whole number from 0 to 22"),
    "a list of numbers": ("a.json", b"[1]", "item 1: found a int"),
    "no parquet": ("a.parquet", b"PAR1junk", "not a parquet file"),
    "two sheets": ("a.xlsx", two_sheets(), "2 sheets are not empty: Sheet, Two"),
    "half of a gzip": ("a.csv.gz", gzip.compress(PLAIN, mtime=0)[:-9], "not a readable .gz file"),
    "an archive of two files": ("a.zip", archive_of_two_files(), "the archive has 2 files"),
    "a document": ("a.pdf", b"%PDF", "its suffix is none of a file of texts"),
}
