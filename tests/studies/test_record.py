from __future__ import annotations

import json
from math import isnan
from pathlib import Path

import pytest

from afina.errors import InvalidData
from afina.studies.runs import record as records_file
from afina.studies.runs.record import Record
from afina.training.settings import training_settings
from records import every_method, record


def test_writing_then_reading_gives_the_same_records(tmp_path: Path) -> None:
    written = [one.sealed() for one in every_method()]
    records_file.write_records(tmp_path / "records.jsonl", written)
    assert records_file.read_records(tmp_path / "records.jsonl") == written


def test_a_record_that_has_the_settings_of_an_earlier_version_stays_as_it_is(tmp_path: Path) -> None:
    blocks = {"blocks": 6, "place": "memory", "bytes": 1 << 20, "dropout": False, "reason": ""}
    settings = {"trunk": "kept", "trunk_dropout": False}
    written = record(trunk=blocks, training=record().training | settings).sealed()
    records_file.write_records(tmp_path / "records.jsonl", [written])
    (found,) = records_file.read_records(tmp_path / "records.jsonl")
    assert (found, found.trunk) == (written, blocks)
    assert training_settings(found.training).items() >= settings.items()
    usual = training_settings(record().training)
    assert usual == training_settings(record().training | {"trunk": "auto", "trunk_dropout": True})


def test_a_label_with_an_unusual_line_separator_stays_on_its_line(tmp_path: Path) -> None:
    written = [one.sealed() for one in (record(label_names=("a\u2028b", "c\x85d\n")), record("full"))]
    records_file.write_records(tmp_path / "records.jsonl", written)
    assert records_file.read_records(tmp_path / "records.jsonl") == written


def test_an_undefined_metric_is_null_on_its_line_and_reads_as_undefined(tmp_path: Path) -> None:
    made = record("lora", metrics={"accuracy": 1.0, "auroc": float("nan")}).sealed()
    records_file.write_records(tmp_path / "records.jsonl", [made])
    assert '"auroc":null' in (tmp_path / "records.jsonl").read_text()
    (again,) = records_file.read_records(tmp_path / "records.jsonl")
    assert isnan(again.metrics["auroc"])
    assert again.metrics["accuracy"] == 1.0


def test_no_file_means_no_records(tmp_path: Path) -> None:
    assert records_file.read_records(tmp_path / "records.jsonl") == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (b'{"key": "sha256:lora", "stu', "the line"),
        (b"\xff\xfe", "the line"),
        (b"", "the line"),
        (b'{"format": 2, "key": "sha256:lora"}', "study"),
        (record().model_dump_json().replace('"seed":0', '"seed":"zero"').encode(), "seed"),
        (record().model_dump_json().replace('"seed":0', '"seed":0,"luck":1').encode(), "luck"),
        (record().model_dump_json().replace('"digest":"sha256:ad"', '"digest":null').encode(), "the line"),
    ],
    ids=["cut off", "not text", "empty", "fields missing", "wrong type", "unknown field", "an adapter without digest"],
)
def test_a_damaged_line_is_named_and_nothing_changes(tmp_path: Path, damage: bytes, said: str) -> None:
    path = tmp_path / "records.jsonl"
    records_file.write_records(path, [record(method).sealed() for method in ("full", "lora", "prelayer")])
    lines = path.read_bytes().splitlines()
    lines[1] = damage
    path.write_bytes(b"\n".join(lines) + b"\n")
    before = path.read_bytes()
    with pytest.raises(InvalidData) as caught:
        records_file.read_records(path)
    message = str(caught.value)
    assert f"{path}, line 2: not a record" in message
    assert f"({said}: " in message
    assert "Remove this line" in message
    assert path.read_bytes() == before


def test_a_record_says_how_many_runs_went_on_at_once() -> None:
    alone = record().sealed()
    assert json.loads(alone.model_dump_json())["at_once"] == 1
    assert alone.beside(1) is alone
    beside = alone.beside(3)
    assert json.loads(beside.model_dump_json())["at_once"] == 3
    assert Record.model_validate_json(beside.model_dump_json()) == beside
    assert not beside.refuses(beside.model_dump_json())
