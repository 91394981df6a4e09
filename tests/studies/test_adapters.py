"""An adapter is found by the directory of what made it and the name of its method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from afina.data.reading_options import ReadingOptions
from afina.errors import AfinaError, InvalidStudy, NotFound
from afina.models.manifest import MANIFEST
from afina.studies.adapter_paths import find_adapter
from afina.studies.choosing.floors import TFIDF
from afina.studies.choosing.recommendation import Contender, Recommendation
from afina.studies.descriptions import StudyRequest
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.runs.record import Record, write_records
from raises import raises
from records import record


def made(name: str, seed: int = 0, method: str = "lora", **changes: object) -> Record:
    return record(
        method, name=name, seed=seed, key=f"{name}-{seed}", adapter=f"adapters/{name}-seed{seed}-0123", **changes
    )


def write(out: Path, records: Sequence[Record]) -> None:
    """Write the records, and the manifest of each adapter."""
    out.mkdir()
    write_records(OutputDirectory(out).records, [one.sealed() for one in records])
    for one in records:
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


def told(place: Path, method: str | None = None, seed: int | None = None) -> str:
    with pytest.raises(AfinaError) as error:
        find_adapter(place, method, seed)
    return str(error.value)


def test_in_a_study_it_is_that_of_the_named_method_and_of_the_first_seed_unless_another_is_named(
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


def test_what_is_ambiguous_or_not_there_is_told_with_what_there_is(tmp_path: Path) -> None:
    out = study(tmp_path / "out", [made("lora"), made("lora", 3), made("full", method="full")])
    assert told(out) == f"{out}: several adapters. Choose with `method`: lora, full."
    assert told(out, "lorra") == f"{out}: unknown method 'lorra'. Did you mean 'lora'? Known: full, lora."
    assert told(out, "lora", 1) == f"{out}: no adapter of lora with `seed` 1. Available seeds: 0, 3."


def test_of_a_recommendation_it_is_the_recommended_one_or_the_named(tmp_path: Path) -> None:
    out = recommendation(tmp_path / "out", "lora")
    assert find_adapter(out).path == out / "adapters/lora-seed0-0123"
    assert find_adapter(out, "full").path == out / "adapters/full-seed0-0123"
    simple = recommendation(tmp_path / "simple", TFIDF)
    assert told(simple) == (
        f"{simple}: the recommended {TFIDF} has no adapter. Name another method with `method`: full, lora."
    )


def test_an_adapter_is_itself_and_of_it_nothing_can_be_chosen(tmp_path: Path) -> None:
    assert told(tmp_path) == (
        f"{tmp_path}: no adapter found: expected manifest.json (afina) or adapter_config.json "
        "(peft) in the directory. "
        "Give an adapter's directory, such as results/adapters/lora-seed0-...."
    )
    assert told(tmp_path / "nowhere", "lora").startswith(f"{tmp_path / 'nowhere'}: no adapter found")
    (tmp_path / "manifest.json").touch()
    assert find_adapter(tmp_path).path == tmp_path
    assert "no results of a study, so `method` has nothing to choose from" in told(tmp_path, "lora")
    assert "`seed`" in told(tmp_path, seed=1)


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
