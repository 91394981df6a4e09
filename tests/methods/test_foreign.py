"""Whatever peft's settings say, and whoever wrote them: an answer, or an error that costs neither memory nor time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from afina import METHODS, Adapter, Backbone, Predictor, digest, meter
from afina.errors import AfinaError, CorruptAdapter, InvalidStudy, NotFound
from afina.methods import make
from afina.models.classifier import Classifier
from afina.models.manifest import MANIFEST, Manifest
from command import Command
from fakes import Backbones, Runs

# peft asks transformers for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

SETTINGS = "adapter_config.json"


@pytest.fixture(scope="module")
def saved(gpt2: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that peft made."""
    path = tmp_path_factory.mktemp("peft") / "adapter"
    model = AutoModelForSequenceClassification.from_pretrained(gpt2.path, num_labels=2)
    settings = LoraConfig(task_type="SEQ_CLS", r=3, target_modules=["c_attn"], fan_in_fan_out=True)
    get_peft_model(model, settings).save_pretrained(path)
    return path


def changed(saved: Path, to: Path, **changes: Any) -> Path:
    shutil.copytree(saved, to)
    content = json.loads((to / SETTINGS).read_text())
    (to / SETTINGS).write_text(json.dumps(content | changes))
    return to


ODD = [
    {"r": 100_000_000},
    {"r": 10**15},
    {"rank_pattern": {"c_attn": 10**8}},
    {"r": 0},
    {"r": -1},
    {"r": "x"},
    {"r": 2.5},
    {"r": None},
    {"lora_alpha": "x"},
    {"lora_alpha": None},
    {"lora_alpha": 10**18, "r": 4},
    {"lora_alpha": 1e300},
    {"alpha_pattern": {"c_attn": 1e300}},
    {"lora_dropout": 7},
    {"target_modules": 5},
    {"target_modules": "(a+"},
    {"target_modules": ["nothing"]},
    {"target_modules": {"c_attn": 1}, "r": 5},
    {"peft_type": "XLORA"},
    {"peft_type": ["LORA"]},
    {"peft_type": "VERA"},
    {"bias": "some"},
    {"modules_to_save": 3},
    {"init_lora_weights": "nowhere"},
    {"layers_to_transform": "x"},
    {"alora_invocation_tokens": [3]},
]


@pytest.mark.parametrize("changes", ODD, ids=str)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_settings_that_cannot_be_are_an_error_at_once(
    saved: Path, gpt2: Backbone, tmp_path: Path, changes: dict[str, Any]
) -> None:
    path = changed(saved, tmp_path / "adapter", **changes)
    before, began = meter.rss_peak() or 0, meter.now()
    with pytest.raises(AfinaError) as refused:
        Predictor.of(Adapter.load(path), gpt2)
    assert isinstance(refused.value, CorruptAdapter | InvalidStudy), refused.value
    assert meter.now() - began < 10
    assert (meter.rss_peak() or 0) - before < 200 * 2**20


def test_a_rank_that_its_tensors_have_not_is_refused_before_peft_takes_memory(
    saved: Path, gpt2: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = changed(saved, tmp_path / "adapter", r=100_000_000)
    monkeypatch.setattr("afina.methods.foreign.Foreign.attach", lambda *_: pytest.fail("attached"))
    with pytest.raises(CorruptAdapter, match=r"lora_A\.weight has shape \[3, 32\], this model's has \[100000000, 32\]"):
        Predictor.of(Adapter.load(path), gpt2)


@pytest.mark.parametrize("base", [None, ""])
def test_without_a_base_it_asks_for_the_backbone(
    afina: Command, saved: Path, gpt2: Backbone, tmp_path: Path, base: Any
) -> None:
    path = changed(saved, tmp_path / "adapter", base_model_name_or_path=base)
    with pytest.raises(NotFound, match=rf"{path}: the adapter names no backbone\. .* with `backbone`"):
        Predictor.load(path)
    assert "the adapter names no backbone. Give the one it is for with --backbone" in afina("predict", path, "a").error
    assert afina("predict", path, "a", "--backbone", gpt2.address).code == 0
    with pytest.raises(CorruptAdapter, match="base_model_name_or_path is '5', expected a name"):
        Adapter.load(changed(saved, tmp_path / "other", base_model_name_or_path=5))


def test_an_afina_adapter_with_an_impossible_rank_or_head_is_refused(
    runs: Runs, gpt2: Backbone, tmp_path: Path
) -> None:
    for changes, told in (
        ({"hyperparameters": {"r": 10**9, "targets": ["c_attn"]}}, "r is 1,000,000,000, and the widest layer"),
        ({"hyperparameters": {"r": 5, "targets": ["c_attn"]}}, r"shape \[4, 32\], this model's has \[5, 32\]"),
        ({"hyperparameters": {"r": 4, "alpha": 1e300, "targets": ["c_attn"]}}, r"alpha=1e\+300.*alpha <= 1,000,000"),
        ({"label_names": [f"label {index}" for index in range(50_000)]}, r"its head .* \[2, 32\].*50000 labels"),
        ({"max_length": 100_000}, "its maximum length is 100000 tokens, backbone .* takes 256 at most"),
    ):
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(runs.adapter("gpt2", "lora"), path)
        content = json.loads((path / MANIFEST).read_text()) | changes
        del content["digest"]
        (path / MANIFEST).write_text(json.dumps(content | {"digest": Manifest.model_validate(content).digest}))
        with pytest.raises(AfinaError, match=told):
            Predictor.of(Adapter.load(path), gpt2)(["a warm play"])


def test_tensors_that_are_no_numbers_give_an_error_and_no_answer(runs: Runs, gpt2: Backbone) -> None:
    adapter = Adapter.load(runs.adapter("gpt2", "lora"))
    tensors = {name: torch.full_like(tensor, torch.nan) for name, tensor in adapter.tensors.items()}
    assert digest.of_tensors(tensors) != adapter.manifest.tensors_digest
    with pytest.raises(CorruptAdapter, match="its outputs are no numbers"):
        Predictor.of(Adapter(adapter.manifest, tensors), gpt2)(["a warm play"])


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_a_rank_wider_than_every_layer_is_an_error_that_says_how_wide_they_are(
    backbones: Backbones, family: str
) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    widest = {"gpt2": 96, "llama": 32, "gpt_neox": 96}[family]
    classifier = Classifier.open(backbone, ("bad", "good"), seed=0)
    with pytest.raises(InvalidStudy, match=rf"method lora: r is 1,000,000, and the widest .* adapt has {widest} "):
        classifier.wrap(make("lora", {"r": 1_000_000}).for_family(family).attach)
    classifier.wrap(METHODS["lora"](r=widest).for_family(family).attach)


def test_opening_it_changes_neither_its_settings_nor_its_digest(gpt2: Backbone, saved: Path) -> None:
    adapter = Adapter.load(saved)
    before = adapter.digest, json.dumps(adapter.manifest.hyperparameters, sort_keys=True)
    Predictor.of(adapter, gpt2)
    assert (adapter.digest, json.dumps(adapter.manifest.hyperparameters, sort_keys=True)) == before
