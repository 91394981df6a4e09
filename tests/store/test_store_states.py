"""Whatever is done to a store in whatever order, it is what a dictionary says it is."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from afina import Adapter
from afina.errors import Conflict, NotFound, Refused
from afina.store.adapter_store import AdapterStore
from afina.store.aliases import ANY, Anything
from stores import adapter, held, kept

NAMES = st.sampled_from(["acme/reviews", "acme/mail", "bolt/reviews"])
CONTENTS = st.tuples(st.integers(0, 1), st.integers(0, 2))
ALIASES = st.sampled_from(["production", "staging"])
NUMBERS = st.integers(1, 4)


@cache
def _made(body: int, head: int) -> Path:
    return adapter(Path(tempfile.mkdtemp(prefix="afina-states-")) / "adapter", body, head)


@pytest.fixture(scope="module", autouse=True)
def _clean() -> object:
    yield
    for body in range(2):
        for head in range(3):
            shutil.rmtree(_made(body, head).parent)
    _made.cache_clear()


@dataclass
class Versions:
    """What a name has: by number, content or None where it was deleted; by alias, the versions it pointed to."""

    contents: dict[int, tuple[int, int] | None] = field(default_factory=dict)
    aliases: dict[str, list[int]] = field(default_factory=dict)

    @property
    def live(self) -> list[int]:
        return [number for number, content in self.contents.items() if content is not None]

    def pointing(self) -> dict[str, int]:
        return {alias: path[-1] for alias, path in sorted(self.aliases.items())}


class States(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="afina-states-"))
        self.store = AdapterStore(self.root / "store", who="ada")
        self.store.init()
        self.model: dict[str, Versions] = {}
        self.entries = 1

    @rule(name=NAMES, content=CONTENTS)
    def publish(self, name: str, content: tuple[int, int]) -> None:
        versions = self.model.setdefault(name, Versions())
        there = [number for number in versions.live if versions.contents[number] == content]
        made = self.store.publish(_made(*content), name, message="a reason")
        assert made.created == (not there)
        if there:
            assert made.version.number == there[0]
        else:
            assert made.version.number == len(versions.contents) + 1
            versions.contents[made.version.number] = content
            self.entries += 1

    @rule(name=NAMES, number=NUMBERS, alias=ALIASES, expected=st.sampled_from([ANY, ANY, None, 1, 2]))
    def alias(self, name: str, number: int, alias: str, expected: int | Anything | None) -> None:
        versions = self.model.get(name, Versions())
        path = versions.aliases.get(alias, [])
        before = path[-1] if path else None

        def move() -> None:
            moved = self.store.alias(f"{name}@{number}", alias, expected=expected)
            assert (moved.before, moved.after) == (before, number)

        if number not in versions.live:
            with pytest.raises(NotFound):
                move()
        elif expected not in (ANY, before):
            with pytest.raises(Conflict):
                move()
        else:
            move()
            self.entries += 1
            versions.aliases[alias] = path if number == before else [*path, number]

    @rule(name=NAMES, alias=ALIASES)
    def rollback(self, name: str, alias: str) -> None:
        versions = self.model.get(name, Versions())
        path = list(versions.aliases.get(alias, []))
        before = path.pop() if path else None
        while path and (path[-1] not in versions.live or path[-1] == before):
            path.pop()
        if not path:
            with pytest.raises(NotFound):
                self.store.rollback(name, alias)
            return
        moved = self.store.rollback(name, alias)
        assert (moved.before, moved.after) == (before, path[-1])
        versions.aliases[alias] = path
        self.entries += 1

    @rule(name=NAMES, alias=ALIASES)
    def unalias(self, name: str, alias: str) -> None:
        path = self.model.get(name, Versions()).aliases.pop(alias, None)
        if path is None:
            with pytest.raises(NotFound):
                self.store.unalias(name, alias)
            return
        moved = self.store.unalias(name, alias)
        assert (moved.before, moved.after) == (path[-1], None)
        self.entries += 1

    @rule(name=NAMES, number=NUMBERS)
    def delete(self, name: str, number: int) -> None:
        versions = self.model.get(name, Versions())
        if number not in versions.live:
            with pytest.raises(NotFound):
                self.store.delete(f"{name}@{number}", reason="a reason")
        elif number in versions.pointing().values():
            with pytest.raises(Refused):
                self.store.delete(f"{name}@{number}", reason="a reason")
        else:
            assert self.store.delete(f"{name}@{number}", reason="a reason").deleted
            versions.contents[number] = None
            self.entries += 1

    @rule()
    def gc(self) -> None:
        loose = kept(self.store) - held(self.store)
        assert self.store.gc().blobs == len(loose)
        assert kept(self.store) == held(self.store)
        self.entries += bool(loose)

    @rule(client=st.sampled_from(["acme", "bolt"]))
    def erase(self, client: str) -> None:
        mine = {name: versions for name, versions in self.model.items() if name.startswith(f"{client}/")}
        if not mine:
            with pytest.raises(NotFound):
                self.store.erase(client, reason="a reason")
            return
        removed = self.store.erase(client, reason="a reason")
        assert removed.versions == sum(len(versions.contents) for versions in mine.values())
        assert kept(self.store) == held(self.store)
        for name in mine:
            del self.model[name]
        self.entries += 1

    @rule()
    def verify(self) -> None:
        assert self.store.verify() == []
        assert held(self.store) <= kept(self.store)

    @rule()
    def reopen(self) -> None:
        self.store = AdapterStore(self.root / "store", who="ada")

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model)))
        for number in self.model[name].live:
            content = self.model[name].contents[number]
            assert content
            read, made = self.store.adapter(f"{name}@{number}"), Adapter.load(_made(*content))
            assert read.digest == made.digest
            assert all((read.tensors[key] == value).all() for key, value in made.tensors.items())

    @invariant()
    def it_shows_what_the_model_says(self) -> None:
        listed = {one.name: (one.versions, one.newest, dict(one.aliases)) for one in self.store.list()}
        assert listed == {
            name: (len(versions.live), versions.live[-1], versions.pointing())
            for name, versions in self.model.items()
            if versions.live
        }
        for name, versions in self.model.items():
            shown = self.store.versions(name)
            assert [one.number for one in shown] == [*versions.contents]
            for one in shown:
                content = versions.contents[one.number]
                assert one.deleted == (content is None)
                assert bool(one.manifest) == bool(one.parts) == (content is not None)
                pointing = [alias for alias, number in versions.pointing().items() if number == one.number]
                assert list(one.aliases) == pointing
        assert len(self.store.log()) == self.entries

    def teardown(self) -> None:
        try:
            self.verify()
        finally:
            shutil.rmtree(self.root)


@pytest.mark.slow
def test_a_store_is_what_was_done_to_it() -> None:
    quick = settings(
        max_examples=6,
        stateful_step_count=16,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    run_state_machine_as_test(States, settings=quick)
