"""Encodings in the cache: made once, read from disk, made anew when damaged; memory does not grow with the texts."""

from __future__ import annotations

import gc
import os
import tracemalloc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from afina import Backbone, Run
from afina.data.split import Split
from afina.data.task import Task
from afina.data.token_cache import EncodedTask, encode_split
from afina.data.tokenize import Encoded, encode, pieces
from afina.errors import InvalidData
from afina.training.fit import Fit
from afina.training.settings import Training
from fakes import LONG, TEXTS
from raises import raises

LENGTH = 20


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the encodings of this test go."""
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "encodings"


def split(texts: Any = TEXTS, pairs: Any = None) -> Split:
    return Split(list(texts), np.arange(len(texts)) % 2, pairs)


def cached(backbone: Backbone, of: Split, **changes: Any) -> Encoded:
    settings = {"max_length": LENGTH} | changes
    return encode_split(backbone.tokenizer, backbone.tokenizer_digest, of, **settings)


def plain(backbone: Backbone, of: Split) -> Encoded:
    return encode(backbone.tokenizer, of.texts, of.pairs, max_length=LENGTH)


def assert_same(found: Encoded, expected: Encoded) -> None:
    assert np.array_equal(found.tokens, expected.tokens)
    assert np.array_equal(found.offsets, expected.offsets)
    assert (found.tokens.dtype, found.offsets.dtype) == (np.int32, np.int64)
    assert found.truncated == expected.truncated


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of texts of every split that is encoded in this test."""
    calls: list[int] = []

    def counting(tokenizer: Any, texts: Any, *arguments: Any, **named: Any) -> Any:
        calls.append(len(texts))
        return pieces(tokenizer, texts, *arguments, **named)

    monkeypatch.setattr("afina.data.token_cache.pieces", counting)
    return calls


@pytest.mark.parametrize("pairs", [None, TEXTS[::-1]])
@pytest.mark.parametrize("chunk", [4096, 3])
def test_an_encoding_is_the_plain_one_mapped_from_files_and_made_once(
    llama: Backbone, cache: Path, counted: list[int], monkeypatch: pytest.MonkeyPatch, pairs: Any, chunk: int
) -> None:
    monkeypatch.setattr("afina.data.tokenize._CHUNK", chunk)
    expected = plain(llama, split(pairs=pairs))
    for _ in range(2):
        found = cached(llama, split(pairs=pairs))
        assert_same(found, expected)
        assert isinstance(found.tokens, np.memmap)
        assert isinstance(found.offsets, np.memmap)
    assert expected.truncated > 0
    assert counted == [len(TEXTS)]
    assert len(list(cache.iterdir())) == 1


def test_whatever_decides_the_tokens_has_an_encoding_of_its_own(
    gpt2: Backbone, llama: Backbone, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(gpt2, split())
    cached(gpt2, split(TEXTS[::-1]))
    cached(gpt2, split(pairs=TEXTS))
    cached(gpt2, split(pairs=TEXTS[::-1]))
    cached(gpt2, split(), max_length=LENGTH + 1)
    cached(llama, split())
    monkeypatch.setattr(gpt2.tokenizer, "truncation_side", "left")
    left = cached(gpt2, split())
    assert left[1].tolist() == gpt2.tokenizer(LONG)["input_ids"][-LENGTH:]
    monkeypatch.setattr("afina.data.token_cache.version", lambda name: "another")
    cached(gpt2, split())
    assert len(list(cache.iterdir())) == 8


def _cut(place: Path) -> None:
    (place / "tokens.npy").write_bytes((place / "tokens.npy").read_bytes()[:-4])


def _flip(place: Path) -> None:
    content = bytearray((place / "offsets.npy").read_bytes())
    content[-5] ^= 1
    (place / "offsets.npy").write_bytes(content)


def _remove(place: Path) -> None:
    (place / "offsets.npy").unlink()


def _garble(place: Path) -> None:
    (place / "about.json").write_text("[]")


@pytest.mark.parametrize("damage", [_cut, _flip, _remove, _garble])
def test_a_damaged_encoding_is_made_anew(
    gpt2: Backbone, cache: Path, counted: list[int], damage: Callable[[Path], None]
) -> None:
    cached(gpt2, split())
    (place,) = cache.iterdir()
    damage(place)
    for _ in range(2):
        assert_same(cached(gpt2, split()), plain(gpt2, split()))
    assert len(counted) == 2
    assert list(cache.iterdir()) == [place]


def test_a_text_without_tokens_is_the_same_error_and_leaves_nothing(gpt2: Backbone, cache: Path) -> None:
    with raises(InvalidData, code="data.text-empty", row=2):
        cached(gpt2, split(["a", ""]), where="training text")
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_costs_memory_only(
    gpt2: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("AFINA_CACHE", str(tmp_path / "file"))
    found = cached(gpt2, split())
    assert_same(found, plain(gpt2, split()))
    assert not isinstance(found.tokens, np.memmap)


def test_another_process_may_make_the_same_encoding_meanwhile(
    gpt2: Backbone, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others: list[Encoded] = []

    def interrupted(*arguments: Any, **named: Any) -> Any:
        yield from pieces(*arguments, **named)
        if not others:
            others.append(plain(gpt2, split()))  # so that the other process is not interrupted in its turn
            others.append(cached(gpt2, split()))

    monkeypatch.setattr("afina.data.token_cache.pieces", interrupted)
    found = cached(gpt2, split())
    for one in (found, others[1]):
        assert isinstance(one.tokens, np.memmap)
        assert_same(one, others[0])
    assert len(list(cache.iterdir())) == 1


def test_beyond_the_limit_the_encodings_used_least_lately_go(
    gpt2: Backbone, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [[f"{word} {text}" for text in TEXTS] for word in ("one", "two", "three")]
    places: list[Path] = []
    for one in texts[:2]:
        cached(gpt2, split(one))
        places += set(cache.iterdir()) - set(places)
    for age, place in enumerate(places):
        os.utime(place, (1000 + age, 1000 + age))
    cached(gpt2, split(texts[0]))  # used again, so the other one is now older
    size = sum(file.stat().st_size for file in places[0].iterdir())
    monkeypatch.setattr("afina.data.token_cache.CACHE_LIMIT", int(2.5 * size))
    cached(gpt2, split(texts[2]))
    left = set(cache.iterdir())
    assert len(left) == 2
    assert places[0] in left
    monkeypatch.setattr("afina.data.token_cache.CACHE_LIMIT", 1)
    assert isinstance(cached(gpt2, split(texts[1])).tokens, np.memmap)  # what was made last stays
    assert len(list(cache.iterdir())) == 1


def test_memory_for_encoding_does_not_grow_with_the_texts(
    gpt2: Backbone, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afina.data.tokenize._CHUNK", 50)
    peaks = {}
    for count in (100, 2000):
        texts = split([LONG] * count)
        texts.digest  # noqa: B018 - its copy of the labels is not what is measured
        tracemalloc.start()
        found = cached(gpt2, texts, max_length=gpt2.longest)
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(found) == count
    assert found.tokens.nbytes > 2 * peaks[2000]
    assert peaks[2000] < 1.1 * peaks[100]


def test_no_texts_need_no_file(gpt2: Backbone, cache: Path) -> None:
    assert len(cached(gpt2, split([]))) == 0
    assert not cache.exists()


def test_an_encoded_task_has_everything_but_the_texts(gpt2: Backbone, cache: Path) -> None:
    task = Task("here", ("bad", "good"), split(), split(TEXTS[:3]), leaked=3)
    found = EncodedTask.of(task, gpt2.tokenizer, gpt2.tokenizer_digest, LENGTH)
    assert (found.address, found.label_names, found.leaked) == (task.address, task.label_names, task.leaked)
    for ours, theirs in ((found.train, task.train), (found.evaluation, task.evaluation)):
        assert_same(ours.encoded, plain(gpt2, theirs))
        assert ours.labels is theirs.labels
        assert (len(ours), ours.digest) == (len(theirs), theirs.digest)


def test_while_a_run_trains_its_texts_are_gone_and_its_tokens_on_disk(
    gpt2: Backbone, toy: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[weakref.ref[Any]] = []
    seen: list[tuple[int, type]] = []
    load, advance = Task.load, Fit.advance

    def watched_load(*arguments: Any, **named: Any) -> Task:
        task = load(*arguments, **named)
        texts.extend(map(weakref.ref, (task, task.train, task.evaluation)))
        return task

    def watched_advance(self: Fit, *arguments: Any, **named: Any) -> None:
        gc.collect()
        seen.append((sum(one() is not None for one in texts), type(self.loader.encoded.tokens)))
        advance(self, *arguments, **named)

    monkeypatch.setattr(Task, "load", watched_load)
    monkeypatch.setattr(Fit, "advance", watched_advance)
    training = Training(max_steps=1, dtype="float32")
    Run(backbone=gpt2.address, task=toy, method="lora", training=training).execute(tmp_path / "out")
    assert len(texts) == 3
    assert seen == [(0, np.memmap)]
