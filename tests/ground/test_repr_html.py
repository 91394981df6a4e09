"""Whatever the library hands out is shown in a few words, in a terminal and in a notebook."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from afina import Adapter, Backbone, Predictor, Study, Task
from afina.data.split import Split
from afina.predicting.prompting import Answer
from afina.repr_html import ReprCard, table
from command import InventedExecutor
from fakes import Runs

SHORT, SMALL = 600, 4000
"""Characters of a line, and of a table."""

MARKUP = "<script>alert('x')</script> & <b>bold</b>"
NAMED = MARKUP.replace("/", "")  # a study's files are named after it


@pytest.fixture
def things(runs: Runs, gpt2: Backbone, toy: str, trained: Path) -> dict[str, Any]:
    run, record, task = runs.run("gpt2", "lora"), runs.record("gpt2", "lora"), Task.load(toy)
    right = np.array([True, False])
    answer = Answer(
        "Text: {text}", "Text: {text}", {"good": (" good",)}, False, {"accuracy": 0.5, "f1": 0.5}, right, ()
    )
    study = Study(name="s", backbone="b", task="t", methods={"lora": {}})
    return {
        "Task": task,
        "Split": task.train,
        "Backbone": gpt2,
        "Run": run,
        "Record": record,
        "Adapter": Adapter.load(trained),
        "ModelPredictor": Predictor.load(trained),
        "Answer": answer,
        "Study": study,
    }


def test_each_is_one_short_line_of_text_and_one_small_table_of_html(things: dict[str, Any]) -> None:
    for name, thing in things.items():
        line, html = repr(thing), thing._repr_html_()
        assert line.startswith(f"<{name} "), line
        assert "\n" not in line
        assert len(line) < SHORT
        assert str(thing) == line
        assert len(html) < SMALL
        assert "<script" not in html
        assert "http" not in html
        assert "color:" not in html, "light and dark have colours of their own"


def test_a_line_tells_what_it_is_about(things: dict[str, Any]) -> None:
    assert "labels: bad, good, training texts: 96, evaluation texts: 24" in repr(things["Task"])
    assert "texts: 96, of each label: 0: 42, 1: 54" in repr(things["Split"])
    assert "family: gpt2, layers: 2, width: 32" in repr(things["Backbone"])
    assert f"accuracy: {things['Record'].accuracy:.4f}" in repr(things["Record"])
    assert "method: lora, labels: bad, good" in repr(things["ModelPredictor"])


def test_names_that_hold_markup_are_escaped() -> None:
    split = Split(["a", "b"], np.array([0, 1]))
    shown = Task("a.csv", (MARKUP, "good"), split, split)._repr_html_() + table(MARKUP, {MARKUP: MARKUP})
    assert "<script" not in shown
    assert "<b>" not in shown
    assert "&lt;script&gt;" in shown


def test_many_labels_are_cut_and_no_text_is_quoted() -> None:
    split = Split(["word " * 1000] * 200, np.arange(200))  # no text is shown, only how many there are
    task = Task("many.csv", tuple(f"label{number}" for number in range(200)), split, split)
    assert "label5 and 194 more" in repr(task)
    assert len(repr(task)) < SHORT
    assert len(repr(split)) < SHORT
    assert "word" not in repr(task) + repr(split) + task._repr_html_() + split._repr_html_()


@pytest.mark.slow
def test_results_are_one_line_and_a_page_of_tables_and_plots(tmp_path: Path) -> None:
    methods = {"full": {}, "lora": {"targets": ["c_attn"]}}
    study = Study(name=NAMED, backbone="gpt2", task="sst2", methods=methods)
    results = study.run(tmp_path, executor=InventedExecutor())
    assert "results: full, seed 0: accuracy " in repr(results)
    assert len(repr(results)) < SHORT + len(str(tmp_path))
    html = results._repr_html_()
    assert html.count("<svg") >= 3
    assert "Parameters and training time" in html
    assert str(results.adapter("lora")) in html
    assert "<script" not in html
    assert "src=" not in html
    assert "@import" not in html
    other = Study(name="other", backbone="gpt2", task="sst2", methods=methods)
    again = other.run(tmp_path / "other", executor=InventedExecutor())._repr_html_()
    ids = [set(re.findall(r'\bid="([^"]+)"', page)) for page in (html, again)]
    assert set(re.findall(r"url\(#([^)]+)\)", html)) <= ids[0]
    assert ids[0]
    assert not ids[0] & ids[1], "two reports on one page share no id"


def test_a_class_that_is_shown_says_its_facts() -> None:
    with pytest.raises(NotImplementedError):
        repr(ReprCard())
