"""bfloat16 training leaves quality unharmed, on real sentences; `benchmarks/precision.py` measures it at full size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from afina import device

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.assets
@pytest.mark.slow
def test_in_bfloat16_accuracy_is_within_the_paired_interval_of_float32s_and_one_adapter_predicts_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not device.computes_bfloat16(torch.device("cpu")):
        pytest.skip("this processor emulates bfloat16, and so never trains in it by default")
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from precision import measure

    found = measure("lora", train=160, evaluate=200, learning_rate=2e-3)
    assert min(found.float32, found.bfloat16) > 0.6  # else nothing was learnt, and agreement would say nothing
    assert found.low <= 0 <= found.high
    assert found.agreement >= 0.985
