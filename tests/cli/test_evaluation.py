"""What a figure was measured on: a file of its own, all of a file, or what training left out; and how much that is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from afina import Adapter, Backbone
from afina.data.text_hashes import HASHES_FILE
from afina.studies.results import Results
from command import Command
from fakes import sentences, write_csv

SHORT = ("--set", "max_steps=2", "--set", "dtype=float32", "--method", "baseline")


@pytest.fixture
def files() -> tuple[str, str, str]:
    """A file of 100 texts, one of 40 others, and the first again with one text more."""
    rows = [(text, ("bad", "good")[label]) for text, label in sentences(141)]
    for name, part in (("mine.csv", rows[:100]), ("more.csv", rows[100:140]), ("longer.csv", [*rows[:100], rows[140]])):
        write_csv(Path(name), part)
    return "mine.csv", "more.csv", "longer.csv"


def train(afina: Command, gpt2: Backbone, *arguments: object) -> tuple[Path, str]:
    """The adapter, and what `show` prints."""
    answer = afina("train", "--backbone", gpt2.address, *SHORT, *arguments)
    assert answer.code == 0, answer.err
    shown = afina("show", "results/train").out
    return Path("results/train") / Results.read(Path("results/train")).records[0].adapter, shown


def test_evaluate_uses_every_row_of_another_file_and_no_text_of_training(
    afina: Command, gpt2: Backbone, files: tuple[str, str, str]
) -> None:
    mine, more, longer = files
    adapter, shown = train(afina, gpt2, "--task", mine)
    assert "mine.csv: 80 texts to train on, 20 held out." in shown
    assert "Figures on 20 texts; too few to say anything: below 30." in " ".join(shown.split())
    assert " on 40 texts of more.csv (95 % of accuracy: 0." in afina("evaluate", adapter, "--task", more).out
    own = afina("evaluate", adapter, "--task", mine).out
    assert " on the 20 texts that training left out of mine.csv (95 % of accuracy: 0." in own
    assert own.splitlines()[0].endswith("); too few to say anything: below 30")
    without = afina("evaluate", adapter, "--task", longer).out
    assert " on 21 texts of longer.csv (" in without
    assert "80 texts of longer.csv left out: the adapter was trained on them. --allow-leakage keeps them." in without
    shown_json = afina("evaluate", adapter, "--task", longer, "--allow-leakage", "--json").object()
    assert (shown_json["examples"], shown_json["held_out"], shown_json["leaked"]) == (101, False, 80)
    Path(mine).unlink()
    assert " on 21 texts of longer.csv (" in afina("evaluate", adapter, "--task", longer).out
    (adapter / HASHES_FILE).unlink()  # as an earlier afina made it
    answer = afina("evaluate", adapter, "--task", more)
    said = answer.err.splitlines(keepends=True)[-1]
    assert said.startswith("Whether training saw any of these texts is not known: the adapter has no hashes of ")
    assert said.endswith(", and mine.csv is not at hand as it was.\n")


def test_evaluate_shows_each_label_and_which_is_taken_for_which_and_names_the_class_of_f1(
    afina: Command, gpt2: Backbone, files: tuple[str, str, str]
) -> None:
    adapter, shown = train(afina, gpt2, "--task", files[0])
    shown = " ".join(shown.split())
    assert "F1 is of the class `good`, the last in the order of the labels (`--positive LABEL` names another)." in shown
    for part in ("Figures by label, ", "Confusion matrix, "):
        assert part in " ".join(afina("show", "results/train").out.split())
    plain = afina("evaluate", adapter, "--task", files[1]).out
    assert "F1 of good" in plain.splitlines()[0]
    assert "F1 and AUROC are about good, the last in the order of the labels; --positive names another." in plain
    assert "Figures by label" in plain
    assert "Confusion matrix" in plain
    usual = afina("evaluate", adapter, "--task", files[1], "--json").object()
    turned = afina("evaluate", adapter, "--task", files[1], "--positive", "bad", "--json").object()
    assert (usual["positive"], turned["positive"]) == ("good", "bad")
    assert [one["labels"]["bad"] for one in (usual, turned)] == [usual["labels"]["bad"]] * 2
    assert turned["f1"] == usual["labels"]["bad"]["f1"]
    assert usual["f1"] == usual["labels"]["good"]["f1"]
    assert turned["confusion"] == [row[::-1] for row in usual["confusion"][::-1]]
    assert sum(map(sum, usual["confusion"])) == 40
    said = afina("evaluate", adapter, "--task", files[1], "--positive", "bad").out
    assert "--positive names another" not in said
    told = "more.csv: --positive 'fine' is not a label. Give one of bad, good."
    assert afina("evaluate", adapter, "--task", files[1], "--positive", "fine").error == told


def test_evaluate_on_texts_of_one_class_says_what_is_undefined(
    afina: Command, gpt2: Backbone, files: tuple[str, str, str]
) -> None:
    adapter, _ = train(afina, gpt2, "--task", files[0])
    write_csv(Path("alone.csv"), [(text, "good") for text, _ in sentences(40)[20:]])
    shown = afina("evaluate", adapter, "--task", "alone.csv", "--allow-leakage").out
    assert "AUROC undefined (it needs probabilities and texts of both labels)" in shown
    assert "Matthews correlation undefined (it needs texts of two labels or more)" in shown
    found = afina("evaluate", adapter, "--task", "alone.csv", "--allow-leakage", "--metric", "auroc", "--json").object()
    assert (found["auroc"], found["mcc"], found["interval"], found["labels"]["bad"]["recall"]) == (
        None, None, [None, None], None,
    )  # fmt: skip
    assert found["accuracy"] is not None


def test_texts_that_were_cut_are_counted_where_they_were(
    afina: Command, gpt2: Backbone, files: tuple[str, str, str]
) -> None:
    adapter, shown = train(afina, gpt2, "--task", files[0], "--set", "max_length=3")
    assert "100 of 100 texts cut at the maximum length of 3 tokens." in " ".join(shown.split())
    assert "40 of 40 texts cut at the maximum length of 3 tokens." in afina("evaluate", adapter, "--task", files[1]).out


def test_a_file_of_its_own_to_evaluate_on_lets_all_of_the_task_train(
    afina: Command, gpt2: Backbone, files: tuple[str, str, str]
) -> None:
    mine, more, longer = files
    adapter, shown = train(afina, gpt2, "--task", mine, "--eval", more)
    manifest = Adapter.load(adapter).manifest
    assert manifest.data.evaluation == more
    assert "mine.csv: 100 texts to train on, 40 held out." in shown
    assert "too few" not in shown
    assert "occur in the training split" in afina("ask", "--task", mine, "--eval", longer, "--backbone", "./x").error
    asked = afina("ask", "--task", mine, "--eval", more, "--backbone", gpt2.address)
    assert asked.out.splitlines()[-1].endswith("--eval more.csv")
    assert "on 40 held-out texts" in asked.out
    assert afina("ask", "--task", mine, "--eval", "gone.csv").error.startswith("--eval gone.csv: no such file.")


def test_a_study_takes_a_file_to_evaluate_on_and_says_where_there_are_fewer_texts_than_asked(
    afina: Command, gpt2: Backbone, files: tuple[str, str, str]
) -> None:
    content = f'name = "s"\nbackbone = {json.dumps(gpt2.address)}\ntask = "mine.csv"\nmethods = {{baseline = {{}}}}\n'
    Path("s.toml").write_text(f"{content}data = {{train_examples = 500, evaluation_examples = 30}}\n", encoding="utf-8")
    shown = afina("study", "s.toml", "--eval", "more.csv", "--json").object()
    assert shown["records"][0]["examples"] == 30
    text = " ".join(afina("show", "results/s").out.split())
    assert "data.train_examples asks for 500 texts; there are 100, and all were used." in text
    assert "data.evaluation_examples" not in text
