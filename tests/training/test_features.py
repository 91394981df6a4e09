"""Where the head alone trains, every text goes through the body once, whatever the epochs and the pauses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from afina import Backbone, meter
from afina.data.batch import Packed
from afina.data.token_cache import EncodedSplit
from afina.errors import Diverged
from afina.methods import make
from afina.models.classifier import Classifier
from afina.models.kernels.linear import held_tensors
from afina.predicting import predictor
from afina.training.fit import Fit
from afina.training.inputs import FeatureInputs, PackedInputs, inputs_of
from fakes import encoded, fit_of, opened, predict, sentences
from raises import raises

ROWS = sentences(70)
"""Nine batches an epoch, the last of six."""


def probing(backbone: Backbone, **changes: Any) -> Fit:
    method = make("head")
    return fit_of(opened(backbone, method), method, encoded(backbone, ROWS), **({"steps": 27} | changes))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Texts of each batch that goes through a body."""
    seen: list[int] = []
    features = Classifier.features

    def watched(self: Classifier, packed: Packed, *given: Any) -> torch.Tensor:
        seen.append(len(packed))
        return features(self, packed, *given)

    monkeypatch.setattr(Classifier, "features", watched)
    return seen


def test_only_what_trains_the_head_alone_keeps_features() -> None:
    assert inputs_of(make("head")) is FeatureInputs
    for name in ("baseline", "zero-shot", "full", "lora", "prelayer", "bitfit+adapter"):
        assert inputs_of(make(name)) is PackedInputs


def test_a_text_is_read_once_in_any_number_of_epochs(gpt2: Backbone, read: list[int]) -> None:
    for epochs in (1, 3):
        fit = probing(gpt2, steps=9 * epochs)
        read.clear()
        fit.advance()
        assert sum(read) == 70
        assert fit.account.step == 9 * epochs
        assert fit.account.tokens == epochs * int(fit.loader.encoded.lengths.sum())


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_few_steps_read_their_own_texts_and_no_others(gpt2: Backbone, read: list[int], steps: int) -> None:
    fit = probing(gpt2, steps=steps)
    read.clear()
    fit.advance()
    assert sum(read) == 8 * steps


def test_a_pause_reads_little_ahead_and_changes_no_bit(gpt2: Backbone, read: list[int]) -> None:
    paused, whole = probing(gpt2), probing(gpt2)
    held_out = EncodedSplit(*encoded(gpt2, sentences(20, seed=1)), digest="")
    read.clear()
    for stop, most in ((1, 1), (2, 2), (4, 4), (5, 8), (27, 9)):
        paused.advance(stop)
        assert sum(read) == min(70, 8 * most)
        score = paused.score(held_out, "accuracy", predict)
        assert score.step == stop
        assert score.train_seconds == paused.account.seconds["train"]
        del read[-1]  # the score's own
    whole.advance()
    assert paused.account.losses == whole.account.losses
    assert torch.equal(paused.parameters["score.weight"], whole.parameters["score.weight"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_features_are_the_predictions_of_the_frozen_body_without_dropout(gpt2: Backbone, dtype: torch.dtype) -> None:
    """At a rate that moves nothing, losses are those of predicted logits; dropout would show."""
    fit = probing(gpt2, steps=9, learning_rate=0.0, dtype=dtype)
    outputs = torch.from_numpy(predictor.logits(fit.classifier, fit.loader.encoded))
    fit.advance()
    for step, chosen in enumerate(fit.loader.chosen(0, 9)):
        targets = torch.from_numpy(fit.loader.labels[chosen])
        expected = torch.nn.functional.cross_entropy(outputs[chosen], targets)
        assert fit.account.losses[step] == pytest.approx(float(expected), rel=1e-4 if dtype == torch.float32 else 2e-2)


def test_in_bfloat16_the_frozen_weights_are_packed_for_the_forward_pass_alone(gpt2: Backbone) -> None:
    fit = probing(gpt2, dtype=torch.bfloat16)
    fit.advance(1)
    linear = sum(p.numel() for n, p in opened(gpt2, make("head")).model.named_parameters() if "c_" in n and p.dim() > 1)
    if packed := held_tensors(fit.classifier):
        assert sum(each.nbytes for each in packed) == 2 * linear
    assert fit.weights.copies == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_resumed_training_ends_in_the_same_bits(gpt2: Backbone, tmp_path: Path, dtype: torch.dtype) -> None:
    whole = probing(gpt2, dtype=dtype, checkpoint_seconds=0.0)
    whole.advance(keep=lambda account: whole.checkpoint(tmp_path / str(account.step), "key"))
    kept = sorted(int(path.name) for path in tmp_path.iterdir())
    for step in (kept[0], kept[len(kept) // 3], kept[-1]):
        resumed = probing(gpt2, dtype=dtype)
        resumed.resume(tmp_path / str(step), "key")
        assert resumed.account.step == step
        resumed.advance()
        assert resumed.account.losses == whole.account.losses
        assert resumed.account.tokens == whole.account.tokens
        assert torch.equal(resumed.parameters["score.weight"], whole.parameters["score.weight"])
        assert resumed.measure() == whole.measure()


def test_the_seconds_of_a_training_hold_those_of_the_features(gpt2: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(np.arange(1000.0))
    fit = probing(gpt2, steps=9)
    compute = fit.inputs.prepare
    taken: list[float] = []

    def slow(step: int) -> None:
        compute(step)
        taken.extend(meter.now() for _ in range(10))

    monkeypatch.setattr(fit.inputs, "prepare", slow)
    monkeypatch.setattr("afina.meter.now", lambda: float(next(clock)))
    fit.advance()
    assert fit.account.seconds["train"] == 9 * 11


def test_a_loss_that_is_no_number_ends_it(gpt2: Backbone) -> None:
    fit = probing(gpt2)
    with torch.no_grad():
        fit.parameters["score.weight"].fill_(float("inf"))
    with raises(Diverged, code="run.diverged", step=1, steps=27):
        fit.advance()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_it_is_measured_what_it_holds(gpt2: Backbone, checkpointing: bool) -> None:
    fit = probing(gpt2, checkpointing=checkpointing)
    fit.advance()
    measured = fit.measure()
    weights = sum(each.nbytes for each in fit.classifier.parameters())
    assert measured.state_bytes == weights + 3 * 2 * 32 * 4 + 4 + 70 * 32 * 4
    if checkpointing:
        assert measured.activation_bytes is None
    else:  # rows, what the head reads, log-probabilities, targets and the mean's weight
        assert measured.activation_bytes is not None
        assert 8 * 32 * 4 < measured.activation_bytes < 8 * 32 * 4 + 8 * 32
