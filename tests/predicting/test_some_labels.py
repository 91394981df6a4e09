"""Evaluating and comparing adapters on texts that say something of some labels only, in another order, or twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from afina import Adapter, Run, Task
from afina.data.evaluation_set import EvaluationSet
from afina.data.reading_options import ReadingOptions
from afina.errors import InvalidData
from afina.predicting.evaluation import evaluate, trained
from afina.report.evaluation import as_json, sentences
from afina.store import recompute
from fakes import Runs, write_csv
from fakes import sentences as invented

LABELS = ("late", "rude", "broken")


def rows(first: int, last: int) -> list[tuple[object, ...]]:
    return [(text, label, 1 - label, i % 2) for i, (text, label) in enumerate(invented(last)[first:])]


@pytest.fixture(scope="module")
def several(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Adapter:
    """An adapter of three labels, each of which had a column."""
    task = write_csv(tmp_path_factory.mktemp("several") / "train.csv", rows(0, 60), ("text", *LABELS))
    usual, data = runs.run("gpt2", "head"), ReadingOptions(label=",".join(LABELS))
    run = Run(backbone=usual.backbone, task=str(task), method="head", training=usual.training, ask=usual.ask, data=data)
    return Adapter.load(runs.root / "several" / run.execute(runs.root / "several").adapter)


@pytest.fixture
def more(tmp_path: Path) -> Path:
    """Forty other texts with every label."""
    return write_csv(tmp_path / "more.csv", rows(60, 100), ("text", *LABELS))


@pytest.mark.parametrize("labels", [("late", "rude"), ("rude", "late"), ("broken",)])
def test_columns_of_some_labels_measure_these_labels_only(
    several: Adapter, more: Path, labels: tuple[str, ...]
) -> None:
    whole = evaluate(several, EvaluationSet.read(more, trained(several)))
    texts = EvaluationSet.read(more, trained(several), label=",".join(labels))
    found = evaluate(several, texts)
    kept = [LABELS.index(name) for name in found.label_names]
    assert set(found.label_names) == set(labels)
    assert found.unmeasured == tuple(name for name in LABELS if name not in labels)
    assert np.array_equal(found.answered.targets, whole.answered.targets[:, kept])
    assert np.array_equal(found.answered.answers, whole.answered.answers[:, kept])
    tables = as_json(whole)["labels"], as_json(found)["labels"]
    assert isinstance(tables[0], dict)
    assert tables[1] == {name: tables[0][name] for name in found.label_names}
    assert as_json(found)["unmeasured"] == list(found.unmeasured)
    assert any("only" in line and found.unmeasured[0] in line for line in sentences(found))
    assert not whole.unmeasured


def test_multi_hot_lists_of_some_labels_measure_these_labels_only(several: Adapter, tmp_path: Path) -> None:
    lists = [(text, f"[{late}, {rude}]") for text, late, rude, _ in rows(60, 100)]
    texts = EvaluationSet.read(write_csv(tmp_path / "lists.csv", lists), trained(several), labels=("late", "rude"))
    assert (texts.label_names, texts.unmeasured) == (("late", "rude"), ("broken",))
    assert evaluate(several, texts).answered.answers.shape == (40, 2)


def test_a_file_without_a_column_of_the_adapter_is_refused_until_the_others_are_named(
    several: Adapter, tmp_path: Path
) -> None:
    lacking = write_csv(tmp_path / "lacking.csv", [row[:3] for row in rows(60, 100)], ("text", "late", "rude"))
    with pytest.raises(InvalidData) as error:
        EvaluationSet.read(lacking, trained(several))
    assert error.value.code == "data.column-missing"
    assert error.value.fields["expected"] == list(LABELS)
    assert EvaluationSet.read(lacking, trained(several), label="late,rude").unmeasured == ("broken",)


def test_two_adapters_are_compared_by_the_labels_that_the_texts_have(several: Adapter, more: Path) -> None:
    other = replace(several, manifest=several.manifest.model_copy(update={"label_names": LABELS[::-1]}))
    texts = recompute.read_texts(str(more), (several, other), label="late,rude")
    found = recompute.flips_between(several, other, texts)
    assert found.as_json()["unmeasured"] == ["broken"]
    alone = evaluate(several, texts)
    assert found.figures[0] == alone.metrics["micro_f1"]


def test_a_task_is_not_evaluated_on_a_file_with_a_part_of_its_labels(
    more: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from afina.data import task as module

    named = Task.load(more, label=",".join(LABELS))
    found = replace(module.files.load(more, ReadingOptions(label=",".join(LABELS))), label_names=named.label_names)
    with pytest.raises(InvalidData) as error:
        module._of_file(ReadingOptions(label="late,rude", kind="labels", evaluation=str(more)), "hub:a/b", found)
    assert error.value.fields["columns"] == ["broken"]


def test_the_second_of_the_given_labels_is_positive_and_names_integers(
    runs: Runs, trained_adapter: Adapter, tmp_path: Path
) -> None:
    named = [(text, ("bad", "good")[label]) for text, label in invented(180)[140:]]
    words = write_csv(tmp_path / "words.csv", named)
    usual = evaluate(trained_adapter, EvaluationSet.read(words, trained(trained_adapter)))
    turned = EvaluationSet.read(words, trained(trained_adapter), labels=("good", "bad"))
    found = evaluate(trained_adapter, turned)
    assert (found.label_names, found.chosen) == (("good", "bad"), True)
    assert found.metrics["accuracy"] == usual.metrics["accuracy"]
    by_label = as_json(usual)["labels"]
    assert isinstance(by_label, dict)
    assert found.metrics["f1"] == by_label["bad"]["f1"]
    asked = evaluate(trained_adapter, EvaluationSet.read(words, trained(trained_adapter)), positive="bad")
    assert asked.metrics == found.metrics
    back = evaluate(trained_adapter, turned, positive="good")
    assert back.metrics == usual.metrics
    integers = write_csv(tmp_path / "integers.csv", [(text, int(name == "bad")) for text, name in named])
    read = EvaluationSet.read(integers, trained(trained_adapter), labels=("good", "bad"))
    assert evaluate(trained_adapter, read).metrics == found.metrics


@pytest.fixture
def trained_adapter(runs: Runs) -> Adapter:
    return Adapter.load(runs.adapter("gpt2", "head"))


def test_labels_that_the_adapter_does_not_have_are_refused_for_its_own_file_too(
    runs: Runs, trained_adapter: Adapter
) -> None:
    with pytest.raises(InvalidData) as error:
        EvaluationSet.read(runs.task, trained(trained_adapter), labels=("bad", "fine"))
    assert error.value.code == "data.labels-mismatch"


def test_texts_that_occur_twice_are_counted_and_told(trained_adapter: Adapter, tmp_path: Path) -> None:
    once = [(text, ("bad", "good")[label]) for text, label in invented(160)[140:]]
    twice = evaluate(
        trained_adapter, EvaluationSet.read(write_csv(tmp_path / "twice.csv", [*once, *once]), trained(trained_adapter))
    )
    assert twice.repeated == as_json(twice)["repeated"] == 20
    assert any("too narrow" in line for line in sentences(twice))
    alone = evaluate(
        trained_adapter, EvaluationSet.read(write_csv(tmp_path / "once.csv", once), trained(trained_adapter))
    )
    assert alone.repeated == 0
    assert not any("too narrow" in line for line in sentences(alone))


def test_a_task_and_its_records_tell_of_repeated_evaluation_texts(tmp_path: Path) -> None:
    rows = [(text, ("bad", "good")[label]) for text, label in invented(40)]
    task = Task.load(write_csv(tmp_path / "twice.csv", [*rows, *rows]))
    (note,) = task.repetitions
    assert note.startswith(f"{len(task.evaluation) // 2} of {len(task.evaluation)} texts")
    assert note in task.told
    assert not Task.load(write_csv(tmp_path / "once.csv", rows)).repetitions


def test_reading_is_told_as_it_is_for_a_task(trained_adapter: Adapter, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "more.csv", [(text, ("bad", "good")[label]) for text, label in invented(160)[140:]])
    told = EvaluationSet.read(file, trained(trained_adapter)).told
    assert told == Task.load(file).told


def test_a_separator_is_refused_where_a_text_has_one_label(trained_adapter: Adapter, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "more.csv", [(text, ("bad", "good")[label]) for text, label in invented(160)[140:]])
    with pytest.raises(InvalidData) as error:
        EvaluationSet.read(file, trained(trained_adapter), separator=";")
    assert error.value.code == "data.option-inapplicable"
