"""Where an adapter lies is said as a path that opens, from wherever the results were read."""

from __future__ import annotations

import shutil
from pathlib import Path

from afina import Adapter, Results, Study
from afina.data.text_hashes import HASHES_FILE
from afina.errors import CorruptAdapter, InvalidStudy, NotFound, UnknownName
from afina.models.manifest import MANIFEST
from afina.studies.adapter_paths import find_adapter
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.record import write_records
from command import InventedExecutor
from fakes import Runs
from raises import raises


def results(out: Path, *methods: str) -> Results:
    study = Study(name="s", backbone="gpt2", task="sst2", seeds=(0, 1), methods={name: {} for name in methods})
    return study.run(out, executor=InventedExecutor())


def test_an_adapter_is_found_by_its_runs_name_and_seed_also_after_a_move(tmp_path: Path) -> None:
    made = results(tmp_path / "here", "full", "prelayer")
    assert made.adapter("full") == tmp_path / "here" / made.records[0].adapter
    assert made.adapter("full", seed=1) != made.adapter("full", seed=0)
    assert made.adapter("prelayer").is_dir()
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert Results.read(tmp_path / "there").adapter("full").parent == tmp_path / "there" / "adapters"
    assert Results.read(tmp_path / "there").adapter("full").is_dir()


def test_one_method_alone_needs_no_name(tmp_path: Path) -> None:
    made = results(tmp_path, "full")
    assert made.adapter() == made.adapter("full", seed=0)


def test_a_name_or_seed_that_is_not_there_is_an_error_that_says_what_is(tmp_path: Path) -> None:
    made = results(tmp_path, "full", "prelayer")
    with raises(UnknownName, code="name.unknown", name="ful", kind="method", nearest="full"):
        made.adapter("ful")
    with raises(InvalidStudy, code="adapter.ambiguous"):
        made.adapter()
    with raises(NotFound, code="adapter.missing", method="full", seed=7):
        made.adapter("full", seed=7)


def test_a_run_of_an_earlier_study_of_the_directory_is_found_as_the_commands_find_it(tmp_path: Path) -> None:
    first, last = results(tmp_path, "full", "prelayer"), results(tmp_path, "lora")
    assert [one.name for one in OutputDirectory(tmp_path).read()] == ["full", "prelayer"] * 2 + ["lora"] * 2
    for made in (last, Results.read(tmp_path)):
        found = made.find_adapter("full")
        assert found == find_adapter(tmp_path, "full")
        assert (found.path, found.of_last_request) == (first.adapter("full", seed=1), False), "the latest record"
        assert found.note
    again = first.find_adapter("full")
    assert (again.path.name[:10], again.of_last_request) == ("full-seed0", True), "the first seed of these results"


def test_a_run_that_a_study_adds_is_a_later_record_than_those_that_it_found(tmp_path: Path) -> None:
    results(tmp_path, "full")
    results(tmp_path, "lora", "full")
    assert [one.name for one in OutputDirectory(tmp_path).read()] == ["full", "full", "lora", "lora"]


def test_a_run_says_where_its_adapter_will_be(runs: Runs, tmp_path: Path) -> None:
    run = runs.run("gpt2", "lora", max_steps=2)
    record = run.execute(str(tmp_path))
    assert run.adapter(str(tmp_path)) == tmp_path / record.adapter
    assert Adapter.load(str(run.adapter(tmp_path))).digest == record.digest


def test_a_recorded_adapter_without_its_manifest_is_not_taken_for_one_of_peft(runs: Runs, tmp_path: Path) -> None:
    record = runs.record("gpt2", "lora")
    place = tmp_path / record.adapter
    shutil.copytree(runs.adapter("gpt2", "lora"), place)
    (place / MANIFEST).unlink()
    (place / HASHES_FILE).unlink()
    assert find_adapter(place).path == place, "no record says that it is one of afina"
    write_records(OutputDirectory(tmp_path).records, [record])
    with raises(CorruptAdapter, code="adapter.file-missing", path=place.name, file=MANIFEST):
        find_adapter(place)
