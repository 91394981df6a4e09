"""Numbers and several labels from the command line: train, evaluate, predict, plan; and what is told of mistakes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from afina.studies.results import Results
from command import Command
from fakes import Backbones, sentences, write_csv

SHORT = ("--set", "max_steps=4", "--set", "batch_size=8", "--set", "dtype=float32")


@pytest.fixture
def backbone(backbones: Backbones) -> str:
    return str(backbones.path("gpt2"))


@pytest.fixture
def ratings(tmp_path: Path) -> str:
    rows = [(text, 2.5 + 2 * label + len(text) / 100) for text, label in sentences(60)]
    return str(write_csv(tmp_path / "ratings.csv", rows, ("text", "rating")))


@pytest.fixture
def tags(tmp_path: Path) -> str:
    rows = [(text, "good;long" if label else "long" if len(text) > 50 else "") for text, label in sentences(60)]
    return str(write_csv(tmp_path / "tags.csv", rows, ("text", "tags")))


def test_a_file_of_ratings_is_trained_evaluated_and_predicted(afina: Command, backbone: str, ratings: str) -> None:
    answer = afina("train", "--task", ratings, "--backbone", backbone, "--out", "made", *SHORT)
    assert answer.code == 0, answer.err
    assert answer.err.splitlines()[0].startswith("text: column 'text'; label: column 'rating'. 60 rows, numbers from ")
    assert answer.err.splitlines()[0].endswith(": kind number (--kind classes reads them as names of classes)")
    assert "Pearson correlation" in answer.out
    (record,) = Results.read("made").records
    assert record.columns == {"text": "text", "label": "rating"}
    assert "- Columns: text: column 'text'; label: column 'rating'" in Path("made/report.md").read_text(
        encoding="utf-8"
    )
    shown = afina("evaluate", "made", "--task", ratings)
    assert "text: column 'text'; label: column 'rating'." in shown.err
    assert shown.out.startswith("Pearson correlation ")
    assert "RMSE" in shown.out
    told = afina("evaluate", "made", "--task", ratings, "--json", "--metric", "rmse").object()
    assert told["metric"] == "rmse"
    assert told["interval"][0] < told["rmse"] < told["interval"][1]
    (line,) = afina("predict", "made", "What a warm ferry!").lines()
    assert set(line) == {"row", "text", "value"}
    assert 0 < line["value"] < 8


def test_a_file_of_tags_is_trained_evaluated_and_predicted(afina: Command, backbone: str, tags: str) -> None:
    arguments = ("--metric", "macro_f1", "--set", "temperature=true", "--separator", ";")
    answer = afina("train", "--task", tags, "--backbone", backbone, "--out", "made", *SHORT, *arguments)
    assert answer.code == 0, answer.err
    assert answer.err.splitlines()[0] == (
        "text: column 'text'; label: column 'tags'. 60 rows, any of 2 labels (good, long): kind labels"
    )
    assert answer.out.startswith("LoRA: macro F1 ")
    assert re.search(r"Macro +Micro", afina("show", "made").out), "what was asked for comes first"
    assert afina("evaluate", "made", "--task", tags).out.startswith("micro F1 ")
    (line,) = afina("predict", "made", "What a warm ferry!").lines()
    assert set(line) == {"row", "text", "labels", "probabilities"}
    assert set(line["labels"]) <= {"good", "long"} == set(line["probabilities"])


@pytest.mark.slow
def test_a_plan_of_numbers(afina: Command, backbone: str, ratings: str) -> None:
    arguments = ("--backbone", backbone, "--method", "lora", "--no-calibrate", "--json")
    found = afina("plan", "--task", ratings, *arguments).out
    assert '"head": 32' in found
    assert afina("plan", "--task", ratings, *arguments, "--kind", "number").out == found


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ("--metric", "mcc"),
            "--metric mcc: not available for the task's kind, number. Give one of pearson, spearman, rmse, mae, r2.",
        ),
        (("--separator", ";"), "--separator ';' is in no row of column 'rating'."),
        (("--set", "temperature=true"), "temperature: tasks of kind number have no probabilities. Leave it out."),
        (("--words", "good=great"), "a task of kind number has no labels with words. Remove the words"),
    ],
)
def test_what_does_not_fit_numbers_is_told_before_anything_is_trained(
    afina: Command, backbone: str, ratings: str, arguments: tuple[str, ...], told: str
) -> None:
    answer = afina("train", "--task", ratings, "--backbone", backbone, "--out", "made", *SHORT, *arguments)
    assert answer.code == 2
    assert told in answer.err
    assert not Path("made/records.jsonl").exists()


def test_numbers_cannot_be_asked_for_in_words(afina: Command, backbone: str, ratings: str) -> None:
    answer = afina("ask", "--task", ratings, "--backbone", backbone)
    assert answer.error.endswith("the kind is number, but words can answer only for classes. Train a method.")
