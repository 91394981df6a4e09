"""Which adapters are in memory, and which version a request is answered by, while others publish, move and evict."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from afina import Adapter, AdapterStore, Backbone, Predictor, digest
from afina.engine.adapters import AdapterLoader
from afina.engine.engine import Engine
from afina.errors import AfinaError, Busy, CorruptAdapter, InvalidData, InvalidStudy, NotFound, Refused, WrongBackbone
from afina.models.bag_of_words import BagOfWords
from afina.store.versions import Version
from crowd import adapter
from fakes import Backbones
from raises import raises
from rounding import Exact

TEXTS = ("the soup was bright.", "What a dull ferry!", "a", "Our garden turned out sour in the end")


@pytest.fixture(scope="module")
def adapters(gpt2: Backbone) -> list[Adapter]:
    """LoRAs of several ranks; the last has a model of its own."""
    return [adapter(gpt2, "lora", {"r": 2 + seed % 3}, seed=seed) for seed in range(6)] + [adapter(gpt2, "full")]


@pytest.fixture(scope="module")
def alone(gpt2: Backbone, adapters: list[Adapter]) -> dict[str, Exact]:
    """By digest, what each says of TEXTS. Any two are farther apart than a hundred times what rounding explains."""
    made = {one.digest: Exact.of(one, gpt2, TEXTS) for one in adapters}
    for one, other in itertools.permutations(made.values(), 2):
        assert (np.abs(one.outputs - other.outputs).max(axis=1) > 100 * one.bounds).all()
    return made


@pytest.fixture
def store(tmp_path: Path) -> AdapterStore:
    return AdapterStore(tmp_path / "store", who="ada")


@pytest.fixture
def engine(gpt2: Backbone, store: AdapterStore) -> Iterator[Engine]:
    with Engine(gpt2, store, fresh=0) as made:
        yield made


@pytest.fixture
def publish(store: AdapterStore, adapters: list[Adapter], tmp_path: Path) -> Callable[[int, str], str]:
    """Publish the adapter of that number under a name: the reference to the version."""

    def made(which: int, name: str) -> str:
        path = tmp_path / f"adapter-{which}"
        if not path.exists():
            adapters[which].save(path)
        return f"store:{store.publish(path, name, message='why').version}"

    return made


@pytest.mark.slow
def test_a_reference_is_answered_by_the_version_that_it_means_now(
    engine: Engine, store: AdapterStore, publish: Callable[[int, str], str], alone: dict[str, Exact]
) -> None:
    first, second = publish(0, "acme/reviews"), publish(1, "acme/reviews")
    store.alias(first.removeprefix("store:"))

    def answering() -> tuple[str | None, str]:
        (found,) = engine.predict([("store:acme/reviews@production", TEXTS[0])])
        assert alone[found.digest].explains(found.outputs, 0)
        return found.version, found.digest

    before = answering()
    store.alias(second.removeprefix("store:"))
    after = answering()
    store.rollback("acme/reviews")
    assert [before[0], after[0]] == ["acme/reviews@1", "acme/reviews@2"]
    assert before[1] != after[1]
    assert answering() == before


def test_a_moved_alias_is_noticed_once_what_was_looked_up_is_no_longer_fresh(
    gpt2: Backbone, store: AdapterStore, publish: Callable[[int, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = publish(0, "acme/reviews"), publish(1, "acme/reviews")
    now = [100.0]
    monkeypatch.setattr("afina.meter.now", lambda: now[0])
    store.alias(first.removeprefix("store:"))
    with Engine(gpt2, store, fresh=0.5) as engine:
        reference = "store:acme/reviews@production"
        assert engine.predict([(reference, "a")])[0].version == "acme/reviews@1"
        store.alias(second.removeprefix("store:"))
        now[0] += 0.4
        assert engine.predict([(reference, "a")])[0].version == "acme/reviews@1"
        now[0] += 0.2
        assert engine.predict([(reference, "a")])[0].version == "acme/reviews@2"


def test_the_same_adapter_under_several_names_and_in_a_directory_is_in_memory_once(
    engine: Engine, publish: Callable[[int, str], str], tmp_path: Path, adapters: list[Adapter]
) -> None:
    names = [publish(0, "acme/reviews"), publish(0, "globex/reviews")]
    found = engine.predict([(one, TEXTS[0]) for one in (*names, tmp_path / "adapter-0", adapters[0])])
    assert {one.digest for one in found} == {adapters[0].digest}
    assert [one.version for one in found] == ["acme/reviews@1", "globex/reviews@1", None, None]
    assert len(engine.residents) == 1


def test_a_directory_whose_adapter_was_exchanged_is_read_again(
    engine: Engine, adapters: list[Adapter], tmp_path: Path
) -> None:
    path = tmp_path / "adapter"
    for one in (adapters[0], adapters[1], adapters[0]):
        one.save(path)
        assert engine.predict([(path, TEXTS[0]), (str(path), TEXTS[1])])[0].digest == one.digest


def test_a_lease_keeps_its_version_whatever_happens_to_it(
    engine: Engine, store: AdapterStore, publish: Callable[[int, str], str], alone: dict[str, Exact]
) -> None:
    reference = publish(0, "acme/reviews")
    lease = engine.lease(reference)
    publish(1, "acme/reviews")
    lease.resident()
    store.delete(reference.removeprefix("store:"), reason="wrong")
    store.gc()
    assert engine.evict(lease.resident())
    (found,) = engine.predict([(lease, TEXTS[1])])
    assert (found.version, found.digest) == ("acme/reviews@1", lease.digest)
    assert alone[lease.digest].explains(found.outputs, 1)
    lease.release()
    with raises(NotFound, code="version.missing", version=1, known=[2], reference="acme/reviews@1"):
        engine.predict([(reference, TEXTS[1])])


def test_a_version_that_goes_while_it_is_read_is_looked_up_once_more(
    gpt2: Backbone, store: AdapterStore, publish: Callable[[int, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = publish(0, "acme/reviews"), publish(1, "acme/reviews")
    store.alias(first.removeprefix("store:"))
    plain = AdapterStore.adapter

    def late(self: AdapterStore, version: Version) -> Adapter:
        if version.number == 1:
            store.alias(second.removeprefix("store:"))
            store.delete(str(version), reason="wrong")
            store.gc()
        return plain(self, version)

    monkeypatch.setattr(AdapterStore, "adapter", late)
    with Engine(gpt2, store, fresh=60) as engine:
        assert engine.predict([("store:acme/reviews@production", "a")])[0].version == "acme/reviews@2"
        with raises(NotFound, code="version.missing", version=1, known=[2], reference="acme/reviews@1"):
            engine.predict([(first, "a")])


def test_beyond_the_limit_what_was_used_longest_ago_goes_and_what_is_pinned_or_held_stays(
    gpt2: Backbone, adapters: list[Adapter]
) -> None:
    with Engine(gpt2) as engine:
        sizes = [one.size for one in engine.load(*adapters)]
    limit = sum(sizes[:3])
    with Engine(gpt2, limit=limit) as engine:
        engine.pin(adapters[0])
        with engine.lease(adapters[1]) as held:
            held.resident()
            for one in adapters[2:6]:
                engine.predict([(one, TEXTS[0])])
                assert sum(each.size for each in engine.residents) <= limit
            there = [each.digest for each in engine.residents]
            assert there[0] == adapters[5].digest
            assert set(there) >= {adapters[0].digest, adapters[1].digest}
            assert not {adapters[2].digest, adapters[3].digest} & set(there)
        engine.predict([(one, TEXTS[0]) for one in adapters])  # more than the limit, at once
        assert sum(each.size for each in engine.residents) <= limit
        assert adapters[0].digest in {each.digest for each in engine.residents}
        with raises(Refused, code="engine.pinned-limit", limit=9984):
            engine.pin(adapters[-1])
        engine.unpin(adapters[0])
        engine.predict([(one, TEXTS[0]) for one in adapters[1:]])
        assert adapters[0].digest not in {each.digest for each in engine.residents}


def test_what_is_loading_keeps_nobody_else_waiting(
    engine: Engine, adapters: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.load(adapters[0])
    go, begun = threading.Event(), threading.Event()
    plain = AdapterLoader.load
    loaded: list[str] = []

    def slow(self: AdapterLoader, one: Adapter) -> object:
        begun.set()
        assert go.wait(30)
        loaded.append(threading.current_thread().name)
        return plain(self, one)

    monkeypatch.setattr(AdapterLoader, "load", slow)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(engine.predict, [(adapters[1], text), (adapters[0], text)]) for text in TEXTS[:2]]
        assert begun.wait(30)
        assert engine.predict([(adapters[0], TEXTS[0])])[0].digest == adapters[0].digest
        with engine.lease(adapters[1]) as lease, raises(Busy, code="engine.load-timeout"):
            lease.resident(timeout=0.01)
        assert not any(one.done() for one in waiting)
        go.set()
        assert all(one.result()[0].digest == adapters[1].digest for one in waiting)
    assert len(loaded) == 1
    assert loaded[0].startswith("afina-loader")


def test_what_could_not_be_loaded_is_tried_again(
    engine: Engine, adapters: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = AdapterLoader.load
    fails = [True]

    def broken(self: AdapterLoader, one: Adapter) -> object:
        if fails.pop() if fails else False:
            raise NotFound("gone for a moment")
        return plain(self, one)

    monkeypatch.setattr(AdapterLoader, "load", broken)
    with pytest.raises(NotFound, match="gone for a moment"):
        engine.predict([(adapters[0], TEXTS[0])])
    assert engine.residents == ()
    assert engine.predict([(adapters[0], TEXTS[0])])[0].digest == adapters[0].digest


def test_an_error_is_the_outcome_of_its_own_request_alone(
    engine: Engine, adapters: list[Adapter], backbones: Backbones, alone: dict[str, Exact], tmp_path: Path
) -> None:
    good = adapters[0]
    other = adapter(Backbone.load(str(backbones.path("gpt2", seed=1))), "lora")
    name = next(iter(good.tensors))
    tampered = replace(good, tensors={**good.tensors, name: good.tensors[name] + 1})
    fewer = {key: tensor for key, tensor in good.tensors.items() if key != name}
    lacking = replace(
        good, tensors=fewer, manifest=good.manifest.model_copy(update={"tensors_digest": digest.of_tensors(fewer)})
    )
    requests = [
        (good, TEXTS[0], None, None),
        (other, TEXTS[0], None, WrongBackbone),
        (tampered, TEXTS[0], None, None),  # its digest is that of one that is there
        (lacking, TEXTS[0], None, CorruptAdapter),
        ("store:acme/none", TEXTS[0], None, NotFound),
        (tmp_path / "nowhere", TEXTS[0], None, NotFound),
        (good, " ", None, InvalidData),
        (good, TEXTS[1], None, None),
        (adapters[-1], "", None, InvalidData),
        (adapters[-1], TEXTS[2], None, None),
    ]
    engine.load(good)
    found = engine.attempt([one[:3] for one in requests])
    for (_, text, _, expected), outcome in zip(requests, found, strict=True):
        if expected is not None:
            assert isinstance(outcome, expected)
        else:
            assert not isinstance(outcome, AfinaError)
            assert alone[outcome.digest].explains(outcome.outputs, TEXTS.index(text))
    engine.evict(good)
    with raises(CorruptAdapter, code="adapter.changed", where="lora-0", what="tensors"):
        engine.predict([(tampered, TEXTS[0])])


def test_without_a_store_there_are_no_references_and_a_closed_engine_loads_nothing(
    gpt2: Backbone, adapters: list[Adapter]
) -> None:
    with Engine(gpt2) as engine:
        with raises(InvalidStudy, code="option.missing"):
            engine.predict([("store:acme/reviews", "a")])
        engine.load(adapters[0])
    assert engine.predict([(adapters[0], "a")])[0].digest == adapters[0].digest
    with raises(Refused, code="engine.closed"):
        engine.predict([(adapters[1], "a")])


def test_an_adapter_that_is_a_model_of_words_answers_beside_those_of_the_backbone(
    engine: Engine, adapters: list[Adapter]
) -> None:
    words = BagOfWords(("bright", "dull"), np.ones(2), np.array([[0.5, -1.0], [1.5, 0]]), np.zeros(2))
    floor = words.adapter(("bad", "good"), {})
    found = engine.predict([(floor, TEXTS[0]), (adapters[0], TEXTS[0]), (floor, TEXTS[1])])
    assert np.allclose([found[0].outputs, found[2].outputs], [[0.5, 1.5], [-1, 0]])
    sizes = {one.manifest.method: one.size for one in engine.residents if not one.shares_model}
    assert sizes == {"tfidf": 8 * (2 + 4 + 2) + len("brightdull")}
    engine.evict(floor)
    with raises(CorruptAdapter, code="adapter.changed", where="adapter", what="words"):
        engine.predict([(replace(floor, vocabulary=("bright", "cold")), "a")])


def test_pairs_and_cut_texts_are_told_as_by_a_predictor(gpt2: Backbone) -> None:
    pairs = adapter(gpt2, "lora", seed=1, template="{text} Then: {text_pair}")
    short = adapter(gpt2, "lora", seed=2, max_length=4)
    long, brief = "the soup was bright and the ferry was dull", "a"
    with Engine(gpt2) as engine:
        found = engine.predict([(pairs, "a soup", "a ferry"), (short, long), (short, brief), (short, long)])
        assert [one.truncated for one in found] == [False, True, False, True]
        (expected,) = Predictor.of(pairs, gpt2)(["a soup"], ["a ferry"])
        assert found[0].answer["label"] == expected["label"]
        assert found[0].answer["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)
        assert Exact.of(short, gpt2, [long]).explains(found[1].outputs, 0)
        assert isinstance(engine.attempt([(pairs, "a soup")])[0], InvalidData)
