"""`layers` of LoRA, (IA)^3 and bottleneck adapters: only upper blocks are adapted, and all else stays as it was."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification

from afina import Adapter, Backbone, Predictor, Run
from afina.errors import InvalidStudy
from afina.methods import make
from afina.methods.layers import blocks_from
from afina.methods.peft_settings import disagreement
from afina.models.architectures import ARCHITECTURES, is_head
from afina.studies.planning.forecast_runs import forecast_run
from fakes import SLOW, TEXTS, Backbones, Runs, encoded, fit_of, logits_of, opened, sentences
from grid import by_family, thinned
from raises import raises

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

UPPER: list[tuple[str, dict[str, Any]]] = [
    ("lora", {"layers": "upper half"}),
    ("lora", {"layers": 1, "targets": "all-linear"}),
    ("ia3", {"layers": "upper quarter"}),
    ("adapter", {"layers": 1, "kind": "houlsby"}),
    ("lora", {"layers": "upper half", "dora": True}),
]


@pytest.mark.parametrize(
    ("layers", "first"), [("all", 0), ("upper half", 15), ("upper quarter", 22), (1, 29), (30, 0), (7, 23)]
)
def test_a_share_is_rounded_up_to_whole_blocks(layers: Any, first: int) -> None:
    model = SimpleNamespace(config=SimpleNamespace(num_hidden_layers=30))
    assert blocks_from(layers, model, "lora") == first


def test_the_default_is_in_no_key_and_in_no_manifest() -> None:
    for name in ("lora", "ia3", "adapter"):
        assert "layers" not in make(name).hyperparameters
        runs = [
            Run(backbone="gpt2", task="sst2", method=name, hyperparameters=given)
            for given in ({}, {"layers": "all"}, {"layers": "upper half"})
        ]
        assert runs[0].key == runs[1].key != runs[2].key
        assert make(name, {"layers": 3}).hyperparameters["layers"] == 3
    assert set(make("adapter").hyperparameters) == {"kind", "reduction", "scale"}
    assert set(make("ia3").hyperparameters) == {"feedforward"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "case"),
    by_family(thinned(ARCHITECTURES, range(len(UPPER)), share=5), SLOW),
)
def test_only_upper_blocks_and_the_head_train_and_a_fresh_model_answers_alike(
    backbones: Backbones, family: str, case: int
) -> None:
    name, given = UPPER[case]
    backbone, method = Backbone.load(str(backbones.path(family))), make(name, given).for_family(family)
    classifier = opened(backbone, method)  # which measures that no logit changes
    blocks = {
        ARCHITECTURES[family].block.index(each) for each in method.trainable(classifier.model) if not is_head(each)
    }
    assert blocks == {1}
    fit_of(classifier, method, encoded(backbone, sentences(16)), steps=2).advance()
    found = logits_of(classifier, backbone)
    fresh = opened(backbone, method, seed=1)
    method.restore(
        fresh.model, {key: tensor.detach().clone() for key, tensor in method.state(classifier.model).items()}
    )
    assert torch.equal(logits_of(fresh, backbone), found)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), [("bert", "ia3"), ("llama", "lora")])
def test_a_run_is_foreseen_and_peft_opens_its_adapter(runs: Runs, tmp_path: Path, family: str, name: str) -> None:
    given = {"layers": "upper half"} | ({"targets": "all-linear"} if family == "llama" else {})
    run = runs.run(family, name, given)
    one, record = forecast_run(run, calibrate=False), run.execute(tmp_path)
    assert record.hyperparameters["layers"] == "upper half"
    assert one.state_bytes == record.memory.state_bytes
    assert one.activation_bytes == record.memory.activation_bytes
    path, backbone = tmp_path / record.adapter, Backbone.load(run.backbone)
    adapter = Adapter.load(path)
    assert {ARCHITECTURES[family].block.index(each) for each in adapter.tensors if not is_head(each)} == {1}
    ours = logits_of(Predictor.of(adapter, backbone).classifier, backbone, [TEXTS[2]])
    plain = AutoModelForSequenceClassification.from_pretrained(backbone.path, num_labels=2)
    theirs = PeftModel.from_pretrained(plain, path).eval()
    tokens = torch.tensor([backbone.tokenizer(TEXTS[2])["input_ids"]])
    with torch.inference_mode():
        torch.testing.assert_close(ours, theirs(input_ids=tokens).logits, rtol=1e-5, atol=1e-5)
    for file in ("adapter_config.json", "adapter_model.safetensors"):  # without afina's manifest
        (tmp_path / file).write_bytes((path / file).read_bytes())
    again = logits_of(Predictor.of(Adapter.load(tmp_path), backbone).classifier, backbone, [TEXTS[2]])
    torch.testing.assert_close(again, ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layers_to_transform": [0]}, "layers_to_transform"),
        ({"layers_pattern": ["other"]}, "layers_to_transform"),
        ({"layers_to_transform": 1}, "layers_to_transform"),
        ({"exclude_modules": ["c_attn"]}, "exclude_modules"),
        ({"layers_to_transform": [0, 1]}, None),
        ({"exclude_modules": ["h.0.attn.c_attn"]}, None),
    ],
)
def test_settings_of_peft_that_leave_out_an_adapted_module_disagree(changes: dict[str, Any], said: str | None) -> None:
    given = {"r": 4, "alpha": 16.0, "dropout": 0.05, "targets": ["c_attn"], "layers": "upper half"}
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 16, "target_modules": ["c_attn"]}
    settings |= {"layers_to_transform": [1], "layers_pattern": ["h"], "base_model_name_or_path": "b"}
    manifest = {"method": "lora", "hyperparameters": given, "backbone": "b"}
    tensors = ["base_model.model.transformer.h.1.attn.c_attn.lora_A.weight"]
    found = disagreement(manifest, settings | changes, tensors)
    assert found is None if said is None else found is not None and found.startswith(said)


@pytest.mark.parametrize(
    ("name", "given", "code", "fields"),
    [
        ("lora", {"layers": "lower half"}, "method.setting-invalid", {"layers": "lower half"}),
        ("lora", {"layers": 0}, "method.setting-invalid", {"layers": 0}),
        ("ia3", {"layers": 3}, "method.setting-invalid", {"layers": 3, "found": 2}),
        ("adapter", {"layers": 3}, "method.setting-invalid", {"layers": 3, "found": 2}),
        ("adapter", {"layers": True}, "method.setting-invalid", {}),
        ("lora", {"layers": 1, "targets": ["wte"]}, "method.target-missing", {"target": "wte", "first": 1}),
        ("lora", {"layers": 1, "targets": ["h.0.attn.c_attn"]}, "method.target-missing", {"first": 1}),
    ],
)
def test_what_cannot_be_is_an_error(
    gpt2: Backbone, name: str, given: dict[str, Any], code: str, fields: dict[str, Any]
) -> None:
    with raises(InvalidStudy, code=code, method=name, **fields):
        opened(gpt2, make(name, given).for_family("gpt2"))
