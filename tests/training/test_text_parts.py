"""The gradient of a step on texts is that of the mean over all its target tokens, in whatever parts it is computed."""

from __future__ import annotations

import pytest
import torch

from afina import Backbone
from afina.data.batch import IGNORED, Loader, MicroBatchLimits
from afina.methods import make
from afina.training.fit import Fit
from fakes import Backbones, parts_of
from language import fit_of, loader, opened

TOLERANCE = 1e-5
EXAMPLES = 16
BUDGET = 120
PARTS = {"4 x 4": MicroBatchLimits(examples=4), "tokens": MicroBatchLimits(tokens=BUDGET)}


def fitted(
    backbones: Backbones, family: str, name: str, at_once: MicroBatchLimits, dtype: torch.dtype = torch.float32
) -> Fit:
    backbone = Backbone.load(str(backbones.path(family, dropout=0.0)))
    method = make(name, {"dropout": 0.0} if name == "lora" else None).for_family(family)
    batches = loader(backbone, EXAMPLES, taken=method.takes_positions, batch_size=EXAMPLES)
    model = opened(backbone, method)
    return fit_of(model, method, batches, dtype=dtype, steps=1, learning_rate=0.0, at_once=at_once, clip=1e9)


def gradients(fit: Fit) -> dict[str, torch.Tensor]:
    fit.advance()
    return {name: each.grad.clone() for name, each in fit.weights.trained.items() if each.grad is not None}


def learnt(batches: Loader, at_once: MicroBatchLimits) -> list[int]:
    return [part.learnt for part in parts_of(at_once, next(batches.batches(0, 1)))]


def furthest(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    assert found.keys() == expected.keys()
    scale = max(float(one.abs().max()) for one in expected.values())
    assert scale > 1e-3
    return max(float((found[name] - one).abs().max()) for name, one in expected.items()) / scale


@pytest.mark.parametrize(("family", "name"), [("gpt2", "full"), ("gpt2", "prefix"), ("llama", "lora")])
def test_1_x_16_and_4_x_4_and_parts_by_tokens_give_one_gradient(backbones: Backbones, family: str, name: str) -> None:
    whole = fitted(backbones, family, name, MicroBatchLimits())
    counts = {how: learnt(whole.loader, at_once) for how, at_once in PARTS.items()}
    assert len(counts["4 x 4"]) == 4
    assert len(counts["tokens"]) > 4
    assert all(len(set(each)) > 1 for each in counts.values())  # parts of unequal weight
    expected = gradients(whole)
    for at_once in PARTS.values():
        found = fitted(backbones, family, name, at_once)
        assert furthest(gradients(found), expected) <= TOLERANCE
        assert found.account.losses == pytest.approx(whole.account.losses, rel=TOLERANCE)


def test_the_mean_of_the_parts_means_is_another_gradient(backbones: Backbones, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = gradients(fitted(backbones, "gpt2", "full", MicroBatchLimits()))
    monkeypatch.setattr("afina.training.inputs.TextBatch.learnt", 1)
    found = gradients(fitted(backbones, "gpt2", "full", PARTS["4 x 4"]))
    assert furthest(found, expected) > 1000 * TOLERANCE


def test_a_prompts_tokens_are_read_and_not_learnt(backbones: Backbones) -> None:
    fit = fitted(backbones, "gpt2", "full", MicroBatchLimits())
    batch = next(fit.loader.batches(0, 1))
    for tokens, targets in zip(batch.by_sequence(batch.tokens), batch.by_sequence(batch.targets), strict=True):
        prompt = int((targets == IGNORED).sum())
        assert prompt >= 5
        assert torch.equal(targets[prompt:-1], tokens[prompt + 1 :])
        assert targets[-1] == fit.classifier.model.config.eos_token_id


@pytest.mark.parametrize(("family", "name"), [("gpt2", "full"), ("llama", "lora"), ("gpt2", "prefix")])
def test_in_bfloat16_the_gradient_is_float32s_except_for_rounding(backbones: Backbones, family: str, name: str) -> None:
    """GPT-2's output embedding is its input embedding; LLaMA's here is a weight of its own."""
    exact = gradients(fitted(backbones, family, name, MicroBatchLimits()))
    lowered = fitted(backbones, family, name, PARTS["tokens"], torch.bfloat16)
    found = gradients(lowered)
    assert {each.dtype for each in found.values()} == {torch.float32}
    assert found.keys() == exact.keys()
    for key, expected in exact.items():
        if expected.norm() > 1e-3:
            assert (found[key] - expected).norm() / expected.norm() < 0.1, key
    assert sum(each.numel() for each in lowered.parameters.values()) == sum(each.numel() for each in found.values())
