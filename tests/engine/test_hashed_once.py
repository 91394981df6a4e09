"""An adapter's bytes are hashed once on their way into memory, and what was changed is refused at every door."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from afina import Adapter, AdapterStore, Backbone, digest, tensorfile
from afina.engine.engine import Engine
from afina.errors import CorruptAdapter, CorruptStore
from crowd import adapter
from fakes import TEXTS, Runs
from raises import raises

NAME = "acme/reviews"


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Bytes hashed: of tensors, and of files."""
    counted: Counter[str] = Counter()
    of_tensors, of_file = digest.of_tensors, digest.of_file

    def tensors(given: Any) -> str:
        counted["tensors"] += sum(tensor.nbytes for tensor in given.values())
        return of_tensors(given)

    def file(path: Path) -> str:
        counted["files"] += path.stat().st_size
        return of_file(path)

    monkeypatch.setattr(digest, "of_tensors", tensors)
    monkeypatch.setattr(digest, "of_file", file)
    return counted


@pytest.fixture
def directory(runs: Runs, tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs.adapter("gpt2", "lora"), tmp_path / "adapter"))


@pytest.fixture
def store(directory: Path, tmp_path: Path) -> AdapterStore:
    made = AdapterStore(tmp_path / "store")
    made.publish(directory, NAME, message="first")
    return made


@pytest.mark.parametrize("came_from", ["store", "directory", "memory"])
def test_an_adapter_is_hashed_once_until_it_answers(
    came_from: str, store: AdapterStore, directory: Path, gpt2: Backbone, passes: Counter[str]
) -> None:
    bytes_of_it = sum(tensor.nbytes for tensor in Adapter.load(directory).tensors.values())
    given = {"store": f"store:{NAME}", "directory": directory, "memory": Adapter.load(directory)}[came_from]
    with Engine(gpt2, store) as engine:
        engine.hosts.of("float")  # its hashing does not count
        passes.clear()
        for text in TEXTS[:2]:
            engine.predict([(given, text)])
    beside = sum(blob.size for role, blob in store.show(NAME).parts.items() if role not in ("body", "head"))
    assert passes == {"tensors": bytes_of_it} | ({"files": beside} if came_from == "store" else {})


def changed_in_place(made: Adapter) -> Adapter:
    next(iter(made.tensors.values())).add_(1)
    return made


def changed_past_torch(made: Adapter) -> Adapter:
    next(iter(made.tensors.values())).numpy()[...] += 1
    return made


def exchanged(made: Adapter) -> Adapter:
    name, tensor = next(iter(made.tensors.items()))
    return replace(made, tensors={**made.tensors, name: tensor + 1})


@pytest.mark.parametrize(
    ("change", "came_from"),
    [(changed_in_place, "memory"), (changed_past_torch, "store"), (exchanged, "directory"), (exchanged, "memory")],
)
def test_a_callers_adapter_that_was_changed_is_refused(
    change: Any, came_from: str, store: AdapterStore, directory: Path, gpt2: Backbone
) -> None:
    if came_from == "memory":
        made = adapter(gpt2, "lora")
    else:
        made = store.adapter(NAME) if came_from == "store" else Adapter.load(directory)
    made = replace(made, tensors={name: tensor.clone() for name, tensor in made.tensors.items()})
    assert made.mismatch() is None
    with Engine(gpt2) as engine:
        engine.predict([(made, TEXTS[0])])
        engine.evict(made)
        with raises(CorruptAdapter, code="adapter.changed", what="tensors"):
            engine.predict([(change(made), TEXTS[0])])


def flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)


@pytest.mark.parametrize("place", [-1, 30])
def test_bytes_that_changed_in_a_store_are_refused_by_the_engine_and_name_their_file(
    place: int, store: AdapterStore, gpt2: Backbone
) -> None:
    assert store.address.directory
    for role in ("body", "head"):
        found = store.show(NAME).parts[role].digest.removeprefix("sha256:")
        (file,) = store.address.directory.glob(f"blobs/??/sha256-{found}*")
        whole = file.read_bytes()
        flip(file, place)
        with (
            Engine(gpt2, store) as engine,
            raises(CorruptStore, code="store.content-changed", where="store:acme/reviews@1"),
        ):
            engine.predict([(f"store:{NAME}", TEXTS[0])])
        file.write_bytes(whole)


def test_a_header_that_says_the_same_in_other_bytes_is_refused_by_the_store(store: AdapterStore) -> None:
    assert store.address.directory
    found = store.show(NAME).parts["body"].digest.removeprefix("sha256:")
    (file,) = store.address.directory.glob(f"blobs/??/sha256-{found}*")
    content = file.read_bytes()
    assert b'{"format":"pt"}' in content
    file.chmod(0o644)
    file.write_bytes(content.replace(b'{"format":"pt"}', b'{"format":"qt"}'))
    with raises(CorruptStore, code="store.content-changed", where="store:acme/reviews@1", what="body"):
        store.adapter(NAME)


def test_only_a_header_that_is_known_to_the_byte_stands_in_for_a_files_digest(tmp_path: Path) -> None:
    tensorfile.write(tmp_path / "file", {"a": torch.ones(2), "b": torch.ones(3)})
    assert tensorfile.has_header(tmp_path / "file", {"a": torch.zeros(2), "b": torch.zeros(3)})
    assert not tensorfile.has_header(tmp_path / "file", {"a": torch.zeros(2), "b": torch.zeros(1, 3)})
    assert not tensorfile.has_header(tmp_path / "file", {"a": torch.zeros(2), "b": torch.zeros(3).bfloat16()})
    tensorfile.write(tmp_path / "file", {"a": torch.ones(2).bfloat16()})
    assert not tensorfile.has_header(tmp_path / "file", {"a": torch.zeros(2).bfloat16()})
