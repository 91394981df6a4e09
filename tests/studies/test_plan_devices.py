"""What `afina plan --devices` foresees of a device, against what gloo processes then measure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from afina import Backbone
from afina.data.batch import Loader
from afina.data.tokenize import Encoded
from afina.errors import InvalidStudy
from afina.events import silent
from afina.methods import make
from afina.methods.attachment import shard
from afina.models.language_model import open_model
from afina.ranks import Ranks, owners
from afina.report.details.plans import devices_table, forecast_table, gpu_table
from afina.studies.planning import forecast_runs
from afina.studies.planning.forecast import Forecast, Terms
from afina.studies.planning.forecast_runs import _Devices, forecast_methods, forecast_run
from afina.studies.runs.prepared import aim_of, attached, loader_of, recipe_of
from afina.studies.runs.spec import RunSpec
from afina.training.dry_run import Alive
from afina.training.probe_fit import fit_of
from afina.training.settings import Training
from command import Command
from fakes import Backbones
from grid import some_slow
from raises import raises
from together import together

MIB = 2**20


@pytest.fixture(autouse=True)
def libraries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No worker is started to measure the memory of Python; and no forecast leaves a process group."""
    monkeypatch.setattr(forecast_runs, "worker_memory", lambda: MIB)
    yield
    assert not dist.is_initialized()


def spec(path: str, method: str, **training: Any) -> RunSpec:
    return RunSpec(backbone=path, task=forecast_runs.MADE_UP, method=method, training=Training(**training))


def planned(path: str, method: str, devices: int, *, sharded: bool = False, **given: Any) -> Forecast:
    run = spec(path, method, **{"dtype": "float32", "max_length": 8} | given)
    return forecast_run(run, calibrate=False, devices=devices, sharded=sharded)


# Data parallel


@pytest.mark.parametrize(("texts", "devices"), [(16, 17), (16, 33), (2, 4096)])
def test_a_device_without_a_text_is_not_the_busiest(texts: int, devices: int) -> None:
    encoded = Encoded(np.zeros(8 * texts, np.int32), np.arange(0, 8 * texts + 1, 8), truncated=0)
    loader = Loader(encoded, np.zeros(texts, np.int64), texts, 0)
    busiest = forecast_runs._busiest(spec("minilm", "lora", batch_size=texts), make("lora"), loader, devices)
    assert busiest in owners(np.full(texts, 8), devices)


@pytest.mark.parametrize("dtype", some_slow(["float32", "bfloat16"], quick=["float32"]))
@pytest.mark.slow
def test_a_device_of_two_needs_what_one_device_needs_for_the_larger_part_of_the_batch(
    backbones: Backbones, dtype: str
) -> None:
    path = str(backbones.path("gpt2"))
    part = planned(path, "full", 1, batch_size=2, dtype=dtype)
    each = planned(path, "full", 2, batch_size=3, dtype=dtype)
    assert (each.terms.devices, each.terms.texts, each.terms.tokens) == (2, 2, 16)
    assert each.state_bytes == part.state_bytes
    assert each.activation_bytes == part.activation_bytes
    assert each.disk_bytes == part.disk_bytes
    assert each.train_seconds is None
    assert "devices" not in part.terms.summary
    assert each.terms.summary["devices"] == 2


def measured(ranks: Ranks, path: str, method_name: str, training: dict[str, Any]) -> tuple[int, int | None, int]:
    """The bytes of state, activations and of all tensors of a rank that trains for some steps."""
    run = spec(path, method_name, **training)
    task, method = forecast_runs.encoded(run), make(method_name).for_family("gpt2")
    objective, _ = aim_of(run, task)
    loader = loader_of(run, task.train, objective)
    recipe = recipe_of(run, method, loader, ranks)
    dtype = getattr(torch, run.training.dtype)
    with Alive() as alive:
        opening, names, cpu = objective.opening, objective.output_names, torch.device("cpu")
        given = {"precision": run.training.precision, "unread": ranks.sharded}
        classifier = open_model(Backbone.load(path), names, 0, opening, **given)
        attached(classifier, method, 0, cpu)
        if ranks.sharded:
            shard(classifier, method, ranks, dtype, cpu)
        fit = fit_of(method)(classifier, method, objective, loader, recipe, dtype)
        fit.advance()
        found = fit.measure()
        if run.training.dtype != "float32":
            return found.state_bytes, found.activation_bytes, alive.peak
        largest, _ = forecast_runs._evaluation(task, run, method.takes_positions)
        model = fit.finish(lambda: pytest.fail("a model in float32 is not opened again")).eval()
        with torch.inference_mode():
            model(largest)
    return found.state_bytes, found.activation_bytes, alive.peak


MEASURED = [
    ("lora", {"dtype": "float32"}),
    ("lora", {"dtype": "bfloat16", "precision": "int8"}),
    ("full", {"dtype": "float32"}),
    ("full", {"dtype": "bfloat16"}),
    ("ia3", {"dtype": "bfloat16"}),
]


def measured_cases(ranks: Ranks, path: str) -> list[tuple[int, int | None, int]]:
    return [measured(ranks, path, method, LONG | training) for method, training in MEASURED]


LONG = {"max_length": 40, "batch_size": 5, "epochs": 3}


@pytest.mark.slow  # two processes that import torch
@pytest.mark.parametrize("sharded", [False, True])
def test_two_processes_need_what_was_foreseen(backbones: Backbones, sharded: bool) -> None:
    path = str(backbones.path("gpt2"))
    every = together(2, measured_cases, path, shards=sharded)
    for place, (method, training) in enumerate(MEASURED):
        one = planned(path, method, 2, sharded=sharded, **LONG | training)
        state, activations, peak = (max(column) for column in zip(*(found[place] for found in every), strict=True))
        assert (one.state_bytes, one.activation_bytes) == (state, activations), (method, training)
        if training["dtype"] == "float32":
            assert one.peak - MIB == pytest.approx(peak, rel=0.02)


@pytest.mark.slow
def test_weights_that_cannot_be_sharded_are_not_planned_so(backbones: Backbones) -> None:
    path, said = str(backbones.path("gpt2")), list[str]()
    dora = make("lora", {"dora": True}).for_family("gpt2")
    training = Training(dtype="float32", max_length=8, batch_size=2)
    (one,) = forecast_methods(path, [dora], training=training, devices=2, says=said.append)
    assert [other.terms.sharded for other in one.on_devices] == [False]
    assert any(line.startswith("not sharded: method lora") for line in said)
    with raises(InvalidStudy, code="ranks.not-sharded", option="products"):
        planned(path, "lora", 2, sharded=True, products="int8")


# Search, words and JSON


GB = 10**9


def fake(devices: int = 1, *, precision: str = "float", sharded: bool = False, needed: float = 8) -> Forecast:
    """A forecast of so many GB on one device, of which several devices have 1 GB each and a part."""
    each = round((1 + (needed - 1) / devices) * GB)
    terms = Terms("gpt2", None, "float32", "float32", 16, 2048, 128, 2, 4 * GB, GB, 4 * GB, precision)
    terms = replace(terms, devices=devices, sharded=sharded)
    return Forecast(
        *("lora", "LoRA", 9, 6, 3, each, each, each // 4, 2048),
        *(each, each, each, GB, None, terms),
    )


@pytest.mark.parametrize("least", [2, 3, 4, 5, 6, 7, 8, 9])
def test_the_fewest_devices_are_found_and_no_number_is_claimed_that_was_not_computed(least: int) -> None:
    computed: list[int] = []

    def forecast_on(devices: int) -> Forecast:
        computed.append(devices)
        return fake(devices)

    found = _Devices(forecast_on, 8).fewest(lambda one: one.terms.devices >= least)
    if least > 8:
        assert found is None
        assert computed == [8]
        return
    assert found is not None
    assert found.terms.devices == least
    assert least == 2 or {least, least - 1} <= {*computed}
    assert len(computed) == len({*computed}) <= 4


def planned_with(monkeypatch: pytest.MonkeyPatch, devices: int, **needed: float) -> Forecast:
    """The forecast of a run that needs so many GB, by precision, on one device."""

    def forecast_on(run: RunSpec, *_: Any, devices: int = 1, sharded: bool = False, **__: Any) -> Forecast:
        precision = run.training.precision
        return fake(devices, precision=precision, sharded=sharded, needed=needed[precision])

    monkeypatch.setattr(forecast_runs, "forecast_run", forecast_on)
    one, run = fake(needed=needed["float"]), spec("gpt2", "lora")
    return forecast_runs._beside(one, run, None, None, devices, compares=False, says=silent)  # type: ignore[arg-type]


def ways(one: Forecast) -> list[tuple[str, int]]:
    return [(other.terms.precision, other.terms.devices) for other in one.alternatives if not other.terms.sharded]


def test_what_fits_is_told_of_one_device_in_int8_in_nf4_and_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    planned_by = partial(planned_with, monkeypatch)
    assert ways(planned_by(8, float=8, int8=5, nf4=3)) == [("nf4", 1), ("float", 3)]
    assert ways(planned_by(8, float=8, int8=4, nf4=3)) == [("int8", 1), ("nf4", 1), ("float", 3)]
    assert ways(planned_by(1, float=8, int8=5, nf4=5)) == []
    assert ways(planned_by(8, float=4, int8=2, nf4=1)) == []
    assert ways(planned_by(2, float=8, int8=5, nf4=5)) == []

    one = planned_by(8, float=8, int8=4, nf4=5)
    for table in (forecast_table([one]), gpu_table([one])):
        notes = " ".join(table.notes)
        assert "With `--precision int8`, these fit too: LoRA (3.73 GiB)." in notes
        assert "nf4" not in notes
        assert "these fit too: LoRA (3 devices, data parallel: 3.10 GiB each" in notes
    several = planned_by(2, float=8, int8=5, nf4=5)
    assert "On 2 devices, no further method fits." in gpu_table([several]).notes
    unasked = planned_by(1, float=8, int8=5, nf4=5)
    assert any("`--devices 8` says" in note for note in forecast_table([unasked]).notes)
    fitting = planned_by(1, float=3, int8=5, nf4=5)
    assert not any("--devices" in note for note in forecast_table([fitting]).notes)


def test_the_figures_of_each_device_are_shown_and_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    one = planned_with(monkeypatch, 4, float=8, int8=4, nf4=5)
    table, made = devices_table([one], on_gpu=False), one.summary
    assert table.title == "Plan for gpt2 on each of 4 CPUs, training in float32"
    assert table.rows[0] == ("LoRA", "whole", "2.56 GiB", "0.64 GiB", "2.56 GiB", "yes")
    assert "was not measured" in table.notes[-1]
    assert devices_table([one], on_gpu=True).rows[0] == table.rows[0]
    first = made["on_devices"][0]
    assert (first["devices"], first["sharded"], first["peak"]) == (4, False, one.on_devices[0].peak)
    assert [(other["precision"], other["devices"]) for other in made["alternatives"]][:2] == [("int8", 1), ("float", 3)]
    assert not {"alternatives", "on_devices"} & fake(needed=2).summary.keys()


@pytest.mark.slow
def test_the_command_plans_several_devices(afina: Command, backbones: Backbones) -> None:
    asked = ["plan", "--backbone", str(backbones.path("gpt2")), "--method", "lora", "--dtype", "float32"]
    made = afina(*asked, "--devices", "3", "--json").object()["methods"]["lora"]
    one = afina(*asked, "--json").object()["methods"]["lora"]
    assert {**made, "on_devices": None} == {**one, "on_devices": None}
    (first, *_) = made["on_devices"]
    assert (first["devices"], first["state_bytes"]) == (3, one["state_bytes"])
    assert first["activation_bytes"] < one["activation_bytes"] / 2
    assert "on each of 3 CPUs, training in float32" in " ".join(afina(*asked, "--devices", "3").out.split())
    assert "Invalid value for '--devices'" in afina(*asked, "--devices", "0").error
