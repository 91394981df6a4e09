"""What a training session is asked for beside its steps: scores, rates, an end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from afina import Backbone, Run
from afina.data.token_cache import EncodedSplit
from afina.errors import OutOfMemory
from afina.methods import make
from afina.models.classifier import Classifier
from afina.predicting import predictor
from afina.training.checkpoint import Account
from afina.training.fit import Fit
from fakes import Runs, encoded, fit_of, opened, predict, sentences
from raises import raises

HELD_OUT = sentences(40, seed=1)


def started(backbone: Backbone, name: str, **changes: Any) -> Fit:
    method = make(name).for_family(backbone.family)
    return fit_of(opened(backbone, method), method, encoded(backbone, sentences(40)), **changes)


def split(backbone: Backbone) -> EncodedSplit:
    return EncodedSplit(*encoded(backbone, HELD_OUT), digest="")


def test_a_score_is_the_headline_and_the_mean_loss_of_the_weights_so_far(gpt2: Backbone) -> None:
    fit, held_out = started(gpt2, "full", steps=6), split(gpt2)
    losses = []
    for stop in (2, 4, 6):
        fit.advance(stop)
        score = fit.score(held_out, "accuracy", predict)
        outputs = torch.from_numpy(predictor.logits(fit.classifier, held_out.encoded))
        targets = torch.from_numpy(held_out.labels)
        assert (score.step, score.steps, score.examples) == (stop, 6, 40)
        assert score.value == float((outputs.argmax(1) == targets).double().mean())
        assert score.loss == pytest.approx(float(torch.nn.functional.cross_entropy(outputs, targets)), rel=1e-5)
        assert score.train_seconds == fit.account.seconds["train"] > 0
        losses.append(score.loss)
    assert len(set(losses)) == 3


def test_scoring_on_the_way_changes_no_step(gpt2: Backbone) -> None:
    scored, alone = started(gpt2, "lora"), started(gpt2, "lora")
    for stop in (1, 3, 5):
        scored.advance(stop)
        scored.score(split(gpt2), "accuracy", predict)
    alone.advance()
    assert scored.account.losses == alone.account.losses


def test_weights_that_the_last_step_spoilt_have_no_score(gpt2: Backbone) -> None:
    fit = started(gpt2, "full")
    fit.advance(2)
    with torch.no_grad():
        next(iter(fit.parameters.values())).fill_(float("nan"))
    score = fit.score(split(gpt2), "accuracy", predict)
    assert (score.step, score.value, score.loss) == (2, None, None)


def test_a_method_that_trains_nothing_advances_nothing_and_keeps_its_precision(gpt2: Backbone) -> None:
    fit = started(gpt2, "baseline", dtype=torch.bfloat16)
    before = {name: each.clone() for name, each in fit.classifier.state_dict().items()}
    fit.advance()
    assert fit.account == Account()
    measured = fit.measure()
    assert measured.state_bytes == sum(each.nbytes for each in fit.classifier.parameters())
    assert measured.activation_bytes is measured.activation_tokens is None
    classifier = fit.finish(lambda: pytest.fail("its weights were not lowered"))
    assert {each.dtype for each in classifier.parameters()} == {torch.float32}
    assert all(torch.equal(each, before[name]) for name, each in classifier.state_dict().items())


@pytest.mark.parametrize("name", ["full", "lora"])
def test_a_finished_session_gives_float32_weights_with_what_was_trained(gpt2: Backbone, name: str) -> None:
    fit = started(gpt2, name, dtype=torch.bfloat16)
    method, fresh = fit.method, []
    fit.advance()
    trained = {key: each.detach().clone() for key, each in fit.weights.trained.items()}

    def reopen() -> Classifier:
        fresh.append(opened(gpt2, method, seed=7))
        return fresh[-1]

    classifier = fit.finish(reopen)
    assert classifier is fresh[0]
    parameters = dict(classifier.model.named_parameters())
    assert {each.dtype for each in parameters.values()} == {torch.float32}
    assert trained
    assert all(torch.equal(parameters[key], each) for key, each in trained.items())
    untouched = dict(opened(gpt2, method, seed=7).model.named_parameters())
    assert all(torch.equal(parameters[key], untouched[key]) for key in parameters.keys() - trained.keys())


def _gpu_memory_runs_out(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def _main_memory_runs_out(*_: object) -> None:
    torch.empty(1 << 50, dtype=torch.uint8)


@pytest.mark.parametrize("exhausted", [_gpu_memory_runs_out, _main_memory_runs_out])
def test_a_run_that_memory_cannot_hold_is_an_error_that_says_what_needs_less(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, exhausted: Callable[..., None]
) -> None:
    monkeypatch.setattr(Fit, "step", exhausted)
    run: Run = runs.run("gpt2", "lora")
    with raises(OutOfMemory, code="run.out-of-memory", run="lora"):
        run.execute(tmp_path)
