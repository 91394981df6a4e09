"""Whatever peft's settings say, and whoever wrote them: an answer, or an error that costs neither memory nor time."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.utils.other import get_pattern_key, match_target_against_key
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from afina import METHODS, Adapter, Backbone, Predictor, digest, meter
from afina.errors import AfinaError, CorruptAdapter, InvalidStudy, NotFound
from afina.methods import make, peft_settings
from afina.methods.peft_types import SavedPeft
from afina.models.classifier import Classifier
from afina.models.manifest import MANIFEST, Manifest
from afina.models.pretrained import meta_from_config
from command import Command
from fakes import Backbones, Runs
from raises import raises

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
    {"rank_pattern": {"c_attn": 10**8}},
    {"r": 0},
    {"r": "x"},
    {"r": 2.5},
    {"r": None},
    {"lora_alpha": "x"},
    {"lora_alpha": 1e300},
    {"alpha_pattern": {"c_attn": 1e300}},
    {"lora_dropout": 7},
    {"target_modules": 5},
    {"target_modules": "(a+"},
    {"target_modules": ["nothing"]},
    {"peft_type": "XLORA"},
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


@pytest.mark.parametrize("task", ["SEQ_CLS", None])
def test_a_module_that_auto_mapping_names_is_never_imported(
    saved: Path, gpt2: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str | None
) -> None:
    """peft imports `parent_library` for an adapter without `task_type`."""
    (tmp_path / "stranger.py").write_text("class Model: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    mapping = {"base_model_class": "Model", "parent_library": "stranger"}
    path = changed(saved, tmp_path / "adapter", auto_mapping=mapping, task_type=task)
    found = [np.array(Predictor.of(Adapter.load(one), gpt2).outputs(["a soup"])) for one in (path, saved)]
    np.testing.assert_array_equal(*found)
    assert "stranger" not in sys.modules


def test_a_rank_that_its_tensors_have_not_is_refused_before_peft_takes_memory(
    saved: Path, gpt2: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = changed(saved, tmp_path / "adapter", r=10_000)
    monkeypatch.setattr("afina.methods.peft_types.SavedPeft.attach", lambda *_: pytest.fail("attached"))
    with raises(
        CorruptAdapter,
        code="adapter.tensors-mismatch",
        tensor="base_model.model.transformer.h.0.attn.c_attn.lora_A.weight",
        found=[3, 32],
        expected=[10000, 32],
    ):
        Predictor.of(Adapter.load(path), gpt2)


@pytest.mark.parametrize("base", [None, ""])
def test_without_a_base_it_asks_for_the_backbone(
    afina: Command, saved: Path, gpt2: Backbone, tmp_path: Path, base: Any
) -> None:
    path = changed(saved, tmp_path / "adapter", base_model_name_or_path=base)
    with raises(NotFound, code="backbone.unnamed", where="adapter"):
        Predictor.load(path)
    assert "the adapter names no backbone. Give its backbone with --backbone" in afina("predict", path, "a").error
    assert afina("predict", path, "a", "--backbone", gpt2.address).code == 0
    with raises(
        CorruptAdapter, code="adapter.file-malformed", field="base_model_name_or_path", path="adapter_config.json"
    ):
        Adapter.load(changed(saved, tmp_path / "other", base_model_name_or_path=5))


def test_an_afina_adapter_with_an_impossible_rank_or_head_is_refused(
    runs: Runs, gpt2: Backbone, tmp_path: Path
) -> None:
    for changes, told in (
        ({"hyperparameters": {"r": 10**9, "targets": ["c_attn"]}}, "r is 1,000,000,000, but the widest adapted layer"),
        ({"hyperparameters": {"r": 5, "targets": ["c_attn"]}}, r"shape \[4, 32\], this model's has \[5, 32\]"),
        ({"hyperparameters": {"r": 4, "alpha": 1e300, "targets": ["c_attn"]}}, r"alpha=1e\+300.*alpha <= 1,000,000"),
        (
            {"label_names": [f"label {index}" for index in range(50_000)], "answers": None},
            r"the head .* \[2, 32\].*50000 rows",
        ),
        ({"max_length": 100_000}, "the maximum length is 100000 tokens, but backbone .* takes at most 256"),
    ):
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(runs.adapter("gpt2", "lora"), path)
        content = json.loads((path / MANIFEST).read_text()) | changes
        del content["digest"]
        (path / MANIFEST).write_text(json.dumps(content | {"digest": Manifest.model_validate(content).digest}))
        (path / "adapter_config.json").unlink()  # it would disagree
        with pytest.raises(AfinaError, match=told):
            Predictor.of(Adapter.load(path), gpt2)(["a warm play"])


def test_tensors_that_are_no_numbers_give_an_error_and_no_answer(runs: Runs, gpt2: Backbone) -> None:
    adapter = Adapter.load(runs.adapter("gpt2", "lora"))
    tensors = {name: torch.full_like(tensor, torch.nan) for name, tensor in adapter.tensors.items()}
    assert digest.of_tensors(tensors) != adapter.manifest.tensors_digest
    with raises(CorruptAdapter, code="adapter.values-invalid", where="adapter"):
        Predictor.of(Adapter(adapter.manifest, tensors), gpt2)(["a warm play"])


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_a_rank_wider_than_every_layer_is_an_error_that_says_how_wide_they_are(
    backbones: Backbones, family: str
) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    widest = {"gpt2": 96, "llama": 32, "gpt_neox": 96}[family]
    classifier = Classifier.open(backbone, ("bad", "good"), seed=0)
    with raises(InvalidStudy, code="method.setting-invalid", method="lora", r=1000000):
        classifier.wrap(make("lora", {"r": 1_000_000}).for_family(family).attach)
    classifier.wrap(METHODS["lora"](r=widest).for_family(family).attach)


def test_opening_it_changes_neither_its_settings_nor_its_digest(gpt2: Backbone, saved: Path) -> None:
    adapter = Adapter.load(saved)
    before = adapter.digest, json.dumps(adapter.manifest.hyperparameters, sort_keys=True)
    Predictor.of(adapter, gpt2)
    assert (adapter.digest, json.dumps(adapter.manifest.hyperparameters, sort_keys=True)) == before


HOSTILE: list[dict[str, Any]] = [
    {"rank_pattern": {"(([a-z_.0-9]+)+)+X": 4}},
    {"alpha_pattern": {f"({number}|[a-z_.0-9]*)*X": 4 for number in range(900)}},
    {"target_modules": "(([a-z_.0-9]+)+)+X"},
    {"target_modules": r"(?:h\.(?=(.*)+X))?.*"},
    {"target_modules": "(x?){1000000}c_attn"},
    {"target_modules": "(" * 20_000 + "a" + ")" * 20_000},
    {"target_modules": ["c_attn"] * 100_000},
    {"exclude_modules": "(([a-z_.0-9]+)+)+X", "r": 10**9},
    {"peft_type": "IA3", "feedforward_modules": "(([a-z_.0-9]+)+)+X"},
    {"peft_type": "C3A", "block_size_pattern": {"(([a-z_.0-9]+)+)+X": 4}},
    {"modules_to_save": ["(([a-z_.0-9]+)+)+X"]},
    {"layers_pattern": "(([a-z_.0-9]+)+)+X", "layers_to_transform": [0]},
    {"layer_replication": [[0, 1_000_000]]},
    {"megatron_core": "antigravity"},
    {"megatron_config": {"tensor_model_parallel_size": 2}},
    {"init_lora_weights": "pissa_niter_1000000000"},
    {"peft_type": "OFT", "num_cayley_neumann_terms": 10**9},
    {"peft_type": "SHADOW", "shadow_model": "somebody/else"},
    {"peft_type": "LILY"},
    {"peft_type": "PVERA", "sample_at_inference": True},
    {"invented_by_a_later_peft": 3},
]


@pytest.mark.parametrize("changes", HOSTILE, ids=lambda changes: str(changes)[:60])
def test_settings_that_would_hang_import_or_answer_otherwise_are_refused_before_peft_reads_them(
    gpt2: Backbone, saved: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = json.loads((saved / SETTINGS).read_text()) if "peft_type" not in changes else {"target_modules": ["c_attn"]}
    given |= changes
    monkeypatch.setattr("peft.get_peft_model", lambda *_: pytest.fail("peft was asked"))
    began = meter.now()
    with suppress(InvalidStudy):  # else it was matched in linear time, and peft is given names
        made = SavedPeft(given).settings(_skeleton(gpt2))
        assert not any("+" in str(getattr(made, name)) for name in changes)
    assert meter.now() - began < 2


def _skeleton(backbone: Backbone) -> Any:
    return meta_from_config(type(backbone.config).from_dict(backbone.config.to_dict()), 2)


def test_the_revision_of_a_base_on_the_hub_is_a_part_of_its_address(
    saved: Path, gpt2: Backbone, tmp_path: Path
) -> None:
    theirs = changed(saved, tmp_path / "theirs", base_model_name_or_path="owner/name", revision="v2")
    assert Adapter.load(theirs).manifest.backbone == "owner/name@v2"
    main = changed(saved, tmp_path / "main", base_model_name_or_path="owner/name", revision="main")
    assert Adapter.load(main).manifest.backbone == "owner/name"
    local = changed(saved, tmp_path / "local", revision="v2")
    assert Adapter.load(local).manifest.backbone == str(gpt2.path)


PATTERNS = [
    "c_attn",
    r".*\.(c_attn|c_proj)",
    r"transformer\.h\.[01]\..*c_(attn|fc)",
    r"(?:.*?(?:language|transformer).*?(?:attn|mlp).*?(?:c_attn|c_fc).*?)|(?:\btransformer\.h\.[\d]{1,}\.attn\.c_proj)",
    r"^transformer\.h\.0\.mlp\.c_fc$",
    r"h.0.attn.c_attn",
    r"[^0]*\.1\.\w+\.c_\w+",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_names_that_stand_for_a_pattern_are_those_that_peft_finds_by_it(gpt2: Backbone, pattern: str) -> None:
    modules = [name for name, _ in _skeleton(gpt2).named_modules()]
    keys = {"h.1.attn.c_attn": 5, pattern: 4, "c_proj": 3}
    given = {"peft_type": "LORA", "target_modules": pattern, "exclude_modules": pattern, "rank_pattern": keys}
    try:
        made = peft_settings.resolved(given, modules)
    except InvalidStudy:
        assert not any(match_target_against_key(pattern, name) for name in modules)
        made = peft_settings.resolved(given | {"target_modules": ["c_attn"]}, modules) | {"target_modules": "(?!)"}
    for name in modules:
        for key in ("target_modules", "exclude_modules"):
            assert bool(match_target_against_key(made[key], name)) == bool(match_target_against_key(pattern, name))
        before = keys.get(get_pattern_key(list(keys), name))
        assert made["rank_pattern"].get(get_pattern_key(list(made["rank_pattern"]), name)) == before


def test_an_adapter_that_names_its_layers_by_patterns_answers_as_one_that_lists_them(
    gpt2: Backbone, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(gpt2.path, num_labels=2)
    settings = LoraConfig(
        task_type="SEQ_CLS",
        r=3,
        target_modules=r".*\.(c_attn|c_fc)",
        rank_pattern={r"h\.[1]\..*c_attn": 2},
        alpha_pattern={r"^.*c_fc": 5},
        fan_in_fan_out=True,
        init_lora_weights=False,
    )
    wrapped = get_peft_model(model, settings).eval()
    wrapped.save_pretrained(tmp_path / "adapter")
    token = AutoTokenizer.from_pretrained(gpt2.path)("a warm play", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        expected = wrapped(input_ids=token).logits.numpy()
    found = Predictor.of(Adapter.load(tmp_path / "adapter"), gpt2).outputs(["a warm play"])
    assert np.allclose(found, expected, atol=1e-5)
