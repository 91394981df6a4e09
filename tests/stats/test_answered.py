"""Missing answers count as wrong and as no label, in every metric, as in scikit-learn with `labels`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as theirs

from afina.data.entities import as_entities
from afina.data.split import as_references
from afina.models.objectives import OBJECTIVES, Classes, Labels, Number
from afina.models.predictions import Predictions
from afina.report.per_label import confused
from afina.report.presentation import NO_ANSWER, PRESENTATIONS
from afina.stats import intervals
from afina.stats.answered import MISSING, Answered
from afina.stats.metrics import METRICS, of_kind


def _classes(count: int, size: int = 300) -> Answered:
    """Answers of which about a fifth is missing; the last class never occurs and is never answered."""
    generator = np.random.default_rng(count)
    targets = generator.integers(0, max(2, count - 1), size)
    answers = np.where(generator.random(size) < 0.6, targets, generator.integers(0, max(2, count - 1), size))
    answers[generator.random(size) < 0.2] = MISSING
    return Classes(tuple(map(str, range(count)))).answered(Predictions(answers, targets))


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
@pytest.mark.parametrize("count", [2, 3, 5])
def test_metrics_of_classes_equal_those_of_scikit_learn(count: int) -> None:
    answered = _classes(count)
    targets, answers = answered.targets, answered.answers
    assert (answers == MISSING).any()
    assert answered.classes == count
    labels = [1] if count == 2 else list(range(count))
    expected = {
        "accuracy": theirs.accuracy_score(targets, answers),
        "f1": theirs.f1_score(targets, answers, labels=labels, average="macro", zero_division=np.nan),
        "balanced_accuracy": theirs.recall_score(targets, answers, labels=np.unique(targets), average="macro"),
        "mcc": theirs.matthews_corrcoef(targets, answers),
    }
    for name, value in expected.items():
        assert METRICS[name].value(answered) == pytest.approx(value), name
        values = METRICS[name].values
        assert values is not None
        assert values(answered).mean() == pytest.approx(value)
    turned = answered.turned if count == 2 else answered
    assert ((turned.answers == MISSING) == (answers == MISSING)).all()
    found = intervals.estimate_of_answers([answered], METRICS["f1"])
    assert found.interval.low < expected["f1"] < found.interval.high


def test_metrics_of_several_labels_equal_those_of_scikit_learn_and_an_empty_set_is_no_missing_answer() -> None:
    generator = np.random.default_rng(0)
    targets = (generator.random((300, 3)) < 0.3).astype(np.int64)
    answers = np.where(generator.random((300, 3)) < 0.7, targets, 1 - targets)
    missing = generator.random(300) < 0.2
    answers[missing] = MISSING
    answered = Labels(("a", "b", "c")).answered(Predictions(answers, targets))
    without = np.where(answers == MISSING, 0, answers)
    for average in ("micro", "macro"):
        assert METRICS[f"{average}_f1"].value(answered) == pytest.approx(
            theirs.f1_score(targets, without, average=average)
        )
    right = (targets == without).all(axis=1) & ~missing
    assert (~targets.any(axis=1) & missing).any()
    assert METRICS["exact_match"].value(answered) == right.mean() < theirs.accuracy_score(targets, without)


@pytest.mark.filterwarnings("error")
def test_metrics_of_probabilities_are_undefined_where_answers_have_none() -> None:
    two, several = _classes(2), Answered(np.eye(3, dtype=int), np.eye(3, dtype=int))
    of_chances = [metric for metric in METRICS.values() if metric.chances]
    assert len(of_chances) == 5
    for metric in of_chances:
        answered = two if metric.kind == "classes" else several
        assert np.isnan(metric.value(answered))
        assert metric.values is None or np.isnan(metric.values(answered)).all()
        assert "probabilities" in metric.needs


def test_a_missing_answer_is_no_label_for_users_and_in_confusion_tables() -> None:
    names, targets = ("a", "b", "c"), np.array([0, 2, 2])
    objective = Classes(names)
    found = objective.of_answers([0, None, 1], targets)
    assert [*objective.answers(found)] == [
        {"label": "a", "probabilities": None},
        {"label": None, "probabilities": None},
        {"label": "b", "probabilities": None},
    ]
    assert confused(targets, found.outputs[None], 3).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert [PRESENTATIONS["classes"].in_words(names, one) for one in found.outputs] == ["a", NO_ANSWER, "b"]
    assert objective.answered(found, ("c", "a", "b")).answers.tolist() == [1, MISSING, 2]
    assert objective.calibrated(found) == objective
    assert np.isnan(objective.mean_loss(found))
    several = Labels(names)
    given = several.of_answers([[0, 2], None, []], np.zeros((3, 3), np.int64))
    assert [one["labels"] for one in several.answers(given)] == [["a", "c"], None, []]
    assert [PRESENTATIONS["labels"].in_words(names, one) for one in given.outputs.tolist()] == [
        "a, c",
        NO_ANSWER,
        "none",
    ]
    assert PRESENTATIONS["labels"].found(names, np.ones((3, 3), int), given.outputs[None])[1].recall == 0
    assert (several.calibrated(given), given.missing.tolist()) == (several, [False, True, False])


def test_only_labels_of_the_task_fit_it() -> None:
    objective, targets = Classes(("a", "b")), np.array([0, 1])
    for outputs, fits in (([0, -1], True), ([0, 2], False), ([0, -2], False), ([[0], [1]], False), ([0], False)):
        assert objective.fits(Predictions(np.array(outputs), targets)) == fits
    several, both = Labels(("a", "b")), np.array([[0, 1], [1, 1]])
    for outputs, fits in (([[0, 1], [-1, -1]], True), ([[0, 2], [0, 0]], False), ([[0, 1]], False), ([0, 1], False)):
        assert several.fits(Predictions(np.array(outputs), both)) == fits


_ONE_OF_TWO: dict[str, tuple[list[Any], Any, str, float]] = {
    "classes": ([1, None], [1, 0], "accuracy", 0.5),
    "number": ([5.0, None], [5.0, 1.0], "mae", 1.0),
    "labels": ([[0], None], [[1, 0], [0, 0]], "exact_match", 0.5),
    "text": (["a text", None], as_references([("a text",), ("b",)]), "exact_answer", 0.5),
    "entities": ([[(0, 1, "a")], None], as_entities([[(0, 1, "a")], [(2, 3, "b")]]), "entity_recall", 0.5),
}
"""By kind of task: a right and a missing answer, the targets, and a metric with its value."""


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_predictions_with_missing_answers_survive_their_file(kind: str, tmp_path: Path) -> None:
    names = ("told",) if kind in ("number", "text") else ("a", "b")
    objective = Number(names, 3.0, 2.0) if kind == "number" else OBJECTIVES[kind](names)
    answers, targets, name, value = _ONE_OF_TWO[kind]
    right = objective.perfect(np.array(targets)).targets if isinstance(targets, list) else targets
    made = objective.of_answers(answers, right)
    path = tmp_path / "predictions"
    read = Predictions.read(path, made.write(path))
    assert read.missing.tolist() == [False, True]
    assert objective.fits(read)
    found = objective.metrics(read)
    assert found == pytest.approx(objective.metrics(made), nan_ok=True)
    assert found[name] == value
    assert set(found) == set(of_kind(kind))
