"""A study of a text task: metrics of the record, their signatures, baselines, and the comparison with them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from afina import Adapter, Results, Study
from afina.errors import InvalidData
from afina.report.arms import measured_on
from afina.report.report import Report
from afina.report.verdicts import BASELINES
from afina.stats.bleu_chrf_nist import signatures
from afina.stats.metrics import METRICS, of_kind
from afina.studies import baselines
from afina.studies.baselines import MeasuredBaseline
from afina.studies.choosing import floors
from afina.studies.choosing.floors import TextFloors
from afina.studies.runs.record import Record
from command import HereExecutor
from fakes import Backbones, sentences, write_csv
from raises import raises

ROWS = [(text, " ".join(text.split()[:3])) for text, _ in sentences(60)]


@pytest.fixture(scope="module")
def results(backbones: Backbones, tmp_path_factory: pytest.TempPathFactory) -> Results:
    where = tmp_path_factory.mktemp("texts")
    task = write_csv(where / "rows.csv", ROWS, ("text", "summary")).rename(where / "rows.csv")
    content = {
        "name": "texts",
        "backbone": str(backbones.path("gpt2")),
        "task": str(task),
        "data": {"kind": "text", "label": "summary"},
        "train": {"max_steps": 6, "batch_size": 8, "learning_rate": 5e-3, "dtype": "float32"},
        "baselines": True,
        "methods": {"full": {}, "lora": {}},
    }
    return Study.parse(content, "here").run(where / "out", executor=HereExecutor())


CHAT = (
    "{% for one in messages %}{{ one.content }}{% if one.role == 'assistant' %}{{ eos_token }}{% else %}:{% endif %}"
    "{% endfor %}"
)


def test_an_adapter_that_is_trained_on_chats_holds_the_chat_template(backbones: Backbones, tmp_path: Path) -> None:
    shutil.copytree(backbones.path("gpt2"), tmp_path / "backbone")
    (tmp_path / "backbone" / "chat_template.jinja").write_text(CHAT, encoding="utf-8")
    content = {
        "name": "chats",
        "backbone": str(tmp_path / "backbone"),
        "task": str(write_csv(tmp_path / "rows.csv", ROWS, ("text", "summary"))),
        "data": {"kind": "text", "label": "summary"},
        "ask": {"template": "chat"},
        "train": {"max_steps": 1, "batch_size": 2, "learning_rate": 5e-3, "dtype": "float32"},
        "methods": {"lora": {}},
    }
    made = Study.parse(content, "here").run(tmp_path / "out", executor=HereExecutor())
    assert not made.failed
    assert Adapter.load(made.adapter()).manifest.chat_template == CHAT


@pytest.mark.slow
def test_a_record_has_every_metric_of_its_predictions(results: Results) -> None:
    for result in results.results:
        assert tuple(result.record.metrics) == of_kind("text")
        assert np.isfinite(list(result.record.metrics.values())).all()
        for name, figure in result.record.metrics.items():
            if METRICS[name].values:
                assert result.values(name).mean() == pytest.approx(figure)


def test_a_record_has_sacrebleus_signatures(results: Results) -> None:
    made = results.results[0]
    assert made.record.signatures == signatures(made.targets)
    assert "nrefs:1" in made.record.signatures["bleu"]
    written = made.record.model_dump_json()
    assert Record.model_validate_json(written).signatures == made.record.signatures


# Baselines without a language model


def records(found: Sequence[MeasuredBaseline]) -> list[str]:
    """The records as JSON, in which undefined figures are equal."""
    return [one.record.model_dump_json() for one in found]


def test_baselines_are_measured_on_the_texts_of_the_runs_and_read_again(results: Results) -> None:
    again = Results.read(results.out)
    assert records(again.baselines) == records(results.baselines)
    assert [one.record.name for one in again.baselines] == [TextFloors.constant, TextFloors.learned]
    for one in again.baselines:
        assert one.measured_on == measured_on(results.results[0])
        assert one.values("rouge_l").mean() == pytest.approx(one.record.metrics["rouge_l"])
        assert np.isnan(one.record.metrics["loss"])
        assert one.record.train_examples == results.records[0].train_examples


@pytest.mark.slow
def test_the_report_compares_every_method_with_the_best_baseline(results: Results) -> None:
    made = Report.of(results)
    assert [table.title for table in made.tables][1] == BASELINES
    table = made.tables[1]
    best = max(results.baselines, key=lambda one: one.record.metrics["rouge_l"]).record.name
    assert [row[0] for row in table.rows] == [TextFloors.constant, TextFloors.learned]
    assert f"Compared with {best}, in ROUGE-L: " in table.notes[1]
    assert len(table.details) == 2
    assert all(best in sentence for sentence in table.details)
    assert BASELINES in made.markdown()
    assert f">{BASELINES}</h2>" in made.page()


def test_a_second_call_reads_them_and_other_data_are_measured_again(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SimpleNamespace(
        task=str(results.out.parent / "rows.csv"), data=results.data, data_digest="a", without_digest=None
    )
    with Results.hold(tmp_path) as held:
        first = baselines.measure(spec, held)
        monkeypatch.setattr(baselines.floors, "fit", None)  # it would be called
        assert records(baselines.measure(spec, held)) == records(first)
        for change in ({"data_digest": "b"}, {"data": replace(results.data, train_examples=20)}):
            with pytest.raises(TypeError, match="not callable"):
                baselines.measure(SimpleNamespace(**(vars(spec) | change)), held)
        with pytest.raises(TypeError, match="not callable"):
            baselines.measure(spec, held, fresh=True)
        held.directory.baselines.write_text(held.directory.baselines.read_text().replace("nearest", "farthest"))
        with raises(InvalidData, code="results.changed", path="baselines.json"):
            baselines.read(held.directory)


def test_a_study_of_classes_has_baselines_too(backbones: Backbones, tmp_path: Path) -> None:
    task = write_csv(tmp_path / "rows.csv", sentences(60)).rename(tmp_path / "rows.csv")
    content = {
        "name": "classes",
        "backbone": str(backbones.path("gpt2")),
        "task": str(task),
        "train": {"max_steps": 2, "dtype": "float32"},
        "baselines": True,
        "methods": {"full": {}},
    }
    made = Study.parse(content, "here").run(tmp_path / "out", executor=HereExecutor())
    assert [one.record.name for one in made.baselines] == [floors.MAJORITY, floors.TFIDF]
    assert Report.of(made).tables[1].details[0].count(floors.TFIDF) == 1
