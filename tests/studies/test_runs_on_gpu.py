"""On a GPU: whole runs record the GPU and its memory, forget nothing where nothing trains, and repeat themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from afina import Predictor, Run
from afina.meter import gpu_memory
from afina.ranks import ALONE, Ranks
from afina.report.tables import measured_on_gpu
from afina.studies.planning.forecast_runs import forecast_run
from afina.studies.runs.execute import execute
from fakes import TEXTS, Backbones, Runs, sentences, write_csv
from together import together

NEUTRAL = tuple(f"Page {number} of the handbook lists tools, dates and measures." for number in range(8))


@pytest.fixture(scope="module")
def neutral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("neutral") / "neutral.txt"
    path.write_text("\n".join(NEUTRAL), encoding="utf-8")
    return path


@pytest.mark.gpu("device.choose", "meter.Meter.phase", "meter.Meter.allocated")
@pytest.mark.parametrize(
    ("family", "method", "dtype"),
    [
        ("gpt2", "lora", "float32"),
        ("llama", "lora", "auto"),
        ("gpt2", "full", "auto"),
        ("bert", "linear_probe", "auto"),
    ],
)
def test_a_run_records_the_gpu_and_its_memory(
    gpu: torch.device, family: str, method: str, dtype: str, runs: Runs, tmp_path: Path
) -> None:
    run = runs.run(family, method, dtype=dtype)
    record, seen = run.execute(tmp_path), forecast_run(run, calibrate=False)
    assert record.environment.device == f"cuda ({torch.cuda.get_device_name(gpu)})"
    assert measured_on_gpu(record)
    memory = record.memory
    assert memory.allocated_end is not None
    assert memory.allocated_peak is not None
    assert memory.reserved_peak is not None
    assert memory.state_bytes <= memory.allocated_end <= memory.allocated_peak <= memory.reserved_peak
    assert seen.allocated_end <= memory.allocated_end
    assert seen.terms.gpu == gpu_memory(gpu)
    found = Predictor.load(tmp_path / record.adapter).outputs(TEXTS)
    assert np.isfinite(found).all()


@pytest.mark.gpu("device.choose")
def test_a_run_that_trains_the_head_alone_forgets_nothing(
    gpu: torch.device, runs: Runs, neutral: Path, tmp_path: Path
) -> None:
    """The losses before and after the training are computed on the same device."""
    found = runs.run("gpt2", "head", retention=str(neutral)).execute(tmp_path).retention
    assert found is not None
    assert (found.change, found.change_interval) == (0.0, (0.0, 0.0))


@pytest.mark.gpu("device.choose", "generating.generation._best")
def test_a_run_on_texts_writes_answers(gpu: torch.device, runs: Runs, tmp_path: Path) -> None:
    rows = [(text, " ".join(text.split()[:3])) for text, _ in sentences(60)]
    task = str(write_csv(tmp_path / "rows.csv", rows, ("prompt", "completion")))
    record = runs.run("llama", "lora", dtype="auto").model_copy(update={"task": task}).execute(tmp_path / "out")
    assert record.memory.allocated_peak is not None
    assert all(np.isfinite(value) for value in record.metrics.values() if value is not None)


@pytest.mark.gpu("device.choose")
@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_a_repeated_and_an_interrupted_run_give_the_same_adapter_bit_for_bit(
    gpu: torch.device, dtype: str, runs: Runs, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"dtype": dtype, "max_steps": 12, "checkpoint_seconds": 0}
    run = runs.run("llama", "lora", **given)
    first, second = (run.execute(tmp_path / name) for name in ("first", "second"))
    assert first.digest == second.digest
    steps = iter(range(100))
    with pytest.raises(KeyboardInterrupt):
        execute(run, tmp_path / "third", stopped=lambda: next(steps) == 4)
    third = run.execute(tmp_path / "third")
    assert (third.digest, third.losses) == (first.digest, first.losses)


def losses_of(ranks: Ranks, run: Run, out: str) -> tuple[list[float], str]:
    record = run.execute(Path(out), ranks=ranks)
    return [loss for _, loss in record.losses], record.environment.device


@pytest.mark.gpu("device.choose")
@pytest.mark.parametrize("shards", [False, True], ids=["data parallel", "sharded"])
def test_two_gpus_train_a_run_as_one(
    gpu: torch.device, shards: bool, runs: Runs, backbones: Backbones, tmp_path: Path
) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    run = runs.run("llama", "lora", {"dropout": 0.0}, learning_rate=1e-3)
    run = run.model_copy(update={"backbone": str(backbones.path("llama", dropout=0.0))})
    alone = losses_of(ALONE, run, str(tmp_path / "alone"))
    for losses, device in together(2, losses_of, run, str(tmp_path / "together"), shards=shards):
        assert device == alone[1]
        assert losses == pytest.approx(alone[0], rel=1e-3)
