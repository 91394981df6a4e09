"""Files between machines, in pieces: content arrives as it was, once a node, and never all of it in memory."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from afina import digest
from afina.cluster import pieces
from afina.cluster.pieces import NodeFiles, OpenFiles, Transfers
from afina.errors import InvalidData
from afina.studies.executors.shared_storage import SharedStorage


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "PIECE", 10)


def content_of(path: Path, size: int) -> str:
    path.write_bytes(os.urandom(size))
    return digest.of_file(path)


class Calls:
    """Answers calls when they are waited for, as a node does, and counts those under way."""

    def __init__(self) -> None:
        self.under_way = self.most = 0

    def made(self, value: object) -> object:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        return value

    def get(self, ref: object) -> object:
        self.under_way -= 1
        return ref


def send(files: NodeFiles, path: Path, content: str, calls: Calls | None = None) -> None:
    calls = calls or Calls()
    Transfers(calls.get).send(path, lambda at, piece: calls.made(files.receive(content, at, piece)))
    files.complete(content)


@pytest.mark.parametrize("size", [0, 1, 10, 95, 100])
def test_content_arrives_as_it_was_with_few_pieces_under_way(tmp_path: Path, size: int) -> None:
    source, calls, files = tmp_path / "source", Calls(), NodeFiles(tmp_path / "node")
    content = content_of(source, size)
    assert files.lacks(content)
    send(files, source, content, calls)
    assert calls.most <= pieces.WINDOW
    assert not files.lacks(content)
    files.place(content, tmp_path / "placed")
    files.place(content, tmp_path / "placed")
    assert (tmp_path / "placed").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("size", [0, 9, 10, 57])
def test_files_come_back_in_pieces_also_if_they_are_replaced_meanwhile(tmp_path: Path, size: int) -> None:
    left, calls, files = tmp_path / "left", Calls(), OpenFiles()
    content_of(left, size)
    before = left.read_bytes()
    opened = files.open(left)
    assert opened is not None
    number, found = opened
    (tmp_path / "later").write_bytes(b"later")
    (tmp_path / "later").replace(left)
    back = tmp_path / "here" / "back"
    Transfers(calls.get).fetch(back, found, lambda at, most: calls.made(files.read(number, at, most)))
    assert back.read_bytes() == before
    assert calls.most <= pieces.WINDOW
    files.close(number)
    files.close(number)
    assert files.open(tmp_path / "missing") is None


def test_a_file_that_is_cut_short_on_its_way_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EOFError):
        Transfers[bytes](lambda ref: ref).fetch(tmp_path / "back", 25, lambda at, most: b"x")


def test_content_with_another_digest_is_refused_and_may_be_sent_again(tmp_path: Path) -> None:
    source, files = tmp_path / "source", NodeFiles(tmp_path / "node")
    content = content_of(source, 30)
    (tmp_path / "changed").write_bytes(b"changed")
    assert files.lacks(content)
    with pytest.raises(InvalidData) as caught:
        send(files, tmp_path / "changed", content)
    assert caught.value.code == "data.changed"
    assert files.lacks(content)
    send(files, source, content)
    assert not files.lacks(content)


def test_a_second_process_of_the_node_waits_for_content_that_is_being_sent(tmp_path: Path) -> None:
    source = tmp_path / "source"
    content = content_of(source, 30)
    first, second = NodeFiles(tmp_path / "node"), NodeFiles(tmp_path / "node")
    assert first.lacks(content)
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(second.lacks(content)))
    waiting.start()
    send(first, source, content)
    waiting.join(20)
    assert answers == [False]


def test_a_second_process_sends_content_that_the_first_gave_up(tmp_path: Path) -> None:
    first, second = NodeFiles(tmp_path / "node"), NodeFiles(tmp_path / "node")
    content = content_of(tmp_path / "source", 30)
    assert first.lacks(content)
    first.receive(content, 0, b"half")
    first.drop(content)
    assert second.lacks(content)
    send(second, tmp_path / "source", content)


def test_the_cache_keeps_what_was_used_last(tmp_path: Path) -> None:
    files, contents = NodeFiles(tmp_path / "node", most=100), []
    for number in range(4):
        source = tmp_path / str(number)
        contents.append(content_of(source, 40))
        assert files.lacks(contents[-1])
        send(files, source, contents[-1])
        os.utime(files.path(contents[-1]), (number, number))
        if number == 1:
            files.place(contents[0], tmp_path / "placed")
            assert not files.lacks(contents[0])  # used again, so the second is the oldest now
    assert [files.path(content).exists() for content in contents] == [True, False, False, True]
    assert (tmp_path / "placed").read_bytes() == (tmp_path / "0").read_bytes()


def test_shared_storage_has_the_last_file_of_a_name(tmp_path: Path) -> None:
    storage, file = SharedStorage(str(tmp_path / "all")), tmp_path / "file"
    assert not storage.get("one", tmp_path / "back")
    for text in ("first", "second"):
        file.write_text(text)
        storage.put("one", file)
        file.unlink()
    assert SharedStorage(str(tmp_path / "all")).get("one", tmp_path / "back")
    assert (tmp_path / "back").read_text() == "second"
    assert not storage.has("another")
    storage.remove("one")
    storage.remove("one")
    assert not storage.has("one")
