"""Weights in nf4: bitsandbytes' own codes and numbers, products, memory, and runs on them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from afina import Adapter, Backbone, Predictor
from afina.errors import InvalidStudy, NotFound
from afina.models.kernels import nf4
from afina.models.kernels.linear import frozen_weight
from afina.models.kernels.nf4 import Nf4Weight
from afina.models.kernels.patches import hold
from afina.studies.executors.local_executor import LocalExecutor
from afina.studies.planning.forecast_runs import forecast_run
from fakes import TEXTS, Runs
from raises import raises

NAME = "nf4"
SHAPES = [(64, 64), (192, 128), (1, 64), (48, 96), (96, 32), (7, 34)]
"""In the last three, rows do not end with a block."""


@pytest.fixture
def functional() -> Any:
    return pytest.importorskip("bitsandbytes", reason="needs the extra afina[quant]").functional


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 0.02


def by_formula(held: Nf4Weight, levels: Tensor, scales: Tensor) -> Tensor:
    """The weight, float32 [M, K], from the 16 levels and the scales of the blocks."""
    codes = torch.stack([held.codes >> 4, held.codes & 15], -1).flatten()[: np.prod(held.shape)]
    return (levels[codes.long()] * scales.repeat_interleave(nf4.BLOCK)[: len(codes)]).view(held.shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_codes_and_numbers_are_those_of_bitsandbytes(functional: Any, shape: tuple[int, int]) -> None:
    weight = drawn(*shape)
    codes, state = functional.quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
    held = Nf4Weight(weight)
    assert torch.equal(held.codes, codes)
    assert torch.equal(held.absmax, state.absmax)
    assert torch.equal(held.nested_absmax, state.state2.absmax)
    assert torch.equal(held.offset, state.offset)
    scales = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
    found = held.dequantize()
    assert torch.equal(found, by_formula(held, state.code, scales))
    if shape[1] % nf4.BLOCK == 0:
        assert torch.equal(found, functional.dequantize_4bit(codes, state).view(shape))
    # half of the widest gap between two levels, and half a step of the scale's own 8 bits
    assert (found - weight).abs().max() <= (0.152 + 0.02) * scales.max()


def test_a_weight_in_parts_has_the_same_codes(functional: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = drawn(70, 100)
    whole = Nf4Weight(weight)
    monkeypatch.setattr(nf4, "_PART", 128)
    for one, other in zip(whole.tensors, Nf4Weight(weight).tensors, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_computes_what_linear4bit_computes(functional: Any, dtype: torch.dtype, bias: bool) -> None:
    from bitsandbytes.nn import Linear4bit

    plain = nn.Linear(128, 96, bias=bias)
    theirs = Linear4bit(128, 96, bias=bias, compute_dtype=dtype, quant_type="nf4")
    theirs.load_state_dict(plain.state_dict())
    theirs = theirs.to("cpu").train()  # in evaluation, it may change the weight to another layout and round the scales
    hold(plain, Nf4Weight(frozen_weight(plain).dequantize()))
    plain.to(dtype)
    results = []
    for layer in (plain, theirs):
        inputs = drawn(1, 5, 128).to(dtype).requires_grad_()
        found = layer(inputs)
        found.backward(drawn(1, 5, 96).to(dtype))
        results.append((found.detach(), inputs.grad))
    for one, other in zip(*results, strict=True):
        assert one.dtype == dtype
        tolerance = 1e-6 if dtype == torch.float32 else 2**-7
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * float(other.abs().max()))


def test_a_conversion_changes_the_compute_dtype_only(functional: Any) -> None:
    held = Nf4Weight(drawn(64, 128))
    before, exact = [tensor.clone() for tensor in held.tensors], held.dequantize()
    assert held.to(torch.bfloat16).dtype == torch.bfloat16
    assert torch.equal(held.dequantize(), exact.bfloat16())
    assert all(map(torch.equal, held.tensors, before))
    assert held.to(torch.float32).dtype == torch.float32
    assert torch.equal(held.dequantize(), exact)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sizes_need_no_values_and_no_bitsandbytes(
    functional: Any, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Nf4Weight(drawn(*shape))
    nf4._kernels.cache_clear()
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    meta = Nf4Weight(drawn(*shape).to("meta"))
    with FakeTensorMode():
        fake = Nf4Weight(torch.empty(shape)).to(torch.bfloat16)
        product = fake.product(torch.empty(3, shape[1], dtype=torch.bfloat16))
    assert (product.shape, product.dtype) == ((3, shape[0]), torch.bfloat16)
    for one in (meta, fake):
        assert [(t.shape, t.dtype) for t in one.tensors] == [(t.shape, t.dtype) for t in held.tensors]
    size = sum(tensor.nbytes for tensor in Nf4Weight(torch.empty(3072, 768, device="meta")).tensors)
    assert size / (3072 * 768) == pytest.approx(0.51587, abs=1e-5)


CASES = [
    ("lora", {}, "float32"),
    ("lora", {"dora": True}, "bfloat16"),
    ("bitfit", {}, "float32"),
    ("prefix", {"tokens": 2}, "bfloat16"),
    ("linear_probe", {}, "float32"),
]
"""Other methods compute with frozen weights as in `test_frozen_law.py`."""


@pytest.mark.usefixtures("functional")
@pytest.mark.parametrize(("method", "given", "dtype"), CASES)
def test_a_run_takes_what_is_foreseen_and_its_adapter_predicts_what_it_learnt(
    runs: Runs, tmp_path: Path, method: str, given: dict[str, Any], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.run("gpt2", method, given, precision=NAME, dtype=dtype)
    with monkeypatch.context() as without:
        nf4._kernels.cache_clear()
        without.setitem(sys.modules, "bitsandbytes", None)
        foreseen = forecast_run(run, calibrate=False)
    record = run.execute(tmp_path)
    measured = record.memory
    assert (foreseen.state_bytes, foreseen.activation_bytes) == (measured.state_bytes, measured.activation_bytes)
    adapter = Adapter.load(tmp_path / record.adapter)
    assert adapter.manifest.precision == record.training["precision"] == NAME
    predictor = Predictor.load(adapter)
    assert any(isinstance(module, Nf4Weight) for module in predictor.classifier.modules())  # type: ignore[attr-defined]
    assert np.isfinite(predictor.outputs(TEXTS)).all()


def test_a_backbone_that_is_saved_quantised_is_refused(gpt2: Backbone, tmp_path: Path) -> None:
    content = json.loads((gpt2.path / "config.json").read_text())
    saved = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": NAME}
    (tmp_path / "config.json").write_text(json.dumps(content | {"quantization_config": saved}))
    with raises(InvalidStudy, code="backbone.unsupported", field="quantization_config"):
        Backbone.load(str(tmp_path))


def test_without_bitsandbytes_a_run_names_the_extra(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nf4._kernels.cache_clear()
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    run = runs.run("gpt2", "lora", precision=NAME)
    for begin in (lambda: LocalExecutor().check(run), lambda: run.execute(tmp_path)):
        with raises(NotFound, code="extra.missing", extra="quant", package="bitsandbytes"):
            begin()
