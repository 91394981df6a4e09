"""A batch computed in parts, over several batches, or with its blocks computed twice, takes the same step."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from afina import METHODS, Backbone, Run
from afina.data.batch import IGNORED, Loader, MicroBatchLimits, Packed
from afina.data.tokenize import Encoded
from afina.methods.method import Method
from afina.models.architectures import ARCHITECTURES
from afina.models.classifier import Classifier
from afina.studies.runs.record import Record
from afina.studies.runs.spec import UNASKED
from afina.training.checkpoint import Account
from afina.training.fit import Fit, checkpoint_blocks
from afina.training.settings import Training
from fakes import LONG, SLOW, Backbones, changed, encoded, fit_of, opened, parts_of, sentences, serves
from grid import by_family, thinned

TOLERANCE = 1e-5
ROWS = [*sentences(30), (LONG, 1), (f"{LONG}, {LONG}", 0)]
"""The last text alone has more tokens than BUDGET."""

BUDGET = 100


def fitted(
    backbones: Backbones, name: str, family: str = "gpt2", *, dropout: float, dtype: torch.dtype = torch.float32
) -> Fit:
    backbone = Backbone.load(str(backbones.path(family, dropout=dropout)))
    method: Method = METHODS[name](dropout=dropout) if name == "lora" else METHODS[name]()
    method = method.for_family(family)
    data = encoded(backbone, ROWS, method.takes_positions)
    return fit_of(opened(backbone, method), method, data, dtype=dtype, steps=6, learning_rate=1e-3)


def limited(fit: Fit, *, batch_size: int = 8, **limits: int) -> Fit:
    loader = Loader(fit.loader.encoded, fit.loader.labels, batch_size, fit.loader.seed)
    return changed(fit, loader, at_once=MicroBatchLimits(**limits))


def trained(fit: Fit) -> Account:
    fit.advance()
    return fit.account


def first_gradients(fit: Fit) -> dict[str, torch.Tensor]:
    """Of everything that trains, after a first step at a rate that moves nothing."""
    changed(fit, steps=1, learning_rate=0.0).advance()
    return {n: p.grad.clone() for n, p in fit.weights.trained.items() if p.grad is not None}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    scale = max(float(one.abs().max()) for one in expected.values())
    assert scale > 1e-3
    for name, one in expected.items():
        assert (found[name] - one).abs().max() <= TOLERANCE * max(float(one.abs().max()), 1e-2 * scale), name


LIMITS = ({"tokens": BUDGET}, {"examples": 4}, {"examples": 12, "tokens": BUDGET})


@pytest.mark.parametrize(
    ("limits", "name"), thinned(LIMITS, ("full", "lora", "prelayer", "prompt", "prefix"), share=2), ids=str
)
def test_the_gradients_of_the_parts_add_up_to_the_batchs(
    backbones: Backbones, name: str, limits: dict[str, int]
) -> None:
    def fit(**limits: int) -> Fit:
        return limited(fitted(backbones, name, dropout=0.0), batch_size=len(ROWS), **limits)

    cut = [len(part) for part in parts_of(MicroBatchLimits(**limits), next(fit().loader.batches(0, 1)))]
    assert len(cut) > 2
    assert len(set(cut)) > 1 or limits == {"examples": 4}  # parts of unequal weight
    assert_close(first_gradients(fit(**limits)), first_gradients(fit()))


@pytest.mark.parametrize("limits", [{"tokens": BUDGET}, {"examples": 1}], ids=str)
def test_parts_with_targets_of_each_token_weigh_as_many_as_are_to_be_learnt(
    backbones: Backbones, limits: dict[str, int]
) -> None:
    """The batch has one text of which nothing is, and others of which one token in three is not."""
    from torch.nn.functional import cross_entropy

    def fit(**limits: int) -> Fit:
        made = limited(fitted(backbones, "full", dropout=0.0), batch_size=len(ROWS), **limits)
        encoded = made.loader.encoded
        targets = np.where(encoded.tokens % 3 == 0, IGNORED, encoded.tokens % 2).astype(np.int32)
        targets[: encoded.offsets[1]] = IGNORED
        loader = Loader(encoded, Encoded(targets, encoded.offsets, 0), len(ROWS), made.loader.seed)
        changed(made, loader)
        head = made.weights.trained["score.weight"]
        made.inputs.outputs = lambda part: head.T[part.packed.tokens[part.packed.learnt_at] % len(head.T)]  # type: ignore[method-assign]
        made.objective = SimpleNamespace(loss=lambda outputs, right, *_: cross_entropy(outputs, right))  # type: ignore[assignment]
        return made

    def gradient(fit: Fit) -> torch.Tensor:
        parts = fit.inputs.parts(next(fit.inputs.batches(0, 1)))
        fit.update(parts)
        found = fit.weights.trained["score.weight"].grad
        assert found is not None
        return found.clone()

    whole, found = gradient(fit()), gradient(fit(**limits))
    assert (found - whole).abs().max() <= TOLERANCE * whole.abs().max()


@pytest.mark.parametrize("name", ["full", "lora", "prefix"])
def test_in_bfloat16_the_parts_gradients_meet_in_the_float32_masters(backbones: Backbones, name: str) -> None:
    """As near to float32's gradients as those of a batch computed at once are; a lost part would be far off."""

    def fit(dtype: torch.dtype = torch.bfloat16, **limits: int) -> Fit:
        return limited(fitted(backbones, name, dropout=0.0, dtype=dtype), batch_size=len(ROWS), **limits)

    exact, whole, found = (first_gradients(each) for each in (fit(torch.float32), fit(), fit(tokens=BUDGET)))
    assert {one.dtype for one in found.values()} == {torch.float32}
    for key, expected in exact.items():
        if expected.norm() > 1e-3:
            rounding = (whole[key] - expected).norm() / expected.norm()
            assert rounding < 0.1, key
            assert (found[key] - expected).norm() / expected.norm() < 2 * rounding + 0.01, key


@pytest.mark.slow
def test_the_steps_of_an_epoch_are_its_batches_over_those_of_a_step(
    backbones: Backbones, toy: str, tmp_path: Path
) -> None:
    def run(**settings: Any) -> Record:
        training = Training(dtype="float32", epochs=1, **settings)
        return Run(backbone=str(backbones.path("gpt2")), task=toy, method="lora", training=training).execute(tmp_path)

    plain, record = run(batch_size=8), run(batch_size=8, accumulate=5)
    batches = -(-plain.train_examples // 8)
    assert batches % 5
    assert record.steps == -(-batches // 5)
    assert record.tokens == plain.tokens


@pytest.mark.slow
def test_a_run_computes_no_more_tokens_at_once_than_its_budget_and_measures_the_largest_part(
    backbones: Backbones, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    forward = Classifier.forward

    def watched(self: Classifier, packed: Packed, *layout: Any) -> torch.Tensor:
        if torch.is_grad_enabled():
            sizes.append(len(packed.tokens))
        return forward(self, packed, *layout)

    monkeypatch.setattr(Classifier, "forward", watched)
    run = Run(
        backbone=str(backbones.path("gpt2")),
        task=toy,
        method="lora",
        training=Training(dtype="float32", max_steps=4, batch_size=16, accumulate=2, token_budget=70),
        ask=UNASKED,
    )
    record = run.execute(tmp_path)
    assert len(sizes) > 8
    assert max(sizes[:-1]) == sizes[-1] == record.memory.activation_tokens
    assert record.memory.activation_tokens <= 70
    assert sum(sizes[:-1]) == record.tokens


# Activation checkpointing


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "name", "dtype"),
    [("gpt2", "prompt", torch.float32), ("llama", "prefix", torch.bfloat16)],
    ids=str,
)
def test_checkpointed_training_is_the_same_bit_for_bit_with_dropout(
    backbones: Backbones, family: str, name: str, dtype: torch.dtype
) -> None:
    plain, checkpointed = (
        limited(fitted(backbones, name, family, dropout=0.1, dtype=dtype), tokens=BUDGET) for _ in range(2)
    )
    checkpoint_blocks(checkpointed.classifier.body)
    expected, found = trained(plain), trained(checkpointed)
    assert found.losses == expected.losses
    for key, parameter in plain.weights.trained.items():
        assert torch.equal(checkpointed.weights.trained[key], parameter), key
    other = fitted(backbones, name, family, dropout=0.0, dtype=dtype)
    assert trained(limited(other, tokens=BUDGET)).losses != expected.losses  # dropout is on


BLOCKS = [case for case in thinned(ARCHITECTURES, ("full", "lora", "prefix"), whole=("gpt2",)) if serves(*case)]


@pytest.mark.parametrize(("family", "name"), by_family(BLOCKS, SLOW))
def test_every_block_of_every_family_keeps_its_input_only(backbones: Backbones, family: str, name: str) -> None:
    """Every block's forward is entered again by the backward pass, and only in training."""
    fit = fitted(backbones, name, family, dropout=0.1)
    blocks = fit.classifier.body.get_submodule(ARCHITECTURES[family].block.layers)
    entered: list[int] = []

    def watched(index: int, forward: Any) -> Any:
        def enter(*inputs: Any, **options: Any) -> Any:
            entered.append(index)
            return forward(*inputs, **options)

        return enter

    for index, block in enumerate(blocks):
        block.forward = watched(index, block.forward)
    checkpoint_blocks(fit.classifier.body)
    packed = next(fit.loader.batches(0, 1))
    loss = fit.classifier.train()(packed).sum()
    assert entered == [0, 1]
    loss.backward()
    assert sorted(entered) == [0, 0, 1, 1]
    entered.clear()
    with torch.no_grad():
        fit.classifier.eval()(packed)
    assert entered == [0, 1]


@pytest.mark.slow
def test_a_checkpointed_run_gives_the_same_adapter_and_measures_no_activations(
    backbones: Backbones, toy: str, tmp_path: Path
) -> None:
    def run(checkpointing: bool) -> Record:
        training = Training(dtype="bfloat16", max_steps=4, checkpointing=checkpointing)
        run = Run(backbone=str(backbones.path("gpt2")), task=toy, method="lora", training=training)
        return run.execute(tmp_path)

    plain, checkpointed = run(False), run(True)
    assert checkpointed.digest == plain.digest
    assert checkpointed.losses == plain.losses
    assert checkpointed.key != plain.key
    assert plain.memory.activation_bytes
    assert checkpointed.memory.activation_bytes is checkpointed.memory.activation_tokens is None
    assert checkpointed.memory.state_bytes == plain.memory.state_bytes


def test_checkpointing_holds_less_at_the_end_of_the_forward_pass(backbones: Backbones) -> None:
    """What the graph keeps alive, by torch's own count of saved tensors."""

    def kept(checkpointing: bool) -> int:
        fit = fitted(backbones, "full", dropout=0.1)
        if checkpointing:
            checkpoint_blocks(fit.classifier.body)
        sizes: list[int] = []
        packed = next(fit.loader.batches(0, 1))

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            fit.classifier.train()(packed)
        return int(np.sum(sizes))

    assert kept(True) < kept(False) / 3
