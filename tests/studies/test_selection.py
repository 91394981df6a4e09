"""Texts that are set aside from the training split, so that one of several trained models can be selected by them."""

from __future__ import annotations

from pathlib import Path

import pytest

from afina import Adapter, Backbone, Task
from afina.data.labelled import Labelled
from afina.errors import InvalidData
from afina.inference.evaluation import evaluate, trained
from afina.inference.predictor import Predictor
from afina.studies.record import Record
from afina.studies.run import Run
from afina.studies.spec import Data


@pytest.fixture(scope="module")
def made(gpt2: Backbone, toy: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Record]:
    out = tmp_path_factory.mktemp("selection")
    run = Run(backbone=gpt2.address, task=toy, method="lora", data={"selection": 0.25}, training={"max_steps": 4})
    return out, run.execute(out)


def test_they_are_of_the_training_split_and_not_trained_on(toy: str) -> None:
    whole, cut = Task.load(toy), Task.load(toy, selection=0.25)
    assert cut.selection is not None
    assert len(cut.train) + len(cut.selection) == len(whole.train)
    assert not set(cut.train.texts) & set(cut.selection.texts)
    assert set(cut.train.texts) | set(cut.selection.texts) == set(whole.train.texts)
    assert cut.evaluation.texts == whole.evaluation.texts
    assert whole.selection is None


def test_they_are_those_that_a_validation_cut_of_that_share_takes(toy: str) -> None:
    selection = Task.load(toy, selection=0.25).selection
    assert selection is not None
    assert selection.texts == Task.load(toy, validation=0.25).evaluation.texts


def test_a_share_that_leaves_nothing_is_told(toy: str) -> None:
    with pytest.raises(InvalidData, match="left one side empty"):
        Task.load(toy, selection=1e-12)


def test_a_record_says_how_the_model_did_on_them(made: tuple[Path, Record], toy: str) -> None:
    out, record = made
    split = Task.load(toy, selection=0.25).selection
    assert split is not None
    assert record.selection is not None
    assert record.selection.examples == len(split)
    assert record.train_examples == len(Task.load(toy).train) - len(split)
    answers = Predictor.load(out / record.adapter).predict(split.texts)[0].argmax(axis=-1)
    assert record.selection.value == pytest.approx((answers == split.labels).mean())


def test_what_the_adapter_is_evaluated_on_later_is_what_no_training_saw(made: tuple[Path, Record], toy: str) -> None:
    out, record = made
    adapter = Adapter.load(out / record.adapter)
    texts = Labelled.read(toy, trained(adapter.manifest))
    assert texts.held_out
    assert evaluate(adapter, texts).metrics["accuracy"] == pytest.approx(record.metrics["accuracy"])


def test_it_is_another_run_and_one_without_keeps_its_key(gpt2: Backbone, toy: str) -> None:
    run = Run(backbone=gpt2.address, task=toy, method="lora")
    assert run.key == run.model_copy(update={"data": Data(selection=None)}).key
    assert run.key != run.model_copy(update={"data": Data(selection=0.25)}).key
