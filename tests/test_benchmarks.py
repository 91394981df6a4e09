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

from fakes import Backbones, Runs, parts_of, sentences, write_csv

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


def test_two_processes_are_measured_beside_one(path: str, toy: str) -> None:
    arguments = ("--steps", "2", "--repeats", "1", "--methods", "lora", "--dtypes", "float32", "--texts", "16", "32")
    result = last_line(run("devices.py", *arguments, "--backbone", path, "--task", toy, "--shape", "tiny").stdout)
    assert [(one["method"], one["dtype"], one["texts"]) for one in result["speed"]] == [
        ("lora", "float32", 16),
        ("lora", "float32", 32),
    ]
    assert all(check_ratios(one) == {"two processes/one process"} for one in result["speed"])
    assert {name: len(peaks) for name, peaks in result["memory"].items()} == {
        "one process": 1,
        "two processes, sharded": 2,
    }
    assert all(2**27 < peak < 2**31 for peaks in result["memory"].values() for peak in peaks)


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


def test_int8_layers_has_a_row_for_every_layer_and_number_of_rows() -> None:
    if not multiplies_int8():
        pytest.skip("the processor has no instructions for int8")
    done = run("int8_layers.py", "--sizes", "32x48,64x32", "--rows", "40,300", "--repeats", "2")
    found = last_line(done.stdout)["layers"]
    assert [(one["inputs"], one["outputs"], one["rows"]) for one in found] == [
        *((32, 48, 40), (32, 48, 300)),
        *((64, 32, 40), (64, 32, 300)),
    ]
    for one in found:
        assert 0 < one["quantised"] < 1
        assert 0 < one["quantised_backward"] < 1
        assert 0 < one["error"] < 0.02 > one["error_backward"] > 0


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


def test_texts_of_many_adapters_are_told_beside_the_merged_model_and_pefts_and_are_alike(path: str, toy: str) -> None:
    arguments = ("--adapters", "1,3", "--new", "6", "--repeats", "1", "--backbone", path, "--task", toy)
    result = last_line(run("serve_texts.py", *arguments, "--asked", "10", "--running", "2").stdout)
    speeds = result["tokens_per_second"]
    for count in ("1", "3"):
        one = result["mixed"][count]
        assert one["relative_to_merged"] == one["tokens_per_second"] / speeds["merged"]
        assert one["relative_to_peft"] == one["tokens_per_second"] / speeds[f"peft {count}"]
        assert one["equal_answers"] == 1
    latency = result["milliseconds"]
    assert latency["p95_ratio"] == latency["beside_p95"] / latency["alone_p95"]
    assert latency["generated_per_second"] > 0


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


def test_long_texts_are_measured_in_a_process_an_arm(path: str, tmp_path: Path) -> None:
    from long_texts import ARMS, BATCH_SIZE

    report = tmp_path / "report.md"
    few = ["--steps", "2", "--length", "40", "--methods", "lora", "--backbone", path, "--markdown", str(report)]
    done = run("long_texts.py", *few)
    result = last_line(done.stdout)
    assert list(result) == ["lora"]
    assert list(result["lora"]) == list(ARMS)
    for arm in result["lora"].values():
        assert arm["length"] == 40
        assert arm["tokens_per_second"] * arm["seconds_per_step"] == pytest.approx(BATCH_SIZE * 40)
        assert 2**27 < arm["rss_peak"] < 2**31
    assert report.read_text() == done.stdout.rpartition("\n{")[0]


def test_the_arms_of_long_texts_compute_as_much_at_once_as_they_say(path: str) -> None:
    from afina import Backbone
    from afina.data.batch import pack
    from long_texts import limits, texts

    packed = pack(texts(Backbone.load(path), 30, 8))
    assert len(packed.tokens) == 240
    assert [len(parts_of(limits(arm, 30), packed)) for arm in ("whole", "default", "single", "checkpointed")] == [
        1,
        1,
        8,
        8,
    ]


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


@pytest.mark.assets
def test_the_first_look_measures_a_method_at_its_best_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    import first_look
    import words

    monkeypatch.setattr(first_look, "LABELS", 8)
    monkeypatch.setattr(words, "CHOOSING", 8)
    monkeypatch.setattr(words, "HELD_OUT", 16)
    found = first_look.measure("head")
    tried = {float(rate): tuple(figures) for rate, figures in found["choosing"].items()}
    assert sorted(tried) == first_look.rates(first_look.made("head"))
    assert found["rate"] == max(tried, key=lambda rate: (tried[rate][0], -tried[rate][1]))
    assert len(found["right"]) == 2
    assert found["trained"] == 2 * 576


def test_every_method_is_measured_beside_trainer_and_lora(path: str, toy: str, tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    few = ["--steps", "2", "--repeats", "1", "--methods", "head;bitfit;prompt;lora+bitfit", "--markdown", str(report)]
    done = run("methods.py", *few, "--backbone", path, "--task", toy)
    result = last_line(done.stdout)["methods"]
    assert list(result) == ["head", "bitfit", "prompt", "lora+bitfit"]
    for key, found in result.items():
        assert found["D/lora"] > 0
        assert min(found["state_bytes"], found["activation_bytes"]) > 0
        assert (found["D/B2"] is None) == (key == "prompt")
        assert ("over_a_pass" in found) == (key == "head")
    assert report.read_text() == done.stdout.rpartition("\n{")[0]


def test_upper_blocks_are_measured_beside_all_blocks(path: str, toy: str) -> None:
    arms = "all,half,half-recomputed"
    done = run("trunk.py", "--backbone", path, "--task", toy, "--texts", "40", "--arms", arms, "--repeats", "2")
    found = last_line(done.stdout)
    assert {key for key in found if "/" in key} == {
        f"{arm}/all{of}" for arm in ("half", "half-recomputed") for of in ("", " processor")
    }
    assert min(found[key] for key in found if "/" in key) > 0
    assert found["all"]["tokens"] == found["half"]["tokens"] > 0
    assert found["half"]["kept_bytes"] > found["half-recomputed"]["kept_bytes"] == 0


def test_examples_in_the_prompt_are_measured_beside_none(path: str, toy: str, tmp_path: Path) -> None:
    arms, kept = "zero-shot,2,nearest-2,whole-2", tmp_path / "kept" / "shots.jsonl"
    options = ("--backbone", path, "--tasks", toy, "--texts", "10", "--arms", arms, "--seeds", "2", "--out", str(kept))
    first, again = (last_line(run("shots.py", *options).stdout) for _ in range(2))
    assert first == again, "what the file has is not measured again"
    found = first[toy]
    seeds = {name: one["seeds"] for name, one in found["plain"].items()}
    assert seeds == {"zero-shot": 1, "2": 2, "nearest-2": 1, "whole-2": 2}
    assert found["plain"]["2"]["accuracy"] == found["plain"]["whole-2"]["accuracy"]
    assert "verdict" in found["calibrated"]["nearest-2"]
    assert min(found["seconds"].values()) > 0


def test_flipped_labels_are_found_and_trained_on_without_the_doubtful_rows(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import doubts

    options = ["--backbone", path, "--tasks", "snippets:products", "--texts", "80", "--shares", "0.1", "--seeds", "2"]
    doubts.main([*options, "--methods", "linear_probe,lora", "--out", str(tmp_path)])
    (found,) = last_line(capsys.readouterr().out).values()
    assert found["given"]["reported"] >= found["given"]["training"]
    figures = found["0.1"]
    assert figures["flipped"] == 8
    for name in ("afina", "tf-idf"):
        assert 0 <= figures[name]["least"] <= figures[name]["first"] <= figures[name]["most"] <= 1
    for method in ("linear_probe", "lora"):
        pair = figures[method]["without - flipped"]
        expected = 100 * (figures[method]["without"] - figures[method]["flipped"])
        assert pair["points"] == pytest.approx(expected)
        assert pair["low"] <= pair["points"] <= pair["high"]
    assert len([*tmp_path.rglob("doubts.csv")]) == 2


def test_a_stores_figures_are_of_what_was_published(tmp_path: Path) -> None:
    done = run("store.py", "--versions", "9", "--many", "3")
    found = last_line(done.stdout)
    assert (found["versions"], found["many"], found["together, complete"]) == (9, 3, True)
    assert 9 * 600_000 < found["bytes"] < 9 * 800_000
    assert min(found["publish"], found["list"], found["show"], found["get by alias"], found["verify"]) > 0
    assert "| publish, median of library calls | " in done.stdout


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


def test_a_polite_client_is_measured_alone_beside_each_flood_and_beside_as_much_work(gpt2: Any, tmp_path: Path) -> None:
    import psutil

    import floods
    from afina import AdapterStore
    from afina.engine.engine import Engine
    from afina.server.core import Core
    from afina.server.settings import Settings
    from servers import running

    store = AdapterStore(tmp_path / "store")
    keys = floods.fill(store, gpt2, tmp_path, 64)
    with Engine(gpt2, store) as engine, running(Core(engine, store, Settings())) as (url, _):
        target = floods.Target(int(url.rpartition(":")[2]), keys, psutil.Process())
        found = floods.measure(target, ["long_texts_low_rate", "numbers", "wrong_keys"], 0.3, 0.03)
    for name, one in found.items():
        times = one["milliseconds"]
        assert one["failed"] == 0, name
        assert one["to_alone"] == pytest.approx(times["p95"] / times["p95_alone"])
        assert one["to_as_much_work"] == pytest.approx(times["p95"] / times["p95_beside_as_much_work"])
        assert one["memory_mib"]["peak"] > 0
        assert one["flooder"]["connections"] >= 1
    answers = {name: {*one["flooder"]["answers"]} - {"closed"} for name, one in found.items()}
    assert answers == {"long_texts_low_rate": {"422"}, "numbers": {"400"}, "wrong_keys": {"401"}}
    assert "| to alone |" in floods.report(found)


def test_the_rows_that_trl_gets_have_the_losses_of_the_loaders_own_batches(path: str) -> None:
    import train_text
    from afina import Backbone
    from afina.methods import make
    from language import OBJECTIVE, loader

    backbone, method = Backbone.load(path), make("lora", {"dropout": 0.0}).for_family("gpt2")
    batches = loader(backbone, 40)
    plan = train_text.schedules(batches, 2)
    assert all(sum(map(train_text.size_of, plan[name])) > 0 for name in ("T", "T2"))
    rows = train_text.rows_of(batches, batches.indices(0).tolist())
    assert all(len(tokens) == len(labels) for tokens, labels in rows)
    assert all(label in (-100, token) for each in rows for token, label in zip(*each, strict=True))
    ours = train_text.Ours(backbone, OBJECTIVE, method, 10, "float32")
    seconds, loss = ours.step(rows)
    again = train_text.Ours(backbone, OBJECTIVE, method, 10, "float32").fit
    assert loss == again.step(next(batches.batches(0, 1)))
    assert seconds == ours.fit.account.seconds["train"] > 0


def test_a_base_in_each_precision_is_measured_with_its_bytes(
    path: str, toy: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import quantised

    monkeypatch.setattr(quantised.train_step, "memory", lambda method, name, plan, options: 2**30)
    monkeypatch.setattr(quantised.machine, "peak", lambda dtype: 4e9)
    options = ["--only", "speed", "--steps", "1", "--repeats", "1", "--backbone", path, "--task", toy]
    monkeypatch.setattr(sys, "argv", ["quantised.py", *options])
    quantised.main()
    found = last_line(capsys.readouterr().out)["speed"]
    weights = 2 * 12 * 32 * 32
    scales = 4 * 2 * (3 + 1 + 4 + 1) * 32
    assert found["C"]["linear_bytes"] == 4 * weights
    assert found["D-int8"]["linear_bytes"] == weights + scales
    assert found["D-int8"]["bytes_per_weight"] == 1 + scales / weights
    assert found["D-int8"]["of_bfloat16"] == found["D-int8"]["tokens_per_second"] / found["D"]["tokens_per_second"]


def test_quality_on_a_base_in_each_precision_has_verdicts_and_is_not_measured_twice(
    path: str, toy: str, tmp_path: Path
) -> None:
    options = ["--only", "quality", "--embedded", path, "--tasks", toy, "--seeds", "2", "--max-steps", "2"]
    options += ["--train", "64", "--out", str(tmp_path)]
    first, again = (last_line(run("quantised.py", *options).stdout)["quality"][toy] for _ in range(2))
    assert first == again
    assert {"float32", "bfloat16", "int8"} <= first["metrics"].keys()
    assert len(first["verdicts"]) == len(first["metrics"]) - 1


@pytest.mark.slow
def test_the_first_answer_is_timed_for_several_commands_that_answer_alike(path: str) -> None:
    command = str(Path(sys.executable).with_name("afina"))
    result = last_line(run("first_answer.py", "--commands", command, "--backbone", path, "--repeats", "1").stdout)
    assert result["backbone"] == path
    ((clock, processor),) = (tuple(times.values()) for times in result["seconds"].values())
    assert len(clock) == len(processor) == 1
    assert processor[0] > 0.5


def test_labels_saved_are_those_between_two_curves() -> None:
    """A rule saves nothing against itself, and a curve that never arrives saves minus infinity."""
    import next_texts

    random = np.random.default_rng(0)
    points = random.normal(size=(900, 8)).astype(np.float32)
    labels = (points[:, 0] + 0.3 * points[:, 1] > 0).astype(np.int64)
    texts = next_texts.Texts(points[:600], labels[:600], points[600:], labels[600:])
    curves = {
        rule: np.array([next_texts.curve(texts, rule, random, "accuracy", 550) for _ in range(2)])
        for rule in ("random", "afina next")
    }
    assert {one.shape for one in curves.values()} == {(2, 11)}
    assert next_texts.saved(curves["random"], curves["random"])[0] == 0
    low, high = next_texts.saved(curves["afina next"], curves["random"], samples=20)[1:]
    assert low <= high
    assert next_texts.saved(curves["random"] - 1, curves["random"], samples=20)[0] == -np.inf
    rare, copies = (next_texts.drawn(texts, how, random) for how in ("rare", "copies"))
    assert np.abs(np.diff(copies.pool[:5], axis=0)).max() < 0.5
    assert (rare.labels == 0).sum() == (rare.labels == 1).sum() // 9
    made = next_texts.estimated(texts, random, labels=200)
    assert 0.5 < made.on_labelled <= made.true <= 1
    assert 0 <= made.on_random <= 1
    for labelled, by_chance in next_texts.rounds_of_afina(texts, random, 200):
        assert by_chance.sum() == len(labelled) // 10
        assert len(np.unique(labelled)) == len(labelled)


def test_a_promised_error_is_counted_beside_a_threshold_without_a_test(capsys: pytest.CaptureFixture[str]) -> None:
    import abstention

    abstention.main(["--tasks", "--invented", "20", "--bounds", "0.1", "--calibration", "60"])
    found = last_line(capsys.readouterr().out)
    assert found["fewest"] == {"0.1": 29}
    kept = {one["rule"]: one["kept"] for one in found["rows"] if one["task"] == "confidence without information"}
    assert kept["tested"] > 0.8 > kept["naive"]
    pool = abstention.Pool(np.array([0.9, 0.8, 0.7, 0.6]), np.array([False, True, False, True]))
    assert pool.error(0.7) == (1 / 3, 0.75)
    assert pool.error(None) == pool.error(0.95) == (0.0, 0.0)
    assert pool.most(0.34) == 0.75
    rows = list(abstention.rows_of("toy", pool, 0.5, 2, splits=3))
    assert [(one.errors, one.rule) for one in rows] == [
        (way, rule) for way in ("drawn", "held out") for rule in ("tested", "naive")
    ]


def test_false_alarms_and_noticed_changes_are_counted_for_every_change() -> None:
    import drift

    random = np.random.default_rng(0)

    def domain(first: int) -> drift.Domain:
        labels = random.integers(0, 2, 400)
        features = (labels[:, None] + random.normal(size=(400, 4))).astype(np.float32)
        return drift.Domain(features, drift.Encoded.of([np.array([first + label, 300]) for label in labels]), labels)

    home, other = domain(0), domain(7)
    found = drift.noticed(home, other, None, 2, (25, 200, 1000))
    assert found["noticed"] == {25: 2, 200: 2}, "the other domain has too few texts for a thousand"
    assert found["tests"]["tokens"] == 2
    assert drift.noticed(home, None, None, 2, (50,))["noticed"] == {50: 0}
    assert len(drift._repeated(home, random)) == 400
    assert drift._biased(home, random).labels.mean() == pytest.approx(0.75, abs=0.02)


def test_methods_that_find_entities_have_figures_and_verdicts_against_the_best_baseline(
    path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import entities

    texts = ["Maria\tB-PER", "saw\tO", "Rome\tB-LOC", "", "Ana\tB-PER", "ran\tO", "", "Oslo\tB-LOC", "is\tO", ""]
    for name in ("train", "dev"):
        (tmp_path / f"{name}.conll").write_text("\n".join([*texts * 12, f"the\tO\n{name}\tO\n"]))
    changes = {
        "task": str(tmp_path / "train.conll"),
        "data.evaluation": str(tmp_path / "dev.conll"),
        "data.allow_leakage": "true",
        "backbones": json.dumps([path]),
        "seeds": "[0, 1]",
        "train.max_steps": "3",
        "methods.linear_probe": "{}",
        "baselines": "true",
    }
    options = [one for name, value in changes.items() for one in ("--set", f"{name}={value}")]
    entities.main([*options, "--out", str(tmp_path / "out")])
    output = capsys.readouterr().out
    found = last_line(output)
    assert found["failed"] == []
    assert len(found["arms"]) == 3
    best = max(one["entity_f1"] for one in found["baselines"].values())
    for arm in found["arms"].values():
        assert arm["against"]["points"] == pytest.approx(100 * (arm["entity_f1"] - best))
        assert arm["interval"] is None or arm["interval"][0] <= arm["entity_f1"] <= arm["interval"][1]
