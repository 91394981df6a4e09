"""Adapters that peft saved and afina did not make, among others in one row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from afina import Backbone, Predictor
from afina.engine.engine import Engine
from crowd import adapter
from fakes import TEXTS
from rounding import Exact

PEFTS: list[tuple[dict[str, Any], bool]] = [
    ({"r": 3, "rank_pattern": {"h.1.attn.c_attn": 5}, "alpha_pattern": {"h.0.attn.c_attn": 7}}, True),
    ({"r": 4, "layers_to_transform": [1], "use_rslora": True}, True),
    ({"r": 2, "modules_to_save": ["ln_f"]}, False),
    ({"r": 2, "target_modules": ["wte"]}, False),
]
"""Settings of LoRA that others save, and whether all that they ask for has a place in a row of several adapters."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize(("given", "rides"), PEFTS)
def test_what_peft_saved_rides_where_all_of_it_has_a_place_and_answers_anyway(
    gpt2: Backbone, tmp_path: Path, given: dict[str, Any], rides: bool
) -> None:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(gpt2.path, num_labels=3)
    fixed = {"task_type": "SEQ_CLS", "fan_in_fan_out": True, "init_lora_weights": False}
    wrapped = get_peft_model(model, LoraConfig(**({"target_modules": ["c_attn"]} | fixed | given)))
    for name, parameter in wrapped.named_parameters():
        if "modules_to_save" in name:
            parameter.data.add_(0.3)
    wrapped.save_pretrained(tmp_path / "saved")
    exact = Exact.of_predictor(Predictor.load(tmp_path / "saved", str(gpt2.path)), TEXTS)
    neighbours = [adapter(gpt2, "lora", {"targets": "all-linear"}), adapter(gpt2, "prefix")]
    with Engine(gpt2) as engine:
        asked = [(one, text) for text in TEXTS for one in (tmp_path / "saved", *neighbours)]
        found = engine.predict(asked)[::3]
        (resident,) = engine.load(tmp_path / "saved")
    assert all(exact.explains(one.outputs, text) for text, one in enumerate(found))
    assert resident.shares_model == rides
