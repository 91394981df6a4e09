"""Small files, usual and nasty, that are read as tasks, as data in memory and as texts to predict; what each gives.

`unchanged.py` compares what two checkouts read. The module knows file formats and the public doors of the library. It
does not know how afina reads.
"""

from __future__ import annotations

import bz2
import contextlib
import csv
import datetime
import decimal
import gzip
import io
import json
import lzma
import random
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow
from openpyxl import Workbook
from pyarrow import parquet

from afina import AfinaError, Task, cli

DAY = datetime.datetime(2020, 1, 1)
YN = ("y", "n")


@dataclass(frozen=True)
class Case:
    """Files by name, the one that is loaded, and arguments of `Task.load`."""

    name: str
    files: Mapping[str, bytes]
    address: str
    options: Mapping[str, Any] = field(default_factory=dict)


def texts(count: int = 24) -> list[str]:
    """Distinct texts."""
    return [f"text number {i}" for i in range(count)]


def labelled(labels: Sequence[Any]) -> list[tuple[str, Any]]:
    """Each label beside a text."""
    return list(zip(texts(len(labels)), labels, strict=True))


def as_csv(rows: Sequence[Sequence[Any]], header: str = "text,label", **how: Any) -> bytes:
    """A csv file; `how`: settings of `csv.writer`."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, **({"lineterminator": "\n"} | how))
    writer.writerow(header.split(","))
    writer.writerows(rows)
    return file.getvalue().encode()


def as_jsonl(rows: Sequence[Any]) -> bytes:
    """JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def records(rows: Sequence[Sequence[Any]], header: str = "text,label") -> list[dict[str, Any]]:
    """Rows as objects."""
    return [dict(zip(header.split(","), row, strict=True)) for row in rows]


def as_parquet(table: Any, features: Mapping[str, Any] | None = None) -> bytes:
    """A parquet file; `features`: as the library `datasets` describes columns."""
    made = table if isinstance(table, pyarrow.Table) else pyarrow.table(table)
    if features:
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file = io.BytesIO()
    parquet.write_table(made, file)
    return file.getvalue()


def as_xlsx(**sheets: Sequence[Sequence[Any]]) -> bytes:
    """A workbook, by sheet."""
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
    """An archive; `__` in a name stands for a dot."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "."), content)
    return file.getvalue()


PLAIN = as_csv(labelled(YN * 12))
NAIVE = PLAIN.decode().replace("number", "naïve ☕ number")
LATIN = PLAIN.decode().replace("number", "naïve")


def encodings() -> Iterator[Case]:
    """Encodings, line ends, byte order marks and compressed files."""
    contents = {
        "plain.csv": PLAIN,
        "upper.CSV": PLAIN,
        "mark.csv": NAIVE.encode("utf-8-sig"),
        "utf16.csv": NAIVE.encode("utf-16"),
        "utf16be.csv": b"\xfe\xff" + NAIVE.encode("utf-16-be"),
        "utf16-unmarked.csv": NAIVE.encode("utf-16-le"),
        "utf16-cut.csv": NAIVE.encode("utf-16")[:-1],
        "utf32.csv": NAIVE.encode("utf-32"),
        "windows-ends.csv": NAIVE.replace("\n", "\r\n").encode(),
        "mac-ends.csv": NAIVE.replace("\n", "\r").encode(),
        "mixed-ends.csv": PLAIN.replace(b"\n", b"\r\n", 5),
        "latin1.csv": LATIN.encode("latin-1"),
        "not-windows.csv": LATIN.encode("latin-1").replace(b"\xef", b"\x8f", 3),
        "utf8-then-latin.csv": NAIVE.encode() + b"na\xefve,y\n",
        "latin-then-utf8.csv": LATIN.encode("latin-1") + "naïve ☕,y\n".encode(),
        "cyrillic.csv": as_csv([(f"хорошо {i}", YN[i % 2]) for i in range(24)]).decode().encode("cp1251"),
        "nul.csv": PLAIN.replace(b"number 7", b"num\0ber 7"),
        "no-last-newline.csv": PLAIN.rstrip(b"\n"),
        "quoted-mark.csv": b"\xef\xbb\xbf" + as_csv(labelled(YN * 12), quoting=csv.QUOTE_ALL),
        "a.csv.gz": gzip.compress(PLAIN, mtime=0),
        "a.csv.bz2": bz2.compress(PLAIN),
        "a.CSV.XZ": lzma.compress(PLAIN),
        "a.zip": as_zip(a__csv=PLAIN),
        "b.tsv.zip": as_zip(b__tsv=PLAIN.replace(b",", b"\t")),
        "cut.csv.gz": gzip.compress(PLAIN, mtime=0)[:-9],
        "no.csv.gz": PLAIN,
        "cut.csv.bz2": bz2.compress(PLAIN)[:-9],
        "cut.csv.xz": lzma.compress(PLAIN)[:-9],
        "two.zip": as_zip(a__csv=PLAIN, b__txt=b"b"),
        "none.zip": as_zip(),
        "pdf.zip": as_zip(a__pdf=b"%PDF"),
        "no.zip": b"PK",
        "a.csv.zst": b"junk",
        "a.pdf": b"%PDF",
        "a.txt": b"one\ntwo\n",
        "empty.csv": b"",
        "blank.csv": b"\n\n \n",
        "header.csv": b"text,label\n",
        "bad.parquet": b"PAR1junk",
        "bad.xlsx": b"PK\x03\x04 no zip",
        "bad.parquet.xz": lzma.compress(PLAIN),
        "utf16.jsonl": as_jsonl(records(labelled(YN * 12))).decode().encode("utf-16"),
        "latin1.jsonl": as_jsonl(records(labelled(YN * 12))).replace(b"number 3", b"na\xefve"),
    }
    for name, content in contents.items():
        yield Case(name, {name: content}, name)
    yield Case("absent.csv", {}, "absent.csv")


def delimited() -> Iterator[Case]:
    """Separators, quotation marks, blank lines and rows of other lengths, in csv and tsv."""
    said = ["plain", 'say "hi"', "tab\there", "two\nlines", 'both\t"x"\n', "a, b", "it's; so", "bar | bar"] * 3
    rows = [(f"{text} {i}", YN[i % 2]) for i, text in enumerate(said)]
    for end in ("\n", "\r\n"):
        for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
            how = {"quoting": quoting, "lineterminator": end}
            yield from _each(f"written {quoting} {end!r}", **{"a.csv": as_csv(rows, **how)})
            yield from _each(f"tabs {quoting} {end!r}", **{"a.tsv": as_csv(rows, delimiter="\t", **how)})
    for mark in ";\t|":
        yield from _each(f"separator {mark!r}", **{"a.csv": as_csv(rows, delimiter=mark)})
    contents = {
        "sep.csv": b"sep=;\n" + as_csv(labelled(YN * 12), delimiter=";"),
        "blank-lines.csv": PLAIN.replace(b"\n", b"\n\n"),
        "spaces.csv": as_csv([(f"  {text} ", f" {label} ") for text, label in labelled(YN * 12)]),
        "more-fields.csv": PLAIN + b"one,two,three\n",
        "fewer-fields.csv": PLAIN + b"one\n",
        "trailing-comma.csv": PLAIN.replace(b"\n", b",\n"),
        "trailing-in-rows.csv": PLAIN.replace(b"y\n", b"y,\n"),
        "open-quote.csv": PLAIN + b'"never closed,y\nmore,n\n',
        "quote-inside.csv": PLAIN + b'half "a" quote,y\n',
        "text-after-quote.csv": PLAIN + b'"fine" film,y\n',
        "twice.csv": as_csv([(*row, "x") for row in labelled(YN * 12)], "text,label,label"),
        "nameless.csv": as_csv([(*row, "x") for row in labelled(YN * 12)], "text,label,"),
        "names-again.csv": PLAIN + b"text,label\n",
        "no-header.csv": PLAIN.split(b"\n", 1)[1],
        "long-field.csv": as_csv([("word " * 40_000, "y"), *labelled(YN * 12)]),
        "one-column.csv": b"text\n" + b"".join(b"%d\n" % i for i in range(20)),
        "quotes-both-ways.tsv": b'text\tlabel\n"Great!"\ty\n' + PLAIN.split(b"\n", 1)[1].replace(b",", b"\t"),
        "quotes-half.tsv": b'text\tlabel\n"a"\ty\n"b"\tn\n"c"\tn\nd "e"\ty\n',
        "quotes-unquoted.tsv": b'text\tlabel\n"half a quote \ty\nit\'s "x" \tn\n' + b"a\ty\nb\tn\nc\ty\n" * 3,
        "quotes-doubled.tsv": b'text\tlabel\n"" doubled ""\ty\nplain\tn\n' + b"a\ty\nb\tn\n" * 5,
        "quoted-commas.tsv": b'text\tlabel\n"warm, and good"\ty\ndull\tn\n"good, too"\ty\n' + b"a\tn\nb\ty\n" * 3,
        "open-quote.tsv": b'text\tlabel\n"a\tb\ty\nplain\tn\n',
        "more-fields.tsv": PLAIN.replace(b",", b"\t") + b"one\ttwo\tthree\n",
        "invisible.csv": PLAIN + "\u200b,y\n".encode(),
        "control.csv": PLAIN + b"a\x01b,y\n",
        "line-separator.csv": PLAIN + "one\u2028two,y\n".encode(),
    }
    for name, content in contents.items():
        yield from _each(name, **{name: content})


def objects() -> Iterator[Case]:
    """JSON, JSON lines, parquet and workbooks: nested, repeated, mixed and missing values."""
    plain, header = labelled(YN * 12), ("text", "label")
    lines = as_jsonl(records(plain))
    yield from _each("lines", **{"a.jsonl": lines})
    yield from _each("ndjson", **{"a.ndjson": lines.replace(b"\n", b"\r\n\r\n")})
    yield from _each("lines as json", **{"a.json": lines})
    yield from _each("array", **{"a.json": json.dumps(records(plain), indent=1).encode()})
    yield from _each("object of rows", **{"a.json": json.dumps({"data": records(plain)}).encode()})
    yield from _each("columns", **{"a.json": json.dumps({"text": texts(), "label": YN * 12}).encode()})
    yield from _each("marked", **{"a.json": b"\xef\xbb\xbf" + json.dumps(records(plain)).encode()})
    broken = {
        "cut": lines[:-9],
        "no object": lines + b"[1, 2]\n",
        "no json": lines + b"text: label\n",
        "NaN": lines + b'{"text": "x", "label": NaN}\n',
        "key twice": lines + b'{"text": "x", "label": "y", "label": "n"}\n',
        "key twice inside": lines + b'{"text": "x", "label": "y", "more": {"x": 1, "x": 2}}\n',
        "surrogate": lines + b'{"text": "half \\ud800", "label": "y"}\n',
        "null text": lines + b'{"text": null, "label": "y"}\n',
        "null label": lines + b'{"text": "x", "label": null}\n',
        "absent key": lines + b'{"text": "x"}\n',
        "more keys": lines + b'{"text": "x", "label": "y", "id": 3}\n',
        "text true": lines + b'{"text": true, "label": "y"}\n',
        "text list": lines + b'{"text": ["x"], "label": "y"}\n',
        "text number": lines + b'{"text": 7, "label": "y"}\n{"text": 7.5, "label": "n"}\n',
        "label object": lines + b'{"text": "x", "label": {"a": 1}}\n',
        "label list": lines + b'{"text": "x", "label": ["a"]}\n',
        "huge number": lines + b'{"text": "x", "label": 1e999}\n',
        "deep": lines + b'{"text": "x", "label": ' + b"[" * 2000 + b"]" * 2000 + b"}\n",
        "blank": b"\n\n",
    }
    for name, content in broken.items():
        yield from _each(f"lines: {name}", **{"a.jsonl": content})
    for name, content in {
        "empty array": b"[]",
        "array of numbers": b"[1]",
        "string": b'"x"',
        "cut": b'[{"a": 1}',
    }.items():
        yield from _each(f"json: {name}", **{"a.json": content})
    values = {
        "truths": (True, False),
        "ones": (1, 0),
        "fractions": (1.0, 0.0),
        "words and ones": (1, "none"),
        "truths and ones": (True, 0),
        "mixed": (1, "1"),
        "large": (12345678901234567891, 12345678901234567890),
    }
    for name, (one, other) in values.items():
        yield from _each(f"labels: {name}", **{"a.jsonl": as_jsonl(records(labelled([one, other] * 12)))})
    tables: dict[str, Any] = {
        "plain": {"text": texts(), "label": list(YN * 12)},
        "nulls": {"text": texts(), "label": [None, *YN * 11, "y"]},
        "numbers": {"text": texts(), "label": [i / 7 for i in range(24)]},
        "whole": {"text": texts(), "label": [i % 2 for i in range(24)]},
        "large whole": {"text": texts(), "label": [2**60 + i % 2 for i in range(24)]},
        "truths": {"text": texts(), "label": [i % 2 == 0 for i in range(24)]},
        "decimals": {"text": texts(), "label": [decimal.Decimal(i % 5) / 2 for i in range(24)]},
        "whole decimals": {"text": texts(), "label": [decimal.Decimal(i % 2) for i in range(24)]},
        "dates": {"text": texts(), "label": [DAY.date()] * 24},
        "lists": {"text": texts(), "label": [["a"], ["a", "b"], []] * 8},
        "hot": {"text": texts(), "label": [[1, 0, 0], [0, 1, 1], [1, 1, 0]] * 8},
        "bytes": {"text": texts(), "label": [b"a", b"b"] * 12},
        "numbers as texts": {"text": list(range(24)), "label": list(YN * 12)},
        "fractions as texts": {"text": [float(i) for i in range(24)], "label": list(YN * 12)},
        "structs": {"text": texts(), "label": [{"a": 1}] * 24},
        "dictionary": {"text": texts(), "label": pyarrow.array(YN * 12).dictionary_encode()},
        "infinite": {"text": texts(), "label": [float("inf"), *map(float, range(23))]},
        "nan": {"text": texts(), "label": [float("nan"), *map(float, range(23))]},
    }
    for name, table in tables.items():
        yield from _each(f"parquet {name}", **{"a.parquet": as_parquet(table)})
    repeated = [pyarrow.array(column) for column in (texts(), list(YN * 12), list(YN * 12))]
    yield from _each(
        "parquet twice", **{"a.parquet": as_parquet(pyarrow.Table.from_arrays(repeated, ["text", "label", "label"]))}
    )
    moods = {"label": {"names": ["sad", "glad", "never"], "_type": "ClassLabel"}}
    for name, given in {"classes": [0, 1] * 12, "missing": [0, 1, -1] * 8, "beyond": [0, 1, 7] * 8}.items():
        table = {"text": texts(), "label": given}
        for options in ({}, {"missing": "skip"}, {"kind": "number"}, {"labels": ["glad", "sad"]}):
            yield from _each(f"parquet names {name}", options, **{"a.parquet": as_parquet(table, moods)})
    whens = {
        "date": pyarrow.array([DAY.date()] * 24),
        "time": pyarrow.array([DAY] * 24),
        "ns": pyarrow.array([10**9 + 1] * 24).cast(pyarrow.timestamp("ns")),
        "zone": pyarrow.array([DAY] * 24).cast(pyarrow.timestamp("ms", "UTC")),
    }
    for name, when in whens.items():
        table = {"text": texts(), "label": list(YN * 12), "when": when}
        yield from _each(f"parquet {name}", {"text": "text", "text_pair": "when"}, **{"a.parquet": as_parquet(table)})
        yield from _each(f"parquet label {name}", {"label": "when"}, **{"a.parquet": as_parquet(table)})
    rated = [("text", "stars"), *((text, i % 5 + 1) for i, text in enumerate(texts()))]
    two = {"First": rated, "Second": [header, *plain]}
    books: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("only", {"Empty": [], "Ratings": rated}, {}),
        ("two", two, {}),
        ("named", two, {"sheet": "Second"}),
        ("unknown", two, {"sheet": "Third"}),
        ("empty", {"One": []}, {}),
        ("aside", {"One": [*rated, ("more", 1, "aside")]}, {}),
        ("names twice", {"One": [("text", "text"), *rated[1:]]}, {}),
        ("no text", {"One": [*rated, (None, 3)]}, {}),
        ("error value", {"One": [*rated, ("x", "#N/A")]}, {}),
        ("error value skipped", {"One": [*rated, ("x", "#N/A")]}, {"missing": "skip"}),
        ("truth", {"One": [*rated, (True, 3)]}, {}),
        ("formula", {"One": [*rated, ("x", "=1+1")]}, {}),
        ("gap", {"One": [*rated, (None, None), ("x", 3)]}, {}),
        ("dates", {"One": [header, *((DAY, label) for label in YN * 12)]}, {}),
        ("date labels", {"One": [header, *((text, DAY) for text in texts())]}, {}),
        ("fractions", {"One": [header, *((text, i + 0.5) for i, text in enumerate(texts()))]}, {}),
        ("whole fractions", {"One": [header, *((text, float(i % 3)) for i, text in enumerate(texts()))]}, {}),
        ("lists", {"One": [header, *((text, ("a;b", "b", "")[i % 3]) for i, text in enumerate(texts()))]}, {}),
    ]
    for name, sheets, options in books:
        yield from _each(f"workbook {name}", options, **{"a.xlsx": as_xlsx(**sheets)})
    yield from _each("sheet of csv", {"sheet": "One"}, **{"a.csv": PLAIN})


def targets() -> Iterator[Case]:
    """What labels mean: classes, numbers, several labels; notations, missing values, spellings; and options."""
    numbers = [i + 0.25 for i in range(24)]
    columns: dict[str, list[Any]] = {
        "words": [*YN] * 12,
        "one to five": [1, 2, 3, 4, 5] * 5,
        "zero to hundred": list(range(101)),
        "minus one": [-1, 0, 1] * 8,
        "tens": [10 * i for i in range(30)],
        "negative": [-3, *range(30)],
        "codes": ["007", "008"] * 12,
        "one and fraction": ["1.0", "2.0"] * 12,
        "signs": ["+1", "-1"] * 12,
        "truths": ["true", "False"] * 12,
        "fractions": numbers,
        "decimal commas": [f"{i},5" for i in range(24)],
        "decimal commas of two": ["0,0", "1,0"] * 12,
        "thousands": [f"1,{i:03}.5" for i in range(24)],
        "thousands or commas": ["1,000", "2,500", "3,250"] * 8,
        "percents": [f"{i} %" for i in range(24)],
        "percents and commas": [f"{i},5%" for i in range(24)],
        "mixed notations": ["1,5", "1.5", "2"] * 8,
        "exponents": [f"{i}e-3" for i in range(24)],
        "other digits": [f"{i}" for i in range(23)] + ["\u0663"],
        "infinite": [*numbers, "inf"],
        "nan": [*numbers, "NaN"],
        "a word": [*numbers, "abc"],
        "empty": [*numbers, ""],
        "empty words": [*YN * 11, "", "n"],
        "words for missing": ["NA", "null", "None", *YN * 11],
        "spaces": ["y", " y ", "n"] * 8,
        "case": ["Good", "good", "bad"] * 8,
        "unicode": ["caf\u00e9", "cafe\u0301", "bad"] * 8,
        "whole numbers alike": ["01", "1", "2"] * 8,
        "truths alike": ["true", "1", "0"] * 8,
        "commas in names": ["red, white", "rose"] * 12,
        "recurring commas": ["a,b", "b", "a"] * 8,
        "semicolons": ["a;b", "b", "a", "c;a", ""] * 5,
        "names with semicolons": ["a;b", "c;d"] * 12,
        "bars": ["a|b", "b", "a", "c|a"] * 6,
        "spaced semicolons": ["a ; b", " b", "c;a "] * 8,
        "json lists": ['["a", "b"]', '["b"]', "[]", '["a", "c"]'] * 6,
        "python lists": ["['a', 'b']", "['b']", "[]"] * 8,
        "half lists": ['["a", "b"', '["b"]', "[]"] * 8,
        "lists beside words": ['["a"]', "b", "[]"] * 8,
        "hot lists": ["[1, 0, 1]", "[0, 1, 0]", "[1, 1, 1]"] * 8,
        "hot lists of one": ["[1]", "[0]"] * 12,
        "hot beside others": ["[1, 0]", "[0, 1]", "[2, 1]"] * 8,
        "lists of numbers": ["[3, 4]", "[5]", "[3]"] * 8,
        "empty lists": ["[]"] * 24,
        "a label twice": ["a;a", "b", "a;b"] * 8,
        "dates": [f"2020-01-0{i % 2 + 1}" for i in range(24)],
        "times": [f"2020-01-01 0{i % 2 + 1}:00" for i in range(24)],
        "one value": ["y"] * 24,
        "one number": ["3.5"] * 24,
        "one of a class": ["rare", *YN * 12],
        "many classes": [f"class {i % 80}" for i in range(160)],
        "long sentences": [f"a label that is a whole sentence, number {i}, of a text." for i in range(24)],
        "gap": [1, 2, 3, 5, 100] * 5,
        "seventy-seven": list(range(77)) * 2,
    }
    for name, labels in columns.items():
        for options in ({}, {"kind": "classes"}, {"kind": "number"}, {"kind": "labels"}):
            yield from _each(f"labels: {name}", options, **{"a.csv": as_csv(labelled(labels))})
    for name in ("case", "unicode", "whole numbers alike", "truths alike", "spaces"):
        alike = {"a.csv": as_csv(labelled(columns[name]))}
        yield from _each(f"labels: {name}", {"merge_labels": True}, **alike)
        yield from _each(f"labels: {name}", {"labels": sorted({str(one).strip() for one in columns[name]})}, **alike)
    for name in ("empty", "empty words", "nan", "words for missing"):
        for missing in ("skip", "keep", "refuse", "often"):
            yield from _each(f"labels: {name}", {"missing": missing}, **{"a.csv": as_csv(labelled(columns[name]))})
    for column in ("text,class_id", "text,score", "text,category", "text,points", "text,id", "text,label"):
        named = as_csv(labelled([1, 2, 3, 4] * 6), column)
        yield from _each(f"column {column}", {"label": column.split(",")[1]}, **{"a.csv": named})
    given: list[tuple[str, dict[str, Any]]] = [
        ("words", {"labels": ["y", "n"]}),
        ("words", {"labels": ["y"]}),
        ("words", {"labels": ["y", "n", "z"]}),
        ("words", {"labels": ["y", "y"]}),
        ("words", {"labels": "yn"}),
        ("words", {"positive": "n"}),
        ("words", {"positive": "y"}),
        ("words", {"positive": "z"}),
        ("words", {"separator": ";"}),
        ("words", {"separator": ";", "kind": "classes"}),
        ("words", {"kind": "numbers"}),
        ("words", {"long": "skip"}),
        ("one to five", {"labels": ["a", "b", "c", "d", "e"]}),
        ("one to five", {"positive": "1"}),
        ("minus one", {"labels": ["a", "b", "c"], "kind": "classes"}),
        ("fractions", {"labels": ["x"]}),
        ("fractions", {"positive": "x"}),
        ("semicolons", {"separator": ";"}),
        ("semicolons", {"separator": "|"}),
        ("semicolons", {"labels": ["c", "b", "a"]}),
        ("semicolons", {"labels": ["a", "b"]}),
        ("recurring commas", {"separator": ","}),
        ("hot lists", {"labels": ["x", "y", "z"]}),
        ("hot lists", {"labels": ["x", "y"]}),
        ("words", {"train_examples": 5}),
        ("words", {"train_examples": 0}),
        ("words", {"evaluation_examples": 2}),
        ("words", {"validation": 0.25}),
        ("words", {"validation": 1.5}),
        ("words", {"selection": 0.2, "calibration": True}),
        ("fractions", {"selection": 0.2, "calibration": True, "validation": 0.2}),
        ("words", {"label": "nope"}),
        ("words", {"text": "nope"}),
        ("words", {"text_pair": "nope"}),
        ("words", {"text": "label"}),
        ("words", {"text": "label", "label": "text", "kind": "text"}),
        ("words", {"target": "label"}),
        ("words", {"target": "label", "kind": "number"}),
    ]
    for name, options in given:
        yield from _each(f"given: {name}", options, **{"a.csv": as_csv(labelled(columns[name]))})
    hot = [(text, i % 2, (i // 2) % 2) for i, text in enumerate(texts())]
    words = [(text, ("true", "False")[i % 2], ("FALSE", "true")[i // 2 % 2]) for i, text in enumerate(texts())]
    wrong = [(text, i % 2, i % 3) for i, text in enumerate(texts())]
    never = [(*row[:2], 0) for row in hot]
    for name, rows in {"hot": hot, "words": words, "wrong": wrong, "never": never}.items():
        for options in ({"label": "a,b"}, {"label": "b, a"}, {"label": "a,c"}, {"label": "a,b", "kind": "number"}):
            yield from _each(f"columns: {name}", options, **{"a.csv": as_csv(rows, "text,a,b")})


def columns() -> Iterator[Case]:
    """Which columns are read, pairs, directories, evaluation files, duplicates, conflicts and leaks."""
    headers = (
        "sentence,target Review,Class content,sentiment words,label text,verdict text,label,sentiment "
        "text,review,label text,title,label comment,stars,id text,text_pair,label sentence1,sentence2,label "
        "premise,hypothesis,label question,sentence,label question1,question2,label text,label,Text "
        "body,label,text input,output,label"
    )
    for header in headers.split():
        names = header.split(",")
        last = next((i for i, name in enumerate(names) if name.lower() in ("label", "target", "class", "stars")), -1)
        rows = [[f"{name} {i}" for name in names] for i in range(24)]
        for i, row in enumerate(rows):
            row[last] = YN[i % 2]
        yield from _each(f"header {header}", **{"a.csv": as_csv(rows, header)})
        yield from _each(f"header {header}", {"text": names[0], "label": names[-1]}, **{"a.csv": as_csv(rows, header)})
    pairs = [(f"one {i % 7}", f"two {i}", YN[i % 2]) for i in range(24)]
    yield from _each("pair named", {"text_pair": "note"}, **{"a.csv": as_csv(pairs, "text,note,label")})
    yield from _each(
        "pair empty", {"text_pair": "note"}, **{"a.csv": as_csv([*pairs, ("x", "", "y")], "text,note,label")}
    )
    other = as_csv([(f"new {i}", YN[i % 2]) for i in range(6)])
    for stem in ("dev", "validation", "valid", "val", "test", "other"):
        yield Case(f"directory {stem}", {"d/train.csv": PLAIN, f"d/{stem}.csv": other}, "d")
    yield Case("directory two", {"d/train.csv": PLAIN, "d/dev.csv": other, "d/val.csv": other}, "d")
    yield Case("directory two formats", {"d/train.csv": PLAIN, "d/train.tsv": PLAIN, "d/dev.csv": other}, "d")
    yield Case("directory alone", {"d/train.csv": PLAIN}, "d")
    yield Case("directory empty", {"d/readme.md": b"x"}, "d")
    yield Case("directory formats", {"d/train.jsonl": as_jsonl(records(labelled(YN * 12))), "d/dev.csv": other}, "d")
    glue = b"sentence\tlabel\n" + b"".join(b"fine %d \t%d\n" % (i, i % 2) for i in range(12))
    yield Case("directory glue", {"d/train.tsv": glue, "d/dev.tsv": glue.replace(b"fine", b"new")}, "d")
    evaluated = {
        "evaluation": other,
        "evaluation of other columns": as_csv([("x", "y")], "sentence,label"),
        "evaluation of a new label": as_csv([("x", "y"), ("z", "never")]),
        "evaluation without rows": b"text,label\n",
        "evaluation leaks": PLAIN,
    }
    for name, content in evaluated.items():
        yield Case(name, {"a.csv": PLAIN, "b.csv": content}, "a.csv", {"evaluation": "b.csv"})
    yield Case(
        "leaks allowed", {"a.csv": PLAIN, "b.csv": PLAIN}, "a.csv", {"evaluation": "b.csv", "allow_leakage": True}
    )
    numbers = as_csv(labelled([i + 0.5 for i in range(24)]))
    yield Case("numbers and whole", {"a.csv": numbers, "b.csv": as_csv([("x", 1)])}, "a.csv", {"evaluation": "b.csv"})
    yield Case("numbers and words", {"a.csv": numbers, "b.csv": as_csv([("x", "y")])}, "a.csv", {"evaluation": "b.csv"})
    several = as_csv(labelled(["a;b", "b", "a"] * 8))
    for name, cell in {"known": "a", "unknown": "a;z", "none": ""}.items():
        files = {"a.csv": several, "b.csv": as_csv([("new", "a"), ("newer", cell)])}
        yield Case(f"several {name}", files, "a.csv", {"evaluation": "b.csv", "kind": "labels"})
    doubled = {
        "duplicates": labelled(YN * 12) + labelled(YN * 12)[:5],
        "duplicates by case": [*labelled(YN * 12), *((text.upper() + "!", "y") for text in texts(5))],
        "conflicts": [*labelled(YN * 12), *labelled(["n"] * 5)],
        "no letters": [*labelled(YN * 12), (":)", "y"), (":(", "n"), (":)", "n"), ("!!", "y")],
        "few": labelled(YN),
        "one": labelled(["y"]),
        "numbers as texts": [(i, YN[i % 2]) for i in range(24)],
        "dates as texts": [(f"2020-01-{i + 1:02}", YN[i % 2]) for i in range(24)],
        "missing texts": [("", "y"), ("  ", "n"), ("NA", "y"), *labelled(YN * 12)],
    }
    for name, rows in doubled.items():
        for options in ({}, {"missing": "skip"}, {"missing": "keep"}):
            yield from _each(name, options, **{"a.csv": as_csv(rows)})


def written() -> Iterator[Case]:
    """Texts to write: usual columns, references, and rows that cannot be one."""
    shapes = (
        "input output",
        "prompt completion",
        "document summary",
        "mr ref",
        "context question answers",
        "context question answer",
        "instruction input output",
        "input output prompt completion",
        "text target",
        "body reply",
        "input output label",
    )
    for shape in shapes:
        rows = [{name: f"{name} {i}" for name in shape.split()} for i in range(12)]
        names = shape.split()
        for options in ({}, {"kind": "text"}, {"text": names[-2], "target": names[-1]}, {"target": names[0]}):
            yield from _each(f"to write: {shape}", options, **{"a.jsonl": as_jsonl(rows)})
    good = [{"input": f"i {i}", "output": f"o {i}"} for i in range(10)]
    cells: dict[str, Any] = {
        "text": "a boat ",
        "list": ["a boat", "a ship", "a boat"],
        "json": '["a boat", "a ship"]',
        "python": "['a boat', 'a ship']",
        "squad": {"text": ["a boat", "a ship"], "answer_start": [3, 3]},
        "squad of one": {"text": "a boat", "answer_start": 3},
        "squad list": [{"text": "a boat", "answer_start": 3}],
        "numbers": "[1, 2]",
        "laughs": "[laughs]",
        "quoted": '"quoted"',
        "empty": "",
        "none": None,
        "blank": " \n",
        "NaN": "NaN",
        "no list": [],
        "blank in list": ["b", " "],
        "squad of none": {"text": []},
        "number": 3,
        "truth": True,
        "number in list": ["b", 3],
        "nested": [["b"]],
        "object": {"b": 1},
        "half a list": '["b", "c]',
        "two in quotes": "['b' 'c']",
        "number in json": '["b", 3, "c"]',
        "surrogate": "half \ud800",
    }
    for name, cell in cells.items():
        rows = as_jsonl([*good, {"input": "same", "output": cell}])
        yield from _each(f"reference {name}", **{"a.jsonl": rows})
        if cell in ("", None, "NaN", []):
            yield from _each(f"reference {name}", {"missing": "skip"}, **{"a.jsonl": rows})
            yield from _each(f"reference {name}", {"missing": "keep"}, **{"a.jsonl": rows})
    bad: dict[str, Any] = {
        "no input": {"output": "b"},
        "truth": {"input": True, "output": "b"},
        "extra": {"input": "a"},
    }
    bad["names"] = {"input": "input", "output": "output"}
    for name, row in bad.items():
        yield from _each(f"to write, {name}", **{"a.jsonl": as_jsonl([*good, row])})
    several = [{"mr": f"name[{i}]", "ref": f"{i} is number {r}"} for i in range(20) for r in range(3)]
    shares: list[dict[str, Any]] = [
        {"selection": 0.2, "calibration": True},
        {"train_examples": 10},
        {"evaluation_examples": 2},
        {"validation": 0.3},
        {"labels": ["a"]},
        {"separator": ";"},
        {"positive": "a"},
        {"long": "skip"},
        {"long": "never"},
    ]
    for options in ({}, *shares):
        yield from _each("several references", options, **{"a.jsonl": as_jsonl(several)})
    yield from _each("repeated references", **{"a.jsonl": as_jsonl([*several, *several[:9]])})
    yield from _each("references as csv", **{"a.csv": as_csv([(row["mr"], row["ref"]) for row in several], "mr,ref")})
    dev = as_jsonl([{"mr": "new", "ref": f"r {i}"} for i in range(5)])
    yield Case(
        "references evaluated", {"a.jsonl": as_jsonl(several), "b.jsonl": dev}, "a.jsonl", {"evaluation": "b.jsonl"}
    )
    articles = [
        {"title": f"a {i // 6}", "context": f"c {i // 3}", "question": f"q {i}", "answers": {"text": [f"{i}"]}}
        for i in range(60)
    ]
    yield from _each("articles", {"selection": 0.3}, **{"a.jsonl": as_jsonl(articles)})
    yield from _each("articles without", **{"a.jsonl": as_jsonl([row | {"title": None} for row in articles])})
    untitled = [{name: value for name, value in row.items() if name != "title"} for row in articles]
    yield from _each("contexts", **{"a.jsonl": as_jsonl(untitled)})
    yield from _each("one input", **{"a.jsonl": as_jsonl(good[:1])})
    yield from _each("equal targets", **{"a.jsonl": as_jsonl([row | {"output": "o"} for row in good])})


def annotated() -> Iterator[Case]:
    """Files of entities: tags in every scheme, spans of every tool, and broken ones, with and without repair."""
    schemes = {
        "bio": "B-X I-X O B-Y B-Y O",
        "iob1": "I-X I-X O I-Y B-Y O",
        "io": "I-X I-X O I-Y O O",
        "labels": "X X O Y O O",
        "bioes": "B-X E-X O S-Y S-Y O",
        "bilou": "B-X L-X O U-Y U-Y O",
        "bmes": "B-X M-X E-X S-Y O O",
        "broken bio": "O I-X O B-Y I-X O",
        "broken bioes": "B-X O O S-Y E-Y O",
        "two schemes": "B-X L-X O S-Y E-Y O",
        "bare": "B I O B B O",
        "word classes": "N N V D N P",
    }
    sentences = [[f"word{i}", "a", "b", "c", "d", str(i)] for i in range(24)]
    for name, tags in schemes.items():
        lines = ["".join(f"{word} {tag}\n" for word, tag in zip(one, tags.split(), strict=True)) for one in sentences]
        rows = [{"tokens": one, "ner_tags": tags.split()} for one in sentences]
        for options in ({}, {"repair": True}):
            yield from _each(f"tags: {name}", options, **{"a.conll": "\n".join(lines).encode()})
            yield from _each(f"tags: {name}", options, **{"a.jsonl": as_jsonl(rows)})
    documents = "".join(f"-DOCSTART- O\n\nx O\n{i} B-X\n\ny O\n{i} B-Y\n\n" for i in range(12))
    yield from _each("documents", {"selection": 0.3}, **{"a.txt": documents.encode()})
    text = "Ann \U0001f44d saw B\u00f6b in Rome ."
    spans: dict[str, Any] = {
        "lists": [[0, 3, "PER"], [10, 13, "PER"], [17, 21, "LOC"]],
        "objects": [{"start": 0, "end": 3, "label": "PER"}],
        "text": [{"start": 0, "end": 3, "label": "PER", "text": "Ann"}],
        "offsets": [{"start_offset": 0, "end_offset": 3, "label": "PER"}],
        "utf-16": [{"start": 11, "end": 14, "label": "PER", "text": "B\u00f6b"}],
        "unquoted utf-16": [[11, 14, "PER"]],
        "space": [[0, 4, "PER"]],
        "part": [[0, 2, "PER"]],
        "twice": [[0, 3, "PER"], [0, 3, "PER"]],
        "overlap": [[0, 3, "PER"], [0, 5, "LOC"]],
        "beyond": [[0, 99, "PER"]],
        "no label": [[0, 3, ""]],
        "none": [],
    }
    for name, found in spans.items():
        rows = [{"text": f"{text} {i}", "entities": found} for i in range(24)]
        table = as_csv([(row["text"], json.dumps(row["entities"])) for row in rows], "text,entities")
        for options in ({}, {"repair": True}, {"kind": "entities"}):
            yield from _each(f"spans: {name}", options, **{"a.jsonl": as_jsonl(rows)})
        yield from _each(f"spans: {name}", **{"a.csv": table})


PIECES = (
    "a",
    "b c",
    "é",
    "1",
    "0,5",
    "NA",
    '"',
    '""',
    "'",
    ",",
    ";",
    "\t",
    "|",
    "\n",
    "\r\n",
    " ",
    "=",
    "#",
    "[",
    "]",
    "\\",
)
"""Of the cells of `drawn`: letters, separators, quotation marks, line ends."""


def drawn() -> Iterator[Case]:
    """Tables of random pieces, as programs write them and with pieces anywhere, read as texts to write."""
    chance = random.Random(0)

    def cell(most: int = 5) -> str:
        return "".join(chance.choices(PIECES, k=chance.randint(0, most))) + chance.choice("xyz")

    for number in range(300):
        tabs, quoting = chance.random() < 0.4, chance.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC))
        mark, end = "\t" if tabs else chance.choice(",,;|"), chance.choice(("\n", "\r\n"))
        table = [(f"{row} {cell()}", cell()) for row in range(chance.randint(3, 12))]
        content = as_csv(table, "a,b", delimiter=mark, quoting=quoting, lineterminator=end).decode()
        for _ in range(chance.choice((0, 0, 1, 2))):
            place = chance.randint(5, len(content))
            content = content[:place] + chance.choice(PIECES) + content[place:]
        name = "a.tsv" if tabs else "a.csv"
        options = {"text": "a", "target": "b", "missing": chance.choice((None, "skip", "keep"))}
        yield Case(f"{number}", {name: content.encode()}, name, options)
    for number in range(150):
        values = [chance.choice((cell(1), number % 7, 0.5, "", None, True, "y", [cell(1)], "NA")) for _ in range(3)]
        given = [{"text": f"{row} {cell()}", "label": chance.choice(values)} for row in range(20)]
        yield Case(
            f"labels {number}", {"a.jsonl": as_jsonl(given)}, "a.jsonl", {"missing": chance.choice((None, "skip"))}
        )


def _each(name: str, options: Mapping[str, Any] | None = None, **files: bytes) -> Iterator[Case]:
    """One case of the only file."""
    said = "".join(f" {key}={value}" for key, value in (options or {}).items())
    yield Case(f"{name} {'/'.join(files)}{said}", files, next(iter(files)), options or {})


def given() -> Iterator[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Name, data and arguments of `Task.of`."""
    numbers = [i / 7 for i in range(24)]
    frame = pandas.DataFrame({"id": range(24), "body": texts(), "mark": YN * 12})
    named: dict[str, Any] = {"text": "body", "label": "mark"}
    yield from (("frame", (frame,), named), ("frame without names", (frame,), {}))
    yield from (("dict", (frame.to_dict("list"),), named), ("records", (frame.to_dict("records"),), named))
    yield "table", (pyarrow.Table.from_pandas(frame),), named
    labels: dict[str, Any] = {
        "list": list(YN * 12),
        "array": np.array(YN * 12),
        "series": pandas.Series(YN * 12, dtype="category"),
        "numbers": numbers,
        "decimals": [decimal.Decimal(i) / 4 for i in range(24)],
        "truths": [True, False] * 12,
        "signs": np.array([1, -1] * 12),
        "lists": [["late", "rude"], []] * 12,
        "hot": np.array([[1, 0], [1, 1]] * 12),
        "None": [*YN * 11, "y", None],
        "NaN": [*numbers[:-1], float("nan")],
        "NA": pandas.Series([*YN * 11, "y", pandas.NA]),
        "alike": ["Y", "y"] * 12,
        "ones alike": [1, "01"] * 12,
        "dates": [DAY.date(), DAY.date() + datetime.timedelta(1)] * 12,
        "bytes": [b"a", b"b"] * 12,
        "short": list(YN * 6),
        "string": "y",
        "huge": [i * 1e300 for i in range(24)],
    }
    for name, one in labels.items():
        yield f"labels {name}", (texts(), one), {}
        yield f"labels {name} skip", (texts(), one), {"missing": "skip"}
    yield "pairs", (list(zip(texts(), texts()[::-1], strict=True)), list(YN * 12)), {}
    yield "to write", (texts(), texts()[::-1]), {"kind": "text"}
    yield "hot names", (texts(), labels["hot"]), {"labels": ["late", "rude"]}
    yield "positive", (texts(), list(YN * 12)), {"positive": "n"}
    yield "evaluation", (texts(18), list(YN * 9)), {"evaluation": (["a new one", "another"], ["y", "n"])}
    yield "leaks", (frame,), {**named, "evaluation": frame[:8]}
    yield "no rows", ([], []), {}
    yield "texts alone", (texts(),), {}
    yield "address", ("rows.csv",), {}
    yield "columns twice", (pandas.concat([frame, frame], axis=1),), {"text": "body"}


UNLABELLED: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "lines.txt": (b"one\n\n \t\ntwo\r\nthree", ()),
    "marked.txt": ("naïve ☕\none\n".encode("utf-16"), ()),
    "latin.txt": ("naïve\none\n".encode("latin-1"), ()),
    "columns.txt": (b"one\n", ("--text", "body")),
    "a.csv": (as_csv([(i, text, "x") for i, text in enumerate(("one", "", "two"))], "id,review,label"), ()),
    "named.csv": (as_csv(labelled(YN * 3), "title,note"), ("--text", "note")),
    "unknown.csv": (as_csv(labelled(YN * 3)), ("--text", "body")),
    "none.csv": (as_csv(labelled(YN * 3), "a,b"), ()),
    "pair.csv": (as_csv(labelled(YN * 3)), ("--text-pair", "label")),
    "a.tsv": (as_csv(labelled(YN * 3), delimiter="\t"), ()),
    "quotes.tsv": (b'text\tlabel\n"Great!"\t1\nplain\t0\n', ()),
    "a.jsonl": (as_jsonl([{"text": "one", "id": 1}, {"text": None}, {"text": "two", "more": [1]}]), ()),
    "bad.jsonl": (as_jsonl([{"text": "one"}]) + b"{\n", ()),
    "true.jsonl": (as_jsonl([{"text": "one"}, {"text": True}]), ()),
    "a.parquet": (as_parquet({"text": ["one", None, "two"], "when": [DAY] * 3}), ()),
    "a.xlsx": (as_xlsx(One=[("text", "stars"), ("one", 1), (None, 2), (3, DAY)]), ()),
    "two.xlsx": (as_xlsx(One=[("text",), ("one",)], Two=[("text",), ("two",)]), ()),
    "sheet.xlsx": (as_xlsx(One=[("text",), ("one",)], Two=[("text",), ("two",)]), ("--sheet", "Two")),
    "a.txt.gz": (gzip.compress(b"one\ntwo\n", mtime=0), ()),
    "a.zip": (as_zip(a__csv=PLAIN), ()),
    "binary.txt": (b"one\n\x00two\n", ()),
    "empty.txt": (b"", ()),
    "header.csv": (b"text,label\n", ()),
    "a.pdf": (b"%PDF", ()),
}
"""Files of `predict --file`, with options."""


def facts(adapter: Path, backbone: Path) -> dict[str, Any]:
    """What each case gives. The adapter, of classes, answers the files without labels."""
    found: dict[str, Any] = {}
    for group in (encodings, delimited, objects, targets, columns, written, annotated, drawn):
        for number, case in enumerate(group()):
            home = Path(group.__name__, f"{number:03}")
            for name, content in case.files.items():
                (home / name).parent.mkdir(parents=True, exist_ok=True)
                (home / name).write_bytes(content)
            with contextlib.chdir(home) if home.is_dir() else contextlib.nullcontext():
                found[f"{group.__name__}: {case.name}"] = outcome(
                    lambda case=case: Task.load(case.address, **case.options)
                )
    for name, data, options in given():
        found[f"in memory: {name}"] = outcome(lambda data=data, options=options: Task.of(*data, **options))
    Path("unlabelled").mkdir()
    for name, (content, options) in UNLABELLED.items():
        Path("unlabelled", name).write_bytes(content)
        found[f"unlabelled: {name}"] = predicted(adapter, backbone, Path("unlabelled", name), options)
    return found


def outcome(read: Callable[[], Task]) -> dict[str, Any]:
    """A task as JSON values, or the error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return {"outcome": "task", **described(read())}
        except AfinaError as error:
            return of_error(error.as_json())


def of_error(told: Mapping[str, Any]) -> dict[str, Any]:
    """An error as facts; its sentence may be reworded."""
    return {"outcome": told["class"], "code": told["code"], "fields": told["fields"], "words of error": told["message"]}


def described(task: Task) -> dict[str, Any]:
    """Everything that a task says of itself."""
    splits = {name: getattr(task, name) for name in ("train", "evaluation", "selection", "calibration")}
    facts = (
        "kind",
        "label_names",
        "columns",
        "notes",
        "told",
        "leaked",
        "metric",
        "separator",
        "long",
        "pairs",
    )
    given = getattr(task.data, "given", task.data) or {}  # a dict in the first version
    return {
        **{name: getattr(task, name) for name in facts},
        "columns": dict(task.columns),
        "other": task.other if isinstance(task.other, str) else ", and ".join(each.words for each in task.other),
        "data": {name: str(list(value) if name == "labels" else value) for name, value in given.items()},
        "data_digest": task.data_digest,
        "splits": {name: rows(split) for name, split in splits.items() if split is not None},
        "digests": {name: split.digest for name, split in splits.items() if split is not None},
    }


def rows(split: Any) -> list[Any]:
    """Text, target and, where there are any, second text and group of each row; long texts are cut."""
    found = []
    for number, example in enumerate(split):
        more = [] if split.pairs is None else [example.text_pair]
        more += [] if split.groups is None else [split.groups[number]]
        found.append(json.dumps([example.text[:200], len(example.text), example.label, *more]))
    return found


def predicted(adapter: Path, backbone: Path, file: Path, options: Sequence[str]) -> Any:
    """Rows that `afina predict --file` reads, from the file it writes; or the error."""
    code, said = command(
        "predict", adapter, "--file", file, *options, "--backbone", backbone, "--out", f"{file}.out.jsonl", "--json"
    )
    if code:
        return of_error(json.loads(said)["error"])
    return {"outcome": "rows", "rows": Path(f"{file}.out.jsonl").read_text().splitlines()}


def command(*arguments: object) -> tuple[int, str]:
    """Exit status and output of the command line, in this process."""
    out, sys.argv = io.StringIO(), ["afina", *map(str, arguments)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0), out.getvalue()
    return 0, out.getvalue()
