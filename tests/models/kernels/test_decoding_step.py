"""The decoding step: the same numbers as the body's own forward, or no decoding step."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from afina import Backbone
from afina.generating.next_token import OwnNextTokenModel, WholePrompt
from afina.methods import METHODS
from afina.models.architectures import architecture_of, blocks_of
from afina.models.classifier import Classifier
from afina.models.kernels import key_values
from afina.models.kernels.decoding_step import DecodingStep
from afina.models.kernels.ia3 import ScaledInput
from afina.models.kernels.layer_changes import PlacedChange
from afina.models.kernels.lora import LoraChange
from afina.models.language_model import open_model
from afina.models.objective import Opening
from fakes import CAUSAL, UNUSUAL, VOCABULARY, Backbones, configuration, save
from grid import thinned

FORM = ("llama", "mistral", "qwen2", "qwen3")
"""Families whose blocks have the form of LLaMA."""

DTYPES = (torch.float32, torch.bfloat16)


def language_model(path: Any, dtype: torch.dtype) -> Classifier:
    made = open_model(Backbone.load(str(path)), ("text",), 0, Opening("", "language_model")).eval()
    if dtype != torch.float32:
        made.lower(dtype)
    return made


@torch.inference_mode()
def logits(classifier: Classifier, *, direct: bool) -> list[Tensor]:
    """The logits of the next tokens of three running texts, in four steps."""
    model = OwnNextTokenModel(classifier)
    assert direct == (model._step is not None)
    draw = np.random.default_rng(1)
    texts = [draw.integers(2, VOCABULARY, length).astype(np.int32) for length in (3, 40, 12)]
    running = model.begin([WholePrompt(text, 20) for text in texts]).sequences
    found = []
    for _ in range(4):
        order, row = model.go_on({one: place + 5 for place, one in enumerate(running)})
        found.append(row[[order.index(one) for one in running]])
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("family", "form"), thinned(FORM, product(("usual", "unusual"), DTYPES), share=2), ids=str)
def test_the_numbers_are_those_of_the_bodys_own_forward(
    backbones: Backbones, tmp_path: Any, monkeypatch: Any, family: str, form: tuple[str, torch.dtype]
) -> None:
    path, (settings, dtype) = backbones.path(family), form
    if settings == "unusual":
        path = save(configuration(family, **UNUSUAL[family]), backbones.tokenizer(family), tmp_path)
    made = logits(language_model(path, dtype), direct=True)
    monkeypatch.setattr(DecodingStep, "of", lambda *_: None)
    expected = logits(language_model(path, dtype), direct=False)
    assert all(torch.equal(one, other) for one, other in zip(made, expected, strict=True))


def test_lora_computes_the_same_numbers(backbones: Backbones, monkeypatch: Any) -> None:
    def adapted() -> Classifier:
        made = language_model(backbones.path("llama"), torch.float32)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made.wrap(METHODS["lora"]().for_family("llama").attach)
            for name, parameter in made.named_parameters():
                if "lora_B" in name:
                    nn.init.normal_(parameter)
        made.lower(torch.bfloat16)
        return made.eval()

    made = logits(adapted(), direct=True)
    monkeypatch.setattr(DecodingStep, "of", lambda *_: None)
    expected = logits(adapted(), direct=False)
    assert all(torch.equal(one, other) for one, other in zip(made, expected, strict=True))


def test_columns_beyond_the_longest_text_change_no_number(backbones: Backbones, monkeypatch: Any) -> None:
    made = logits(language_model(backbones.path("llama"), torch.bfloat16), direct=True)
    monkeypatch.setattr(key_values, "READ_AT_ONCE", 1)
    expected = logits(language_model(backbones.path("llama"), torch.bfloat16), direct=True)
    assert all(torch.equal(one, other) for one, other in zip(made, expected, strict=True))


def test_changes_of_inputs_and_of_other_modules_are_not_taken(backbones: Backbones) -> None:
    body = language_model(backbones.path("llama"), torch.float32).body
    step = DecodingStep.of(body, {module: path for path, module in body.named_modules()})
    assert step is not None
    lora, factors = LoraChange(torch.ones(1, 1), torch.ones(1, 1), 1.0), ScaledInput(torch.ones(1))
    query, norm = "layers.0.self_attn.q_proj", "layers.0.input_layernorm"
    rows = slice(0, 1)
    taken = [
        step.takes({path: [PlacedChange(change, rows, rows)]})
        for path, change in ((query, lora), (query, factors), (norm, lora))
    ]
    assert taken == [True, False, False]


@pytest.mark.parametrize("family", sorted(set(CAUSAL) - set(FORM)))
def test_another_form_of_blocks_has_no_decoding_step(backbones: Backbones, family: str) -> None:
    assert DecodingStep.of(language_model(backbones.path(family), torch.float32).body) is None


def hooked(body: Any) -> None:
    blocks_of(body)[1].register_forward_hook(lambda *_: None)


def wrapped(body: Any) -> None:
    blocks_of(body)[0].mlp.down_proj = nn.Sequential(blocks_of(body)[0].mlp.down_proj)


def raised(body: Any) -> None:
    getattr(blocks_of(body)[0], architecture_of(body).block.pre_norm.first).to(torch.float64)


@pytest.mark.parametrize("change", [hooked, wrapped, raised, nn.Module.train])
def test_a_body_with_an_unknown_part_has_no_decoding_step(
    backbones: Backbones, change: Callable[[Any], object]
) -> None:
    body = language_model(backbones.path("llama"), torch.float32).body
    assert DecodingStep.of(body) is not None
    change(body)
    assert DecodingStep.of(body) is None
