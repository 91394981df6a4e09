"""An adapter is found by the directory of what made it and the name of its method, from wherever that is read."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from afina import Adapter, Results, Study
from afina.data.reading_options import ReadingOptions
from afina.data.text_hashes import HASHES_FILE
from afina.errors import AfinaError, CorruptAdapter, InvalidStudy, NotFound, UnknownName
from afina.estimators.estimator import TextClassifier
from afina.methods import METHODS
from afina.methods.selective import Baseline
from afina.models.manifest import MANIFEST
from afina.studies.adapter_paths import find_adapter
from afina.studies.choosing.floors import TFIDF
from afina.studies.choosing.recommendation import Contender, Recommendation
from afina.studies.descriptions import StudyRequest
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.record import Record, write_records
from afina.studies.teachers import of_adapter
from command import InventedExecutor
from fakes import Runs
from raises import raises
from records import record


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


def test_a_name_or_seed_that_is_not_there_is_an_error(tmp_path: Path) -> None:
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


# Of records, without a study


def made(name: str, seed: int = 0, method: str = "lora", **changes: object) -> Record:
    return record(
        method, name=name, seed=seed, key=f"{name}-{seed}", adapter=f"adapters/{name}-seed{seed}-0123", **changes
    )


def write(out: Path, records: Sequence[Record]) -> None:
    """Write the records, and the manifest of each adapter."""
    out.mkdir()
    write_records(OutputDirectory(out).records, [one.sealed() for one in records])
    for one in records:
        if one.adapter is None:
            continue
        (out / one.adapter).mkdir(parents=True, exist_ok=True)
        (out / one.adapter / MANIFEST).touch()


def study(out: Path, records: Sequence[Record], keys: Sequence[str] | None = None) -> Path:
    write(out, records)
    asked = tuple(one.key for one in records) if keys is None else tuple(keys)
    names = tuple(next((one.name for one in records if one.key == key), "") for key in asked)
    request = StudyRequest(name="mine", task="t", data=ReadingOptions(), keys=asked, names=names, study={})
    OutputDirectory(out).study.write_text(request.model_dump_json(), encoding="utf-8")
    return out


def recommendation(out: Path, recommended: str) -> Path:
    write(out, [made("full", method="full"), made("lora")])
    contenders = tuple(
        Contender(name=name, metrics={"accuracy": 0.5}, key=f"{name}-0", adapter=f"adapters/{name}-seed0-0123")
        for name in ("full", "lora")
    )
    adapter = next((one.adapter for one in contenders if one.name == recommended), None)
    answer = Recommendation(
        task="t", data=ReadingOptions(), backbone="gpt2", recommended=recommended, adapter=adapter,
        contenders=(Contender(name=TFIDF, metrics={"accuracy": 0.5}), *contenders), comparisons=(), dropped={},
        train_examples=1, examples=1, minutes=1.0, seconds=1.0,
    )  # fmt: skip
    OutputDirectory(out).recommendation.write_text(answer.sealed().model_dump_json(), encoding="utf-8")
    return out


def test_in_a_study_it_is_that_of_the_named_method_and_the_first_seed(
    tmp_path: Path,
) -> None:
    out = study(tmp_path / "out", [made("wide", 5), made("wide", 2), made("full", 5, "full")], ["wide-2", "wide-5"])
    assert find_adapter(out, "wide").path == out / "adapters/wide-seed2-0123"
    assert find_adapter(out, "wide", 5).path == out / "adapters/wide-seed5-0123"
    assert find_adapter(out).path == find_adapter(out, "wide").path, "the last request has no other"
    assert find_adapter(out, "full").path == out / "adapters/full-seed5-0123", "an earlier one's is there as well"


def test_the_only_one_that_was_trained_needs_no_name(tmp_path: Path) -> None:
    assert (
        find_adapter(study(tmp_path / "a", [made("lora"), made("zero-shot", method="zero-shot")])).path.name
        == "lora-seed0-0123"
    )
    alone = study(tmp_path / "b", [made("zero-shot", method="zero-shot")])
    assert find_adapter(alone).path == alone / "adapters/zero-shot-seed0-0123"


def test_of_a_recommendation_it_is_the_recommended_one_or_the_named(tmp_path: Path) -> None:
    out = recommendation(tmp_path / "out", "lora")
    assert find_adapter(out).path == out / "adapters/lora-seed0-0123"
    assert find_adapter(out, "full").path == out / "adapters/full-seed0-0123"
    with pytest.raises(AfinaError, match=f"the recommended {re.escape(TFIDF)} has no adapter. Name another method"):
        find_adapter(recommendation(tmp_path / "simple", TFIDF))


def test_an_adapter_is_itself_and_of_it_nothing_can_be_chosen(tmp_path: Path) -> None:
    for place, method in ((tmp_path, None), (tmp_path / "nowhere", "lora")):
        with pytest.raises(AfinaError, match=r"no adapter found: expected manifest\.json"):
            find_adapter(place, method)
    (tmp_path / "manifest.json").touch()
    assert find_adapter(tmp_path).path == tmp_path
    for method, seed in (("lora", None), (None, 1)):
        with pytest.raises(AfinaError, match=r"no results of a study, so `(method|seed)` has nothing to choose from"):
            find_adapter(tmp_path, method, seed)


def test_what_was_trained_before_is_found_where_what_was_asked_for_last_has_not_finished(tmp_path: Path) -> None:
    place = study(tmp_path / "out", [made("lora")], keys=["another"])
    assert find_adapter(place).path == place / made("lora").adapter


def retrained(out: Path, keys: Sequence[str] = ("head-0",)) -> Path:
    """Two trainings of LoRA with different settings, then one of the head alone."""
    short = made("lora", training={"max_steps": 2})
    longer = made("lora", training={"max_steps": 3}).model_copy(update={"key": "lora-b", "adapter": "adapters/longer"})
    return study(out, [short, longer, made("head", method="head")], keys)


def test_of_several_trainings_of_a_method_the_last_request_counts_and_else_the_latest_record(tmp_path: Path) -> None:
    out = retrained(tmp_path / "out")
    for found in (find_adapter(out, "lora"), find_adapter(out, "lora", 0)):
        assert (found.path, found.of_last_request) == (out / "adapters/longer", False)
        assert [one.key for one in found.others] == ["lora-0"]
        assert found.note is not None
        assert "adapters/longer (max_steps 3)" in found.note
        assert "adapters/lora-seed0-0123 (max_steps 2)" in found.note
    head = find_adapter(out, seed=0)
    assert (head.path, head.note) == (out / "adapters/head-seed0-0123", None)
    again = find_adapter(retrained(tmp_path / "again", ["lora-0"]))
    assert (again.path.name, again.of_last_request) == ("lora-seed0-0123", True), "asked for last, though not recorded"
    assert [one.key for one in again.others] == ["lora-b"]


def test_a_seed_that_the_last_request_lacks_is_that_of_the_latest_record(tmp_path: Path) -> None:
    seeds = [made("lora", seed, train_examples=size) for seed, size in ((0, 30), (1, 10), (2, 20))]
    larger = made("lora", 1, train_examples=20).model_copy(update={"key": "larger", "adapter": "adapters/larger"})
    out = study(tmp_path / "out", [*seeds[:2], larger, seeds[2]], ["lora-2"])
    assert find_adapter(out, "lora").path.name == "lora-seed2-0123"
    assert find_adapter(out, "lora", 1).path.name == "larger", "of several sizes the largest"
    assert find_adapter(out, "lora", 0).path.name == "lora-seed0-0123"
    with raises(NotFound, code="adapter.missing", seed=3):
        find_adapter(out, "lora", 3)


def test_several_settings_of_one_study_are_refused(tmp_path: Path) -> None:
    out = study(tmp_path / "named", [made("wide"), made("narrow"), made("full", method="full")])
    with raises(InvalidStudy, code="adapter.ambiguous", method="lora") as caught:
        find_adapter(out, "lora")
    assert "wide, narrow" in str(caught.value)
    assert find_adapter(study(tmp_path / "one", [made("wide")]), "lora").path.name == "wide-seed0-0123"
    other = made("lora", training={"max_steps": 3}).model_copy(update={"key": "b", "adapter": "adapters/b"})
    with raises(InvalidStudy, code="adapter.ambiguous", method="lora") as caught:
        find_adapter(study(tmp_path / "rows", [made("lora", training={"max_steps": 2}), other]), "lora")
    assert "adapters/b (max_steps 3)" in str(caught.value)


# Of runs without an adapter


def test_a_run_without_an_adapter_is_not_chosen_and_naming_it_is_an_error(tmp_path: Path) -> None:
    asked = made("asked").model_copy(update={"adapter": None, "digest": None})
    out = study(tmp_path / "out", [asked, made("lora")])
    assert find_adapter(out).path == out / "adapters/lora-seed0-0123"
    with raises(NotFound, code="adapter.missing", method="asked", known=["lora"]):
        find_adapter(out, "asked")
    other = made("other").model_copy(update={"adapter": None, "digest": None})
    with raises(NotFound, code="adapter.missing", methods=["asked", "other"]):
        find_adapter(study(tmp_path / "neither", [asked, other]))
    for arguments in ((), ("asked",)):
        with raises(NotFound, code="adapter.missing", method="asked", known=[]):
            find_adapter(study(tmp_path / f"alone{len(arguments)}", [asked]), *arguments)


def test_a_teacher_is_named_by_the_directory_of_one_adapter(tmp_path: Path) -> None:
    out = study(tmp_path / "out", [made("lora"), made("full", method="full")])
    with raises(InvalidStudy, code="study.teacher-invalid") as caught:
        of_adapter(out)
    assert caught.value.fields["known"] == [str(out / f"adapters/{name}-seed0-0123") for name in ("lora", "full")]


class Unkept(Baseline):
    """A method whose runs give no adapter."""

    name = "unkept"
    has_adapter = False


def test_a_run_without_an_adapter_is_recorded_with_its_predictions(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "unkept", Unkept)
    run = runs.run("gpt2", "unkept")
    with Results.hold(tmp_path) as held:
        found = held.keep(run.execute(held.begin(run.label)), run.label)
        assert (found.record.adapter, found.record.digest) == (None, None)
        assert held.has(found.record.key)
        assert held.known(found.record.key) == found
    assert found.record.metrics == runs.record("gpt2", "baseline").metrics
    assert not (tmp_path / "adapters").exists()
    (tmp_path / found.record.predictions).unlink()
    with Results.hold(tmp_path) as held:
        assert not held.has(found.record.key)
    with raises(NotFound, code="adapter.missing", method="unkept"):
        run.adapter(tmp_path)
    with raises(InvalidStudy, code="option.inapplicable", method="unkept"):
        TextClassifier(method="unkept", backbone=run.backbone).fit(["bad", "good"], [0, 1])
