"""A backbone's digest covers all that it computes with, and nothing else; so does the digest of its files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

from afina import Backbone, Engine, Predictor, assets, digest
from afina.errors import WrongBackbone
from afina.models.adapter import Adapter
from afina.models.architectures import ARCHITECTURES
from afina.models.backbone_spec import RANDOM, files_digest
from fakes import SLOW, Backbones, Runs
from grid import by_family
from raises import raises


@pytest.fixture
def place(llama: Backbone, tmp_path: Path) -> Path:
    """A copy of a LLaMA that a test may change."""
    return shutil.copytree(llama.path, tmp_path / "llama")


def edited(place: Path, file: str = "config.json", **changes: Any) -> Backbone:
    content = json.loads((place / file).read_text()) | changes
    (place / file).write_text(json.dumps(content))
    return Backbone.load(str(place))


DECISIVE: dict[str, dict[str, Any]] = {
    "an epsilon": {"rms_norm_eps": 0.1},
    "an activation": {"hidden_act": "gelu"},
    "a frequency": {"rope_parameters": {"rope_theta": 77.0, "rope_type": "default"}},
    "a frequency as earlier files name it": {"rope_parameters": None, "rope_theta": 77.0},
    "a dropout, for training": {"attention_dropout": 0.7},
    "what nobody knows": {"of_a_later_version": 1},
}
NEUTRAL: dict[str, dict[str, Any]] = {
    "its origin": {"_name_or_path": "elsewhere", "architectures": ["Other"], "transformers_version": "5.99"},
    "its labels": {"id2label": {"0": "a"}, "label2id": {"a": 0}, "problem_type": "regression"},
    "the form of outputs": {"use_cache": False, "output_attentions": True, "task_specific_params": {"x": 1}},
    "the dtype of its files": {"dtype": "bfloat16"},
    "another way to write a number": {"rope_parameters": {"rope_theta": 10000, "rope_type": "default"}},
    "a default written out": {"mlp_bias": False},
    "tokens that the tokenizer names": {"bos_token_id": 7, "eos_token_id": [7, 8]},
}


@pytest.mark.parametrize("changes", DECISIVE.values(), ids=DECISIVE)
def test_a_setting_that_results_depend_on_makes_another_backbone(
    llama: Backbone, place: Path, changes: dict[str, Any]
) -> None:
    before = files_digest(str(place))
    changed = edited(place, **changes)
    assert changed.weights_digest == llama.weights_digest
    assert changed.digest != llama.digest
    assert files_digest(str(place)) != before


@pytest.mark.parametrize("changes", NEUTRAL.values(), ids=NEUTRAL)
def test_a_setting_that_nothing_computes_with_changes_no_digest(
    llama: Backbone, place: Path, changes: dict[str, Any]
) -> None:
    assert edited(place, **changes).digest == llama.digest


def test_the_digest_of_the_files_leaves_out_what_the_digest_of_the_backbone_leaves_out(place: Path) -> None:
    before = files_digest(str(place))
    for name in ("its origin", "its labels", "the dtype of its files", "tokens that the tokenizer names"):
        edited(place, **NEUTRAL[name])
    assert files_digest(str(place)) == before


@pytest.mark.parametrize("family", by_family(ARCHITECTURES, SLOW))
def test_a_copy_that_transformers_saved_is_the_same_backbone(backbones: Backbones, family: str, tmp_path: Path) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    AutoModelForSequenceClassification.from_pretrained(backbone.path, num_labels=3).save_pretrained(tmp_path)
    backbone.tokenizer.save_pretrained(tmp_path)
    assert Backbone.load(str(tmp_path)).digest == backbone.digest


@pytest.mark.parametrize("changes", [{"split_special_tokens": True}, {"truncation_side": "left"}], ids=str)
def test_settings_of_the_tokenizer_beside_its_vocabulary_make_another_backbone(
    llama: Backbone, place: Path, changes: dict[str, Any]
) -> None:
    changed = edited(place, "tokenizer_config.json", **changes)
    assert changed.tokenizer_digest == llama.tokenizer_digest
    assert changed.digest != llama.digest


def test_a_chat_template_which_an_adapter_does_not_read_makes_no_other_backbone(llama: Backbone, place: Path) -> None:
    (place / "chat_template.jinja").write_text("{% for one in messages %}{{ one.content }}\n{% endfor %}")
    assert Backbone.load(str(place)).digest == llama.digest


def test_an_adapter_is_refused_on_an_edited_configuration_and_the_setting_is_named(
    runs: Runs, place: Path, backbones: Backbones
) -> None:
    path = runs.adapter("llama", "lora")
    address = str(edited(place, rms_norm_eps=0.1).path)
    told = r"\(rms_norm_eps of the configuration is 0.1, but was the default\)"
    for open_it in (lambda: Predictor.load(path, address), lambda: Engine(address).load(path)):
        with raises(WrongBackbone, code="backbone.mismatch") as caught:
            open_it()
        assert caught.match(told)
    assert Adapter.load(path).manifest.configuration == Backbone.load(str(backbones.path("llama"))).settings


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_the_digest_of_the_files_covers_weights_and_tokenizer(place: Path, file: str) -> None:
    before = files_digest(str(place))
    content = bytearray((place / file).read_bytes())
    content[-2] ^= 1
    (place / file).write_bytes(content)
    assert files_digest(str(place)) != before


def test_drawn_weights_are_no_files_and_a_name_has_none(place: Path) -> None:
    before = files_digest(f"{RANDOM}{place}")
    (place / "model.safetensors").unlink()
    assert files_digest(f"{RANDOM}{place}") == before
    assert files_digest("embedded") is None


def test_the_digest_of_a_large_file_is_remembered_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, hashed = tmp_path / "large", []
    file.write_bytes(b"weights")
    of_file = digest.of_file
    monkeypatch.setattr(assets, "LARGE", 1)
    monkeypatch.setattr(digest, "of_file", lambda path: hashed.append(path) or of_file(path))
    found = [assets.digest_of(file) for _ in range(2)]
    assert (found, len(hashed)) == ([of_file(file)] * 2, 2), "a file that has just changed may change unnoticed"
    monkeypatch.setattr(assets, "SETTLED", -1_000_000_000)
    found = [assets.digest_of(file) for _ in range(3)]
    assert (found, len(hashed)) == ([of_file(file)] * 3, 3)
    before = file.stat()
    file.write_bytes(b"WEIGHTS")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert assets.digest_of(file) == of_file(file)
    (kept,) = (assets.cache_directory() / "digests").iterdir()
    kept.write_text(kept.read_text().replace("sha256:", "sha256:0"))
    assert assets.digest_of(file) == of_file(file)
