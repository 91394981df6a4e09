"""Many processes use one store at once: nothing is lost, nothing is seen half done, and of two that race one wins."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import contending
import pytest
import storing
from processes import Crew
from storing import Adapters

from afina.blobs import LocalBlobs
from afina.errors import NotFound
from afina.store import audit_log
from afina.store.adapter_store import AdapterStore
from raises import raises
from services import S3, Postgres

MANY = 8


@pytest.mark.slow
def test_none_of_many_publishes_is_lost_and_no_number_is_left_out(
    store: AdapterStore, url: str, adapters: Adapters, crew: Crew
) -> None:
    ended = crew.run(contending.publish_all, MANY, url, str(adapters.directory), MANY, 6)
    made = [each for one in ended for each in one.value]
    assert len(made) == 6 * MANY
    assert all(created for *_, created in made)
    told = {(name, number): digest for name, number, digest, _ in made}
    assert len(told) == 6 * MANY
    there = {(one.name, version.number): version for one in store.list() for version in store.versions(one.name)}
    assert told == {key: version.digest for key, version in there.items()}
    assert {name: max(number for other, number in told if other == name) for name, _ in told} == {
        f"acme/task{task}": 6 for task in range(MANY)
    }
    assert [entry.event for entry in store.log()].count("publish") == 6 * MANY
    assert store.verify() == []
    # the halves that adapters share lie there once
    assert len(storing.lying(store)) == len({part.digest for one in there.values() for part in one.parts.values()})
    assert storing.lying(store) == storing.held(store)


def test_what_all_publish_at_once_is_one_version(store: AdapterStore, url: str, adapters: Adapters, crew: Crew) -> None:
    ended = crew.run(contending.publish_one, MANY, url, str(adapters.directory / "b0h0"))
    assert sorted(one.value for one in ended) == [[1, False]] * (MANY - 1) + [[1, True]]
    assert len(store.versions("acme/same")) == 1
    storing.check_clean(store)


def test_a_store_is_begun_once(url: str, adapters: Adapters, crew: Crew, tmp_path: Path) -> None:
    store = AdapterStore(url)
    blobs = None if store.address.directory else str(tmp_path / "blobs")
    ended = crew.run(contending.begin, MANY, url, blobs)
    assert sorted(str(one.error) for one in ended) == ["None"] + ["Refused"] * (MANY - 1), ended
    assert [entry.event for entry in store.log()] == ["create"]
    assert store.verify() == []


@pytest.mark.slow
def test_the_first_publishers_begin_a_directory_together(adapters: Adapters, crew: Crew, tmp_path: Path) -> None:
    ended = crew.run(contending.publish_one, MANY, str(tmp_path / "store"), str(adapters.directory / "b0h0"))
    assert sorted(one.value for one in ended) == [[1, False]] * (MANY - 1) + [[1, True]]
    assert [entry.event for entry in AdapterStore(tmp_path / "store").log()] == ["create", "publish"]


@pytest.mark.slow
def test_of_those_that_compare_and_swap_one_wins_each_round(
    store: AdapterStore, url: str, adapters: Adapters, crew: Crew
) -> None:
    for name in adapters.digests:
        store.publish(adapters.directory / name, "acme/reviews", message="a test")
    store.alias("acme/reviews@1", expected=None)
    last = len(adapters.digests)
    won = [number for one in crew.run(contending.increment, MANY, url, last) for number in one.value]
    assert sorted(won) == list(range(2, last + 1))
    moves = [(one.details["from"], one.details["to"]) for one in store.history("acme/reviews", alias="production")]
    assert moves == [(number or None, number + 1) for number in range(last)]


@pytest.mark.slow
@pytest.mark.parametrize(("many", "seconds"), [(MANY, 1.0), pytest.param(2 * MANY, 40.0, marks=pytest.mark.endurance)])
def test_readers_writers_gc_and_verify_beside_each_other(
    store: AdapterStore, url: str, adapters: Adapters, crew: Crew, many: int, seconds: float
) -> None:
    ended = crew.run(contending.take_part, many, url, str(adapters.directory), seconds)
    for one in ended:
        assert (one.status, one.error) == (0, None), one
    storing.check_whole(store, adapters.digests)
    storing.check_clean(store)
    storing.check_whole(store, adapters.digests)


@pytest.mark.slow
def test_two_machines_share_a_database_and_a_bucket(
    postgres: Postgres, s3: S3, adapters: Adapters, crew: Crew, tmp_path: Path
) -> None:
    url = postgres.database()
    AdapterStore(url).init(s3.bucket())
    ended = crew.run(contending.share, 2, url, str(adapters.directory), str(tmp_path))
    names = sorted(adapters.digests)[:2]
    assert [one.value for one in ended] == [sorted(adapters.digests[name] for name in names)] * 2
    assert AdapterStore(url).verify() == []


def test_a_store_is_used_on_both_sides_of_a_fork(store: AdapterStore, url: str, adapters: Adapters, crew: Crew) -> None:
    (ended,) = crew.run(contending.fork, 1, url, str(adapters.directory))
    assert ended.value == [[0], list(range(1, 10))]
    assert store.verify() == []


def test_threads_share_a_store(store: AdapterStore, adapters: Adapters) -> None:
    def publish(name: str) -> int:
        return store.publish(adapters.directory / name, "acme/reviews", message="a test").version.number

    with ThreadPoolExecutor(MANY) as pool:
        numbers = list(pool.map(publish, adapters.digests))
    assert sorted(numbers) == list(range(1, len(adapters.digests) + 1))
    assert store.verify() == []


# Races forced to happen: what others do between two steps of one


def between(monkeypatch: pytest.MonkeyPatch, step: str, do: object) -> list[str]:
    """Do something when the step is reached for the first time."""
    reached: list[str] = []

    def reach(name: str) -> None:
        if name == step and name not in reached:
            reached.append(name)
            do()  # type: ignore[operator]

    monkeypatch.setattr(audit_log, "crash_point", reach)
    return reached


def test_gc_between_leasing_and_putting_leaves_what_is_leased(
    store: AdapterStore, adapters: Adapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in ("publish: files made", "publish: leased", "publish: body put", "publish: put"):
        old = store.publish(adapters.directory / "b0h0", "acme/old", message="a test").version
        store.delete(str(old), reason="a test")
        with monkeypatch.context() as patch:
            reached = between(patch, step, store.gc)
            made = store.publish(adapters.directory / "b0h0", "acme/reviews", message="a test").version
        assert reached
        assert store.adapter(str(made)).digest == made.digest
        store.delete(str(made), reason="a test")


def test_a_publisher_whose_leases_ended_puts_it_again(
    store: AdapterStore, adapters: Adapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    def an_hour_later() -> None:
        storing.end_leases(store)
        store.gc()

    between(monkeypatch, "publish: put", an_hour_later)
    made = store.publish(adapters.directory / "b0h0", "acme/reviews", message="a test").version
    assert store.adapter(str(made)).digest == made.digest
    storing.check_clean(store)


def test_what_cannot_be_put_leaves_no_lease(
    store: AdapterStore, adapters: Adapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("the cable was pulled")

    monkeypatch.setattr(LocalBlobs, "put", fail)
    with pytest.raises(OSError, match="cable"):
        store.publish(adapters.directory / "b0h0", "acme/reviews", message="a test")
    assert storing.tables(store)["leases"] == []


def before_it(monkeypatch: pytest.MonkeyPatch, method: str, do: Callable[[], object]) -> list[str]:
    """Do something when this method of LocalBlobs is first called; the place that it was called with."""
    original, seen = getattr(LocalBlobs, method), list[str]()

    def late(self: LocalBlobs, place: str) -> Any:
        if not seen:
            seen.append(place)
            do()
        return original(self, place)

    monkeypatch.setattr(LocalBlobs, method, late)
    return seen


def removed_and_again(store: AdapterStore, adapters: Adapters) -> None:
    """Its bytes are elsewhere then."""
    store.delete("acme/reviews@1", reason="a test")
    store.gc()
    store.publish(adapters.directory / "b0h0", "acme/reviews", message="a test")


def test_what_is_removed_while_it_is_read_is_not_there_and_no_damage(
    store: AdapterStore, adapters: Adapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish(adapters.directory / "b0h0", "acme/reviews", message="a test")
    seen = before_it(monkeypatch, "file", lambda: removed_and_again(store, adapters))
    with raises(NotFound, code="version.missing", version=1, known=[2], reference="acme/reviews@1"):
        store.adapter("acme/reviews@1")
    assert seen
    assert store.adapter("acme/reviews@2").digest == adapters.digests["b0h0"]


def test_what_others_published_elsewhere_meanwhile_is_read_from_there(
    store: AdapterStore, adapters: Adapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish(adapters.directory / "b0h0", "acme/reviews", message="a test")
    store.publish(adapters.directory / "b0h0", "beta/other", message="a test")

    def erase_and_publish() -> None:
        store.erase("acme", reason="a test")
        store.erase("beta", reason="a test")
        store.publish(adapters.directory / "b0h0", "acme/reviews", message="a test")

    seen = before_it(monkeypatch, "file", erase_and_publish)
    assert store.adapter("acme/reviews@1").digest == adapters.digests["b0h0"]
    assert seen


def test_verify_takes_no_blob_for_lost_that_was_published_again_meanwhile(
    store: AdapterStore, adapters: Adapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish(adapters.directory / "b0h0", "acme/reviews", message="a test")
    seen = before_it(monkeypatch, "size", lambda: removed_and_again(store, adapters))
    assert store.verify() == []
    assert seen


def test_the_tables_are_those_that_migrations_make(store: AdapterStore) -> None:
    """In PostgreSQL too."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with store._database.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), storing.metadata) == []
