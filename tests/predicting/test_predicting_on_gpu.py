"""On a GPU: predictions, generated answers and mixed batches are those of a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from afina import Adapter, Backbone, Predictor
from afina.data.batch import pack
from afina.engine.engine import Engine
from afina.generating.generation import answers
from afina.models.decoding import Decoding
from afina.models.language_model import open_model
from afina.models.objective import Opening
from crowd import adapter
from fakes import TEXTS, VOCABULARY, Backbones, difference
from rounding import FACTOR

TOLERANCE = 1e-4
"""Difference of float32 outputs from those of a CPU, relative to the largest."""

CROWD: list[tuple[str, dict[str, Any]]] = [
    *(("lora", {}), ("lora", {"r": 2, "targets": "all-linear"}), ("lora", {"dora": True}), ("ia3", {})),
    *(("vera", {"r": 8}), ("prompt", {"tokens": 3}), ("prefix", {"tokens": 5}), ("adapter", {}), ("baseline", {})),
    *(("lora+layernorm", {}), ("full", {})),
]
"""Methods of adapters that share the model, and one of an adapter with a model of its own."""

TOLD: dict[str, Any] = {"labels": ("told",), "objective": {"kind": "text", "answer_tokens": 8}, "template": "{text}:"}


def backbone_of(backbones: Backbones, family: str) -> Backbone:
    return Backbone.load(str(backbones.path(family)))


def on_cpu(predictor: Predictor) -> np.ndarray:
    predictor.classifier.to("cpu")  # type: ignore[attr-defined]
    return predictor.outputs(TEXTS)


def check_lowered(found: np.ndarray, made: Adapter, backbone: Backbone) -> None:
    """bfloat16 on a GPU is as near to float32 as bfloat16 on a CPU, whose sums have another order."""
    exact, lowered = on_cpu(Predictor.of(made, backbone)), Predictor.of(made, backbone)
    lowered.classifier.to("cpu")  # type: ignore[attr-defined]
    lowered.lower("bfloat16")  # type: ignore[attr-defined]
    assert 0 < difference(found, exact) <= FACTOR * difference(lowered.outputs(TEXTS), exact)


@pytest.mark.gpu("models.kernels.attention._attend", "device.choose")
@pytest.mark.parametrize("family", ["gpt2", "llama", "bert", "modernbert"])
def test_predictions_are_those_of_a_cpu(gpu: torch.device, family: str, backbones: Backbones) -> None:
    backbone = backbone_of(backbones, family)
    predictor = Predictor.of(adapter(backbone, "lora", offset=(0.5, -1.0)), backbone)
    assert next(predictor.classifier.parameters()).device.type == gpu.type  # type: ignore[attr-defined]
    found = predictor.outputs(TEXTS)
    assert difference(found, on_cpu(predictor)) <= TOLERANCE


@pytest.mark.gpu
def test_predictions_in_bfloat16_are_near_those_of_float32(gpu: torch.device, backbones: Backbones) -> None:
    backbone = backbone_of(backbones, "llama")
    made = adapter(backbone, "lora")
    lowered = Predictor.of(made, backbone)
    lowered.lower("bfloat16")  # type: ignore[attr-defined]
    check_lowered(lowered.outputs(TEXTS), made, backbone)


def prompts() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(2, VOCABULARY, int(random.integers(1, 60))).astype(np.int32) for _ in range(9)]


@pytest.mark.gpu("generating.generation._best", "models.kernels.key_values.KeyValueCache._rounded")
@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("decoding", [Decoding(max_new_tokens=8), Decoding(max_new_tokens=8, beams=3)], ids=str)
def test_answers_are_those_of_a_cpu(gpu: torch.device, family: str, decoding: Decoding, backbones: Backbones) -> None:
    backbone = backbone_of(backbones, family)
    model = open_model(backbone, ("text",), 0, Opening("", "language_model")).eval()
    expected = [one.tokens.tolist() for one in answers(model, prompts(), decoding, [0])]
    found = [one.tokens.tolist() for one in answers(model.to(gpu), prompts(), decoding, [0])]
    assert found == expected


@pytest.mark.gpu("generating.generation._best")
def test_answers_in_bfloat16_have_probable_tokens(gpu: torch.device, backbones: Backbones) -> None:
    """Each token is nearly as probable as the best one in float32 on a CPU."""
    model = open_model(backbone_of(backbones, "llama"), ("text",), 0, Opening("", "language_model")).eval()
    exact = open_model(backbone_of(backbones, "llama"), ("text",), 0, Opening("", "language_model")).eval()
    model.to(gpu).lower(torch.bfloat16)
    for prompt, one in zip(prompts(), answers(model, prompts(), Decoding(max_new_tokens=6), [0]), strict=True):
        row_of = torch.from_numpy(np.concatenate([prompt, one.tokens]).astype(np.int64))[None]
        with torch.inference_mode():
            rows = exact.answer(exact.states(pack([row_of[0].numpy()]), torch.arange(row_of.shape[1])))
        for place, token in enumerate(one.tokens.tolist()):
            row = rows[len(prompt) - 1 + place]
            assert row.max() - row[token] < 0.1 * (row.max() - row.min())


def crowd(backbone: Backbone, **given: Any) -> list[Adapter]:
    return [adapter(backbone, *one, seed=seed, **given) for seed, one in enumerate(CROWD)]


@pytest.mark.gpu
def test_a_mixed_batch_answers_as_each_adapter_on_a_cpu(gpu: torch.device, backbones: Backbones) -> None:
    backbone = backbone_of(backbones, "llama")
    adapters = crowd(backbone)
    expected = [on_cpu(Predictor.of(one, backbone)) for one in adapters]
    with Engine(backbone) as engine:
        asked = [(which, text) for text in range(len(TEXTS)) for which in range(len(adapters))]
        found = engine.predict((adapters[which], TEXTS[text]) for which, text in asked)
        for (which, text), one in zip(asked, found, strict=True):
            scale = np.abs(expected[which]).max()
            assert np.abs(one.outputs - expected[which][text]).max() <= TOLERANCE * scale, CROWD[which]


@pytest.mark.gpu("models.kernels.lora_decoding._is_grouped", "generating.generation._best")
def test_texts_of_many_adapters_are_those_of_each_adapter_on_a_cpu(gpu: torch.device, backbones: Backbones) -> None:
    backbone = backbone_of(backbones, "llama")
    adapters = crowd(backbone, **TOLD)
    expected: list[str] = []
    for one in adapters:
        predictor = Predictor.of(one, backbone)
        predictor.classifier.to("cpu")  # type: ignore[attr-defined]
        expected += predictor.outputs(TEXTS).tolist()
    with Engine(backbone) as engine:
        found = engine.predict((one, text) for one in adapters for text in TEXTS)
    assert [one.answer["answer"] for one in found] == expected


@pytest.mark.gpu("models.kernels.attention._varlen")
def test_an_engine_computes_half_precision_with_flash_attention(gpu: torch.device, backbones: Backbones) -> None:
    if torch.cuda.get_device_capability(gpu) < (8, 0):
        pytest.skip("needs a CUDA device of capability 8.0 or later")
    backbone = backbone_of(backbones, "llama")
    adapters = crowd(backbone)[:4]
    with Engine(backbone, dtype="bfloat16") as engine:
        found = engine.predict((one, text) for one in adapters for text in TEXTS)
    rows = np.stack([one.outputs for one in found]).reshape(len(adapters), len(TEXTS), -1)
    for outputs, one in zip(rows, adapters, strict=True):
        check_lowered(outputs, one, backbone)
