"""In one mixed batch, some texts are pooled and some are read at tokens, each as by its adapter alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from afina import Adapter, Backbone, Predictor
from afina.data.batch import pack
from afina.engine.engine import Engine
from afina.engine.residents import SharedResident
from afina.models.mixed_batch import AdapterGroup
from afina.predicting.predictor import ModelPredictor
from crowd import adapter
from fakes import Backbones
from grid import by_family

METHODS: list[tuple[str, dict[str, Any]]] = [
    ("lora", {"dora": True}),
    ("lora", {"r": 2}),
    ("layernorm", {}),
    ("ia3", {}),
    ("adapter", {"kind": "houlsby", "reduction": 4}),
    ("head", {}),
]
FAMILIES = ("bert", "distilbert", "roberta")

VIRTUAL: list[tuple[str, dict[str, Any]]] = [("prompt", {"tokens": 3}), ("prefix", {"tokens": 2})]
"""Methods with virtual tokens, which only decoders have here."""

TOKENS = [np.array([5, 9, 2, 7, 11, 3], np.int32), np.array([4], np.int32), np.array([8, 8, 6, 1], np.int32)]
READ: list[np.ndarray | None] = [np.array([0, 3, 5]), None, np.array([2])]
"""The tokens that are read of each text of every adapter."""


def alone(made: Adapter, backbone: Backbone) -> torch.Tensor:
    """What the adapter's own model gives: the output at each read token, or the pooled output."""
    predictor = Predictor.of(made, backbone)
    assert isinstance(predictor, ModelPredictor)
    model = predictor.classifier.eval()
    with torch.inference_mode():
        parts = [
            model.features(pack([tokens])) if read is None else model.states(pack([tokens]), torch.from_numpy(read))
            for tokens, read in zip(TOKENS, READ, strict=True)
        ]
    return torch.cat([part.float() for part in parts])


@pytest.mark.parametrize("family", by_family(["gpt2", *FAMILIES], FAMILIES))
def test_tokens_are_read_and_texts_pooled_in_one_row(backbones: Backbones, family: str) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    methods = METHODS + (VIRTUAL if family == "gpt2" else [])
    adapters = [adapter(backbone, *one, seed=seed) for seed, one in enumerate(methods)]
    with Engine(backbone) as engine:
        found = engine.load(*adapters)
        groups = []
        for one in found:
            assert isinstance(one, SharedResident)
            groups.append(AdapterGroup(one.batched, TOKENS, None, None, READ))
        made = found[0].host.features(groups)  # type: ignore[attr-defined]
        pooled = found[0].host.features([one._replace(read=None) for one in groups])  # type: ignore[attr-defined]
    expected = [alone(one, backbone) for one in adapters]
    torch.testing.assert_close(made, torch.cat(expected), rtol=1e-4, atol=1e-4)
    assert made.shape[0] == 5 * len(adapters)
    torch.testing.assert_close(pooled[1::3], made[3::5], rtol=1e-4, atol=1e-4)
