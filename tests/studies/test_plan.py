"""What `afina plan` foresees, against the paper's figures and against what runs then measure."""

from __future__ import annotations

import json
import socket
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from afina import METHODS, Backbone, Run, Task, meter
from afina import device as devices
from afina.data.batch import pack
from afina.data.reading_options import ReadingOptions
from afina.data.template import Template
from afina.errors import AfinaError, InvalidStudy, OutOfMemory
from afina.methods import make
from afina.models.label_prompts import GENERAL
from afina.models.manifest import read_manifest
from afina.models.objectives import Classes
from afina.report.details.plans import forecast_table, gpu_table
from afina.report.formatting import size
from afina.schema import read_size
from afina.studies.planning.forecast import Forecast, shared_terms
from afina.studies.planning.forecast_runs import MADE_UP, forecast_methods, forecast_run
from afina.studies.planning.forecast_runs import encoded as encoded_task
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.prepared import aim_of, loader_of, recipe_of
from afina.studies.runs.spec import RunSpec
from afina.training.dry_run import Alive, dry_run
from afina.training.fit import Fit, Pace
from afina.training.inputs import TextBatch
from afina.training.settings import Training
from command import PROGRAM, Command
from fakes import Backbones, Runs, configuration, encoded, fit_of, opened, save, sentences, serves
from grid import some_slow
from raises import raises

GIB = 2**30
PAPER = {"full": (1.89, 0.05), "lora": (0.49, 0.06)}
"""The paper's "allocated", which is in GiB, and how far off a forecast may be."""

FIGURES = {
    "title",
    "trainable",
    "body",
    "head",
    "state_bytes",
    "allocated_end",
    "activation_bytes",
    "activation_tokens",
    "peak",
    "gpu_evaluation",
    "gpu_peak",
    "disk_bytes",
    "train_seconds",
    "fits",
    "fits_gpu",
}
TERMS = {"backbone", "task", "dtype", "usual_dtype", "texts", "tokens", "longest", "epochs", "memory", "process", "gpu"}


PARTS = ("trainable", "body", "head")
"""Counts of parameters that `params` has too, of a run."""


def texts(length: int, **settings: Any) -> Training:
    """Made-up texts of that many tokens."""
    return Training(max_length=length, **({"dtype": "float32"} | settings))


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


@pytest.mark.slow
@pytest.mark.usefixtures("without_network")
def test_the_plan_for_gpt2_has_the_papers_allocated_memory_and_needs_no_network(afina: Command) -> None:
    chosen = [part for name in ("baseline", *PAPER) for part in ("--method", name)]
    found = afina("plan", "--backbone", "gpt2", "--dtype", "float32", *chosen, "--json").object()
    assert set(found) == TERMS | {"methods", "left_out"}
    assert set(found["methods"]) == {"baseline", *PAPER}
    assert all(set(one) == FIGURES for one in found["methods"].values())
    assert (found["dtype"], found["texts"], found["tokens"], found["longest"]) == ("float32", 16, 2048, 128)
    for name, (published, tolerance) in PAPER.items():
        assert found["methods"][name]["allocated_end"] / GIB == pytest.approx(published, rel=tolerance)
    assert found["methods"]["full"]["trainable"] == 124_441_344
    assert found["methods"]["lora"]["trainable"] == 148_992
    seconds = {name: one["train_seconds"] for name, one in found["methods"].items()}
    assert seconds == {"baseline": 0.0, "full": None, "lora": None}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "total"),
    [
        ("gpt2-medium", 354_825_216),
        ("EleutherAI/gpt-j-6b", 5_844_402_176),
        ("huggyllama/llama-7b", 6_607_351_808),
    ],
)
@pytest.mark.usefixtures("without_network")
def test_the_baseline_of_a_known_model_holds_its_parameters_and_no_more(backbone: str, total: int) -> None:
    one = only(forecast_methods(backbone, [make("baseline")], training=texts(8, batch_size=1)))
    assert one.state_bytes == pytest.approx(4 * total, rel=1e-3)
    assert one.peak - one.terms.process > one.state_bytes


# Against runs

FAMILIES = {
    "full": "gpt_neox", "last": "modernbert", "bitfit": "distilbert", "layernorm": "electra", "lora": "gptj",
    "ia3": "qwen2", "vera": "qwen3", "prompt": "mistral", "prefix": "mistral", "linear_probe": "llama", "head": "bert",
    "setfit": "roberta",
}  # fmt: skip
"""Families of the methods that are not checked on GPT-2."""

CASES = [
    *((FAMILIES.get(name, "gpt2"), name, ("float32", "bfloat16")[place % 2]) for place, name in enumerate(METHODS)),
    *(("gpt2", "full", dtype) for dtype in ("float32", "bfloat16")),
    ("llama", "lora", "bfloat16"),
    ("llama", "lora+prefix", "bfloat16"),
    ("bert", "full", "bfloat16"),
]

QUICK = {("llama", "lora+prefix", "bfloat16")}


@pytest.mark.parametrize(("family", "method", "dtype"), some_slow(CASES, QUICK))
@pytest.mark.slow
def test_a_forecast_is_what_the_run_measures(runs: Runs, tmp_path: Path, family: str, method: str, dtype: str) -> None:
    length = {"max_steps": 3} if make(method).pairs is not None else {"max_steps": None, "epochs": 1}
    check(runs.run(family, method, dtype=dtype, **length), tmp_path)


TOLD: list[tuple[str, str, dict[str, Any], str]] = [
    ("gpt2", "lora", {"dora": True}, "bfloat16"),
    ("gpt2", "adapter", {"kind": "houlsby"}, "float32"),
    ("llama", "lora", {"rslora": True, "init": "orthogonal", "targets": "all-linear"}, "bfloat16"),
    ("gpt2", "lora+adapter", {"adapter": {"reduction": 4, "kind": "parallel"}}, "float32"),
    ("llama", "peft", {"type": "HRA", "settings": {"r": 4}}, "float32"),
    ("gpt2", "peft", {"type": "LN_TUNING"}, "bfloat16"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "method", "given", "dtype"),
    TOLD,
)
def test_a_forecast_heeds_what_a_method_is_told(
    runs: Runs, tmp_path: Path, family: str, method: str, given: dict[str, Any], dtype: str
) -> None:
    check(runs.run(family, method, hyperparameters=given, max_steps=None, epochs=1, dtype=dtype), tmp_path)


def check(run: Run, out: Path) -> None:
    """What is foreseen of a run, and what it then measures, are the same."""
    dtype = run.training.dtype
    one, record = forecast_run(run, calibrate=False), run.execute(out)
    adapter = out / record.adapter
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


WORDS = ["Maria\tB-PER", "saw\tO", "Rome\tB-LOC", "", "Ana\tB-PER", "ran\tO", ""]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "method"), [("gpt2", "lora"), ("bert", "full"), ("bert", "linear_probe")])
def test_a_forecast_of_token_classification_is_what_is_then_measured(
    runs: Runs, tmp_path: Path, family: str, method: str
) -> None:
    task = tmp_path / "task.conll"
    task.write_text("\n".join([*WORDS * 6, *(f"word{place}\tO\n" for place in range(10))]))
    run = runs.run(family, method, max_steps=None, epochs=1, dtype="float32")
    check(run.model_copy(update={"task": str(task), "data": ReadingOptions(allow_leakage=True)}), tmp_path / "out")


@pytest.mark.slow
def test_a_plan_says_that_pairs_have_batches_of_their_own(backbones: Backbones) -> None:
    given = {"training": texts(8, batch_size=4), "calibrate": False}
    methods = [make(name).for_family("bert") for name in ("setfit", "full")]
    pairs, full = found = forecast_methods(str(backbones.path("bert")), methods, **given)
    assert (pairs.on_pairs, pairs.terms.texts, full.terms.texts) == (True, 8, 4)
    assert shared_terms(found) == full.terms
    notes = " ".join(forecast_table(found).notes)
    assert "4 texts, 32 tokens" in notes
    assert "SetFit trains on pairs of texts. Its largest batch has 8 texts with 64 tokens." in notes


SETTINGS: dict[str, dict[str, Any]] = {
    "accumulated": {"accumulate": 2, "batch_size": 4},
    "in parts": {"token_budget": 70},
    "cut": {"max_length": 5, "max_steps": 3},
    "checkpointed": {"checkpointing": True, "accumulate": 2, "token_budget": 70},
}


HEEDED = [
    ("accumulated", "lora", "float32"),
    ("in parts", "full", "bfloat16"),
    ("cut", "lora", "bfloat16"),
    ("checkpointed", "prefix", "float32"),
    ("checkpointed", "full", "bfloat16"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "method", "dtype"), HEEDED)
def test_a_forecast_heeds_how_the_run_trains(runs: Runs, tmp_path: Path, case: str, method: str, dtype: str) -> None:
    settings = {"max_steps": None, "epochs": 1, "dtype": dtype} | SETTINGS[case]
    run = runs.run("gpt2", method, **settings)
    one, record = forecast_run(run, calibrate=False), run.execute(tmp_path)
    assert one.state_bytes == record.memory.state_bytes
    assert one.activation_bytes == record.memory.activation_bytes
    assert one.activation_tokens == record.memory.activation_tokens
    assert (one.activation_bytes is None) == (case == "checkpointed")
    budget = run.training.token_budget
    assert one.terms.tokens <= budget
    assert budget == 70 or one.terms.texts == run.training.batch_size


@pytest.mark.slow
def test_parts_and_checkpointing_take_less_and_gradients_count_in_the_next_part(
    backbones: Backbones,
) -> None:
    def peak(**settings: Any) -> int:
        """Of training alone: there is next to nothing to evaluate."""
        path = str(backbones.path("gpt2"))
        run = RunSpec(backbone=path, task=MADE_UP, method="full", training=texts(50, **settings))
        method, task = make("full"), encoded_task(run)
        loader = loader_of(run, task.train, aim_of(run, task)[0])
        recipe, least = recipe_of(run, method, loader), pack([np.zeros(1, np.int64)])
        return dry_run(path, method, Classes(("0", "1")), loader, recipe, least, torch.float32).tensors

    whole, parts, single = peak(batch_size=16), peak(batch_size=16, token_budget=100), peak(batch_size=2)
    assert single < parts < whole  # the second part finds the first's gradients
    assert peak(batch_size=16, token_budget=100, accumulate=3) == parts
    assert peak(batch_size=16, checkpointing=True) < whole
    assert peak(batch_size=16, checkpointing=True, token_budget=100) <= parts


@pytest.mark.parametrize("dtype", some_slow(["float32", "bfloat16"], quick=["float32"]))
@pytest.mark.slow
def test_activations_of_long_texts_are_exact_too(backbones: Backbones, tmp_path: Path, dtype: str) -> None:
    """Without dropout, attention over long texts takes torch's own kernel."""
    path = save(configuration("gpt2", 0.0, n_positions=512), backbones.tokenizer("gpt2"), tmp_path / "long")
    method = make("full").for_family("gpt2")
    one = only(forecast_methods(str(path), [method], training=texts(400, batch_size=2, dtype=dtype)))
    backbone = Backbone.load(str(path))
    fit = fit_of(opened(backbone, method), method, encoded(backbone, sentences(2)), dtype=getattr(torch, dtype))
    fit.begin()
    packed = pack([torch.zeros(400, dtype=torch.long).numpy()] * 2, [0, 1])
    assert one.activation_bytes == fit.activation_bytes(TextBatch(packed))


@pytest.mark.slow
def test_the_peak_of_a_process_is_foreseen(gpt2: Backbone, toy: str, tmp_path: Path) -> None:
    asked = ["--backbone", gpt2.address, "--task", toy, "--method", "lora", "--json"]
    plan = [*PROGRAM, "plan", *asked, "--no-calibrate", "--epochs", "1"]
    planned = json.loads(subprocess.run(plan, capture_output=True, check=True).stdout)
    train = [*PROGRAM, "train", *asked, "--out", str(tmp_path), "--set", "epochs=1", "--set", "dtype=float32"]
    subprocess.run(train, capture_output=True, check=True)
    (record,) = (one for one in OutputDirectory(tmp_path).read() if one.method == "lora")
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


@pytest.mark.slow
def test_time_is_the_pace_times_the_tokens_of_all_epochs(
    gpt2: Backbone, toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afina.studies.planning.forecast_runs.seconds_per_token", lambda *_: Pace(0.5))
    template = Template(GENERAL)  # its labels are words
    tokens = sum(len(gpt2.tokenizer(template.render(text))["input_ids"]) for text in Task.load(toy).train.texts)
    for name, epochs in (("lora", 3), ("head", 1)):  # what trains the head alone reads each text once
        one = only(forecast_methods(gpt2.address, [make(name)], task=toy, training=Training(epochs=3, dtype="float32")))
        assert one.train_seconds == 0.5 * epochs * tokens


@pytest.mark.slow
def test_a_template_of_ones_own_is_planned_with(afina: Command, gpt2: Backbone, toy: str) -> None:
    def activations(*asked: str) -> int:
        given = ("plan", "--backbone", gpt2.address, "--task", toy, "--method", "lora", "--no-calibrate", "--json")
        return int(afina(*given, *asked).object()["methods"]["lora"]["activation_bytes"])

    assert (
        activations("--template", "{text} It was " + 60 * "so ") > activations() > activations("--template", "{text}")
    )
    error = afina("plan", "--backbone", gpt2.address, "--task", toy, "--words", "good=warm").error
    assert "--words: label 'bad' has no words" in error


@pytest.mark.slow
def test_the_time_of_given_steps_is_that_of_their_tokens(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afina.studies.planning.forecast_runs.seconds_per_token", lambda *_: Pace(0.5))
    run = runs.run("gpt2", "lora", max_steps=3, accumulate=2)
    assert forecast_run(run).train_seconds == 0.5 * run.execute(tmp_path).tokens


@pytest.mark.slow
def test_a_gpu_that_cannot_take_the_steps_is_an_error(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> NoReturn:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Fit, "step", exhausted)
    with raises(OutOfMemory, code="run.out-of-memory", run="lora"):
        forecast_run(runs.run("gpt2", "lora"))


@pytest.mark.slow
def test_the_task_is_read_once_for_all_methods(gpt2: Backbone, toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    load = Task.load

    def counted(address: str, *given: Any, **options: Any) -> Task:
        reads.append(address)
        return load(address, *given, **options)

    monkeypatch.setattr(Task, "load", counted)
    found = forecast_methods(gpt2.address, [make("baseline"), make("lora")], task=toy, calibrate=False)
    assert [one.train_seconds for one in found] == [0, None]
    assert reads == [toy]


@pytest.mark.slow
def test_nothing_is_trained_beyond_this_machines_memory(
    gpt2: Backbone, toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afina.meter.machine_memory", lambda: 2**20)
    monkeypatch.setattr(
        "afina.studies.planning.forecast_runs.seconds_per_token", lambda *_: pytest.fail("it was trained")
    )
    one = only(forecast_methods(gpt2.address, [make("lora")], task=toy, memory=GIB))
    assert one.train_seconds is None
    assert one.fits


# Terms and words


@pytest.mark.slow
def test_fits_compares_the_peaks_with_the_memory_given(gpt2: Backbone) -> None:
    one = only(forecast_methods(gpt2.address, [make("lora")], training=texts(8)))
    for memory, fits, fits_gpu in (
        (one.peak, True, True),
        (one.peak - 1, False, True),
        (one.gpu_peak, False, True),
        (one.gpu_peak - 1, False, False),
    ):
        changed = replace(one, terms=replace(one.terms, memory=memory, gpu=memory))
        assert (changed.fits, changed.fits_gpu) == (fits, fits_gpu)
        assert forecast_table([changed]).rows[0][-1] == ("yes" if fits else "no")


@pytest.mark.slow
def test_methods_that_choose_does_not_consider_can_be_left_out(afina: Command, gpt2: Backbone) -> None:
    asked = ("plan", "--backbone", gpt2.address, "--considered", "--method", "bitfit", "--method", "lora", "--json")
    assert set(afina(*asked).object()["methods"]) == {"lora"}


@pytest.mark.slow
def test_the_peak_on_a_gpu_is_training_or_evaluation_with_a_tenth_for_what_holds_no_tensor(gpt2: Backbone) -> None:
    training = texts(8, dtype="bfloat16", batch_size=2)
    long = texts(100, dtype="bfloat16", batch_size=64)
    for given, method in ((training, "lora"), (long, "full")):
        one = only(forecast_methods(gpt2.address, [make(method)], training=given))
        assert one.activation_bytes is not None
        trains = one.allocated_end + one.activation_bytes
        assert one.gpu_peak == round(1.1 * max(trains, one.gpu_evaluation))
        assert (trains < one.gpu_evaluation) is (given is training)
    weights = 4 * sum(each.numel() for each in opened(gpt2, make("baseline")).parameters())
    assert weights < one.gpu_evaluation < one.peak


@pytest.mark.slow
def test_a_plan_shows_the_state_that_each_device_has(gpt2: Backbone) -> None:
    one = only(forecast_methods(gpt2.address, [make("lora")], training=texts(8, dtype="bfloat16")))
    assert one.allocated_end < one.state_bytes
    for table, figures in (
        (forecast_table([one]), {"State": one.state_bytes, "Peak": one.peak}),
        (gpu_table([one]), {"State": one.allocated_end, "Evaluation": one.gpu_evaluation, "Peak": one.gpu_peak}),
    ):
        row = dict(zip([column.heading for column in table.columns], table.rows[0], strict=True))
        assert {name: row[name] for name in figures} == {name: size(figure) for name, figure in figures.items()}


def test_the_dtype_is_called_trainings_own_only_if_it_is(gpt2: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "computes_bfloat16", lambda device: True)

    def said(dtype: str) -> str:
        one = only(forecast_methods(gpt2.address, [make("baseline")], training=texts(8, dtype=dtype)))
        assert one.terms.usual_dtype == "bfloat16"
        (note,) = [note for note in forecast_table([one]).notes if note.startswith("Training computes in ")]
        return note

    assert said("auto") == said("bfloat16") == "Training computes in bfloat16, as `afina train` does on this machine."
    assert "`afina train` computes in bfloat16, unless you give `--set dtype=float32`" in said("float32")


def test_gpu_memory_is_shown_only_with_a_gpu_or_a_given_size(gpt2: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    def planned(gpu: int | None, memory: int | None = None) -> Forecast:
        monkeypatch.setattr(meter, "gpu_memory", lambda device: gpu)
        return only(forecast_methods(gpt2.address, [make("baseline")], training=texts(8), memory=memory))

    without = planned(None)
    assert without.terms.memory == (meter.machine_memory() or 0) > 2**28
    assert without.summary["fits_gpu"] is None
    assert gpu_table([without]).notes[0] == "There is no GPU here; `--memory` says how much another machine's has."
    assert gpu_table([planned(8 * GIB)]).notes[0] == "What fits in 8.00 GiB of GPU memory: no fine-tuning."
    assert gpu_table([planned(None, 2 * GIB)]).notes[0] == "What fits in 2.00 GiB of GPU memory: no fine-tuning."


@pytest.mark.slow
def test_a_plan_is_for_what_training_computes_in(gpt2: Backbone, toy: str, tmp_path: Path) -> None:
    one = only(forecast_methods(gpt2.address, [make("lora")], task=toy, calibrate=False))
    made = Run(backbone=gpt2.address, task=toy, method="lora", training={"max_steps": 1}).execute(tmp_path)
    assert one.terms.dtype == made.environment.dtype
    assert one.state_bytes == made.memory.state_bytes


@pytest.mark.parametrize(
    ("text", "size"), [("8GiB", 8 * GIB), ("512 MiB", 2**29), ("16GB", 16 * 10**9), ("0.5gib", GIB // 2)]
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["8", "", "GiB", "-1GiB", "0GiB", "8 parsecs", "8GB of memory"])
def test_a_size_without_a_unit_is_an_error(text: str) -> None:
    with raises(InvalidStudy, code="option.invalid", option="memory"):
        read_size(text)


@pytest.mark.slow
def test_methods_that_the_family_lacks_are_left_out_unless_asked_for(afina: Command, llama: Backbone) -> None:
    planned = forecast_methods(llama.address, training=texts(8))
    found = [one.method for one in planned]
    assert found == [name for name in METHODS if serves("llama", name)]
    assert {"baseline", "zero-shot", "full", "lora", "prelayer"} < set(found) < {*METHODS} - {"bitfit"}
    counted = afina("params", "--backbone", llama.address, "--json").object()["methods"]
    assert {one.method: {part: getattr(one, part) for part in PARTS} for one in planned} == {
        name: one["as_run"] for name, one in counted.items()
    }
    with pytest.raises(InvalidStudy, match="defined for gpt2 only"):
        forecast_methods(llama.address, [make("prelayer-46080")])


@pytest.mark.slow
def test_methods_that_leave_no_room_for_texts_as_long_are_left_out_unless_asked_for(gpt2: Backbone) -> None:
    most = gpt2.longest
    found = [one.method for one in forecast_methods(gpt2.address, training=texts(most, batch_size=1))]
    assert found == [name for name in METHODS if serves("gpt2", name) and not make(name).takes_positions]
    with pytest.raises(InvalidStudy, match=f"method prompt uses 16 of them. Set {most - 16} or less"):
        forecast_methods(gpt2.address, [make("prompt")], training=texts(most))


def test_mistakes_are_errors_that_say_what_to_do(afina: Command) -> None:
    assert "there is no directory ./nowhere" in afina("plan", "--backbone", "./nowhere").error
    assert "such as 8GiB" in afina("plan", "--backbone", "gpt2", "--memory=8").error
    too_long = afina("plan", "--backbone", "gpt2", "--length", "2000").error
    assert too_long == "--length is 2000, but backbone gpt2 takes at most 1024 tokens. Set 1024 or less."


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--batch-size", "--batch-size 1,000,000,000: with 128 tokens a text, a batch has more than "),
        ("--epochs", "--epochs 1,000,000,000: the run has 1,000,000,000 steps, but "),
    ],
)
def test_amounts_beyond_all_reason_are_told_at_once(afina: Command, option: str, told: str) -> None:
    assert afina("plan", "--backbone", "gpt2", "--method", "lora", option, 10**9).error.startswith(told)
    assert f"Invalid value for '{option}'" in afina("plan", "--backbone", "gpt2", option, 10**21).error


@pytest.mark.slow
def test_time_is_known_with_a_task_and_weights(afina: Command, gpt2: Backbone, toy: str) -> None:
    asked = ("plan", "--backbone", gpt2.address, "--task", toy, "--method", "baseline", "--method", "lora", "--json")
    answer = afina(*asked)
    known = answer.object()["methods"]
    assert known["baseline"]["train_seconds"] == 0
    assert 0 < known["lora"]["train_seconds"] < 600
    assert answer.err.splitlines() == [
        f"plan: reading {toy} and the backbone's tokenizer",
        "plan: text: column 'text'; label: column 'label'. 120 rows, 2 classes (bad, good): kind classes",
        "plan: baseline: forecasting memory",
        "plan: lora: forecasting memory",
        "plan: lora: measuring a few steps to forecast the time",
    ]


@pytest.mark.slow
def test_the_table_says_what_was_assumed(gpt2: Backbone, toy: str) -> None:
    training = Training(batch_size=4, dtype="float32")
    methods = [make("baseline"), make("lora")]
    found = forecast_methods(gpt2.address, methods, task=toy, calibrate=False, training=training)
    table = forecast_table(found)
    assert [row[0] for row in table.rows] == ["no fine-tuning", "LoRA"]
    assert all(len(row) == len(table.columns) for row in table.rows)
    words = " ".join(table.notes)
    assert f"the largest training batch of `{toy}`: 4 texts, {found[0].terms.tokens} tokens" in words
    assert "No training time is forecast" in words
    without = forecast_methods(gpt2.address, methods[:1], training=texts(8))
    assert "no task was given" in " ".join(forecast_table(without).notes)


@pytest.mark.slow
def test_a_method_that_suits_one_of_the_backbones_is_planned_on_it(gpt2: Backbone, backbones: Backbones) -> None:
    encoder, said = str(backbones.path("bert")), list[str]()
    methods = [make("setfit"), make("zero-shot")]
    with raises(InvalidStudy, code="method.family-unsupported", method="setfit"):
        forecast_methods(gpt2.address, methods, says=said.append)
    assert not said, "before anything is forecast"
    left_out: dict[str, AfinaError] = {}
    found = forecast_methods(encoder, methods, training=texts(8), among=True, leaves_out=left_out.__setitem__)
    assert [one.method for one in found] == ["setfit"]
    assert [(name, error.code) for name, error in left_out.items()] == [("zero-shot", "backbone.encoder-unsupported")]
