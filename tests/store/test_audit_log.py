"""The audit log: one chain, which shows whatever is done to it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from afina import digest
from afina.errors import CannotWrite, InvalidName
from afina.store import audit_log
from afina.store.adapter_store import AdapterStore
from afina.store.audit_log import FIRST, LONGEST
from raises import raises
from stores import adapter


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("done")
    store = AdapterStore(root / "store", who="ludwig")
    store.publish(adapter(root / "one"), "acme/reviews", message="Zoë’s first – naïve, 日本")
    store.publish(adapter(root / "two", 0, 1), "acme/reviews", message="second")
    store.alias("acme/reviews@1")
    store.alias("acme/reviews@2", message="better")
    store.rollback("acme/reviews")
    store.delete("acme/reviews@2", reason="not needed")
    store.gc()
    store.publish(adapter(root / "three", 1, 0), "bolt/mail", message="third", source="somewhere")
    store.erase("bolt", reason="asked to")
    return root / "store"


@pytest.fixture
def filled(done: Path, tmp_path: Path) -> AdapterStore:
    """A copy, in which anything may be changed."""
    return AdapterStore(shutil.copytree(done, tmp_path / "filled"), who="ludwig")


def test_each_entry_is_hashed_over_the_one_before(filled: AdapterStore) -> None:
    entries = filled.log()
    assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
    assert [entry.previous for entry in entries] == [FIRST, *(entry.hash for entry in entries[:-1])]
    for entry in entries:
        content = {key: value for key, value in entry.as_json().items() if key != "hash"}
        assert entry.hash == digest.of_bytes(digest.canonical_json(content).encode()) == entry.computed()
    events = [entry.event for entry in entries]
    assert events == [
        *("create", "publish", "publish", "alias", "alias", "rollback", "delete", "gc", "publish", "erase")
    ]
    assert [entry.time for entry in entries] == sorted(entry.time for entry in entries)


def test_the_log_says_of_no_client_person_or_reason_what_it_is(filled: AdapterStore) -> None:
    said = json.dumps([entry.as_json() for entry in filled.log()], ensure_ascii=False)
    for word in ("acme", "bolt", "ludwig", "naïve", "better", "not needed", "asked to", "somewhere", "invented"):
        assert word not in said
    assert "reviews" in said  # the task is, in clear


def test_words_hash_differently_for_each_client(store: AdapterStore, made: Callable[..., Path]) -> None:
    for name in ("acme/reviews", "bolt/reviews"):
        store.publish(made(), name, message="the same")
    one, other = (entry.payload for entry in store.log() if entry.event == "publish")
    assert all(one[key] != other[key] for key in ("client", "who", "why", "manifest"))
    assert one["parts"] == other["parts"]


def test_an_exported_log_has_an_entry_a_line(filled: AdapterStore, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    assert filled.export_audit(file) == len(filled.log())
    lines = file.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [entry.as_json() for entry in filled.log()]


def test_a_log_whose_entry_was_changed_and_hashed_again_no_longer_follows(filled: AdapterStore) -> None:
    """Whoever changes an entry has to hash all after it again, and then the end is another than was written down."""
    entry = filled.log()[2]
    forged = entry._replace(payload={**entry.payload, "version": 7})
    forged = forged._replace(hash=forged.computed())
    _execute(
        filled,
        "UPDATE log SET payload = ?, hash = ? WHERE seq = 3",
        (digest.canonical_json(forged.payload), forged.hash),
    )
    found = [one for one in filled.verify() if one.kind == "log"]
    assert [one.id for one in found] == ["4"]
    assert (
        f"the stated previous hash is {entry.hash[:19]}, but the previous entry has {forged.hash[:19]}"
        in found[0].problem
    )


@pytest.mark.parametrize(
    ("statement", "about"),
    [
        ("UPDATE log SET event = 'alias' WHERE seq = 2", "2"),
        ("UPDATE log SET subject = NULL WHERE seq = 2", "2"),
        ("DELETE FROM log WHERE seq = 7", "8"),
        ("DELETE FROM log WHERE seq = 10", "end"),
        ("UPDATE store SET last = 9", "end"),
        ("UPDATE said SET why = 'another reason' WHERE seq = 2", "2"),
        ("UPDATE said SET who = NULL WHERE seq = 2", "2"),
        ("DELETE FROM said WHERE seq = 5", "5"),
    ],
)
def test_verify_finds_what_was_done_to_the_table(filled: AdapterStore, statement: str, about: str) -> None:
    assert filled.verify() == []
    _execute(filled, statement)
    assert about in [one.id for one in filled.verify() if one.kind == "log"]


def _execute(store: AdapterStore, statement: str, values: tuple[Any, ...] = ()) -> None:
    with closing(sqlite3.connect(store.address.url)) as raw:
        raw.execute(statement, values)
        raw.commit()


def test_a_log_that_cannot_be_exported_leaves_no_file(filled: AdapterStore, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with raises(CannotWrite, code="file.cannot-write", path="audit.jsonl"):
        filled.export_audit(tmp_path / "plain" / "audit.jsonl")


@pytest.mark.parametrize(
    ("text", "found"), [("", "no text"), (" \n", "no text"), ("a" * (LONGEST + 1), "10,001 characters")]
)
def test_a_reason_is_some_words(text: str, found: str) -> None:
    with pytest.raises(
        InvalidName, match=f"`reason`: found {found}, expected (a reason in a few words, )?at most 10,000"
    ):
        audit_log.check_reason(text, "reason")
