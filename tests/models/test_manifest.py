"""The format of a manifest: what its digest covers, and what is no manifest at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from afina import Adapter, digest
from afina.data.text_hashes import HASHES_FILE
from afina.errors import CorruptAdapter
from afina.models.manifest import FORMAT, MANIFEST, read_manifest
from fakes import Runs
from raises import raises


@pytest.fixture
def copy(runs: Runs, tmp_path: Path) -> Path:
    """A LoRA adapter of GPT-2 that a test may damage."""
    return shutil.copytree(runs.adapter("gpt2", "lora"), tmp_path / "adapter")


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The adapter with a changed manifest."""
    content = json.loads((path / MANIFEST).read_text())
    change(content)
    (path / MANIFEST).write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("found", [4, 2, -1, "3", 3.0, True, [3]])
def test_another_format_is_refused(copy: Path, found: Any) -> None:
    with raises(CorruptAdapter, code="adapter.format-unknown", path="manifest.json", expected=FORMAT):
        Adapter.load(rewritten(copy, lambda content: content.update(format=found)))


def test_a_field_that_is_not_given_is_not_in_the_digest(copy: Path) -> None:
    """So that a field which comes later changes no digest of an adapter without it."""
    manifest = read_manifest(copy)
    fields = "format method hyperparameters label_names backbone_digest family tensor_file tensors_digest max_length"
    assert manifest.digest == digest.of_json(manifest.model_dump(mode="json", include=set(fields.split())))


def test_adapters_without_chats_have_no_field_that_earlier_versions_of_afina_refuse(copy: Path) -> None:
    manifest = read_manifest(copy)
    assert "chat_template" not in manifest.model_dump(mode="json")
    held = manifest.model_copy(update={"chat_template": "{{ messages }}"})
    assert held.model_dump(mode="json")["chat_template"] == "{{ messages }}"


def test_the_manifest_says_where_the_adapter_was_made(runs: Runs) -> None:
    manifest, made = read_manifest(runs.adapter("gpt2", "lora")), runs.record("gpt2", "lora").environment
    told = {"platform", "processor", "device", "threads", "dtype", "git_commit", "git_dirty"}
    assert manifest.environment == made.model_dump(include=told)
    assert manifest.versions == made.versions


def test_the_manifest_counts_the_evaluation_texts_and_their_answers(runs: Runs) -> None:
    counts, record = read_manifest(runs.adapter("gpt2", "lora")).answers, runs.record("gpt2", "lora")
    assert counts is not None
    assert counts.texts == sum(counts.labels.values()) == record.examples
    assert tuple(counts.labels) == record.label_names
    assert 0 < max(counts.tokens) <= record.examples


ODD_NAMES = [".", "..", "", "../x", "a/b", "/etc/hostname", "a\\b", "a\0b", MANIFEST]


@pytest.mark.parametrize("name", ODD_NAMES, ids=repr)
def test_tensors_lie_beside_the_manifest_and_nowhere_else(copy: Path, name: str) -> None:
    rewritten(copy, lambda content: content.update(tensor_file=name))
    with raises(CorruptAdapter, code="adapter.file-malformed", field="tensor_file"):
        Adapter.load(copy)


@pytest.mark.parametrize("replace", [os.mkfifo, Path.mkdir, lambda file: file.symlink_to("/dev/zero")])
@pytest.mark.parametrize("name", [MANIFEST, "adapter_model.safetensors", "adapter_config.json"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(
    copy: Path, replace: Callable[[Path], None], name: str
) -> None:
    if name == "adapter_config.json":
        (copy / MANIFEST).unlink()
        (copy / HASHES_FILE).unlink()
    (copy / name).unlink()
    replace(copy / name)
    with raises(CorruptAdapter, code="adapter.file-unreadable"):
        Adapter.load(copy)


def test_a_link_to_a_file_serves_as_the_file(copy: Path) -> None:
    """The Hub's cache is made of links."""
    expected = Adapter.load(copy).digest
    for name in (MANIFEST, "adapter_model.safetensors"):
        elsewhere = copy.parent / name
        (copy / name).rename(elsewhere)
        (copy / name).symlink_to(elsewhere)
    assert Adapter.load(copy).digest == expected
    (copy.parent / MANIFEST).unlink()
    with raises(CorruptAdapter, code="adapter.file-missing", path="manifest.json"):
        Adapter.load(copy)


NO_JSON = {
    "levels": ("[" * 100_000, "too many levels"),
    "nested": ('{"a": ' * 500 + "1" + "}" * 500, "too many levels"),
    "size": ('{"a": "' + "x" * (9 << 20) + '"}', "bytes, more than the limit of"),
    "nan": ('{"a": NaN}', "NaN is not allowed"),
    "infinite": ('{"a": -Infinity}', "-Infinity is not allowed"),
    "large float": ('{"a": 1e999}', "the number 1e999 is too large"),
    "large int": ('{"a": ' + "9" * 5000 + "}", "is too large"),
    "twice": ('{"method": "lora", "method": "full"}', "the key 'method' occurs twice"),
    "half a character": ('{"a": "\\ud800"}', "not valid JSON"),
    "bytes": (b'{"a": "\xff"}', "not valid JSON"),
    "empty": ("", "not valid JSON"),
    "list": ("[]", "expected a JSON object"),
}


@pytest.mark.parametrize("name", [MANIFEST, "adapter_config.json"])
@pytest.mark.parametrize("kind", NO_JSON)
def test_what_is_no_plain_json_object_is_refused(copy: Path, kind: str, name: str) -> None:
    written, told = NO_JSON[kind]
    if name != MANIFEST:
        (copy / MANIFEST).unlink()
        (copy / HASHES_FILE).unlink()
    (copy / name).write_bytes(written if isinstance(written, bytes) else written.encode())
    with pytest.raises(CorruptAdapter, match=rf"{name}: .*{told}"):
        Adapter.load(copy)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"max_length": -1}, "field max_length"),
        ({"label_names": []}, "field label_names"),
        ({"offset": [0.5]}, "the offset has 1 numbers, the model has 2 outputs"),
        ({"hyperparameters": 5}, "field hyperparameters"),
    ],
    ids=str,
)
def test_a_field_that_cannot_be_is_refused(copy: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(CorruptAdapter, match=rf"{MANIFEST}: .*{told}"):
        Adapter.load(rewritten(copy, lambda content: content.update(changes)))
