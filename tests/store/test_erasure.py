"""An erased client is in no byte of a store, the others are as they were, and the log still verifies."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from afina.errors import Busy, InvalidName, NotFound
from afina.store import audit_log
from afina.store.adapter_store import AdapterStore
from afina.store.audit_log import CRASH_POINTS
from afina.store.database import Database
from raises import raises
from stores import adapter, held, kept, seen

CLIENT = "quixotic-gmbh"
PERSONAL = {
    "client": CLIENT,
    "message": "because Dulcinea asked",
    "who": "sancho.panza",
    "source": "the windmill at Consuegra",
    "alias's message": "Rocinante approves",
    "reason": "the knight was unhorsed",
    "task's path": "/home/sancho/mancha.csv",
    "labels": "enchanted",
    "hyperparameters": "barataria",
}


class Killed(Exception):
    """The process ends here."""


@pytest.fixture(scope="module")
def two_clients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One to be erased, in all that is said about it, and one that shares a blob with it."""
    root = tmp_path_factory.mktemp("two")
    store = AdapterStore(root / "store", who="ada")
    theirs = AdapterStore(root / "store", who=PERSONAL["who"])
    facts = {
        "task": PERSONAL["task's path"],
        "label_names": ("plain", PERSONAL["labels"]),
        "hyperparameters": {"island": PERSONAL["hyperparameters"]},
    }
    for head in range(4):  # as many as fill pages of their own
        path = adapter(root / f"theirs-{head}", 0, head, **facts)
        theirs.publish(path, f"{CLIENT}/reviews", message=PERSONAL["message"], source=PERSONAL["source"])
    theirs.publish(adapter(root / "mail", 1, 0, **facts), f"{CLIENT}/mail", message=PERSONAL["message"])
    store.publish(adapter(root / "ours", 0, 9), "acme/reviews", message="ours")
    store.alias("acme/reviews@1")
    theirs.alias(f"{CLIENT}/reviews@1", message=PERSONAL["alias's message"])
    theirs.alias(f"{CLIENT}/reviews@2")
    theirs.rollback(f"{CLIENT}/reviews", message=PERSONAL["alias's message"])
    theirs.delete(f"{CLIENT}/reviews@4", reason=PERSONAL["reason"])
    assert {what for what, text in PERSONAL.items() if not _occurs(text, root / "store")} == set()
    return root / "store"


def _occurs(text: str, root: Path) -> list[str]:
    """The files in whose content, or in whose name, a text occurs."""
    asked = [text.encode(), text.encode("utf-16-le")]
    files = [path for path in root.rglob("*") if path.is_file()]
    return [path.name for path in files if text in path.name or any(word in path.read_bytes() for word in asked)]


@pytest.fixture
def store(two_clients: Path, tmp_path: Path) -> AdapterStore:
    return AdapterStore(shutil.copytree(two_clients, tmp_path / "store"), who="ada")


def check_erased(store: AdapterStore) -> None:
    assert store.address.directory
    assert {what: found for what, text in PERSONAL.items() if (found := _occurs(text, store.address.directory))} == {}
    assert [one.name for one in store.list()] == ["acme/reviews"]
    assert kept(store) == held(store)
    assert store.verify() == []
    with closing(sqlite3.connect(store.address.url)) as raw:
        assert raw.execute("SELECT name, state FROM clients").fetchall() == [("acme", "live")]
        assert raw.execute("SELECT count(*) FROM garbage").fetchone() == (0,)


def test_an_erased_client_is_in_no_byte_of_the_store(store: AdapterStore) -> None:
    ours = {key: value for key, value in seen(store).items() if "acme" in key}
    blobs = kept(store)
    removed = store.erase(CLIENT, reason=PERSONAL["reason"])
    check_erased(store)
    assert (removed.versions, removed.blobs) == (5, len(blobs - kept(store)))
    assert {key: value for key, value in seen(store).items() if "acme" in key} == ours
    # The body that both had is acme's now
    assert store.show("acme/reviews").parts["body"].digest in blobs & kept(store)
    with raises(NotFound, code="store.name-missing", name="quixotic-gmbh/reviews"):
        store.versions(f"{CLIENT}/reviews")


def test_the_log_keeps_what_was_there_by_digest(store: AdapterStore) -> None:
    before = store.log()
    digests = {one.digest for one in store.versions(f"{CLIENT}/reviews")}
    store.erase(CLIENT, reason=PERSONAL["reason"])
    entries = store.log()
    assert entries[: len(before)] == before
    (entry,) = entries[len(before) :]
    assert (entry.event, entry.payload["tasks"], entry.payload["versions"]) == ("erase", ["mail", "reviews"], 5)
    assert digests <= {entry.payload.get("digest") for entry in entries}


def test_a_client_of_the_same_name_begins_anew(store: AdapterStore, tmp_path: Path) -> None:
    store.erase(CLIENT, reason="asked to")
    again = store.publish(adapter(tmp_path / "again", 0, 0), f"{CLIENT}/reviews", message="back again")
    assert (again.created, again.version.number) == (True, 1)
    assert [one.event for one in store.history(f"{CLIENT}/reviews")] == ["publish"]
    assert store.verify() == []
    store.erase(CLIENT, reason="asked to, again")
    check_erased(store)


INTERRUPTIONS = [*[step for step in CRASH_POINTS if step.startswith("erase")][:-1], "gc: one removed", "gc: removed"]
"""All but the last, after which nothing is left to do."""


@pytest.mark.slow
@pytest.mark.parametrize("step", INTERRUPTIONS)
def test_an_erasure_that_is_interrupted_goes_on_when_it_is_asked_again(
    store: AdapterStore, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    reached = []

    def kill(name: str) -> None:
        reached.append(name)
        if name == step:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(audit_log, "crash_point", kill)
        with pytest.raises(Killed):
            store.erase(CLIENT, reason=PERSONAL["reason"])
    assert reached[-1] == step
    store = AdapterStore(store.address.directory, who="ada")
    assert store.verify() == []  # half done, and nothing of it damage
    if step == "erase: in the transaction":
        assert len(store.list()) == 3  # not done at all
    else:
        assert [one.name for one in store.list()] == ["acme/reviews"]
    store.erase(CLIENT, reason=PERSONAL["reason"])
    check_erased(store)
    assert [entry.event for entry in store.log()].count("erase") == 1
    with raises(NotFound, code="client.missing", client="quixotic-gmbh"):
        store.erase(CLIENT, reason="once more")


def test_an_erasure_waits_for_readers_and_says_where_they_do_not_end(store: AdapterStore) -> None:
    """What a reader sees stays in the write-ahead log as long as it looks."""
    store._database = Database(store.address, patience=0.1)
    with closing(sqlite3.connect(store.address.url)) as raw:
        raw.execute("BEGIN")
        raw.execute("SELECT count(*) FROM versions").fetchone()
        with raises(Busy, code="store.busy"):
            store.erase(CLIENT, reason="asked to")
        raw.rollback()
    store.erase(CLIENT, reason="asked to")
    check_erased(store)


@pytest.mark.parametrize(("client", "error"), [("nobody", NotFound), ("acme/reviews", InvalidName), ("", InvalidName)])
def test_who_is_no_client_is_not_erased(store: AdapterStore, client: str, error: type[Exception]) -> None:
    before = seen(store)
    with pytest.raises(error):
        store.erase(client, reason="asked to")
    with raises(InvalidName, code="text.not-storable", field="reason"):
        store.erase(CLIENT, reason="")
    assert seen(store) == before


def test_half_written_files_of_long_ago_go_with_an_erasure(store: AdapterStore) -> None:
    root = store.address.directory
    assert root
    leftover = root / "blobs" / ".tmp-somebody"
    leftover.mkdir()
    (leftover / "body").write_text(PERSONAL["labels"])
    os.utime(leftover, (0, 0))
    store.erase(CLIENT, reason="asked to")
    check_erased(store)
    assert not leftover.exists()
