"""Files as spreadsheets and archives leave them: separators, encodings, compression, long fields."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import zipfile
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from afina.data.evaluation_set import EvaluationSet, TrainingInfo
from afina.data.readers import formats, source
from afina.data.readers.texts import chunks
from afina.data.reading_options import ReadingOptions
from afina.data.task import Task
from afina.errors import AfinaError, InvalidData, NotFound, UnknownName
from raises import raises

CSV = 'text,label\n"warm, very",good\nnaïve ☕,bad\n'


def zipped(**files: bytes) -> bytes:
    """A zip archive with these files."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return made.getvalue()


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
        ("a.csv.bz2", bz2.compress(CSV.encode())),
        ("a.CSV.XZ", lzma.compress(CSV.encode())),
        ("a.zip", zipped(**{"data/a.csv": CSV.encode(), "__MACOSX/data/._a.csv": b"\0", "data/.DS_Store": b"\0"})),
        ("a.csv.zip", zipped(**{"b.tsv": b"text\tlabel\nwarm, very\tgood\n" + "naïve ☕\tbad\n".encode()})),
        ("a.csv", b"text;label\nwarm, very;good\n" + "naïve ☕;bad\n".encode()),
        ("a.csv", b'"text";"label"\r\n"warm, very";"good"\r\n' + "naïve ☕;bad\r\n".encode()),
        ("a.csv", b"text\tlabel\nwarm, very\tgood\n" + "naïve ☕\tbad\n".encode()),
        ("a.tsv", 'text\tlabel\r\n"warm, very"\tgood\r\nnaïve ☕\tbad\r\n'.encode("utf-16")),
    ],
    ids=[
        "CSV",
        "mark",
        "UTF-16",
        "UTF-16 BE",
        "old Mac",
        "gz",
        "bz2",
        "xz",
        "zip",
        "zip of tsv",
        "semicolon",
        "quoted header",
        "tabs",
        "Unicode text",
    ],
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
        (
            "a.csv",
            CSV.encode("utf-16")[:-1],
            "not UTF-16. Save the file as UTF-8, or name its encoding with `encoding`",
        ),
        ("a.csv.gz", gzip.compress(CSV.encode(), mtime=0)[:-9], "not a readable .gz file ("),
        ("a.csv.gz", CSV.encode(), "not a readable .gz file (Not a gzipped file"),
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
            "line 6: encoded as UTF-8, but line 3 is not. Save the file",
        ),
        ("a.csv", CSV.encode("utf-8") + b"\xff", "although the lines before it are"),
        ("a.csv", CSV.encode("utf-32"), "UTF-32, which is not read."),
        ("a.csv.bz2", bz2.compress(CSV.encode())[:-9], "not a readable .bz2 file ("),
        ("a.csv.bz2", CSV.encode(), "not a readable .bz2 file ("),
        ("a.csv.xz", lzma.compress(CSV.encode())[:-9], "not a readable .xz file ("),
        ("a.parquet.xz", lzma.compress(CSV.encode())[:-9], "not a readable parquet file ("),
        ("a.zip", b"PK", "not a readable .zip file (File is not a zip file)"),
        ("a.zip", zipped(**{"a.csv": CSV.encode()})[:-9], "not a readable .zip file ("),
        ("a.zip", zipped(**{"a.csv": CSV.encode(), "b.txt": b"b"}), "the archive has 2 files: a.csv, b.txt."),
        ("a.zip", zipped(), "the archive has 0 files. Expected one."),
        ("a.zip", zipped(**{"a.pdf": b"%PDF"}), "cannot read .pdf."),
        ("a.csv.zst", b"junk", "cannot read .zst."),
    ],
)
def test_what_cannot_be_read_says_what_to_do(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    with pytest.raises(InvalidData) as caught:
        columns(tmp_path / name, content)
    assert told in str(caught.value)


FOREIGN = [
    ("cp1251", "хорошо"),
    ("cp1251", "нет"),
    ("koi8-r", "хорошо"),
    ("shift_jis", "こんにちは"),
    ("euc_jp", "日本"),
    ("gb18030", "你好"),
    ("cp1253", "καλό"),
    ("cp1250", "książka można"),
]


@pytest.mark.parametrize(("encoding", "text"), FOREIGN)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt"])
def test_a_file_that_is_not_plausible_as_windows_1252_is_refused_unless_its_encoding_is_named(
    tmp_path: Path, name: str, encoding: str, text: str
) -> None:
    (tmp_path / name).write_bytes(("text\n" + f"one {text}\n" * 2).encode(encoding))
    with raises(InvalidData, code="data.encoding-wrong", path=name, line=2), chunks(tmp_path / name) as parts:
        list(parts)
    with chunks(tmp_path / name, ReadingOptions(encoding=encoding)) as parts:
        assert next(iter(parts)).texts[-2:] == [f"one {text}"] * 2


@pytest.mark.parametrize(
    "text", ["Très déçu, l’été à Noël «çà et là»", "äöü, 5 m³ – „größer“", "blóðþrýstingur", "pääääni", "¿Qué? 3º ññ"]
)
def test_a_file_that_is_plausible_as_windows_1252_is_read_with_a_note(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_bytes(f"{text}\n".encode("cp1252"))
    with chunks(tmp_path / "a.txt") as parts:
        assert next(iter(parts)).texts == [text]
        assert "it is read as Windows-1252" in parts.news()


@pytest.mark.parametrize(
    ("name", "content", "encoding", "error", "fields"),
    [
        ("a.csv", "text\nnaïve\n".encode(), "cp1252", InvalidData, {"code": "data.option-inapplicable"}),
        ("a.parquet", b"", "cp1252", InvalidData, {"code": "data.option-inapplicable"}),
        ("a.csv", "text\nこ\n".encode("shift_jis"), "utf-8", InvalidData, {"code": "data.encoding-wrong", "line": 2}),
        ("a.csv", "text\nna\n".encode("utf-16"), "cp1252", InvalidData, {"code": "data.encoding-wrong", "line": 1}),
        ("a.csv", b"text\n", "shiftjis9", UnknownName, {"code": "name.unknown", "nearest": "shift_jis"}),
        ("a.csv", b"text\n", "rot13", UnknownName, {"code": "name.unknown"}),
    ],
)
def test_an_encoding_that_is_not_that_of_the_file_is_refused(
    tmp_path: Path, name: str, content: bytes, encoding: str, error: type[AfinaError], fields: dict[str, Any]
) -> None:
    (tmp_path / name).write_bytes(content)
    with raises(error, **fields), chunks(tmp_path / name, ReadingOptions(encoding=encoding)) as parts:
        list(parts)


def test_a_task_and_its_evaluation_file_are_read_in_the_encoding(tmp_path: Path) -> None:
    for name in ("mine", "more"):
        rows = "".join(f"{name} товар {number},{('да', 'нет')[number % 2]}\n" for number in range(20))
        (tmp_path / f"{name}.csv").write_bytes(f"text,label\n{rows}".encode("koi8-r"))
    task = Task.load(tmp_path / "mine.csv", encoding="koi8-r", evaluation=tmp_path / "more.csv")
    assert task.label_names == ("да", "нет")
    assert task.evaluation.texts[0] == "more товар 0"
    about = TrainingInfo(2, task.label_names)
    assert len(EvaluationSet.read(tmp_path / "more.csv", about, encoding="koi8-r").split) == 20


def test_a_field_of_a_csv_may_be_longer_than_the_csv_module_lets_it(tmp_path: Path) -> None:
    text = "long " * 60_000
    found = columns(tmp_path / "a.csv", f'text,label\n{text},good\n"{text}, quoted",bad\n'.encode())
    assert found["text"] == [text, f"{text}, quoted"]
    assert csv.field_size_limit() > 131_072


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz", "zip"])
def test_far_more_bytes_than_a_compressed_file_has_are_not_read(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "EXPANDED", 1 << 16)
    bomb = b"text,label\n" + b"a" * (1 << 20)
    made = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zip": lambda it: zipped(**{"a.csv": it})}
    with raises(InvalidData, code="data.file-expands", most=1 << 16):
        columns(tmp_path / f"a.csv.{suffix}", made[suffix](bomb))
    assert len(columns(tmp_path / "a.csv", bomb[:-1] + b",b\n")["text"]) == 1


def test_texts_are_read_one_a_line_from_compressed_files_too(tmp_path: Path) -> None:
    content = b"one\ntwo,\n"
    for name, made in (
        ("a.txt", content),
        ("a.txt.gz", gzip.compress(content)),
        ("a.bz2", bz2.compress(content)),
        ("a.zip", zipped(**{"texts.txt": content})),
    ):
        (tmp_path / name).write_bytes(made)
        with chunks(tmp_path / name) as parts:
            assert [text for part in parts for text in part.texts] == ["one", "two,"]
        with raises(InvalidData, code="data.format-unknown"):
            Task.load(tmp_path / name)


def test_a_table_in_a_zip_may_have_any_format(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped(**{"a.jsonl": b'{"text": "a", "label": 1}\n'}))
    assert formats.read(tmp_path / "a.zip").columns == {"text": ["a"], "label": [1]}
    parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "a.parquet")
    (tmp_path / "b.zip").write_bytes(zipped(**{"a.parquet": (tmp_path / "a.parquet").read_bytes()}))
    assert formats.read(tmp_path / "b.zip").columns == {"text": ["a"]}


@pytest.mark.parametrize("suffix", ["csv.gz", "zip"])
def test_a_directory_may_hold_compressed_files(tmp_path: Path, suffix: str) -> None:
    for stem in ("train", "dev"):
        content = "".join(f"{stem} {word},{label}\n" for word, label in (("warm", "good"), ("cold", "bad")))
        whole = f"text,label\n{content}".encode()
        made = zipped(**{"a.csv": whole}) if suffix == "zip" else gzip.compress(whole)
        (tmp_path / f"{stem}.{suffix}").write_bytes(made)
    assert len(Task.load(str(tmp_path)).evaluation) == 2


def test_a_device_without_an_end_is_refused_and_the_null_device_is_empty(tmp_path: Path) -> None:
    (tmp_path / "endless.csv").symlink_to("/dev/zero")
    with raises(NotFound, code="file.unreadable", path="endless.csv"), source.opened(tmp_path / "endless.csv"):
        pass
    with source.opened(Path("/dev/null")) as found:
        assert list(found.lines()) == []
