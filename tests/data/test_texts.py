"""Texts without labels: as they stand in the file, in its order, and never many of them at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from afina.data.readers import texts
from afina.data.readers.texts import FIRST, MOST, Chunk, chunks
from afina.errors import InvalidData, NotFound


def read(file: Path) -> tuple[list[str], list[str] | None]:
    """All of a file."""
    with chunks(file) as parts:
        every = list(parts)
    assert {chunk.pairs is None for chunk in every} in ({True}, {False})
    pairs = None if every[0].pairs is None else [pair for chunk in every for pair in chunk.pairs or ()]
    return [text for chunk in every for text in chunk.texts], pairs


def test_texts_are_read_one_a_line_and_jsonl_with_or_without_pairs(tmp_path: Path) -> None:
    plain, single, paired = tmp_path / "a.txt", tmp_path / "b.jsonl", tmp_path / "c.jsonl"
    plain.write_bytes("\ufeffone\r\n two \n\nlast".encode())
    assert read(plain) == (["one", " two ", "", "last"], None)
    single.write_text('{"text": "x", "label": 1}\n{"text": "y\\nz"}\n')
    assert read(single) == (["x", "y\nz"], None)
    paired.write_text('{"text": "x", "text_pair": "p"}\n{"text": "y", "text_pair": ""}\n')
    assert read(paired) == (["x", "y"], ["p", ""])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "x"}\nnot json\n', r"texts\.jsonl, line 2: expected an object with \"text\""),
        (b'{"words": "x"}\n', r"texts\.jsonl, line 1: expected an object with \"text\""),
        (b'["x"]\n', r"texts\.jsonl, line 1: expected an object with \"text\""),
        (
            b'{"text": "x"}\n{"text": "y", "text_pair": "p"}\n',
            r'jsonl, line 2: some lines have "text_pair" and some have not',
        ),
        (b'{"text": "x", "text_pair": "p"}\n{"text": "y"}\n', r'jsonl, line 2: some lines have "text_pair" and some'),
        (b"\xff\xfe\n", r"not UTF-8 text \(byte 0\)"),
        (b'\xef\xbb\xbf{"text": "\xff"}\n', r"not UTF-8 text \(byte 13\)"),
        (b'{"text": "x"}\n{"text": "\xff"}\n', r"not UTF-8 text \(byte 24\)"),
    ],
)
def test_a_file_of_texts_that_cannot_be_read_is_an_error_that_says_where(
    tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_bytes(content)
    with pytest.raises(InvalidData, match=message):
        read(file)


def test_a_file_of_texts_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"`file` .*absent\.txt: cannot be read \(No such file"):
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
    for content, expected in (("a\n" * FIRST, [FIRST]), ("", []), ("\n", [1])):
        file.write_text(content, encoding="utf-8")
        with chunks(file) as parts:
            assert [len(chunk.texts) for chunk in parts] == expected


def test_a_chunk_of_long_texts_ends_by_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "MOST_BYTES", 20)
    (tmp_path / "long.txt").write_text("0123456789\n" * 5, encoding="utf-8")
    with chunks(tmp_path / "long.txt") as parts:
        assert [len(chunk.texts) for chunk in parts] == [2, 2, 1]


def test_an_error_further_down_comes_after_the_chunks_before_it(tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    good = json.dumps({"text": "x"})
    file.write_text("\n".join([*[good] * 100, "{}"]), encoding="utf-8")
    seen: list[Chunk] = []
    with chunks(file) as parts, pytest.raises(InvalidData, match=r"long\.jsonl, line 101: expected an object"):
        seen.extend(parts)
    assert [len(chunk.texts) for chunk in seen] == [16, 64]


def test_memory_does_not_grow_with_the_number_of_lines(tmp_path: Path) -> None:
    def peak(lines: int) -> int:
        file = tmp_path / "many.txt"
        file.write_text("a text of some length, as texts are\n" * lines, encoding="utf-8")
        tracemalloc.start()
        with chunks(file) as parts:
            assert sum(len(chunk.texts) for chunk in parts) == lines
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(20 * MOST) < 1.2 * peak(4 * MOST)


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
