"""The benchmarks measure what they say, on a tiny model; their figures are not looked at, only how they are made."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from fakes import Backbones, Runs, sentences, write_csv

# peft asks transformers for a property that transformers has renamed.
pytestmark = [pytest.mark.bench, pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")]

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
FIGURES = {"seconds_per_step", "tokens_per_second", "useful_flops", "rss_peak"}
STEPS = 3


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def path(backbones: Backbones) -> str:
    return str(backbones.path("gpt2", dropout=0.0))


def last_line(output: str) -> Any:
    return json.loads(output.splitlines()[-1])


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)


def check_ratios(result: dict[str, Any]) -> set[str]:
    ratios = {key for key in result if "/" in key}
    for key in ratios:
        above, below = key.split("/")
        assert result[key] == result[above]["tokens_per_second"] / result[below]["tokens_per_second"], key
    return ratios


def test_the_last_line_has_every_method_and_arm_and_the_quotients_of_their_speeds(
    path: str, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import train_step

    monkeypatch.setattr(train_step, "memory", lambda method, name, plan, options: 2**30)
    monkeypatch.setattr(train_step.machine, "peak", lambda dtype: 4e9 if dtype == torch.float32 else 9e9)
    report = tmp_path / "report.md"
    options = ["--steps", "2", "--repeats", "2", "--backbone", path, "--task", toy, "--markdown", str(report)]
    monkeypatch.setattr(sys, "argv", ["train_step.py", *options])
    train_step.main()
    output = capsys.readouterr().out
    result = last_line(output)
    assert list(result) == ["peak", "lora", "full", "prelayer"]
    assert result["peak"] == {"fp32": 4e9, "bf16": 9e9}
    body = 2 * (12 * 32 * 32 + 13 * 32) + 2 * 32  # two blocks of width 32 and the last norm
    for method, useful in (("lora", 4), ("full", 6), ("prelayer", 4)):
        found = result[method]
        lowered = {"D-products"} if method != "full" and multiplies_int8() else set()
        arms = {"A", "B1", "B2", "C", "D", *lowered}
        assert {arm for arm in found if isinstance(found[arm], dict)} == arms
        ratios = {"D/A", "D/B1", "D/B2", "C/A"} | {f"{arm}/{other}" for arm in lowered for other in ("D", "B1", "B2")}
        assert check_ratios(found) == ratios
        for arm in arms:
            assert set(found[arm]) == FIGURES | ({"share_of_quantising"} if arm in lowered else set())
            assert arm not in lowered or 0 < found[arm]["share_of_quantising"] < 1
            assert found[arm]["useful_flops"] == useful * body * found[arm]["tokens_per_second"]
        assert found["share_of_peak"] * result["peak"][dtype_of_d()] == pytest.approx(found["D"]["useful_flops"])
    assert report.read_text() == output.rpartition("\n{")[0]
    assert output.count("1.00 GiB") == 15 + 2 * multiplies_int8()


def multiplies_int8() -> bool:
    from afina.device import why_no_int8

    return why_no_int8(torch.device("cpu")) is None


def test_the_benchmark_of_a_gpu_is_rehearsed_on_a_cpu_with_every_arm() -> None:
    from gpu_arms import NEEDS, SIDES

    output = run("gpu.py", "--rehearse").stdout
    result, table = last_line(output), [line for line in output.splitlines() if line.startswith("| ")]
    found = {(one["section"], one["arm"]): one for one in result["arms"]}
    assert {key: len(arms) for key, arms in (("table", table[2:]), ("line", result["arms"]))} == {
        "table": len(found),
        "line": len(found),
    }
    assert result["device"] == "cpu"
    for side, sections in SIDES.items():
        for section, arms in sections.items():
            for one in (found.pop((section, arm)) for arm in arms):
                if side not in NEEDS:
                    assert one["speed"] > 0, one
                    assert one["repeats"] == 1
                elif find_spec(NEEDS[side]) is None:
                    assert one["note"] == "not installed"
    assert not found


@pytest.mark.skipif(torch.cuda.is_available(), reason="refused only without a CUDA device")
def test_the_benchmark_of_a_gpu_is_refused_without_one() -> None:
    command = [sys.executable, str(BENCHMARKS / "gpu.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1
    assert "torch finds no CUDA device" in done.stderr
    assert not done.stdout


def test_an_arm_that_does_not_end_in_time_is_said(tmp_path: Path) -> None:
    import gpu
    import gpu_arms
    from afina import meter

    settings = gpu_arms.Settings("tiny", "random:nowhere", str(tmp_path), "cpu", 0.0)
    found = gpu.measure("afina", settings, meter.now())
    assert {one["note"] for one in found} == {gpu.UNFIT}
    assert [(one["section"], one["arm"]) for one in found] == [
        (section, arm) for section, arms in gpu_arms.SIDES["afina"].items() for arm in arms
    ]


def dtype_of_d() -> str:
    from afina.device import computes_bfloat16

    return "bf16" if computes_bfloat16(torch.device("cpu")) else "fp32"


def test_memory_is_that_of_a_process_of_its_own(path: str, toy: str) -> None:
    few = ["--steps", "1", "--repeats", "1", "--methods", "prelayer", "--arms", "C"]
    done = run("train_step.py", *few, "--backbone", path, "--task", toy)
    found = last_line(done.stdout)
    assert set(found) == {"peak", "prelayer"}
    assert set(found["prelayer"]) == {"C"}
    assert 2**27 < found["prelayer"]["C"]["rss_peak"] < 2**31
    assert found["peak"]["fp32"] > 1e9


def test_prediction_reports_the_quotients_of_its_speeds_and_the_same_labels(path: str, toy: str) -> None:
    done = run("predict.py", "--texts", "20", "--repeats", "1", "--backbone", path, "--task", toy)
    result = last_line(done.stdout)
    others = {"pipeline", "padded", "sorted"}
    quotients = {f"{ours}/{other}" for ours in ("D", "D-bf16") for other in others}
    quotients |= {"D-bf16/sorted-bf16", "D-bf16/D"}
    if "D-int8" in result:  # the processor has instructions for it
        quotients |= {f"D-int8/{other}" for other in ("sorted", "sorted-bf16", "D", "D-bf16")}
    assert check_ratios(result) == quotients
    for arm in {*others, "D", "sorted-bf16", "D-bf16"} | {"D-int8"} & result.keys():
        assert result[arm]["agreement"] == 1 if "-" not in arm else 0.8 <= result[arm]["agreement"] <= 1
        assert result[arm]["tokens_per_second"] > result[arm]["texts_per_second"] > 0


def test_generation_reports_the_quotients_of_its_speeds_and_the_same_answers(
    backbones: Backbones, tmp_path: Path
) -> None:
    rows = [(f"{number} {text}", text) for number, (text, _) in enumerate(sentences(40))]
    task = write_csv(tmp_path / "rows.csv", rows, ("prompt", "completion"))
    record = Runs(tmp_path, backbones, str(task)).run("gpt2", "lora", max_length=96).execute(tmp_path)
    arguments = ("--inputs", str(task), "--texts", "9", "--new", "8", "--batches", "1", "4", "--repeats", "1")
    arms = ("--arms", "1", "4", "4-bf16", "D", "D4-bf16")
    result = last_line(run("generate.py", str(tmp_path / record.adapter), *arguments, *arms).stdout)
    assert check_ratios(result) == {f"{ours}/{other}" for ours in ("D", "D4-bf16") for other in ("1", "4", "4-bf16")}
    assert [result[arm]["agreement"] for arm in ("1", "4", "D")] == [1, 1, 1]
    assert all(0 < result[arm]["tokens"] <= 9 * 8 for arm in arms[1:])


def test_mixed_batches_are_told_beside_the_merged_model_and_pefts_and_answer_alike(path: str, toy: str) -> None:
    arguments = ("--adapters", "1,3,32", "--batches", "1", "--repeats", "1", "--backbone", path, "--task", toy)
    result = last_line(run("serve.py", *arguments).stdout)
    assert list(result["mixed"]) == ["1", "3", "32"]
    assert result["milliseconds"]["load"] > 0
    assert result["milliseconds"]["switch"] < result["milliseconds"]["ask"]
    for one in result["mixed"].values():
        assert one["relative_to_merged"] == one["texts_per_second"] / result["merged"]
        assert one["relative_to_peft"] == one["texts_per_second"] / one["peft_texts_per_second"]
        assert one["difference"] < 1e-5
        assert one["equal_labels"] == 1


def test_the_time_of_a_decoding_step_is_told_with_and_without_adapters(backbones: Backbones) -> None:
    arguments = ("--backbone", str(backbones.path("llama")), "--rows", "1", "3", "--adapters", "1", "3")
    result = last_line(run("decoding.py", *arguments, "--steps", "4", "--prompt", "8").stdout)
    assert list(result) == ["1", "3", "adapters"]
    assert list(result["1"]) == list(result["3"]) == ["modules", "direct"]
    assert list(result["adapters"]) == ["merged", "mixed 1", "mixed 3"]
    assert all(milliseconds > 0 for times in result.values() for milliseconds in times.values())


def test_answers_of_mixed_kinds_to_many_clients_are_those_of_the_adapters_alone(path: str, toy: str) -> None:
    arguments = ("--adapters", "6", "--texts", "4", "--clients", "3", "--share", "0.6", "--seconds", "8", "--churn")
    result = last_line(run("traffic.py", *arguments, "--backbone", path, "--task", toy).stdout)
    assert (result["requests"], result["errors"], result["wrong"]) == (32, 0, 0)
    assert 0 < result["streamed"] < result["text_requests"] < 32
    assert 0 < result["first_token_milliseconds"]["p50"] <= result["text_milliseconds"]["p99"]
    assert result["generated_tokens"] == 24 * result["text_requests"]


def test_while_versions_change_every_answer_is_that_of_the_adapter_that_its_receipt_names(path: str, toy: str) -> None:
    arguments = ("--adapters", "6", "--seconds", "8", "--churn", "--backbone", path, "--task", toy)
    result = last_line(run("traffic.py", *arguments).stdout)
    assert (result["requests"], result["errors"], result["wrong"]) == (32, 0, 0)
    assert 0 < result["milliseconds"]["p50"] <= result["milliseconds"]["p95"] <= result["milliseconds"]["p99"]
    assert sum(result["changes"].values()) > 0
    assert result["resident_relative_to_file"] > 0


def test_the_stages_of_a_served_text_add_up_to_its_latency(path: str, toy: str) -> None:
    result = last_line(run("path.py", "--adapters", "3", "--seconds", "5", "--backbone", path, "--task", toy).stdout)
    assert result["requests"] == 20
    assert {"sent", "accepted", "taken", "computed", "answered", "received"} <= result["stages"].keys()
    means = {stage: one["mean"] for stage, one in result["stages"].items()}
    assert all(one >= 0 for one in means.values()), means
    assert sum(means.values()) == pytest.approx(result["server"]["mean"], abs=0.5)
    assert result["queue_model"]["p95"] >= result["engine_paced"]["p50"]


def batches() -> list[Any]:
    from sample import Batch

    generator = np.random.default_rng(0)
    rows = [[generator.integers(3, 300, size) for size in generator.integers(2, 20, 16)] for _ in range(STEPS)]
    return [Batch(part, generator.integers(0, 2, 16)) for part in rows]


@pytest.mark.parametrize(("arm", "method"), [("A", "lora"), ("A", "prelayer"), ("B1", "lora"), ("B1", "full")])
def test_a_trainer_arm_steps_as_trainer_trains(
    backbones: Backbones, path: str, arm: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from afina import Backbone
    from arms import build

    found, reference = (build(arm, method, Backbone.load(path), ("bad", "good"), STEPS) for _ in range(2))
    for index, batch in enumerate(batches()):
        torch.manual_seed(index)
        assert found.step(batch) > 0
    trainer = reference.trainer
    rows = [
        [
            {"input_ids": row, "attention_mask": np.ones_like(row), "labels": label}
            for row, label in zip(batch.rows, batch.labels, strict=True)
        ]
        for batch in batches()
    ]
    ready = [reference.collate(part) for part in rows]
    assert ready[0]["input_ids"].shape[1] == (128 if arm == "A" else max(map(len, batches()[0].rows)))
    trainer.args.max_steps = STEPS
    monkeypatch.setattr(trainer, "get_train_dataloader", lambda: DataLoader(ready, batch_size=None))
    losses = []
    step = trainer.training_step

    def training_step(*arguments: Any) -> torch.Tensor:
        torch.manual_seed(len(losses))
        losses.append(step(*arguments))
        return losses[-1]

    monkeypatch.setattr(trainer, "training_step", training_step)
    trainer.train()
    assert found.losses == [loss.item() for loss in losses]
    assert len(set(found.losses)) == STEPS
    assert (
        found.dtype == reference.dtype == (torch.bfloat16 if arm == "B1" and dtype_of_d() == "bf16" else torch.float32)
    )
    expected = dict(trainer.model.named_parameters())
    assert all(torch.equal(p, expected[name]) for name, p in found.trainer.model.named_parameters())


def test_flipped_labels_are_found(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import doubts

    options = ["--backbone", path, "--tasks", "snippets:products", "--texts", "80", "--shares", "0.1", "--seeds", "2"]
    doubts.main([*options, "--out", str(tmp_path)])
    (found,) = last_line(capsys.readouterr().out).values()
    assert found["given"]["reported"] >= found["given"]["training"]
    figures = found["0.1"]
    assert figures["flipped"] == 8
    for name in ("afina", "tf-idf"):
        assert 0 <= figures[name]["least"] <= figures[name]["first"] <= figures[name]["most"] <= 1


def test_what_is_recommended_is_measured_beside_whole_runs(path: str, tmp_path: Path) -> None:
    options = ["--task", "snippets:editorials", "--texts", "60", "--minutes", "0.5", "--backbone", path]
    command = [sys.executable, str(BENCHMARKS / "real_regret.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = last_line(done.stdout)
    assert set(found) == {"recommended", "accuracy", "minutes", "trained", "whole", "untrained", "regret"}
    methods = {name.partition("-")[0] for name in found["whole"]}
    assert methods == {"linear_probe", "head", "full", "ia3", "lora", "prelayer"}
    assert found["regret"] == pytest.approx(max(found["whole"].values()) - found["accuracy"], abs=1e-3)


@pytest.mark.slow
def test_the_first_answer_is_timed_for_several_commands_that_answer_alike(path: str) -> None:
    command = str(Path(sys.executable).with_name("afina"))
    result = last_line(run("first_answer.py", "--commands", command, "--backbone", path, "--repeats", "1").stdout)
    assert result["backbone"] == path
    ((clock, processor),) = (tuple(times.values()) for times in result["seconds"].values())
    assert len(clock) == len(processor) == 1
    assert processor[0] > 0.5
