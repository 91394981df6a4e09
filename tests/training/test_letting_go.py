"""What a training held is free as soon as nobody has it any more: a notebook carries out one run after another."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from afina import METHODS, Backbone, Predictor, Run
from afina.errors import Diverged
from afina.methods import make
from afina.models.architectures import ARCHITECTURES
from afina.models.classifier import Classifier
from afina.studies.runs import prepared
from afina.training.fit import Fit
from crowd import adapter
from fakes import SLOW, Backbones, Runs, encoded, family_of, fit_of, opened, sentences
from grid import by_family


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No garbage collector, which would break a circle of references some day, gigabytes later."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def watched(*things: Any) -> list[weakref.ref[Any]]:
    """References that keep nothing, to these and to every parameter in them."""
    parameters = [each for thing in things if isinstance(thing, Classifier) for each in thing.parameters()]
    return [weakref.ref(thing) for thing in (*things, *parameters)]


def alive(references: list[weakref.ref[Any]]) -> list[str]:
    return [type(found).__name__ for each in references if (found := each()) is not None]


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("family", by_family(ARCHITECTURES, SLOW))
def test_a_classifier_that_nobody_has_any_more_is_gone(backbones: Backbones, family: str) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    for name in ("full", "lora"):
        classifier = opened(backbone, make(name).for_family(family))
        references = watched(classifier)
        del classifier
        assert alive(references) == []


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize(
    ("name", "dtype", "checkpointing"),
    [
        ("full", torch.float32, True),
        ("full", torch.bfloat16, False),
        ("lora", torch.bfloat16, True),
        ("prelayer", torch.float32, False),
    ],
    ids=str,
)
def test_a_training_that_is_over_leaves_nothing(
    llama: Backbone, name: str, dtype: torch.dtype, checkpointing: bool
) -> None:
    method = make(name).for_family(llama.family)
    fit = fit_of(
        opened(llama, method), method, encoded(llama, sentences(40)), dtype=dtype, checkpointing=checkpointing, steps=2
    )
    references = watched(fit, fit.classifier)
    fit.advance()
    fit.measure()
    references += watched(fit.finish(lambda: opened(llama, method)))
    del fit
    assert alive(references) == []


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize(("device", "freed"), [("cuda", True), ("cpu", False)])
def test_on_a_gpu_a_lowered_model_is_freed_before_it_is_opened_again(
    gpt2: Backbone, device: str, freed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = make("lora").for_family(gpt2.family)
    fit = fit_of(opened(gpt2, method), method, encoded(gpt2, sentences(40)), dtype=torch.bfloat16, steps=1)
    fit.advance()
    references = [weakref.ref(each) for each in fit.classifier.parameters() if not each.requires_grad]
    assert references
    monkeypatch.setattr(Fit, "device", torch.device(device))

    def reopen() -> Classifier:
        assert (alive(references) == []) is freed
        return opened(gpt2, method)

    assert fit.finish(reopen).model.dtype == torch.float32


def note_what_is_prepared(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Any]]:
    """References to every classifier that a run opens, and to its parameters."""
    found: list[weakref.ref[Any]] = []
    attached = prepared.attached

    def noted(*given: Any) -> Classifier:
        classifier = attached(*given)
        found.extend(watched(classifier))
        return classifier

    monkeypatch.setattr(prepared, "attached", noted)
    return found


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("name", ["full", "lora"])
def test_a_run_in_this_process_leaves_its_record_and_nothing_else(
    runs: Runs, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    references = note_what_is_prepared(monkeypatch)
    made = runs.run("gpt2", name, max_steps=2, dtype="bfloat16").execute(tmp_path)
    assert made.steps == 2
    assert len(references) > 10
    assert alive(references) == []


@pytest.mark.usefixtures("uncollected")
def test_an_error_that_is_kept_keeps_no_model(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `sys.last_value` does in a notebook."""

    def diverge(self: Fit, packed: Any) -> float:
        raise Diverged("step 1 of 2: the loss is nan.")

    references = note_what_is_prepared(monkeypatch)
    monkeypatch.setattr(Fit, "step", diverge)
    run: Run = runs.run("gpt2", "lora", max_steps=2)
    with pytest.raises(Diverged) as kept:
        run.execute(tmp_path)
    assert "the loss is nan" in str(kept.value)
    assert len(references) > 10
    assert alive(references) == []


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_predictor_that_nobody_has_any_more_is_gone(backbones: Backbones, dtype: str) -> None:
    """So opening one needs no collection before, which looks at every object of the process."""
    for name in (*METHODS, "lora+prefix"):
        backbone = Backbone.load(str(backbones.path(family_of(name))))
        predictor = Predictor.of(adapter(backbone, name), backbone, dtype)
        predictor(["What a warm ferry!"])
        references = watched(predictor, predictor.classifier)
        del predictor
        assert alive(references) == [], name
