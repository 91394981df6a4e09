"""Token losses in blocks of words against torch's cross-entropy of all logits: values, gradients and memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy, linear

from afina.models.kernels import token_loss
from afina.models.kernels.token_loss import token_losses
from afina.training.dry_run import Alive

WORDS, WIDTH, TOKENS = 1000, 24, 37


@pytest.fixture(autouse=True)
def many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_loss, "BLOCK_BYTES", 4 * TOKENS * 64)  # 64 words: 16 blocks, the last of 40 words


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None) -> Tensor:
    return cross_entropy(linear(hidden, weight, bias).float(), targets, reduction="none")


def made(scale: float = 1.0, *, bias: bool = True) -> dict[str, Tensor]:
    torch.manual_seed(1)
    given = {"hidden": scale * torch.randn(TOKENS, WIDTH), "weight": torch.randn(WORDS, WIDTH)}
    given["targets"] = torch.randint(0, WORDS, (TOKENS,))
    given["targets"][:4] = torch.tensor([0, 63, 64, WORDS - 1])  # first and last words of blocks
    return given | ({"bias": torch.randn(WORDS)} if bias else {})


def gradients(compute: object, given: dict[str, Tensor], trained: tuple[str, ...]) -> list[Tensor]:
    own = {name: each.clone() for name, each in given.items()}
    for name in trained:
        own[name].requires_grad_()
    losses = compute(**own)  # type: ignore[operator]
    torch.manual_seed(2)
    losses.backward(torch.rand(TOKENS))
    assert all(own[name].grad is None for name in given if name not in trained)
    return [losses.detach(), *(grad for name in trained if (grad := own[name].grad) is not None)]


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("trained", [("hidden",), ("hidden", "weight"), ("weight",), ("hidden", "bias")], ids=str)
def test_losses_and_gradients_are_torchs(scale: float, bias: bool, trained: tuple[str, ...]) -> None:
    given = made(scale, bias=bias)
    trained = tuple(name for name in trained if name in given)
    found, expected = gradients(token_losses, given, trained), gradients(plain, given, trained)
    assert len(found) == 1 + len(trained)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        # Logits have a rounding error of about 1e-7 of their size, which is an error of the same size in every softmax.
        assert (one - other).abs().max() <= 1e-6 * max(scale, 1) * other.abs().max()


@pytest.mark.parametrize("trained", [("hidden",), ("hidden", "weight", "bias")], ids=str)
def test_in_bfloat16_losses_are_float32_and_no_further_from_the_exact_ones_than_torchs(
    trained: tuple[str, ...],
) -> None:
    lowered = {name: each.bfloat16() if each.is_floating_point() else each for name, each in made().items()}
    exact = {name: each.float() if each.is_floating_point() else each for name, each in lowered.items()}
    found, usual = gradients(token_losses, lowered, trained), gradients(plain, lowered, trained)
    assert [each.dtype for each in found] == [torch.float32] + [torch.bfloat16] * len(trained)
    for one, other, right in zip(found, usual, gradients(plain, exact, trained), strict=True):
        assert (one.float() - right).norm() <= 1.1 * (other.float() - right).norm()


def test_a_certain_target_has_no_rounding_error_and_an_impossible_target_has_a_finite_loss() -> None:
    weight = torch.tensor([[1.0], [-1.0], [0.0]])
    hidden = torch.tensor([[150.0], [150.0]], requires_grad=True)
    losses = token_losses(hidden, weight, torch.tensor([0, 1]))
    assert losses.tolist() == [0.0, 300.0]
    losses.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.tolist() == [[0.0], [2.0]]


def test_a_head_that_is_frozen_saves_one_row_for_each_token_and_gives_its_gradient_again() -> None:
    given = made()
    given["hidden"].requires_grad_()
    saved: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda each: each):
        loss = token_losses(**given).mean()
    assert [each.shape for each in saved] == [(TOKENS, WIDTH)]
    first, second = (torch.autograd.grad(loss, given["hidden"], retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_without_gradients_the_losses_are_the_same_bits() -> None:
    given = made()
    with torch.no_grad():
        found = token_losses(**given)
    given["hidden"].requires_grad_()
    assert torch.equal(token_losses(**given).detach(), found)
    assert not found.requires_grad


@pytest.mark.parametrize("wrong", [-100, -1, WORDS])
def test_a_target_that_is_no_word_is_an_error(wrong: int) -> None:
    given = made()
    given["targets"][5] = wrong
    with pytest.raises((IndexError, RuntimeError), match="out of range"):
        token_losses(**given)


@pytest.mark.parametrize("trains", [False, True])
def test_the_logits_of_all_words_are_never_in_memory_and_a_dry_run_sees_the_same_peak(trains: bool) -> None:
    given = made()
    given["hidden"].requires_grad_()
    given["weight"].requires_grad_(trains)

    def step() -> int:
        with Alive() as alive:
            token_losses(**given).mean().backward()
        given["hidden"].grad = given["weight"].grad = None
        return int(alive.peak)

    real = step()
    with FakeTensorMode() as mode:
        for name, each in given.items():
            given[name] = mode.from_tensor(each)
        assert step() == real
    weights = (1 + trains) * given["weight"].nbytes  # and its gradient
    assert real - weights < 4 * TOKENS * WORDS / 4
