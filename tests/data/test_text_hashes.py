"""Hashes of training texts tell which texts were among them, and nothing that was changed is read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from afina import digest
from afina.data.split import Split
from afina.data.text_hashes import HASHES_FILE, TextHashes
from afina.errors import CorruptAdapter

TEXTS = ["A fine film.", "Dull!", "other", "", "!!"]


def split(*texts: str, pairs: list[str] | None = None) -> Split:
    return Split(list(texts), np.zeros(len(texts), np.int64), pairs)


def test_texts_are_known_again_as_they_are_compared_and_no_others_are() -> None:
    hashes = TextHashes.of(split(*TEXTS))
    assert len(hashes) == 3, "texts without letters and digits have none"
    assert hashes.among(split("a FINE film", "new", "dull", "!!", "")).tolist() == [True, False, True, False, False]
    assert hashes.among(split()).tolist() == []


def test_a_pair_is_known_again_only_where_both_texts_are_the_same() -> None:
    hashes = TextHashes.of(split("a", "b", pairs=["c", "d"]))
    assert hashes.among(split("A!", "a", pairs=["C", "d"])).tolist() == [True, False]
    assert not hashes.among(split("a", "b")).any()


def test_the_same_texts_give_the_same_file_in_any_order_and_others_another_salt(tmp_path: Path) -> None:
    TextHashes.of(split(*TEXTS)).write(tmp_path / "one")
    TextHashes.of(split(*reversed(TEXTS))).write(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert TextHashes.of(split(*TEXTS, "more")).salt != TextHashes.read(tmp_path / "one").salt


def test_the_file_has_no_text_and_eight_bytes_each(tmp_path: Path) -> None:
    many = split(*(f"secret {number}" for number in range(1000)))
    TextHashes.of(many).write(tmp_path / HASHES_FILE)
    written = (tmp_path / HASHES_FILE).read_text(encoding="ascii")
    assert "secret" not in written
    assert len(written) < 1000 * 8 * 4 / 3 + 300
    assert TextHashes.read(tmp_path / HASHES_FILE).among(many).all()


def _changed(**changes: object) -> str:
    hashes = TextHashes.of(split(*TEXTS))
    content = hashes._content() | changes
    return json.dumps(content | {"digest": changes.get("digest", digest.of_json(content))})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("not json", "not valid JSON"),
        ("[]", "expected a JSON object"),
        ("{}", "found format 'None'"),
        (_changed(format=2), "found format '2', but this version of afina reads format 1"),
        (_changed(format=True), "found format 'True'"),
        (_changed(salt="x" * 32), "expected a salt of 32 hexadecimal digits"),
        (_changed(salt=7), "expected a salt"),
        (_changed(hashes=["a"]), "hashes of 8 bytes each in base64"),
        (_changed(hashes="not base64!"), "hashes of 8 bytes each in base64"),
        (_changed(hashes="AAAA"), "hashes of 8 bytes each in base64"),
        (_changed(hashes="AAAAAAAAAAAAAAAAAAAAAA=="), "the file was changed"),
        (_changed(digest="sha256:0"), "the file was changed"),
        (_changed(more=1), "the file was changed"),
    ],
)
def test_what_is_malformed_is_refused_with_what_to_do(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / HASHES_FILE).write_text(text, encoding="utf-8")
    with pytest.raises(CorruptAdapter, match=r"or remove this file|Copy the adapter again") as raised:
        TextHashes.read(tmp_path / HASHES_FILE)
    assert told in str(raised.value)
