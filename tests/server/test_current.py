"""Which version a reference means, while others publish and move, and loading fails now and then."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from afina.errors import Busy, CorruptAdapter, CorruptStore, NotFound
from afina.server.metrics import Metrics
from afina.server.versions.served_versions import PAUSE, ServedVersions
from afina.store.adapter_store import AdapterStore
from afina.store.versions import Reference, Version
from clock import Clock
from servers import followed
from stores import adapter, versioned

PRODUCTION = Reference.parse("acme/reviews@production")


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with three versions, to be copied."""
    directory = versioned(tmp_path_factory.mktemp("begun"), 3).address.directory
    assert directory is not None
    return directory


@pytest.fixture
def store(begun: Path, tmp_path: Path) -> AdapterStore:
    return AdapterStore(shutil.copytree(begun, tmp_path / "store"), who="ada")


class Prove:
    """Notes what is proven; raises what a test puts there, by number."""

    def __init__(self) -> None:
        self.proven, self.errors = list[int](), dict[int, Exception]()

    def demand_backbone(self, version: Version) -> None:
        pass

    def run(self, version: Version) -> None:
        self.proven.append(version.number)
        if version.number in self.errors:
            raise self.errors[version.number]


@pytest.fixture
def prove() -> Prove:
    return Prove()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def current(store: AdapterStore, prove: Prove, clock: Clock) -> ServedVersions:
    return ServedVersions(store, prove, Metrics(), clock=clock)


def test_a_version_is_proven_once_however_often_and_under_whatever_name_it_is_asked_for(
    current: ServedVersions, prove: Prove
) -> None:
    for text in ("acme/reviews@production", "acme/reviews@1", "acme/reviews", "acme/reviews@3", "acme/reviews@3"):
        current.find(Reference.parse(text))
    assert prove.proven == [1, 3]


def test_what_is_there_is_followed_only_where_there_is_news_of_it(
    current: ServedVersions, store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    current.find(PRODUCTION)
    looked = []
    known = store.known
    monkeypatch.setattr(store, "known", lambda reference: looked.append(reference) or known(reference))
    assert not current.refresh()
    store.create_key("bolt", ["predict"])
    assert current.refresh()
    assert looked == []
    store.alias("acme/reviews@2")
    assert followed(current)
    assert ({*looked}, current.find(PRODUCTION).number) == ({PRODUCTION}, 2)


def test_a_version_that_does_not_pass_leaves_the_one_before_until_another_does(
    current: ServedVersions, store: AdapterStore, prove: Prove
) -> None:
    prove.errors[2] = CorruptAdapter("its probe differs")
    current.find(PRODUCTION)
    store.alias("acme/reviews@2")
    for _ in range(4):
        followed(current)
    assert (current.find(PRODUCTION).number, current.behind, prove.proven) == (1, 1, [1, 2])
    with pytest.raises(CorruptAdapter):
        current.find(Reference.parse("acme/reviews@2"))
    assert prove.proven == [1, 2]
    store.alias("acme/reviews@3")
    followed(current)
    assert (current.find(PRODUCTION).number, current.behind) == (3, 0)


def test_a_version_that_could_not_be_loaded_is_tried_again_without_news(
    current: ServedVersions, store: AdapterStore, prove: Prove, clock: Clock
) -> None:
    prove.errors[2] = Busy("not loaded in time")
    current.find(PRODUCTION)
    store.alias("acme/reviews@2")
    followed(current)
    assert (current.find(PRODUCTION).number, current.behind) == (1, 1)
    del prove.errors[2]
    clock.now += PAUSE
    assert not followed(current)
    assert (current.find(PRODUCTION).number, current.behind) == (2, 0)


def test_what_is_gone_is_not_found(current: ServedVersions, store: AdapterStore) -> None:
    newest = Reference.parse("acme/reviews@3")
    assert current.find(newest).number == 3
    store.delete("acme/reviews@3", reason="not needed")
    assert current.find(newest).number == 3
    current.refresh()
    with pytest.raises(NotFound):
        current.find(newest)
    assert current.find(PRODUCTION).number == 1
    store.erase("acme", reason="asked to")
    current.refresh()
    with pytest.raises(NotFound):
        current.find(PRODUCTION)


@pytest.mark.parametrize("steps", sorted({*itertools.permutations(["move", "refresh", "refresh"])}))
@pytest.mark.parametrize("when", ["before it is looked up", "after it is looked up", "while it is proven"])
def test_a_move_at_any_moment_of_the_first_look_is_noticed(
    current: ServedVersions,
    store: AdapterStore,
    prove: Prove,
    monkeypatch: pytest.MonkeyPatch,
    steps: tuple[str, ...],
    when: str,
) -> None:
    acts: dict[str, Callable[[], object]] = {
        "move": lambda: store.alias("acme/reviews@2"),
        "refresh": current.refresh,
    }
    done = []

    def meanwhile(moment: str) -> None:
        if moment == when and not done:
            done.append(moment)
            for step in steps:
                acts[step]()

    known = store.known

    def looked(reference: Reference) -> Version | None:
        meanwhile("before it is looked up")
        found = known(reference)
        meanwhile("after it is looked up")
        return found

    monkeypatch.setattr(store, "known", looked)
    monkeypatch.setattr(current._tests, "run", lambda version: meanwhile("while it is proven"))
    current.find(PRODUCTION)
    followed(current)
    assert done
    assert current.find(PRODUCTION).number == 2


def test_a_rollback_waits_for_no_version_that_is_being_loaded(
    current: ServedVersions, store: AdapterStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for head in range(2):
        store.publish(adapter(tmp_path / f"mail-{head}", 1, head), "bolt/mail", message="why")
    store.alias("bolt/mail@1")
    mail, go = Reference.parse("bolt/mail@production"), threading.Event()
    assert [current.find(one).number for one in (mail, Reference.parse("acme/reviews@2"), PRODUCTION)] == [1, 2, 1]
    store.alias("acme/reviews@2")
    assert followed(current)
    assert current.find(PRODUCTION).number == 2
    monkeypatch.setattr(current._tests, "run", lambda version: go.wait(20))
    store.alias("bolt/mail@2")
    current.refresh()
    store.rollback("acme/reviews")
    current.refresh()
    assert (current.find(PRODUCTION).number, current.find(mail).number, current.behind) == (1, 1, 1)
    # the alias moves back before the version is loaded: the version is not served afterwards
    store.rollback("bolt/mail")
    current.refresh()
    go.set()
    assert not followed(current)
    assert (current.find(mail).number, current.behind) == (1, 0)


def test_a_damaged_row_of_one_name_does_not_delay_another_name(
    current: ServedVersions, store: AdapterStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish(adapter(tmp_path / "mail", 1), "bolt/mail", message="why")
    mail, known = Reference.parse("bolt/mail"), store.known
    assert [current.find(one).number for one in (mail, Reference.parse("acme/reviews@2"), PRODUCTION)] == [1, 2, 1]

    def damaged(reference: Reference) -> Version | None:
        if reference == mail:
            raise CorruptStore("a row was changed")
        return known(reference)

    monkeypatch.setattr(store, "known", damaged)
    store.publish(adapter(tmp_path / "mail-2", 1, 1), "bolt/mail", message="why")
    store.alias("acme/reviews@2")
    with pytest.raises(CorruptStore):
        current.refresh()
    assert current.find(PRODUCTION).number == 2
