"""What a run reads, named for a machine that has not the files; and that no worker changes a digest."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from afina import Backbone, Study, Task, digest
from afina.errors import InvalidData
from afina.methods.pooled_features import sentence_pooling
from afina.studies.executors.local_executor import LocalExecutor
from afina.studies.runs.inputs import RunInputs
from afina.studies.runs.run import Run
from command import HereExecutor
from fakes import sentences, write_csv


@pytest.fixture
def own(gpt2: Backbone, tmp_path: Path) -> Mapping[str, Path]:
    """A backbone, a file to train on and one to evaluate on that are this test's alone, so that they may move."""
    rows = [(text, ("bad", "good")[label]) for text, label in sentences(80)]
    made = {"backbone": tmp_path / "model", "task": tmp_path / "rows.csv", "evaluation": tmp_path / "more.csv"}
    shutil.copytree(gpt2.path, made["backbone"])
    write_csv(made["task"], rows[:60])
    write_csv(made["evaluation"], rows[60:])
    return made


SAME = {"key", "name", "seed", "digest", "predictions_digest", "losses", "task", "backbone", "adapter", "columns"}


def study(own: Mapping[str, Path], *methods: str, **changes: Any) -> Study:
    content = {
        "name": "elsewhere",
        "backbone": str(own["backbone"]),
        "task": str(own["task"]),
        "data": {"evaluation": str(own["evaluation"])},
        "train": {"max_steps": 4, "batch_size": 8, "dtype": "float32"},
        "methods": {method: {} for method in methods},
    }
    return Study.parse(content | changes, "elsewhere")


@pytest.mark.slow
def test_workers_at_once_change_no_digest(own: Mapping[str, Path], tmp_path: Path) -> None:
    this = study(own, "full", "lora", "zero-shot", seeds=[0, 1])
    here = this.run(tmp_path / "here", executor=HereExecutor()).records
    there = this.run(tmp_path / "there", executor=LocalExecutor(2)).records
    assert [one.model_dump(include=SAME) for one in there] == [one.model_dump(include=SAME) for one in here]
    assert {one.at_once for one in there} == {2}


def test_inputs_name_files_by_digest_and_hold_no_path_of_this_machine(own: Mapping[str, Path]) -> None:
    (run,) = study(own, "lora").runs()
    found = run.inputs()
    assert [file.digest for file in found.task.files] == [digest.of_file(own["task"])]
    assert found.evaluation is not None
    assert [file.name for file in found.evaluation.files] == ["more.csv"]
    names = {file.name: file for file in found.backbone.files}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names.keys()
    assert found.content.keys() == {
        file.digest for one in (found.task, found.evaluation, found.backbone) for file in one.files
    }
    assert found == RunInputs.of(run)


def test_the_key_of_a_run_is_the_same_wherever_its_inputs_are(own: Mapping[str, Path], tmp_path: Path) -> None:
    (run,) = study(own, "lora").runs()
    key = run.key
    inputs = run.inputs()
    where = inputs.materialise(tmp_path / "there", lambda name, path: shutil.copy(inputs.content[name], path))
    task = where.read(run)
    assert run.key == key
    assert task.address == run.task
    assert task.data_digest == Task.load(run.task, run.data).data_digest
    assert where.open(run).address == run.backbone


def test_the_pooling_of_a_sentence_transformers_directory_is_sent_too(own: Mapping[str, Path], tmp_path: Path) -> None:
    (own["backbone"] / "modules.json").write_text('[{"path": "1_Pooling", "type": "st.Pooling"}]', encoding="utf-8")
    (own["backbone"] / "1_Pooling").mkdir()
    (own["backbone"] / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}', encoding="utf-8")
    (run,) = study(own, "linear_probe").runs()
    inputs = run.inputs()
    where = inputs.materialise(tmp_path / "there", lambda name, path: shutil.copy(inputs.content[name], path))
    assert sentence_pooling(where.open(run).path) == ("mean", False)


@pytest.mark.parametrize("task", ["directory", "glue"])
def test_the_files_of_a_directory_are_those_that_are_read(own: Mapping[str, Path], tmp_path: Path, task: str) -> None:
    place = tmp_path / "several"
    place.mkdir()
    if task == "glue":
        for name in ("train.tsv", "dev.tsv"):
            (place / name).write_text(f"sentence\tlabel\nbad {name}\t0\ngood {name}\t1\n", encoding="utf-8")
        address = f"glue/sst2:{place}"
    else:
        shutil.copy(own["task"], place / "train.csv")
        shutil.copy(own["evaluation"], place / "dev.csv")
        address = str(place)
    (place / "unrelated.bin").write_bytes(b"0" * 100)
    run = Run(backbone=str(own["backbone"]), task=address, method="lora")
    inputs = run.inputs()
    assert {Path(file.name).stem for file in inputs.task.files} == {"train", "dev"}
    where = inputs.materialise(tmp_path / "there", lambda name, path: shutil.copy(inputs.content[name], path))
    assert str(place) not in where.task
    assert where.read(run).train.digest == Task.load(address).train.digest


def test_of_a_random_backbone_no_weights_are_sent(own: Mapping[str, Path], tmp_path: Path) -> None:
    run = Run(backbone=f"random:{own['backbone']}", task="snippets:movies", method="lora")
    inputs = run.inputs()
    assert not any(file.name.endswith(".safetensors") for file in inputs.backbone.files)
    assert inputs.task.files == ()
    where = inputs.materialise(tmp_path / "there", lambda name, path: shutil.copy(inputs.content[name], path))
    assert where.task == "snippets:movies"
    assert where.open(run).weights_digest == Backbone.load(run.backbone).weights_digest


def test_what_every_machine_can_get_is_named_by_address_and_by_what_pins_it() -> None:
    inputs = Run(backbone="embedded", task="snippets:movies", method="lora").inputs()
    assert inputs.backbone.files == inputs.task.files == ()
    assert inputs.backbone.digest is not None
    assert inputs.backbone.digest.startswith("sha256:")


def test_a_file_that_changed_on_its_way_is_refused(own: Mapping[str, Path], tmp_path: Path) -> None:
    (run,) = study(own, "lora").runs()
    with pytest.raises(InvalidData) as caught:
        run.inputs().materialise(tmp_path / "there", lambda name, path: path.write_bytes(b"other"))
    assert caught.value.code == "data.changed"
