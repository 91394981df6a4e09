"""`train.products`: products with frozen weights in int8 while a run trains. The base and its adapters stay floats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from afina import Adapter, Backbone, Predictor, Run, Study, processor, recommend
from afina import device as devices
from afina.cli import studies as commands
from afina.data.task import Task
from afina.errors import AfinaError, InvalidStudy
from afina.methods import make
from afina.models.backbone_spec import FLOAT
from afina.models.kernels.linear import frozen_weight, is_linear
from afina.models.predictions import Predictions
from afina.report.arms import arms
from afina.report.details.plans import forecast_table, precision_table
from afina.report.report import Report
from afina.studies import study as studies
from afina.studies.executors.local_executor import LocalExecutor
from afina.studies.planning.forecast_runs import forecast_methods, forecast_run
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.record import Result
from afina.studies.runs.spec import RunSpec
from afina.training import settings
from afina.training.settings import PRODUCTS, Training
from command import Command
from fakes import Runs
from raises import raises
from records import result, results

INT8 = "int8"
CPU = torch.device("cpu")


@pytest.fixture
def int8() -> None:
    """Instructions for int8, which some processors lack."""
    if devices.why_no_int8(CPU) is not None:
        pytest.skip("the processor has no instructions for int8")


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor with AVX-512, but without instructions for int8."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True, "avx512_bf16": True})


# What is declared


def test_float_is_the_default_which_changes_no_key(runs: Runs) -> None:
    plain, named, other = (runs.run("gpt2", "lora", **given) for given in ({}, {"products": FLOAT}, {"products": INT8}))
    assert plain.key == named.key != other.key
    assert RunSpec.model_validate_json(other.model_dump_json()).training.products == INT8
    assert (Training().products, PRODUCTS) == (FLOAT, (FLOAT, INT8))


@pytest.mark.parametrize(
    ("method", "hyperparameters"), [("full", {}), ("peft", {"type": "LOHA", "settings": {"r": 2}}), ("full+lora", {})]
)
def test_a_method_that_multiplies_no_frozen_weight_is_refused_before_anything_is_read(
    method: str, hyperparameters: dict[str, Any]
) -> None:
    given = {"backbone": "nowhere", "task": "nothing.csv", "method": method, "hyperparameters": hyperparameters}
    assert Run(**given).training.products == FLOAT
    with raises(InvalidStudy, code="method.products-unsupported", run=method, method=method, products=INT8):
        Run(**given, training={"products": INT8})


def test_a_method_of_a_study_may_have_its_own_products(gpt2: Backbone, toy: str) -> None:
    content = {
        "name": "both",
        "backbone": gpt2.address,
        "task": toy,
        "train": {"products": INT8},
        "methods": {"lora": {}, "lora-float": {"method": "lora", "products": FLOAT}, "full": {"products": FLOAT}},
    }
    made = Study.parse(content, "study")
    assert [run.training.products for run in made.runs()] == [INT8, FLOAT, FLOAT]
    assert studies._products_notes(made.runs()) == ["Training computes products with frozen weights in int8: lora."]
    content["methods"] = {"lora": {}, "full": {}}
    with raises(InvalidStudy, code="method.products-unsupported", method="full"):
        Study.parse(content, "study")


# What a run does


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "method", "hyperparameters", "training"),
    [
        ("gpt2", "lora", {}, {}),
        ("llama", "lora", {"targets": "all-linear"}, {"dtype": "bfloat16"}),
        ("bert", "ia3", {}, {"precision": INT8}),
        ("gpt2", "last", {"blocks": 1}, {"dtype": "bfloat16", "precision": FLOAT}),
        ("gpt2", "lora", {"dora": True}, {"precision": INT8}),
        ("llama", "adapter", {}, {"checkpointing": True}),
        ("gpt2", "lora+layernorm", {}, {"dtype": "bfloat16"}),
    ],
)
@pytest.mark.usefixtures("int8")
def test_the_memory_of_a_run_is_foreseen_to_the_byte(
    runs: Runs, family: str, method: str, hyperparameters: dict[str, Any], training: dict[str, Any], tmp_path: Path
) -> None:
    run = runs.run(family, method, hyperparameters, products=INT8, **training)
    foreseen, measured = forecast_run(run, calibrate=False), run.execute(tmp_path).memory
    assert (foreseen.state_bytes, foreseen.activation_bytes) == (measured.state_bytes, measured.activation_bytes)


@pytest.mark.slow
@pytest.mark.usefixtures("int8")
def test_codes_for_both_directions_take_half_of_what_bfloat16_takes(runs: Runs) -> None:
    layers = (layer for layer in Backbone.load(str(runs.backbones.path("llama"))).open(("0", "1"), 0)[0].modules())
    shapes = [frozen_weight(layer).shape for layer in layers if is_linear(layer)][:-1]  # all but the head
    plain, lowered = (
        forecast_run(runs.run("llama", "lora", products=one, dtype="bfloat16"), calibrate=False) for one in PRODUCTS
    )
    scales = sum(4 * (outputs + 2 * inputs) for outputs, inputs in shapes)  # with the factors of the input channels
    saved = sum(2 * outputs * inputs for outputs, inputs in shapes) - scales
    assert plain.state_bytes - lowered.state_bytes == saved
    assert lowered.activation_bytes == plain.activation_bytes


@pytest.mark.usefixtures("int8")
def test_what_a_run_trains_is_an_ordinary_adapter_on_the_float_base(runs: Runs, tmp_path: Path) -> None:
    run = runs.run("gpt2", "lora", products=INT8)
    found, plain = run.execute(tmp_path), runs.record("gpt2", "lora")
    assert found.key == run.with_digests(data_digest=found.data_digest, backbone_files=found.backbone_files).key
    assert (found.training["products"], plain.training["products"]) == (INT8, FLOAT)
    assert found.digest != plain.digest
    assert np.allclose(found.losses, plain.losses, rtol=0.05)
    adapter = Adapter.load(tmp_path / found.adapter)
    assert (adapter.manifest.training["products"], adapter.manifest.precision) == (INT8, FLOAT)
    recorded = Predictions.read(tmp_path / found.predictions, found.predictions_digest)
    texts = Task.load(run.task).evaluation.texts
    assert np.allclose(Predictor.load(adapter).outputs(texts), recorded.outputs, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("int8")
def test_a_run_that_is_stopped_and_continued_has_the_digest_of_one_that_is_not(runs: Runs, tmp_path: Path) -> None:
    run = runs.run("llama", "lora", products=INT8, checkpoint_seconds=0)
    undisturbed = run.execute(tmp_path / "undisturbed")

    def stop(progress: Any) -> None:
        if progress.phase == "train" and progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.execute(tmp_path / "stopped", stop)
    assert OutputDirectory(tmp_path / "stopped").has_checkpoint
    continued = run.execute(tmp_path / "stopped")
    assert (continued.digest, continued.losses) == (undisturbed.digest, undisturbed.losses)


# What is refused, where


@pytest.mark.usefixtures("int8")
def test_a_method_that_leaves_no_linear_layer_frozen_is_refused_at_its_start(
    runs: Runs, gpt2: Backbone, tmp_path: Path
) -> None:
    run = runs.run("gpt2", "last", {"blocks": 2}, products=INT8)
    for attempt in (lambda: run.execute(tmp_path), lambda: forecast_run(run, calibrate=False)):
        with raises(InvalidStudy, code="method.products-unsupported", method="last", products=INT8):
            attempt()
    assert not list(tmp_path.glob("adapters/*"))
    left_out: dict[str, AfinaError] = {}
    methods, training = [make("full"), make("last", {"blocks": 2})], Training(products=INT8)
    given = {"training": training, "compares": True, "leaves_out": left_out.__setitem__}
    assert forecast_methods(gpt2.address, methods, **given) == []
    assert list(left_out) == ["full", "last"]


@pytest.mark.usefixtures("without")
def test_a_processor_without_int8_is_refused_before_a_run_begins(
    runs: Runs, gpt2: Backbone, toy: str, tmp_path: Path
) -> None:
    training = Training(products=INT8)
    content = {"name": "s", "backbone": gpt2.address, "task": toy, "methods": {"head": {}, "lora": {"products": INT8}}}
    attempts: list[Callable[[], object]] = [
        lambda: runs.run("gpt2", "lora", products=INT8).execute(tmp_path / "run"),
        lambda: Study.parse(content, "study").run(tmp_path / "study"),
        lambda: forecast_methods(gpt2.address, [make("lora")], training=training),
        lambda: recommend(toy, 1, backbone=gpt2.address, out=tmp_path / "choose", products=INT8),
    ]
    for attempt in attempts:
        with raises(InvalidStudy, code="products.unsupported", products=INT8) as caught:
            attempt()
        assert "VNNI" in str(caught.value)
    assert not list(tmp_path.rglob("records.jsonl"))


def test_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    LocalExecutor().check_products(FLOAT)
    with raises(InvalidStudy, code="products.unsupported", products=INT8) as caught:
        LocalExecutor().check_products(INT8)
    assert "cuda (a GPU)" in str(caught.value)


def test_recommend_refuses_an_unknown_type_of_products(gpt2: Backbone, toy: str, tmp_path: Path) -> None:
    with raises(InvalidStudy, code="study.value-invalid", key="products", where="recommend", found="int4"):
        recommend(toy, 1, backbone=gpt2.address, out=tmp_path, products="int4")  # type: ignore[arg-type]


# The default of this machine


@pytest.mark.parametrize(
    ("flags", "gpu", "usual"),
    [
        ({"avx2"}, False, FLOAT),
        ({"avx2", "avx_vnni"}, False, INT8),
        ({"avx512_vnni"}, False, INT8),
        ({"avx512_vnni"}, True, FLOAT),
        ({"avx512_vnni", "avx512_bf16"}, False, FLOAT),
        ({"amx_int8", "amx_bf16"}, False, FLOAT),
    ],
)
def test_int8_is_the_default_where_a_processor_computes_int8_natively_and_bfloat16_not(
    flags: set[str], gpu: bool, usual: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "flags", lambda: frozenset(flags))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(flags, True))
    monkeypatch.setattr(devices, "choose", lambda: torch.device("cuda" if gpu else "cpu"))
    monkeypatch.setattr(devices, "describe", lambda device: device.type)
    assert settings.usual_products() == LocalExecutor().usual_products() == usual


def test_linux_says_of_a_processor_what_torch_says() -> None:
    if not (known := processor.flags()):
        pytest.skip("the operating system does not list the processor's instructions")
    asked = processor.INT8_FLAGS | processor.BFLOAT16_FLAGS
    assert known & asked == {name for name in asked if torch.cpu.get_capabilities().get(name)}


def test_the_default_of_a_machine_is_that_of_train_for_methods_that_int8_suits(
    afina: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Study] = []
    monkeypatch.setattr(commands, "_carry_out", lambda study, *given, **options: made.append(study))
    asked = ["train", "--task", "nothing.csv", "--backbone", "nowhere"]
    monkeypatch.setattr(settings, "usual_products", lambda: FLOAT)
    assert afina(*asked).code == 0
    monkeypatch.setattr(settings, "usual_products", lambda: INT8)
    for more in ([], ["--set", "products=float"], ["--method", "full"], ["--set", "precision=int8"]):
        assert afina(*asked, *more).code == 0
    assert [run.training.products for study in made for run in study.runs()] == [FLOAT, INT8, FLOAT, FLOAT, FLOAT]


@pytest.mark.usefixtures("without")
def test_the_default_of_a_machine_is_that_of_choose(
    gpt2: Backbone, toy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalExecutor, "usual_products", lambda self: INT8)
    with raises(InvalidStudy, code="products.unsupported", products=INT8):
        recommend(toy, 1, backbone=gpt2.address, out=tmp_path)


# Where it is said


@pytest.mark.slow
@pytest.mark.usefixtures("int8")
def test_a_plan_says_the_products_and_has_no_figures_of_a_gpu(afina: Command, gpt2: Backbone) -> None:
    asked = ["plan", "--backbone", gpt2.address, "--method", "lora", "--dtype", "bfloat16"]
    plain, found = (json.loads(afina(*asked, *more, "--json").out) for more in ([], ["--products", INT8]))
    assert ("products" in plain, found["products"]) == (False, INT8)
    (one, other) = (each["methods"]["lora"] for each in (plain, found))
    assert one.keys() - other.keys() == {"allocated_end", "gpu_evaluation", "gpu_peak"}
    assert other["fits_gpu"] is None
    assert other["state_bytes"] < one["state_bytes"]
    shown = " ".join(afina(*asked, "--products", INT8).out.split())
    assert "on a GPU" not in shown
    assert "training in bfloat16 with products in int8" in shown
    assert "`afina train --set products=int8` trains so" in shown
    wrong = afina(*asked, "--products", "int4")
    assert wrong.code == 2
    assert "Did you mean 'int8'?" in " ".join(wrong.err.split())


@pytest.mark.slow
@pytest.mark.usefixtures("int8")
def test_tables_of_a_plan_leave_out_a_gpu(gpt2: Backbone) -> None:
    training = Training(products=INT8, dtype="float32", max_length=16)
    plan = forecast_methods(gpt2.address, [make("lora")], training=training, compares=True, memory=2**34)
    assert any("computed in int8, which needs a CPU" in note for note in forecast_table(plan).notes)
    (row,) = precision_table([plan]).rows
    assert row[3] == "–"
    assert plan[0].fits_gpu is None


def test_a_report_says_which_runs_computed_products_in_int8() -> None:
    training = {"epochs": 2, "learning_rate": 2e-4, "products": FLOAT}
    lowered = training | {"products": INT8}
    plain = result(training=training)
    other = result(name="lora-int8", key="sha256:2", training=lowered)
    untrained = result("baseline", training=lowered)

    def shown(*made: Result) -> str:
        return " ".join(Report.of(results(made)).markdown().split())

    assert "products with frozen weights in int8 in the runs with `products` int8 -" in shown(plain, other)
    assert "| Learning rate | Products |" in shown(plain, other)
    assert "training in float32, products with frozen weights in int8 -" in shown(other)
    assert "products int8" in shown(other)
    assert "frozen weights in int8" not in shown(plain) + shown(plain, untrained)


def test_a_record_of_a_version_without_the_setting_is_of_the_same_arm() -> None:
    training = {"epochs": 2, "learning_rate": 2e-4}
    earlier, later = result(training=training), result(training=training | {"products": FLOAT}, seed=1, key="sha256:2")
    lowered = result(training=training | {"products": INT8}, seed=1, key="sha256:3")
    assert [arm.seeds for arm in arms([earlier, later])] == [(0, 1)]
    assert [arm.label for arm in arms([earlier, lowered])] == ["LoRA, products float", "LoRA, products int8"]
    assert "| Products |" not in Report.of(results([earlier, later])).markdown()
    shown = Report.of(results([earlier, lowered])).markdown().partition("What was run")[2]
    assert [line.split("|")[4].strip() for line in shown.splitlines() if line.startswith("| LoRA")][:2] == [FLOAT, INT8]
