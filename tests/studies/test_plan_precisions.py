"""What `afina plan` foresees of other precisions, and what it offers where a method does not fit in memory."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch

from afina import Backbone, Predictor
from afina.methods import make
from afina.models.classifier import Classifier
from afina.models.objectives import Classes
from afina.predicting.predictor import ModelPredictor
from afina.report.details.plans import PRICE, forecast_table
from afina.studies.planning.forecast_runs import forecast_methods
from afina.training.dry_run import serving_bytes
from afina.training.settings import Training
from command import Command
from crowd import adapter
from fakes import encoded, fit_of, opened, sentences

INT8, NF4 = "int8", "nf4"


@pytest.mark.slow
def test_a_method_that_does_not_fit_is_offered_in_int8(gpt2: Backbone) -> None:
    methods, training = [make("lora"), make("full")], Training(dtype="bfloat16", batch_size=1, max_length=8)
    plain = forecast_methods(gpt2.address, methods[:1], training=training)
    held = forecast_methods(gpt2.address, methods[:1], training=training.model_copy(update={"precision": INT8}))[0]
    assert held.peak < plain[0].peak
    lora, full = forecast_methods(gpt2.address, methods, training=training, memory=held.peak)
    others = {one.terms.precision: one for one in lora.alternatives}
    assert [*others] == [INT8, NF4]
    assert others[INT8] == replace(held, terms=replace(held.terms, memory=held.peak, gpu=held.peak))
    assert full.alternatives == ()  # it trains the weights
    told = {one["precision"]: one for one in lora.summary["alternatives"]}
    assert told[INT8]["devices"] == 1
    assert (told[INT8]["peak"], told[INT8]["gpu_peak"], told[INT8]["fits"]) == (held.peak, held.gpu_peak, True)
    assert "alternatives" not in full.summary | plain[0].summary
    (note,) = [note for note in forecast_table([lora, full]).notes if INT8 in note]
    assert note.startswith("With `--precision int8`, these fit too: LoRA (")
    assert note.endswith(PRICE.format(bits=8))
    less = forecast_methods(gpt2.address, methods[:1], training=training, memory=held.peak - 1)
    assert INT8 not in {one.terms.precision for one in less[0].alternatives}
    assert not any(INT8 in note for note in forecast_table(less).notes)


@pytest.mark.slow
def test_precisions_are_compared(afina: Command, gpt2: Backbone) -> None:
    asked = ["plan", "--backbone", gpt2.address, "--method", "lora", "--method", "full", "--dtype", "bfloat16"]
    both = json.loads(afina(*asked, "--precision", "float", "--precision", INT8, "--json").out)["backbones"]
    assert [one.get("precision") for one in both] == [None, INT8]
    assert [list(one["methods"]) for one in both] == [["lora", "full"], ["lora"]]
    serving = [one["methods"]["lora"]["serving_bytes"] for one in both]
    assert serving[0] > serving[1] > 0
    printed = afina(*asked, "--precision", "float", "--precision", INT8).out
    shown = " ".join(printed.split())  # where a line ends depends on the address
    assert "by precision" in shown
    assert "Not possible in a precision: int8: full" in shown


@pytest.mark.parametrize(("precision", "dtype"), [("float", "float32"), ("float", "bfloat16"), (INT8, "bfloat16")])
def test_what_serving_takes_is_what_an_open_adapter_takes(gpt2: Backbone, precision: str, dtype: str) -> None:
    made = adapter(gpt2, "lora")
    made = replace(made, manifest=made.manifest.model_copy(update={"precision": precision}))
    served = Predictor.of(made, gpt2, dtype=dtype)
    assert isinstance(served, ModelPredictor)
    method, kind = make("lora").for_family("gpt2"), getattr(torch, dtype)
    assert serving_bytes(gpt2.address, method, Classes(("bad", "good")), kind, precision) == served.classifier.size


def test_a_model_in_int8_is_freed_before_it_is_opened_again(gpt2: Backbone) -> None:
    method = make("lora").for_family("gpt2")
    classifier = Classifier.open(gpt2, ("bad", "good"), 0, precision=INT8)
    classifier.wrap(method.attach)
    fit = fit_of(classifier, method, encoded(gpt2, sentences(20)), dtype=torch.bfloat16, steps=1)
    fit.advance()
    alive = weakref.ref(classifier)
    del classifier

    def reopen() -> Any:
        assert alive() is None
        return opened(gpt2, method)

    assert fit.finish(reopen).training is not None
