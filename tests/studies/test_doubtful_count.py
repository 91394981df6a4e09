"""The number of doubtful labels that `afina choose` says: beside cleanlab called directly, and when it says none."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from afina import Task, meter
from afina.models import objectives
from afina.report.recommendation import sentences
from afina.report.writers.recommendation_json import as_json
from afina.stats.label_issues import of_classes
from afina.studies.choosing import floors, label_doubts, time_budget
from afina.studies.choosing.label_doubts import count_doubtful
from afina.studies.choosing.recommendation import Contender, DoubtfulCount, Recommendation
from afina.studies.choosing.setup import ChoiceSetup
from afina.studies.choosing.time_budget import StageSeconds, TimeBudget
from afina.studies.labelling.cross_fitting import FOLDS, folds_of, labelled_texts, objective_of
from afina.studies.labelling.similar_texts import SimilarTexts
from afina.studies.watcher import Watcher
from fakes import write_csv

WRONG = 8


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    """200 texts whose words tell their labels, and the labels of 8 training texts are wrong."""
    random, words = (
        np.random.default_rng(0),
        {"bad": ["dull", "slow", "grey", "cold"], "good": ["fine", "warm", "kind", "bright"]},
    )
    rows = [
        (f"{' '.join(random.choice(words[label], 3))} boat {number}", label)
        for number, label in enumerate(["bad", "good"] * 100)
    ]
    path = write_csv(tmp_path_factory.mktemp("doubtful") / "boats.csv", rows)
    for text in Task.load(path).train.texts[:WRONG]:
        place = next(i for i, row in enumerate(rows) if row[0] == text)
        rows[place] = (text, "good" if rows[place][1] == "bad" else "bad")
    return Task.load(write_csv(path, rows))


def setup(task: Task, minutes: float = 5, simple: float = 1.0) -> Any:
    """Return the setup of a recommendation with the attributes that are used."""
    made = object.__new__(ChoiceSetup)
    fields = {
        "task": task,
        "objective": objectives.make(task.label_names, {"kind": task.kind}),
        "clock": TimeBudget(meter.now(), minutes),
        "watcher": Watcher(),
        "stages": StageSeconds({time_budget.SIMPLE: simple}),
    }
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def test_wrong_labels_are_counted_as_cleanlab_counts_them(task: Task) -> None:
    given = setup(task)
    found = count_doubtful(given)
    assert found is not None
    split, _ = labelled_texts(task)
    objective = objective_of(task, split.labels)
    folds = folds_of(task, split.labels, SimilarTexts.of_equal(split).groups, FOLDS, 0)
    fitted = label_doubts._cross_fit(split, objective, folds)
    chances = fitted.objective.probabilities(fitted.predictions)
    assert chances is not None
    assert (found.texts, found.doubtful) == (len(split), len(of_classes(split.labels, chances)))
    assert WRONG - 2 <= found.doubtful <= WRONG + 2
    assert found.wrong <= WRONG < found.at_most < 60
    assert given.stages.seconds[time_budget.LABELS] > 0


@pytest.mark.parametrize(("minutes", "simple"), [(1.9, 1.0), (5, 31.0)])
def test_nothing_is_counted_without_time(task: Task, minutes: float, simple: float) -> None:
    assert count_doubtful(setup(task, minutes, simple)) is None


def test_nothing_is_counted_without_cleanlab_or_where_words_tell_nothing(
    task: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = [(f"boat {number}", "bad" if number % 7 % 2 else "good") for number in range(200)]
    assert count_doubtful(setup(Task.load(write_csv(tmp_path / "noise.csv", rows)))) is None
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    assert count_doubtful(setup(task)) is None


def test_too_few_texts_are_no_error(tmp_path: Path) -> None:
    rows = [(f"{word} boat {number}", word) for number in range(5) for word in ("dull", "warm")]
    assert count_doubtful(setup(Task.load(write_csv(tmp_path / "few.csv", rows)))) is None


def test_a_recommendation_says_the_number_in_sentences_and_as_json(tmp_path: Path) -> None:
    fields = {"name": floors.MAJORITY, "metrics": {"accuracy": 0.5}, "examples": 40}
    made = Recommendation(
        task="boats.csv",
        data={},
        backbone="gpt2",
        recommended=floors.MAJORITY,
        adapter=None,
        contenders=(Contender(**fields),),
        comparisons=(),
        dropped={},
        train_examples=160,
        examples=40,
        minutes=5,
        seconds=3,
    )
    counted = DoubtfulCount(method=floors.TFIDF, texts=1_200, doubtful=90, wrong=12.4, at_most=40.2)
    said = set(sentences(made.model_copy(update={"labels": counted}))) - set(sentences(made))
    assert said == {
        "TF-IDF + logistic regression contradicts 90 of 1,200 labels, also of hard texts. Not more than about 12 of "
        "the labels are as doubtful as labels that were flipped on purpose; with 95 % confidence, at most 40. "
        "`afina doubts` looks at the labels with a language model and lists them."
    }
    assert as_json(made.model_copy(update={"labels": counted}), tmp_path)["labels"]["wrong"] == 12.4
    assert "labels" not in as_json(made, tmp_path)
