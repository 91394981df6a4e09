"""What `afina plan` foresees, against the paper's figures and against what runs then measure."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from afina import METHODS, Backbone, Task, meter
from afina.data.batch import pack
from afina.errors import InvalidStudy, NotFound, UnknownName
from afina.meter import now
from afina.methods import make
from afina.models.adapter import read_manifest
from afina.report.report import forecast_table
from afina.studies.cost import forecast
from afina.studies.directory import Directory
from afina.studies.forecast import Forecast, parse_size
from afina.training.dry_run import Alive
from afina.training.loop import batch_loss
from afina.training.mixed_precision import Working
from command import PROGRAM, Command
from fakes import BATCH, Backbones, Runs, configuration, opened, save

GIB = 2**30
PAPER = {"full": (1.89, 0.05), "lora": (0.49, 0.06)}
"""The paper's "allocated", which is in GiB, and how far off a forecast may be."""

FIGURES = {
    "trainable",
    "body",
    "head",
    "state_bytes",
    "allocated_end",
    "activation_bytes",
    "activation_tokens",
    "peak",
    "gpu_peak",
    "disk_bytes",
    "train_seconds",
    "fits",
    "fits_gpu",
}
TERMS = {"backbone", "task", "dtype", "texts", "tokens", "longest", "epochs", "memory", "process"}


def only(found: list[Forecast]) -> Forecast:
    (one,) = found
    return one


@pytest.fixture
def without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> NoReturn:
        pytest.fail("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


# Against the paper


@pytest.mark.usefixtures("without_network")
def test_the_plan_for_gpt2_has_the_papers_allocated_memory_and_needs_no_network(afina: Command) -> None:
    found = afina("plan", "--backbone", "gpt2", "--json").object()
    assert set(found) == TERMS | {"methods"}
    assert set(found["methods"]) == set(METHODS)
    assert all(set(one) == FIGURES for one in found["methods"].values())
    assert (found["dtype"], found["texts"], found["tokens"], found["longest"]) == ("float32", 16, 2048, 128)
    for name, (published, tolerance) in PAPER.items():
        assert found["methods"][name]["allocated_end"] / GIB == pytest.approx(published, rel=tolerance)
    assert found["methods"]["full"]["trainable"] == 124_441_344
    assert found["methods"]["lora"]["trainable"] == 148_992
    assert {name: one["train_seconds"] for name, one in found["methods"].items()} == {
        name: 0.0 if name == "baseline" else None for name in METHODS
    }


@pytest.mark.parametrize(
    ("backbone", "total"),
    [
        ("gpt2-medium", 354_825_216),
        ("gpt2-large", 774_032_640),
        ("gpt2-xl", 1_557_614_400),
        ("EleutherAI/gpt-j-6b", 5_844_402_176),
        ("huggyllama/llama-7b", 6_607_351_808),
    ],
)
@pytest.mark.usefixtures("without_network")
def test_the_baseline_of_a_known_model_holds_its_parameters_and_no_more(backbone: str, total: int) -> None:
    one = only(forecast(backbone, [make("baseline")], batch_size=1, length=8))
    assert one.state_bytes == pytest.approx(4 * total, rel=1e-3)
    assert one.peak - one.terms.process > one.state_bytes


@pytest.mark.slow
@pytest.mark.usefixtures("without_network")
def test_13_billion_parameters_are_planned_in_seconds_and_little_memory() -> None:
    start, held = now(), meter.rss()
    full, lora = forecast("huggyllama/llama-13b", [make("full"), make("lora")], dtype="bfloat16", memory=80 * GIB)
    assert now() - start < 120
    grown, held = meter.rss(), held
    assert grown is not None
    assert held is not None
    assert grown - held < GIB
    assert full.state_bytes / GIB == pytest.approx(12_853 * 2**20 * (2 + 16) / GIB, rel=0.05)
    assert not full.fits
    assert not full.fits_gpu
    assert lora.fits_gpu


# Against runs

CASES = [
    *(("gpt2", method, dtype) for method in METHODS for dtype in ("float32", "bfloat16")),
    *((family, "lora", "float32") for family in ("gptj", "gpt_neox", "llama", "mistral", "qwen2", "qwen3")),
    ("llama", "full", "bfloat16"),
    ("gpt_neox", "full", "float32"),
]


@pytest.mark.parametrize(("family", "method", "dtype"), CASES)
def test_a_forecast_is_what_the_run_then_measures(
    runs: Runs, toy: str, tmp_path: Path, family: str, method: str, dtype: str
) -> None:
    settings: dict[str, Any] = {"batch_size": BATCH, "epochs": 1, "dtype": dtype, "calibrate": False}
    one = only(forecast(str(runs.backbones.path(family)), [make(method)], task=toy, **settings))
    record = runs.run(family, method, max_steps=None, epochs=1, dtype=dtype).execute(tmp_path)
    adapter = tmp_path / record.adapter
    assert one.terms.dtype == record.environment.dtype == dtype
    assert (one.trainable, one.body, one.head) == (record.trainable, record.body, record.head)
    assert one.state_bytes == record.memory.state_bytes
    twice = one.state_bytes - one.allocated_end  # frozen weights, of which a CPU in bfloat16 has a second copy
    assert 0 <= twice < one.state_bytes / 2
    assert dtype == "bfloat16" or not twice
    assert one.activation_tokens == record.memory.activation_tokens
    assert one.activation_bytes == record.memory.activation_bytes
    assert one.disk_bytes == (adapter / read_manifest(adapter).tensor_file).stat().st_size
    assert one.peak - one.terms.process >= one.state_bytes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_of_texts_longer_than_the_short_attention_are_exact_too(
    backbones: Backbones, tmp_path: Path, dtype: str
) -> None:
    """Without dropout, attention over long texts takes torch's own kernel."""
    path = save(configuration("gpt2", 0.0, n_positions=512), backbones.tokenizer("gpt2"), tmp_path / "long")
    method = make("full").for_family("gpt2")
    one = only(forecast(str(path), [method], dtype=dtype, batch_size=2, length=400))
    classifier = opened(Backbone.load(str(path)), method)
    Working(classifier.model, method.trainable(classifier.model), getattr(torch, dtype))
    classifier.train()
    packed = pack([torch.zeros(400, dtype=torch.long).numpy()] * 2, [0, 1])
    assert one.activation_bytes == meter.activation_bytes(classifier, lambda: batch_loss(classifier, packed))


@pytest.mark.slow
def test_the_peak_of_a_process_is_foreseen(gpt2: Backbone, toy: str, tmp_path: Path) -> None:
    asked = ["--backbone", gpt2.address, "--task", toy, "--method", "lora", "--json"]
    plan = [*PROGRAM, "plan", *asked, "--no-calibrate", "--epochs", "1"]
    planned = json.loads(subprocess.run(plan, capture_output=True, check=True).stdout)
    train = [*PROGRAM, "train", *asked, "--out", str(tmp_path), "--set", "epochs=1", "--set", "dtype=float32"]
    subprocess.run(train, capture_output=True, check=True)
    (record,) = Directory(tmp_path).read()
    assert record.memory.rss_peak is not None
    assert planned["methods"]["lora"]["peak"] == pytest.approx(record.memory.rss_peak, rel=0.15)


def test_alive_follows_storages_until_they_are_freed() -> None:
    with FakeTensorMode(), Alive() as alive:
        first = torch.empty(1000)
        view = first[10:].view(2, -1)
        assert alive.now == 4000
        second = first.double()
        assert (alive.now, alive.peak) == (12_000, 12_000)
        del first
        assert alive.now == 12_000  # the view holds it
        del view, second
        assert (alive.now, alive.peak) == (0, 12_000)


# Time


def test_time_is_known_with_a_task_and_weights_and_unknown_without(gpt2: Backbone, toy: str, afina: Command) -> None:
    asked = ["plan", "--backbone", gpt2.address, "--task", toy, "--method", "baseline", "--method", "lora", "--json"]
    known = afina(*asked).object()["methods"]
    assert known["baseline"]["train_seconds"] == 0
    assert 0 < known["lora"]["train_seconds"] < 600
    assert afina(*asked, "--no-calibrate").object()["methods"]["lora"]["train_seconds"] is None


def test_time_is_the_measured_pace_times_the_tokens_of_all_epochs(
    gpt2: Backbone, toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afina.studies.cost.seconds_per_token", lambda *_: 0.5)
    tokens = sum(len(gpt2.tokenizer(text)["input_ids"]) for text in Task.load(toy).train.texts)
    one = only(forecast(gpt2.address, [make("lora")], task=toy, epochs=3))
    assert one.train_seconds == 0.5 * 3 * tokens


def test_nothing_is_trained_that_this_machine_cannot_hold(
    gpt2: Backbone, toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afina.meter.machine_memory", lambda: 2**20)
    monkeypatch.setattr("afina.studies.cost.seconds_per_token", lambda *_: pytest.fail("it was trained"))
    one = only(forecast(gpt2.address, [make("lora")], task=toy, memory=GIB))
    assert one.train_seconds is None
    assert one.fits


# Terms and words


def test_fits_compares_the_peaks_with_the_memory_given(afina: Command) -> None:
    one = only(forecast("gpt2", [make("lora")], length=8))
    for memory, fits, fits_gpu in (
        (one.peak, True, True),
        (one.peak - 1, False, True),
        (one.gpu_peak, False, True),
        (one.gpu_peak - 1, False, False),
    ):
        terms = type(one.terms)(**{**vars(one.terms), "memory": memory})
        changed = type(one)(**{**vars(one), "terms": terms})
        assert (changed.fits, changed.fits_gpu) == (fits, fits_gpu)

    shown = afina("plan", "--backbone", "gpt2", "--memory", "2GiB", "--method", "full", "--method", "lora").out
    row = {
        line.split()[0]: line.split()[-1] for line in shown.splitlines() if "124,441,344" in line or "148,992" in line
    }
    assert row == {"full": "no", "LoRA": "no"}
    assert "What fits in 2.00 GiB of main memory: nothing. On a GPU with 2.00 GiB, by estimate: LoRA." in " ".join(
        shown.split()
    )


def test_the_default_memory_is_this_machines() -> None:
    total = meter.machine_memory()
    assert total is not None
    assert only(forecast("gpt2", [make("baseline")], length=8)).terms.memory == total > 2**28


@pytest.mark.parametrize(
    ("text", "size"), [("8GiB", 8 * GIB), ("512 MiB", 2**29), ("16GB", 16 * 10**9), ("0.5gib", GIB // 2)]
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["8", "", "GiB", "-1GiB", "0GiB", "8 parsecs"])
def test_a_size_without_a_unit_is_an_error_that_shows_one(afina: Command, text: str) -> None:
    with pytest.raises(InvalidStudy, match="such as 8GiB"):
        parse_size(text)
    assert "such as 8GiB" in afina("plan", "--backbone", "gpt2", f"--memory={text or ' '}").error


def test_a_longer_batch_keeps_more_and_its_state_is_the_same() -> None:
    short, long = (only(forecast("gpt2", [make("lora")], length=length)) for length in (8, 64))
    assert short.state_bytes == long.state_bytes
    assert short.activation_bytes is not None
    assert long.activation_bytes is not None
    assert long.activation_bytes > 7 * short.activation_bytes
    assert long.peak > short.peak


def test_methods_that_the_family_lacks_are_left_out_unless_asked_for(llama: Backbone) -> None:
    assert [one.method for one in forecast(llama.address, length=8)] == ["baseline", "full", "lora", "prelayer"]
    with pytest.raises(InvalidStudy, match="defined for gpt2 only"):
        forecast(llama.address, [make("prelayer-46080")])


def test_mistakes_are_errors_that_say_what_to_do(afina: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no directory ./nowhere" in afina("plan", "--backbone", "./nowhere").error
    assert "Did you mean 'lora'?" in afina("plan", "--backbone", "gpt2", "--method", "lorra").error
    assert "takes 1 to 1024 tokens" in afina("plan", "--backbone", "gpt2", "--length", "2000").error
    assert "Did you mean 'float32'?" in afina("plan", "--backbone", "gpt2", "--dtype", "float31").error
    with pytest.raises(UnknownName):
        forecast("gpt2", dtype="float16")
    with pytest.raises(NotFound):
        forecast("./nowhere")
    monkeypatch.setattr("afina.meter.machine_memory", lambda: None)
    assert "Give it with --memory" in afina("plan", "--backbone", "gpt2").error


def test_the_table_says_what_was_assumed(gpt2: Backbone, toy: str) -> None:
    found = forecast(gpt2.address, [make("baseline"), make("lora")], task=toy, calibrate=False, batch_size=4)
    table = forecast_table(found)
    assert [row[0] for row in table.rows] == ["no fine-tuning", "LoRA"]
    assert all(len(row) == len(table.columns) for row in table.rows)
    words = " ".join(table.notes)
    assert f"the largest training batch of `{toy}`: 4 texts, {found[0].terms.tokens} tokens" in words
    assert "Training time is foreseen where" in words
    assert "no task was given" in " ".join(forecast_table(forecast("gpt2", [make("baseline")], length=8)).notes)
