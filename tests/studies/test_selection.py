"""Texts that are set aside from the training split, so that one of several trained models can be selected by them."""

from __future__ import annotations

from pathlib import Path

import pytest

from afina import Adapter, Backbone, Task
from afina.data.evaluation_set import EvaluationSet
from afina.data.task import CALIBRATION
from afina.predicting.evaluation import evaluate, trained
from afina.predicting.predictor import Predictor
from afina.studies.runs.record import Record
from afina.studies.runs.run import Run


@pytest.fixture(scope="module")
def made(gpt2: Backbone, toy: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    out = tmp_path_factory.mktemp("selection")
    run = Run(backbone=gpt2.address, task=toy, method="lora", data={"selection": 0.25}, training={"max_steps": 4})
    return out, run.execute(out)


def test_what_chooses_settings_what_selects_and_what_a_temperature_is_fitted_on_are_apart(toy: str) -> None:
    whole, made = Task.load(toy).train, Task.load(toy, validation=0.2, selection=0.25, calibration=True)
    assert made.selection is not None
    assert made.calibration is not None
    parts = [set(part.texts) for part in (made.train, made.evaluation, made.selection, made.calibration)]
    assert set().union(*parts) == set(whole.texts)
    assert sum(map(len, parts)) == len(set(whole.texts))
    assert 0.1 < len(made.selection) / (len(whole) - len(made.evaluation)) < 0.4
    selected = Task.load(toy, selection=0.25)
    assert selected.evaluation.texts == Task.load(toy).evaluation.texts
    assert {*selected.train.texts, *selected.selection.texts} == set(whole.texts)  # type: ignore[union-attr]


def test_the_texts_of_a_threshold_are_in_no_validation_split_whatever_else_is_cut(toy: str) -> None:
    alone = Task.load(toy, abstention=True).abstention
    assert alone is not None
    assert 0.1 < len(alone) / len(Task.load(toy).train) < 0.3
    for share in (0.2, 0.5):
        made = Task.load(toy, validation=share, selection=0.25, calibration=True, abstention=True)
        assert made.abstention is not None
        assert made.abstention.texts == alone.texts
        for part in (made.train, made.evaluation, made.calibration, made.selection):
            assert part is not None
            assert not set(part.texts) & set(alone.texts)


def test_the_first_cut_is_the_same_whatever_it_is_for(toy: str) -> None:
    cut = Task.load(toy, selection=CALIBRATION).selection
    assert cut is not None
    assert cut.texts == Task.load(toy, validation=CALIBRATION).evaluation.texts
    assert cut.texts == Task.load(toy, calibration=True).calibration.texts  # type: ignore[union-attr]


def test_a_temperature_is_fitted_beside_a_selection_split(gpt2: Backbone, toy: str, tmp_path: Path) -> None:
    training = {"max_steps": 2, "temperature": True}
    record = Run(backbone=gpt2.address, task=toy, method="lora", data={"selection": 0.25}, training=training).execute(
        tmp_path
    )
    assert record.selection is not None
    assert record.trained_on == len(Task.load(toy, selection=0.25, calibration=True).train) < record.train_examples
    assert Adapter.load(tmp_path / record.adapter).manifest.objective["temperature"] != 1


def test_a_record_says_how_the_model_did_on_them(made: tuple[Path, Record], toy: str) -> None:
    out, record = made
    split = Task.load(toy, selection=0.25).selection
    assert split is not None
    assert record.selection is not None
    assert record.selection.examples == len(split)
    assert record.train_examples == len(Task.load(toy).train) - len(split)
    answers = Predictor.load(out / record.adapter).outputs(split.texts).argmax(axis=-1)
    assert record.selection.value == pytest.approx((answers == split.labels).mean())


def test_what_the_adapter_is_evaluated_on_later_is_what_no_training_saw(made: tuple[Path, Record], toy: str) -> None:
    out, record = made
    adapter = Adapter.load(out / record.adapter)
    texts = EvaluationSet.read(toy, trained(adapter))
    assert texts.held_out
    assert evaluate(adapter, texts).metrics["accuracy"] == pytest.approx(record.metrics["accuracy"])
