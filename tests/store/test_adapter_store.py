"""What a store promises: versions that never change, aliases that move as they are told, and errors that say it all."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from afina import Adapter
from afina.errors import Busy, CannotWrite, CorruptAdapter, InvalidName, NotFound, Refused
from afina.store import audit_log
from afina.store.adapter_store import AdapterStore
from afina.store.catalog import resolve
from afina.store.database import Database
from afina.store.versions import Reference
from raises import raises
from stores import BODY, HEAD, adapter, held, kept, seen

Make = Callable[..., Path]


@pytest.fixture
def two(store: AdapterStore, made: Make) -> AdapterStore:
    """With two versions of acme/reviews, which share a body."""
    store.publish(made(0, 0), "acme/reviews", message="first")
    store.publish(made(0, 1), "acme/reviews", message="second")
    return store


def failed(store: AdapterStore, reference: str, **outcome: Any) -> None:
    """Record a check that did not pass, as `check` does."""
    with store._database.writing() as connection:
        place, number = resolve(connection, Reference.parse(reference))
        problem = outcome.pop("problem", None)
        details = {"version": number, "passed": False, "difference": 0.5, "tolerance": 1e-3} | outcome
        audit_log.append(connection, "check", {**place.payload, **details}, place.attribution("ada", problem))


# Publishing


def test_a_version_is_what_was_published(store: AdapterStore, made: Make) -> None:
    published = store.publish(made(), " acme/reviews".strip(), message="first ")
    assert (published.created, str(published.version)) == (True, "acme/reviews@1")
    version = store.show("acme/reviews")
    assert version == published.version
    adapter_there = Adapter.load(made())
    assert version.digest == adapter_there.digest == store.adapter("acme/reviews@1").digest
    assert (version.who, version.why, version.deleted, version.checked) == ("ada", "first", False, None)
    assert version.manifest["metrics"] == {"accuracy": 0.75}
    assert sorted(version.parts) == ["body", "head"]
    assert version.size == store.size() == sum(path.stat().st_size for path in _files(store))
    assert published.as_json() == {"name": "acme/reviews", "version": 1, "digest": version.digest, "created": True}


def _files(store: AdapterStore) -> list[Path]:
    assert store.address.directory
    return sorted(store.address.directory.glob("blobs/??/sha256-*"))


def test_the_same_content_is_the_version_that_there_is(two: AdapterStore, made: Make, tmp_path: Path) -> None:
    before = seen(two)
    again = two.publish(made(0, 0), "acme/reviews", message="once more")
    assert (again.created, again.version.number) == (False, 1)
    elsewhere = shutil.copytree(made(0, 1), tmp_path / "elsewhere")
    assert two.publish(elsewhere, "acme/reviews", message="once more").version.number == 2
    assert seen(two) == before


def test_a_new_head_over_the_same_body_costs_the_head(two: AdapterStore) -> None:
    first, second = two.versions("acme/reviews")
    assert first.parts["body"] == second.parts["body"]
    assert first.parts["head"] != second.parts["head"]
    assert two.size() == first.size + second.parts["head"].size
    assert len(_files(two)) == 3
    one, other = two.adapter("acme/reviews@1"), two.adapter("acme/reviews@2")
    assert (one.tensors[BODY] == other.tensors[BODY]).all()
    assert (one.tensors[HEAD] != other.tensors[HEAD]).all()


def test_an_adapters_directory_comes_back_as_it_was(two: AdapterStore, made: Make, tmp_path: Path) -> None:
    two.restore("acme/reviews@2", tmp_path / "back")
    found = {path.name: path.read_bytes() for path in (tmp_path / "back").iterdir()}
    assert found == {path.name: path.read_bytes() for path in made(0, 1).iterdir()}
    with raises(Refused, code="out.exists", path="back"):
        two.restore("acme/reviews@2", tmp_path / "back")


def test_a_source_is_told_by_the_history_and_hashed_in_the_log(store: AdapterStore, made: Make) -> None:
    store.publish(made(), "acme/reviews", message="first", source="a friend")
    (done,) = store.history("acme/reviews")
    assert done.details["source"] == "a friend"
    assert store.log()[-1].payload["source"].startswith("sha256:")
    assert store.verify() == []


@pytest.mark.parametrize("message", ["", "  \n"])
def test_a_message_is_asked_for(store: AdapterStore, made: Make, message: str) -> None:
    with raises(InvalidName, code="text.not-storable", field="message"):
        store.publish(made(), "acme/reviews", message=message)
    assert not store.address.directory.exists()  # type: ignore[union-attr]


def test_what_is_no_adapter_begins_no_store(store: AdapterStore, tmp_path: Path, made: Make) -> None:
    with raises(NotFound, code="adapter.missing"):
        store.publish(tmp_path, "acme/reviews", message="first")
    broken = shutil.copytree(made(), tmp_path / "broken")
    (broken / "adapter_model.safetensors").write_bytes(b"{}")
    with pytest.raises(CorruptAdapter):
        store.publish(broken, "acme/reviews", message="first")
    with raises(InvalidName, code="store.name-malformed", name="Acme"):
        store.publish(made(), "Acme", message="first")
    assert not store.address.directory.exists()  # type: ignore[union-attr]


def test_a_publish_that_fails_leaves_nothing_that_gc_would_wait_for(
    two: AdapterStore, made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = seen(two)

    def fail(step: str) -> None:
        if step == "publish: put":
            raise CannotWrite("blobs", "the disk is full")

    monkeypatch.setattr(audit_log, "crash_point", fail)
    with pytest.raises(CannotWrite):
        two.publish(made(1, 2), "acme/reviews", message="third")
    monkeypatch.undo()
    assert seen(two) == before
    assert len(kept(two) - held(two)) == 2
    assert two.gc().blobs == 2
    assert kept(two) == held(two)


def test_a_publish_that_is_interfered_with_for_ever_says_so(
    store: AdapterStore, made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.init()

    def interfere(step: str) -> None:
        if step == "publish: put":
            with closing(sqlite3.connect(store.address.url)) as raw:
                raw.execute("DELETE FROM leases")
                raw.commit()

    monkeypatch.setattr(audit_log, "crash_point", interfere)
    with raises(Busy, code="store.changed-meanwhile", name="acme/reviews"):
        store.publish(made(), "acme/reviews", message="first")
    assert store.list() == []


# Aliases


def test_an_alias_moves_only_as_it_is_told(two: AdapterStore, made: Make) -> None:
    moved = two.alias("acme/reviews@1", message="to begin with")
    assert (moved.alias, moved.before, moved.after) == ("production", None, 1)
    assert two.alias("acme/reviews@2", "staging").after == 2
    two.publish(made(1, 1), "acme/reviews", message="third")
    assert two.show("acme/reviews@production").number == 1
    assert two.show("acme/reviews@staging").number == 2
    assert two.alias("acme/reviews@staging").as_json() == {
        "name": "acme/reviews",
        "alias": "production",
        "from": 1,
        "to": 2,
    }
    assert two.show("acme/reviews@2").aliases == ("production", "staging")


def test_an_alias_that_is_taken_away_is_gone_and_the_log_says_so(two: AdapterStore) -> None:
    two.alias("acme/reviews@1", "staging")
    two.alias("acme/reviews@2", "staging")
    taken = two.unalias("acme/reviews", "staging", message="not needed")
    assert taken.as_json() == {"name": "acme/reviews", "alias": "staging", "from": 2, "to": None}
    with raises(NotFound, code="alias.missing", reference="acme/reviews@staging"):
        two.show("acme/reviews@staging")
    with raises(NotFound, code="alias.missing", reference="acme/reviews@staging"):
        two.unalias("acme/reviews", "staging")
    last = two.history("acme/reviews", alias="staging")[-1]
    assert (last.event, last.why, last.details["from"]) == ("unalias", "not needed", 2)
    assert two.verify() == []
    assert two.delete("acme/reviews@2", reason="nothing points to it").deleted
    # What it pointed to before is forgotten with it.
    two.alias("acme/reviews@1", "staging")
    with raises(NotFound, code="alias.missing", name="acme/reviews", alias="staging"):
        two.rollback("acme/reviews", "staging")


def test_what_rides_along_is_another_version_than_production(two: AdapterStore) -> None:
    with raises(NotFound, code="alias.missing", reference="acme/reviews@production"):
        two.shadow("acme/reviews@2")
    two.alias("acme/reviews@1")
    with raises(Refused, code="shadow.is-production", version="acme/reviews@1"):
        two.shadow("acme/reviews@1")
    assert two.shadow("acme/reviews@2", message="a larger rank").as_json() == {
        "name": "acme/reviews",
        "alias": "shadow",
        "from": None,
        "to": 2,
    }


def test_an_alias_is_moved_to_a_version_that_is_named_and_to_no_other(two: AdapterStore) -> None:
    with raises(Refused, code="reference.version-missing", reference="acme/reviews"):
        two.alias("acme/reviews")
    two.alias("acme/reviews@1", "staging")
    assert two.alias("acme/reviews@staging").after == 1


def test_a_name_alone_is_over_http_what_production_points_to_or_else_the_newest(two: AdapterStore) -> None:
    asked = Reference.parse("acme/reviews")
    assert two.known(asked) == two.show("acme/reviews@2")
    two.alias("acme/reviews@1")
    assert two.known(asked) == two.show("acme/reviews@1")
    assert two.show("acme/reviews").number == 2
    assert two.known(Reference.parse("acme/nothing")) is None


def test_roll_back_goes_back_one_by_one(two: AdapterStore, made: Make) -> None:
    two.publish(made(1, 1), "acme/reviews", message="third")
    for number in (1, 2, 3):
        two.alias(f"acme/reviews@{number}")
    assert [two.rollback("acme/reviews").after for _ in range(2)] == [2, 1]
    with raises(NotFound, code="alias.missing", name="acme/reviews", alias="production"):
        two.rollback("acme/reviews")
    two.alias("acme/reviews@3")  # a new path: from here, back to 1
    assert two.rollback("acme/reviews", message="worse on Mondays").after == 1
    moves = [
        (one.event, one.details["from"], one.details["to"]) for one in two.history("acme/reviews", alias="production")
    ]
    assert moves == [
        *(("alias", None, 1), ("alias", 1, 2), ("alias", 2, 3)),
        *(("rollback", 3, 2), ("rollback", 2, 1), ("alias", 1, 3), ("rollback", 3, 1)),
    ]
    assert two.history("acme/reviews")[-1].why == "worse on Mondays"


def test_an_alias_is_not_moved_to_a_version_whose_latest_check_failed(two: AdapterStore) -> None:
    two.alias("acme/reviews@1")
    failed(two, "acme/reviews@2")
    with raises(Refused, code="version.check-failed", version=2, name="acme/reviews"):
        two.alias("acme/reviews@2")
    assert two.alias("acme/reviews@2", force=True).after == 2
    assert two.history("acme/reviews", alias="production")[-1].details["forced"] is True
    failed(two, "acme/reviews@1", difference=None, problem="acme/reviews@1 records no number.")
    with raises(Refused, code="version.check-failed", version=1, name="acme/reviews"):
        two.rollback("acme/reviews")
    assert two.rollback("acme/reviews", force=True).after == 1
    assert two.show("acme/reviews@1").checked["problem"] == "acme/reviews@1 records no number."  # type: ignore[index]
    assert "records no number" not in str(two.log())
    failed(two, "acme/reviews@2", passed=True)
    assert two.alias("acme/reviews@2").after == 2
    assert two.verify() == []


# Deleting


def test_a_version_that_is_deleted_leaves_its_number_and_its_digests(two: AdapterStore, made: Make) -> None:
    before = two.show("acme/reviews@2")
    gone = two.delete("acme/reviews@2", reason="not needed")
    assert (gone.deleted, gone.manifest, gone.parts, gone.digest) == (True, {}, {}, before.digest)
    entry = two.log()[-1]
    assert entry.payload["parts"] == {role: blob._asdict() for role, blob in before.parts.items()}
    assert (entry.event, entry.payload["digest"], entry.payload["version"]) == ("delete", before.digest, 2)
    assert two.history("acme/reviews")[-1].why == "not needed"
    for act in (two.show, two.adapter, two.alias):
        with raises(NotFound, code="version.missing", version=2, known=[1], reference="acme/reviews@2"):
            act("acme/reviews@2")
    with raises(NotFound, code="version.missing", version=2, known=[1], reference="acme/reviews@2"):
        two.delete("acme/reviews@2", reason="once more")
    assert [one.deleted for one in two.versions("acme/reviews")] == [False, True]
    again = two.publish(made(0, 1), "acme/reviews", message="needed after all")
    assert (again.created, again.version.number) == (True, 3)
    assert two.verify() == []


def test_a_version_that_an_alias_points_to_is_not_deleted(two: AdapterStore) -> None:
    two.alias("acme/reviews@1")
    with raises(Refused, code="version.aliased", version="acme/reviews@1", aliases=["production"]):
        two.delete("acme/reviews@1", reason="not needed")
    two.alias("acme/reviews@1", "staging")
    with raises(Refused, code="version.aliased", version="acme/reviews@1", aliases=["production", "staging"]):
        two.delete("acme/reviews@1", reason="not needed")


@pytest.mark.parametrize("reference", ["acme/reviews", "acme/reviews@production"])
def test_what_is_deleted_is_named_by_its_number(two: AdapterStore, reference: str) -> None:
    said = rf"{reference}: the version's number is missing. Give the number, as in acme/reviews@3\."
    with pytest.raises(Refused, match=said):
        two.delete(reference, reason="not needed")
    with raises(InvalidName, code="text.not-storable", field="reason"):
        two.delete("acme/reviews@1", reason=" ")


# What is not there


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("acme/review", "acme/review: the store has no adapter with this name. Did you mean acme/reviews?"),
        ("x/y", "x/y: the store has no adapter with this name. `afina store list` shows all names."),
        ("acme/reviews@7", "acme/reviews@7: version 7 does not exist. Existing versions: 1, 2."),
        ("acme/reviews@production", "acme/reviews@production: no such alias. The name has no alias yet."),
    ],
)
def test_what_is_not_there_is_said_beside_what_is(two: AdapterStore, reference: str, said: str) -> None:
    for act in (two.show, two.adapter, two.alias):
        with pytest.raises(NotFound, match=f"^{re.escape(said)}$"):
            act(reference)


def test_where_there_is_no_store_reading_says_so_and_makes_none(store: AdapterStore) -> None:
    acts: list[Callable[[], object]] = [
        *(store.list, store.log, store.verify, store.gc, store.size, lambda: store.show("acme/reviews")),
        *(lambda: store.history("acme/reviews"), lambda: store.versions("acme/reviews")),
        *(lambda: store.alias("acme/reviews@1"), lambda: store.rollback("acme/reviews")),
        *(lambda: store.delete("acme/reviews@1", reason="x"), lambda: store.erase("acme", reason="x")),
        lambda: store.export_audit("audit.jsonl"),
    ]
    for act in acts:
        with pytest.raises(NotFound) as caught:
            act()
        assert str(caught.value) == (
            f"store {store.address.shown}: there is no store. Give another with `store`, or publish to create one."
        )
    assert not store.address.directory.exists()  # type: ignore[union-attr]


def test_a_store_that_another_holds_is_busy(two: AdapterStore) -> None:
    two._database = Database(two.address, patience=0.1)
    with closing(sqlite3.connect(two.address.url)) as raw:
        raw.execute("BEGIN IMMEDIATE")
        said = r"other processes use the store and did not finish within 0\.1 seconds\. Try again\."
        with pytest.raises(Busy, match=said):
            two.alias("acme/reviews@1")
        assert two.show("acme/reviews").number == 2  # who reads does not wait
        raw.rollback()
    assert two.alias("acme/reviews@1").after == 1


def test_who_it_was_is_the_user_unless_it_is_said(made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "grace")
    store = AdapterStore(tmp_path / "store")
    assert store.publish(made(), "acme/reviews", message="first").version.who == "grace"
    assert store.publish(made(1), "acme/reviews", message="next", who="alan").version.who == "alan"
    assert AdapterStore(tmp_path / "store", who="ada").alias("acme/reviews@1").after == 1
    assert store.history("acme/reviews")[-1].who == "ada"


def test_blobs_may_lie_elsewhere(tmp_path: Path, made: Make) -> None:
    store = AdapterStore(tmp_path / "store")
    store.init(str(tmp_path / "bytes"))
    store.publish(made(), "acme/reviews", message="first")
    assert len([*(tmp_path / "bytes").glob("??/sha256-*")]) == 2
    assert not (tmp_path / "store" / "blobs").exists()
    again = AdapterStore(tmp_path / "store")
    assert again.adapter("acme/reviews").digest == again.show("acme/reviews").digest
    assert again.verify() == []


def test_adapters_of_the_same_tensors_and_other_settings_share_all_their_bytes(
    store: AdapterStore, made: Make, tmp_path: Path
) -> None:
    store.publish(made(), "acme/reviews", message="first")
    other = adapter(tmp_path / "other", max_length=16)
    size = store.size()
    assert store.publish(other, "acme/reviews", message="shorter").created
    assert store.size() == size
    assert [one.manifest["max_length"] for one in store.versions("acme/reviews")] == [32, 16]
