"""Averaging and pulling do what their papers say; at no strength they are not there; a kill changes neither."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from afina import Backbone
from afina.errors import InvalidStudy
from afina.methods import make
from afina.training.fit import Fit
from fakes import encoded, fit_of, opened, sentences
from raises import raises

STEPS, RATE = 8, 1e-2
Weights = dict[str, torch.Tensor]

REGULARIZERS = ("label_smoothing", "average", "pull")


def started(backbone: Backbone, name: str, **changes: Any) -> Fit:
    hyperparameters = {"dropout": 0.0} if name == "lora" else None
    method = make(name, hyperparameters).for_family(backbone.family)
    settings: dict[str, Any] = {"steps": STEPS, "learning_rate": RATE, "weight_decay": 0.1}
    return fit_of(opened(backbone, method), method, encoded(backbone, sentences(40)), **(settings | changes))


def weights(fit: Fit) -> Weights:
    return {name: each.detach().clone() for name, each in fit.weights.trained.items()}


def no_other_model() -> Any:
    raise AssertionError("float32 needs none")


def equal(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("name", "share"), [("full", 0.5), ("lora", 0.01), ("prelayer", 0.5)])
def test_the_average_is_the_mean_of_the_last_steps_weights(gpt2: Backbone, name: str, share: float) -> None:
    plain, averaged, seen = started(gpt2, name), started(gpt2, name, average=share), []
    for stop in range(1, STEPS + 1):
        plain.advance(stop)
        seen.append(weights(plain))
    averaged.advance()
    assert averaged.account.losses == plain.account.losses
    last = seen[-max(1, round(share * STEPS)) :]
    mean = {key: torch.stack([each[key] for each in last]).mean(0) for key in last[0]}
    averaged.average.settle()
    found = weights(averaged)
    assert all(torch.allclose(found[key], mean[key], rtol=1e-5, atol=1e-6) for key in mean)
    assert equal(found, seen[-1]) == (share == 0.01)


def test_what_is_saved_is_the_average(gpt2: Backbone) -> None:
    one, other = (started(gpt2, "full", average=0.5) for _ in range(2))
    one.advance()
    other.advance()
    last = weights(other)
    other.average.settle()
    expected = weights(other)
    state = one.method.state(one.finish(no_other_model).model)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())
    assert not equal(expected, last)


@pytest.mark.parametrize("name", ["full", "prelayer"])
def test_a_pull_moves_the_backbones_weights_by_its_strength_toward_where_they_began(gpt2: Backbone, name: str) -> None:
    strength = 3.0
    pulled, free = started(gpt2, name, pull=strength), started(gpt2, name, pull=strength)
    before, free.pull.strength = weights(pulled), 0.0
    for step in range(STEPS):
        pulled.advance(step + 1)
        free.advance(step + 1)
        rate = RATE * (STEPS - step) / STEPS
        for key, moved in weights(free).items():
            expected = moved if "score" in key else moved + rate * strength * (before[key] - moved)
            assert torch.allclose(weights(pulled)[key], expected, rtol=1e-4, atol=1e-6)
        for key, each in pulled.weights.trained.items():  # both go on from the same place
            free.weights.trained[key].data.copy_(each.data)


def test_pulled_weights_do_not_decay_to_zero_and_the_head_does(gpt2: Backbone) -> None:
    fit = started(gpt2, "full", pull=1.0)
    decaying = {id(each) for group in fit.optimizer.param_groups if group["weight_decay"] for each in group["params"]}
    assert {name for name, each in fit.weights.trained.items() if id(each) in decaying} == {"score.weight"}


def test_a_pull_is_refused_where_nothing_that_trains_has_a_start(gpt2: Backbone) -> None:
    with raises(InvalidStudy, code="option.inapplicable", option="pull", method="lora"):
        started(gpt2, "lora", pull=0.1)


def test_a_sum_pulls_what_its_part_would(gpt2: Backbone) -> None:
    fit = started(gpt2, "lora+prelayer", pull=0.1)
    body = [each for name, each in fit.weights.trained.items() if ".wte." in name or ".wpe." in name]
    assert sorted(each.shape for each in fit.pull.held) == sorted(each.shape for each in body)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_killed_and_resumed_average_and_pull_come_to_the_same(gpt2: Backbone, tmp_path: Path, dtype: Any) -> None:
    settings = {"average": 0.6, "pull": 1.0, "label_smoothing": 0.1, "dtype": dtype}
    whole, killed, resumed = (started(gpt2, "full", **settings) for _ in range(3))
    whole.advance()
    killed.advance(6)
    killed.checkpoint(tmp_path / "kept", "key")
    resumed.resume(tmp_path / "kept", "key")
    assert resumed.account.step == 6
    resumed.advance()
    assert resumed.account.losses == whole.account.losses
    for fit in (whole, resumed):
        fit.average.settle()
    assert equal(weights(resumed), weights(whole))


@pytest.mark.slow
@pytest.mark.parametrize("name", REGULARIZERS)
def test_at_no_strength_a_run_is_the_one_that_it_was(gpt2: Backbone, name: str) -> None:
    plain, none, some = (started(gpt2, "full", **given) for given in ({}, {name: 0.0}, {name: 0.5}))
    for fit in (plain, none, some):
        fit.advance()
        fit.average.settle()
    assert none.account.losses == plain.account.losses
    assert equal(weights(none), weights(plain))
    assert none.state_bytes == plain.state_bytes
    assert not equal(weights(some), weights(plain))
