"""Only the layer that owns a frozen weight reads it: a precision that hides its weights changes no number."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from afina import Adapter, Backbone, Predictor, Run
from afina.engine.engine import Engine
from afina.errors import InvalidStudy
from afina.methods import make
from afina.methods.method import Method
from afina.models.architectures import ARCHITECTURES
from afina.models.backbone_spec import FLOAT, PRECISIONS, Precision
from afina.models.classifier import Classifier
from afina.models.kernels.int8 import Int8Weight
from afina.models.kernels.linear import HeldWeight, frozen_weight, held_by, held_tensors, is_linear, multiply
from afina.models.objectives import Classes
from afina.predicting.predictor import ModelPredictor
from afina.report.answer_costs import bytes_to_serve
from afina.server.receipts import Receipt
from afina.store.exchange.merging import merge
from afina.studies.planning.forecast_runs import forecast_run
from afina.studies.runs.spec import RunSpec
from afina.training.dry_run import serving_bytes
from crowd import adapter
from fakes import TEXTS, Backbones, Runs, encoded, fit_of, logits_of, sentences
from grid import some_slow
from raises import raises

HIDDEN, INT8 = "hidden", "int8"


class Hidden(HeldWeight):
    """The weight itself, under another name."""

    codes: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight)
        self._keep(codes=weight)

    def product(self, inputs: Tensor, bias: Tensor | None = None) -> Tensor:
        return multiply(inputs, self.codes, bias)

    def transposed_product(self, grads: Tensor) -> Tensor:
        return multiply(grads, self.codes.t())

    def dequantize(self) -> Tensor:
        return self.codes

    @property
    def dtype(self) -> torch.dtype:
        return self.codes.dtype


class Rounded(Hidden):
    """In bfloat16, which is computed with as float32."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight.bfloat16().float())


class Read(RuntimeError):
    """Not an AttributeError, which `getattr` with a default would take for an answer."""


def _guarded(layer: Any) -> Tensor:
    if held_by(layer) is not None:
        raise Read("a weight was read by another than the layer that holds it")
    if (weight := layer._parameters.get("weight")) is None:
        raise AttributeError("weight")
    found: Tensor = weight
    return found


@pytest.fixture(autouse=True)
def _guard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRECISIONS, HIDDEN, Precision("the weight itself", Hidden))
    monkeypatch.setitem(PRECISIONS, "rounded", Precision("bfloat16", Rounded))
    monkeypatch.setitem(
        PRECISIONS, "dequantized", Precision("", lambda weight: Hidden(Int8Weight(weight).dequantize()))
    )
    for kind in (nn.Linear, Conv1D):
        monkeypatch.setattr(kind, "weight", property(_guarded), raising=False)


METHODS: list[tuple[str, dict[str, Any]]] = [
    ("lora", {}),
    ("lora", {"targets": "all-linear", "rslora": True, "init": "orthogonal"}),
    ("lora", {"dora": True}),
    ("vera", {"r": 8}),
    ("ia3", {}),
    ("adapter", {"kind": "houlsby"}),
    ("adapter", {"kind": "parallel"}),
    ("head", {}),
    ("zero-shot", {}),
    ("bitfit", {}),
    ("layernorm", {}),
    ("prompt", {"tokens": 3}),
    ("prefix", {"tokens": 2}),
    ("lora+layernorm", {}),
    ("lora+bitfit", {"lora": {"dora": True}}),
    ("vera+prompt", {"vera": {"r": 8}, "prompt": {"tokens": 3}}),
]

QUICK = [METHODS[1], METHODS[2], METHODS[5], METHODS[12]]
"""Some of the ways that a frozen weight is multiplied; an engine answers for all of them at once, further down."""


def named(case: tuple[str, dict[str, Any]]) -> str:
    return f"{case[0]} {case[1]}"


def close(found: np.ndarray, expected: np.ndarray, tolerance: float = 1e-4) -> bool:
    return bool(np.abs(found - expected).max() <= tolerance * np.abs(expected).max())


def test_a_weight_that_another_reads_is_found_out(gpt2: Backbone) -> None:
    classifier = Classifier.open(gpt2, ("bad", "good"), 0)
    layer = next(module for module in classifier.body.modules() if is_linear(module))
    assert isinstance(layer.weight, Tensor)
    classifier.hold(HIDDEN)
    with pytest.raises(Read):
        getattr(layer, "weight", None)
    assert "weight" not in dict(layer.named_parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "case"),
    [
        *(("gpt2", case) for case in QUICK),
        *(("gpt2", METHODS[place]) for place in (4, 9, 14)),
        *(("llama", METHODS[place]) for place in (0, 3)),
    ],
    ids=lambda given: given if isinstance(given, str) else named(given),
)
def test_a_run_trains_saves_and_predicts_the_same(
    runs: Runs, family: str, case: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    plain, hidden = (runs.run(family, *case, precision=one) for one in (FLOAT, HIDDEN))
    expected, found = (run.execute(tmp_path / str(at)) for at, run in enumerate((plain, hidden)))
    assert np.allclose(found.losses, expected.losses, rtol=1e-4)
    assert found.metrics == pytest.approx(expected.metrics, rel=1e-4, nan_ok=True)
    assert (found.trainable, found.total) == (expected.trainable, expected.total)
    one, other = Adapter.load(tmp_path / "0" / expected.adapter), Adapter.load(tmp_path / "1" / found.adapter)
    assert (other.manifest.precision, found.training["precision"]) == (HIDDEN, HIDDEN)
    assert one.tensors.keys() == other.tensors.keys()
    assert all(close(other.tensors[name].numpy(), each.numpy(), 1e-3) for name, each in one.tensors.items())
    assert other.digest != one.digest
    plain_model, model = Predictor.load(one), Predictor.load(other)
    assert isinstance(plain_model, ModelPredictor)
    assert isinstance(model, ModelPredictor)
    assert held_tensors(model.classifier)
    assert model.classifier.size == plain_model.classifier.size
    assert close(model.outputs(TEXTS), plain_model.outputs(TEXTS), 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("family", some_slow(ARCHITECTURES, ("gpt2",)))
def test_a_method_that_suits_a_family_opens_on_its_base_in_int8(backbones: Backbones, family: str) -> None:
    address, suited = str(backbones.path(family)), 0
    cases = METHODS if family == "gpt2" else METHODS[::2]
    for case in cases:
        try:
            method = make(*case).for_family(family)
            plain = serving_bytes(address, method, Classes(("bad", "good")), torch.float32)
        except InvalidStudy:
            continue
        assert 0 < serving_bytes(address, method, Classes(("bad", "good")), torch.float32, INT8) < plain
        suited += 1
    assert suited >= len(cases) // 2


def losses(backbone: Backbone, method: Method, precision: str, dtype: torch.dtype) -> list[float]:
    """Of a short training, whose held weights compute in `dtype`."""
    classifier = Classifier.open(backbone, ("bad", "good"), 0)
    classifier.hold(precision)
    torch.manual_seed(0)
    classifier.wrap(method.attach)
    fit = fit_of(classifier, method, encoded(backbone, sentences(40)), dtype=dtype)
    held = [module.dtype for module in classifier.modules() if isinstance(module, HeldWeight)]
    assert precision == FLOAT or {*held} == {dtype}
    fit.advance()
    return fit.account.losses


@pytest.mark.parametrize("case", [METHODS[2], METHODS[3], METHODS[4], METHODS[5]], ids=named)
def test_in_bfloat16_a_held_weight_computes_in_bfloat16(gpt2: Backbone, case: tuple[str, dict[str, Any]]) -> None:
    method = make(*case).for_family("gpt2")
    plain, hidden = (losses(gpt2, method, precision, torch.bfloat16) for precision in (FLOAT, HIDDEN))
    assert hidden == pytest.approx(plain, rel=0.03)


@pytest.mark.parametrize("case", [METHODS[2], METHODS[4], METHODS[9]], ids=named)
def test_int8_trains_in_bfloat16_as_in_float32(gpt2: Backbone, case: tuple[str, dict[str, Any]]) -> None:
    method = make(*case).for_family("gpt2")
    exact, lowered = (losses(gpt2, method, INT8, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert lowered == pytest.approx(exact, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "dtype"), [("gpt2", "float32"), ("llama", "bfloat16")])
def test_an_engine_answers_for_a_mix_of_adapters_as_one_with_plain_weights(
    backbones: Backbones, family: str, dtype: str
) -> None:
    backbone = Backbone.load(str(backbones.path(family)))
    cases = [case for case in METHODS if family == "gpt2" or "bitfit" not in case[0]]  # LLaMA has no biases
    plain = [adapter(backbone, *case, seed=seed) for seed, case in enumerate(cases)]
    held = [replace(one, manifest=one.manifest.model_copy(update={"precision": HIDDEN})) for one in plain]
    with Engine(backbone, dtype=dtype) as engine, Engine(backbone, dtype=dtype) as other:
        expected = engine.predict((one, text) for one in plain for text in TEXTS)
        found = other.predict((one, text) for one in held for text in TEXTS)
        assert all(resident.shares_model for resident in other.load(*held))
        for left, right in zip(expected, found, strict=True):
            assert close(right.outputs, left.outputs, 1e-4 if dtype == "float32" else 0.1)
        assert other.load(plain[0])[0].shares_model
        assert list(other.hosts.sizes) == [HIDDEN, FLOAT]
        assert close(other.predict([(plain[0], TEXTS[1])])[0].outputs, expected[1].outputs, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("case", QUICK, ids=named)
def test_int8_predicts_by_the_weights_that_its_codes_stand_for(
    gpt2: Backbone, case: tuple[str, dict[str, Any]]
) -> None:
    held, rounded = (
        replace(made, manifest=made.manifest.model_copy(update={"precision": precision}))
        for made in [adapter(gpt2, *case)]
        for precision in (INT8, "dequantized")
    )
    found, expected = (Predictor.of(one, gpt2).outputs(TEXTS) for one in (held, rounded))
    assert close(found, expected)


@pytest.mark.slow
def test_an_int8_run_trains_by_the_weights_that_its_codes_stand_for(runs: Runs, tmp_path: Path) -> None:
    found, expected = (
        runs.run("gpt2", *METHODS[1], precision=one).execute(tmp_path / one) for one in (INT8, "dequantized")
    )
    assert np.allclose(found.losses, expected.losses, rtol=1e-4)
    foreseen = forecast_run(runs.run("gpt2", *METHODS[1], precision=INT8), calibrate=False)
    assert found.memory.state_bytes == foreseen.state_bytes
    assert found.memory.activation_bytes == foreseen.activation_bytes
    layers = Classifier.open(Backbone.load(found.backbone), ("0", "1"), 0).body.modules()
    shapes = [frozen_weight(layer).shape for layer in layers if is_linear(layer)]
    saved = sum(3 * outputs * inputs - 4 * outputs for outputs, inputs in shapes)  # codes of 1 byte, scales of 4
    assert expected.memory.state_bytes - found.memory.state_bytes == saved
    assert bytes_to_serve(found) == 4 * (found.total + found.body) - saved


@pytest.mark.slow
def test_what_a_held_run_takes_is_foreseen_to_the_byte(runs: Runs, tmp_path: Path) -> None:
    run = runs.run("gpt2", *METHODS[2], precision=HIDDEN)
    foreseen = forecast_run(run, calibrate=False)
    assert foreseen.terms.summary["precision"] == HIDDEN
    plain = forecast_run(runs.run("gpt2", *METHODS[2]), calibrate=False)
    assert "precision" not in plain.terms.summary
    assert foreseen.state_bytes == plain.state_bytes  # as many bytes, under another name
    measured = run.execute(tmp_path).memory
    assert (foreseen.state_bytes, foreseen.activation_bytes) == (measured.state_bytes, measured.activation_bytes)


@pytest.mark.parametrize("case", [METHODS[1], METHODS[2]], ids=named)
def test_a_merged_model_has_the_weights_that_its_adapter_was_on(
    gpt2: Backbone, case: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    made = adapter(gpt2, *case)
    rounded = replace(made, manifest=made.manifest.model_copy(update={"precision": "rounded"}))
    opened = Predictor.of(rounded, gpt2)
    assert not close(opened.outputs(TEXTS), Predictor.of(made, gpt2).outputs(TEXTS))
    merge(opened, tmp_path / "merged")
    again = Classifier(Backbone.load(str(tmp_path / "merged")).open(("bad", "good"), 0)[0])
    assert not held_tensors(again)
    head = {name: tensor for name, tensor in made.tensors.items() if "score" in name}
    (weight,) = head.values()
    with torch.no_grad():
        again.model.score.weight.copy_(weight)  # the head, which a backbone is opened without
    assert close(logits_of(again, gpt2).numpy(), opened.outputs(TEXTS), 1e-4)


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("peft", {"type": "LOHA", "settings": {"r": 2}}),
    ("full", {}),
    ("last+lora", {}),
    ("prelayer", {}),
]


@pytest.mark.parametrize("case", REFUSED, ids=named)
def test_a_method_that_would_read_or_train_a_held_weight_is_refused(
    runs: Runs, case: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    with raises(InvalidStudy, code="method.precision-unsupported"):
        runs.run("gpt2", *case, precision=HIDDEN).execute(tmp_path)


def test_a_backbones_digest_is_of_its_weights_before_any_is_held(gpt2: Backbone) -> None:
    backbone = Backbone.load(gpt2.address)
    classifier = Classifier.open(backbone, ("bad", "good"), 0)
    classifier.hold("rounded")
    with pytest.raises(ValueError, match="already holds its weight"):
        backbone.digest_of(classifier.body)
    with Engine(Backbone.load(gpt2.address)) as engine:
        engine.hosts.of("rounded")
        assert engine.backbone.digest == gpt2.digest


def test_a_neutral_precision_is_in_no_receipt() -> None:
    told = {"version": "a/b@1", "adapter": "x", "base": "y", "dtype": "float32"}
    assert json.loads(str(Receipt(**told))) == Receipt(**told).as_json() == told
    other = Receipt(**told, precision=HIDDEN)
    assert Receipt.parse(str(other)) == other
    assert Receipt.parse(json.dumps(told)).precision == FLOAT


def test_another_precision_is_another_run_and_another_adapter(runs: Runs) -> None:
    plain, hidden = (runs.run("gpt2", "lora", precision=one) for one in (FLOAT, HIDDEN))
    assert plain.key == runs.run("gpt2", "lora").key != hidden.key
    assert RunSpec.model_validate_json(hidden.model_dump_json()).training.precision == HIDDEN
    manifest = Adapter.load(runs.adapter("gpt2", "lora")).manifest
    held = manifest.model_copy(update={"precision": HIDDEN})
    assert held.digest != manifest.digest
    assert held.model_dump()["precision"] == HIDDEN


def test_an_unknown_precision_is_an_error() -> None:
    with raises(InvalidStudy, code="study.value-invalid", key="training.precision", where="run", found="int3"):
        Run(backbone="x", task="y", method="lora", training={"precision": "int3"})
