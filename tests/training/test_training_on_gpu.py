"""On a GPU: a training session takes the steps that it takes on a CPU, in float32 and in bfloat16, and ends alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import by_text
import language
from afina import Backbone
from afina.data.batch import MicroBatchLimits
from afina.methods import make
from afina.models.classifier import Classifier
from afina.ranks import ALONE, Ranks
from fakes import BATCH, Backbones, difference, encoded, fit_of, opened, sentences
from together import together

UNDROPPED = {"dropout": 0.0}
"""A GPU's generator draws other dropout masks than a CPU's."""

CASES: list[tuple[str, str, dict[str, Any]]] = [
    *(("gpt2", name, {}) for name in ("full", "ia3", "prefix", "prelayer", "head", "adapter")),
    ("gpt2", "lora", UNDROPPED),
    ("llama", "lora", {"dora": True, **UNDROPPED}),
    ("llama", "vera", {"r": 8}),
    ("bert", "lora+layernorm", {"lora": UNDROPPED}),
    ("bert", "setfit", {}),
    ("bert", "linear_probe", {}),
]
"""Family, method, and hyperparameters: every way to compute the inputs and the gradients of a step."""

TOLERANCE = 1e-4
"""Difference of losses and gradients from a CPU's float32: sums have another order, which AdamW enlarges."""

LOWERED = 0.1
"""Difference of a loss in bfloat16 from the loss in float32."""


def session(backbone: Backbone, name: str, given: dict[str, Any], device: torch.device | str, **changes: Any) -> Any:
    """A training session of `make(name, given)` on a device."""
    method = make(name, given).for_backbone(backbone)
    classifier = opened(backbone, method).to(device)
    rows = sentences(2 * BATCH)
    return fit_of(classifier, method, encoded(backbone, rows, method.takes_positions), **changes)


def gradients(fit: Any) -> dict[str, torch.Tensor]:
    """Take the first step, and return its gradients, clipped."""
    fit.begin()
    fit.step(next(fit.inputs.batches(0, 1)))
    return {name: each.grad.cpu().clone() for name, each in fit.weights.trained.items() if each.grad is not None}


def check(one: Any, other: Any) -> None:
    """Compare the gradients of the first step, and the losses of all steps, of two sessions."""
    fitted = one.method.is_fitted
    if not fitted:
        found, expected = gradients(one), gradients(other)
        assert found.keys() == expected.keys()
        scale = max(each.abs().max() for each in expected.values())
        assert scale > 0
        for name, each in found.items():
            assert (each - expected[name]).abs().max() <= TOLERANCE * scale, name
    for fit in (one, other):
        fit.advance()
    assert one.account.losses == pytest.approx(other.account.losses, rel=TOLERANCE, abs=TOLERANCE)
    assert one.account.step == other.account.step > 0
    if fitted:
        for name, each in one.weights.trained.items():
            assert difference(each.detach().cpu(), other.weights.trained[name].detach()) <= 10 * TOLERANCE, name


@pytest.mark.gpu
@pytest.mark.parametrize(("family", "name", "given"), CASES, ids=str)
def test_a_session_takes_the_steps_of_a_cpu(
    gpu: torch.device, family: str, name: str, given: dict[str, Any], backbones: Backbones
) -> None:
    backbone = Backbone.load(str(backbones.path(family, dropout=0.0)))
    check(*(session(backbone, name, given, device, learning_rate=1e-3) for device in (gpu, "cpu")))


@pytest.mark.gpu("models.kernels.attention._varlen")
@pytest.mark.parametrize(("name", "given"), [("full", {}), ("lora", UNDROPPED)], ids=str)
def test_bfloat16_stays_near_float32(gpu: torch.device, name: str, given: dict[str, Any], backbones: Backbones) -> None:
    if torch.cuda.get_device_capability(gpu) < (8, 0):
        pytest.skip("needs a CUDA device of capability 8.0 or later")
    backbone = Backbone.load(str(backbones.path("llama", dropout=0.0)))
    lowered = session(backbone, name, given, gpu, dtype=torch.bfloat16, learning_rate=1e-3)
    exact = session(backbone, name, given, "cpu", learning_rate=1e-3)
    for fit in (lowered, exact):
        fit.advance()
    assert lowered.account.losses == pytest.approx(exact.account.losses, abs=LOWERED)
    assert lowered.weights.copies == 0


@pytest.mark.gpu("training.fit.Fit.finish")
def test_a_lowered_session_ends_in_float32_on_the_gpu(gpu: torch.device, backbones: Backbones) -> None:
    backbone = Backbone.load(str(backbones.path("gpt2", dropout=0.0)))
    fit = session(backbone, "lora", {}, gpu, dtype=torch.bfloat16)
    fit.advance()
    trained = {name.replace(".default", ""): each.detach().clone() for name, each in fit.weights.trained.items()}
    reopen: Callable[[], Classifier] = lambda: opened(backbone, fit.method).to(gpu)  # noqa: E731
    finished = fit.finish(reopen)
    assert {each.dtype for each in finished.parameters()} == {torch.float32}
    assert {each.device.type for each in finished.parameters()} == {"cuda"}
    factors = {name: each for name, each in fit.method.state(finished.model).items() if "lora" in name}
    assert factors
    assert all(torch.equal(each, trained[name]) for name, each in factors.items())


@pytest.mark.gpu
@pytest.mark.parametrize(
    "changes", [{"checkpointing": True}, {"at_once": MicroBatchLimits(tokens=40)}], ids=["recomputed", "divided"]
)
def test_recomputed_and_divided_steps_are_those_of_a_cpu(
    gpu: torch.device, changes: dict[str, Any], backbones: Backbones
) -> None:
    backbone = Backbone.load(str(backbones.path("gpt2", dropout=0.0)))
    one = session(backbone, "lora", UNDROPPED, gpu, learning_rate=1e-3, **changes)
    check(one, session(backbone, "lora", UNDROPPED, "cpu", learning_rate=1e-3))


@pytest.mark.gpu("models.kernels.attention._is_own", "models.kernels.dropout_masks.generators_of")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_several_processes_draw_the_dropout_masks_of_a_cpu(
    gpu: torch.device, checkpointing: bool, backbones: Backbones
) -> None:
    backbone = Backbone.load(str(backbones.path("gpt2", dropout=0.1)))
    expected = by_text.gradients(session(backbone, "lora", {}, "cpu"))
    fit = session(backbone, "lora", {}, gpu, checkpointing=checkpointing)
    for ranks, limits in by_text.PARTS.values():
        by_text.assert_close(by_text.gradients(fit, ranks, **limits), expected, TOLERANCE)


@pytest.mark.gpu
def test_dropout_on_a_gpu_depends_on_the_seed_and_the_step_alone(
    gpu: torch.device, backbones: Backbones, tmp_path: Path
) -> None:
    """Interrupted after two steps and resumed from the checkpoint, the session has the losses of one that was not."""
    backbone = Backbone.load(str(backbones.path("gpt2", dropout=0.1)))
    whole, first, second = (session(backbone, "lora", {}, gpu) for _ in range(3))
    whole.advance()
    first.advance(2)
    first.checkpoint(tmp_path / "checkpoint", "key")
    second.resume(tmp_path / "checkpoint", "key")
    assert second.account.step == 2
    second.advance()
    assert second.account.losses == pytest.approx(whole.account.losses, rel=1e-6)
    other = session(backbone, "lora", {}, gpu)
    torch.manual_seed(99)  # earlier random numbers change nothing
    other.advance()
    assert other.account.losses == pytest.approx(whole.account.losses, rel=1e-6)


@pytest.mark.gpu
def test_a_session_on_texts_to_write_takes_the_steps_of_a_cpu(gpu: torch.device, backbones: Backbones) -> None:
    backbone = Backbone.load(str(backbones.path("llama", dropout=0.0)))
    fits = []
    for device in (gpu, torch.device("cpu")):
        method = make("lora", UNDROPPED).for_opening(language.OBJECTIVE.opening).for_backbone(backbone)
        model = language.opened(backbone, method).to(device)
        batches = language.loader(backbone, 2 * BATCH)
        fits.append(language.fit_of(model, method, batches, learning_rate=1e-3))
    check(*fits)


def losses_of(ranks: Ranks, address: str) -> list[float]:
    """The losses of a session on the GPU of each rank."""
    limits = MicroBatchLimits(ranks=ranks)
    fit = session(Backbone.load(address), "lora", UNDROPPED, "cuda", learning_rate=1e-3, at_once=limits)
    fit.advance()
    return fit.account.losses


@pytest.mark.gpu
def test_two_gpus_take_the_steps_of_one(gpu: torch.device, backbones: Backbones) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    address = str(backbones.path("gpt2", dropout=0.0))
    alone, found = losses_of(ALONE, address), together(2, losses_of, address)
    assert found[0] == found[1] == pytest.approx(alone, rel=TOLERANCE)
