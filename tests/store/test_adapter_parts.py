"""An adapter comes apart into files of its own content, and together again as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from afina import Adapter, Task, digest, tensorfile
from afina.data.text_hashes import HASHES_FILE
from afina.errors import CorruptStore, Refused
from afina.models.adapter import VOCABULARY
from afina.models.architectures import is_head
from afina.models.manifest import MANIFEST
from afina.store.adapter_parts import BODY_ROLE, HEAD_ROLE, join, restore, split
from afina.store.versions import PartFile
from fakes import Runs, tfidf
from raises import raises

MADE = [("gpt2", "lora"), ("gpt2", "full"), ("gpt2", "prelayer"), ("gpt2", "head"), ("llama", "lora")]


def manifest_of(adapter: Adapter) -> dict[str, Any]:
    return adapter.manifest.model_dump(mode="json") | {"digest": adapter.digest}


def files(parts: dict[str, PartFile]) -> dict[str, Path]:
    return {role: part.file for role, part in parts.items()}


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


@pytest.fixture(scope="module")
def words(toy: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of words, without a backbone."""
    task = Task.load(toy)
    made = tfidf(task.train).model
    assert made
    path = tmp_path_factory.mktemp("words") / "adapter"
    made.adapter(task.label_names, {"C": 1.0}).save(path)
    return path


@pytest.fixture(params=[*("/".join(made) for made in MADE), "tfidf", "peft"])
def directory(request: pytest.FixtureRequest, runs: Runs, words: Path, tmp_path: Path) -> Path:
    if request.param == "tfidf":
        return words
    if request.param == "peft":  # what peft saved has no manifest
        shutil.copytree(
            runs.adapter("gpt2", "lora"), tmp_path / "peft", ignore=shutil.ignore_patterns(MANIFEST, HASHES_FILE)
        )
        return tmp_path / "peft"
    return runs.adapter(*request.param.split("/"))


def test_an_adapter_comes_apart_and_together_again_to_the_byte(directory: Path, tmp_path: Path) -> None:
    adapter = Adapter.load(directory)
    parts = split(adapter, tmp_path / "scratch", directory)
    for part in parts.values():
        data = part.file.read_bytes()
        assert part.blob == (digest.of_bytes(data), len(data))
        assert part.file.parent == tmp_path / "scratch"
    beside = {name for name in contents(directory) if name not in (MANIFEST, adapter.manifest.tensor_file)}
    assert parts.keys() - {BODY_ROLE, HEAD_ROLE} == beside
    assert (HEAD_ROLE in parts) == any(map(is_head, adapter.tensors))
    assert (BODY_ROLE in parts) == (not all(map(is_head, adapter.tensors)))

    again = join(manifest_of(adapter), files(parts), "acme/reviews@1")
    assert (again.digest, again.where, again.vocabulary) == (adapter.digest, "acme/reviews@1", adapter.vocabulary)
    assert digest.of_tensors(again.tensors) == adapter.manifest.tensors_digest
    restored = restore(tmp_path / "restored", manifest_of(adapter), files(parts), "acme/reviews@1")
    assert restored.digest == Adapter.load(tmp_path / "restored").digest == adapter.digest
    found, expected = contents(tmp_path / "restored"), contents(directory)
    if MANIFEST not in expected:
        assert json.loads(found.pop(MANIFEST))["digest"] == adapter.digest
    assert found == expected


def test_adapters_that_differ_in_the_head_alone_share_the_body_and_the_tokenizer(runs: Runs, tmp_path: Path) -> None:
    path = runs.adapter("gpt2", "full")
    adapter = Adapter.load(path)
    tensors = {name: tensor + 1 if is_head(name) else tensor for name, tensor in adapter.tensors.items()}
    manifest = adapter.manifest.model_copy(update={"tensors_digest": digest.of_tensors(tensors)})
    other = Adapter(manifest, tensors)
    first, second = split(adapter, tmp_path / "first", path), split(other, tmp_path / "second")
    assert first[BODY_ROLE].blob == second[BODY_ROLE].blob
    assert first[HEAD_ROLE].blob != second[HEAD_ROLE].blob
    assert second.keys() == {BODY_ROLE, HEAD_ROLE}
    assert join(manifest_of(other), files(second), "x").digest == other.digest


def test_the_same_tensors_are_the_same_bytes_in_any_order(runs: Runs, tmp_path: Path) -> None:
    adapter = Adapter.load(runs.adapter("gpt2", "full"))
    turned = replace(adapter, tensors={name: adapter.tensors[name] for name in reversed([*adapter.tensors])})
    one, other = (split(each, tmp_path / str(place)) for place, each in enumerate((adapter, turned)))
    assert {role: part.blob for role, part in one.items()} == {role: part.blob for role, part in other.items()}


def test_files_beside_the_tensors_are_parts_of_an_adapter_in_a_directory(runs: Runs, tmp_path: Path) -> None:
    path = runs.adapter("gpt2", "full")
    made = Adapter.load(path)
    assert split(made, tmp_path / "scratch").keys() == {BODY_ROLE, HEAD_ROLE}
    assert {"config.json", "tokenizer.json"} < split(made, tmp_path / "again", path).keys()


@pytest.mark.parametrize("name", ["training_args.bin", "other.safetensors", "run.py", "a b.txt", "checkpoint-3/a.json"])
def test_a_file_that_a_store_does_not_keep_is_refused(trained: Path, name: str, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "adapter")
    (tmp_path / "adapter" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "adapter" / name).write_bytes(b"{}")
    with raises(Refused, code="intake.file-unexpected"):
        split(Adapter.load(tmp_path / "adapter"), tmp_path / "scratch", tmp_path / "adapter")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _extra(path: Path) -> None:
    tensors, _ = tensorfile.read(path)
    tensorfile.write(path, tensors | {"more": torch.zeros(1)})


@pytest.mark.parametrize(
    ("change", "role", "said"),
    [
        (_flip, BODY_ROLE, r"the set of tensors has digest .*, expected"),
        (_flip, HEAD_ROLE, r"the set of tensors has digest"),
        (_cut, BODY_ROLE, "damaged, or not a safetensors file"),
        (Path.unlink, BODY_ROLE, "the file is missing"),
        (_extra, BODY_ROLE, "the set of tensors has digest"),
        (_extra, HEAD_ROLE, "the tensor 'more' does not belong in the part head"),
    ],
)
def test_parts_that_are_not_what_the_manifest_says_are_a_corrupt_store(
    change: Callable[[Path], object], role: str, said: str, runs: Runs, tmp_path: Path
) -> None:
    adapter = Adapter.load(runs.adapter("gpt2", "ia3"))
    adapter = replace(adapter, tensors={name: adapter.tensors[name] for name in sorted(adapter.tensors)[:3]})
    tensors_digest = digest.of_tensors(adapter.tensors)
    adapter = replace(adapter, manifest=adapter.manifest.model_copy(update={"tensors_digest": tensors_digest}))
    parts = split(adapter, tmp_path / "scratch")
    change(parts[role].file)
    with pytest.raises(CorruptStore, match=f"(?s)^acme/reviews@1: .*{said}"):
        restore(tmp_path / "restored", manifest_of(adapter), files(parts), "acme/reviews@1")
    assert not (tmp_path / "restored").exists()


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"method": "full"}, "adapter.changed"),
        ({"digest": None}, "adapter.changed"),
        ({"format": 99}, "adapter.format-unknown"),
        ({"tensor_file": "../x"}, "adapter.file-malformed"),
    ],
)
def test_a_changed_manifest_is_a_corrupt_store(
    changes: dict[str, Any], cause: str, trained: Path, tmp_path: Path
) -> None:
    adapter = Adapter.load(trained)
    parts = split(adapter, tmp_path / "scratch")
    with raises(CorruptStore, code="store.content-changed", where="acme/reviews@1", cause=cause):
        join(manifest_of(adapter) | changes, files(parts), "acme/reviews@1")


def test_a_vocabulary_that_is_missing_or_changed_is_a_corrupt_store(words: Path, tmp_path: Path) -> None:
    adapter = Adapter.load(words)
    parts = files(split(adapter, tmp_path / "scratch"))
    with raises(CorruptStore, code="store.content-changed", file="vocabulary.json", where="x"):
        join(manifest_of(adapter), {role: file for role, file in parts.items() if role != VOCABULARY}, "x")
    parts[VOCABULARY].write_text('["a"]')
    with raises(CorruptStore, code="store.content-changed", where="x", cause="adapter.changed"):
        join(manifest_of(adapter), parts, "x")


@pytest.mark.parametrize("name", ["../escape.json", "/etc/escape.json", MANIFEST, "run.py", "other.safetensors"])
def test_a_role_that_is_no_plain_name_is_never_written(name: str, trained: Path, tmp_path: Path) -> None:
    adapter = Adapter.load(trained)
    parts = files(split(adapter, tmp_path / "scratch"))
    with raises(CorruptStore, code="store.content-changed", where="x"):
        restore(tmp_path / "in" / "restored", manifest_of(adapter), parts | {name: parts[BODY_ROLE]}, "x")
    assert not list(tmp_path.rglob("escape.json"))
