"""Asking a model in words, as a user types it: `ask`, and the options of the commands that train."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from afina import Backbone, Predictor, Task
from afina.cli.options import words_option
from afina.data.label_words import no_words_note
from afina.errors import InvalidStudy
from afina.events import Listener
from afina.models.label_prompts import GENERAL, TEMPLATES
from afina.models.manifest import read_manifest
from afina.predicting.prompting import Answer, TemplateComparison, _chosen, ask
from afina.report.evaluation import template_tables
from afina.report.formatting import quoted
from afina.studies.executors import by_name
from afina.studies.runs.record import Record
from afina.studies.runs.run import Run
from afina.studies.runs.spec import Ask
from command import Command, InventedExecutor
from fakes import sentences, write_csv
from raises import raises

OUT = Path("out")
SHORT = ("--set", "max_steps=2", "--set", "dtype=float32")


@pytest.fixture
def numbered() -> str:
    """A task whose labels are numbers."""
    return str(write_csv(Path("numbered.csv"), sentences(60)))


def test_ask_compares_templates_on_training_texts_and_says_what_the_model_answers(
    afina: Command, gpt2: Backbone, toy: str
) -> None:
    answer = afina("ask", "--task", toy, "--backbone", gpt2.address)
    assert answer.code == 0, answer.err
    for template in TEMPLATES:
        assert json.dumps(template) in answer.out
    assert '(bad: " bad"; good: " good"): accuracy 0.' in answer.out
    assert "on 24 held-out texts (95 % of accuracy: 0." in answer.out
    assert "too few to say anything: below 30." in answer.out
    told = " ".join(answer.out.split())
    assert "On 96 training texts. " in told
    assert " is used below" in told
    said = answer.err.splitlines()
    assert said[0] == "text: column 'text'; label: column 'label'. 120 rows, 2 classes (bad, good): kind classes"
    assert said[1:3] == [f"{Path(toy).name}: 96 texts to train on, 24 held out", "ask: opening the model"]
    count = len(TEMPLATES)
    assert said[3:-1] == [f"ask: template {n} of {count}, on 96 training texts" for n in range(1, count + 1)]
    assert said[-1] == "ask: that template, on 24 held-out texts"


def test_its_figures_are_those_of_the_untrained_adapter(afina: Command, gpt2: Backbone, toy: str) -> None:
    arguments = ("--task", toy, "--backbone", gpt2.address, "--template", r"{text}\nIt is", "--words", "bad=dull,cold")
    found = afina("ask", *arguments, "--words", "good=warm", "--json").object()
    made = afina("train", "--method", "zero-shot", *arguments, "--words", "good=warm", "--out", OUT, "--json").object()
    (record,) = made["records"]
    assert (found["accuracy"], found["f1"], found["examples"]) == (
        record["accuracy"],
        record["f1"],
        record["examples"],
    )
    assert (found["template"], found["compared"], found["offset"]) == ("{text}\nIt is", [], False)
    assert found["words"] == {"bad": [" dull", " cold"], "good": [" warm"]}


def test_the_library_asks_too_in_the_template_that_training_uses_unless_another_is_shown_to_be_better(
    gpt2: Backbone, toy: str
) -> None:
    task = Task.load(toy)
    answer = ask(gpt2, task)
    assert [one.template for one in answer.compared] == [GENERAL, *(one for one in TEMPLATES if one != GENERAL)]
    assert answer.usual == GENERAL
    assert answer.metrics["accuracy"] == answer.score.mean()
    assert answer.examples == len(task.evaluation)
    alone = ask(gpt2, task, [answer.template])
    assert (alone.metrics, alone.compared) == (answer.metrics, ())


def test_the_usual_template_is_left_only_for_one_that_is_better_by_more_than_chance() -> None:
    usual = np.arange(200) < 120
    few, many = np.arange(200) < 126, np.arange(200) < 160
    lucky = np.roll(usual, 40)  # as often right, on other texts
    assert _chosen([usual, np.roll(few, 30), lucky], keep_first=True) == 0
    assert _chosen([usual, few, many], keep_first=True) == 2
    assert _chosen([usual, few, usual], keep_first=False) == 1
    assert _chosen([usual, usual], keep_first=False) == 0
    assert _chosen([], keep_first=True) == 0


def test_of_templates_that_are_given_the_best_with_the_offset_is_used(gpt2: Backbone, toy: str) -> None:
    answer = ask(gpt2, Task.load(toy), TEMPLATES, offset=True)
    best = max(answer.compared, key=lambda one: one.with_offset)
    assert (answer.offset, answer.template) == (True, best.template)
    assert any(one.accuracy != one.with_offset for one in answer.compared)


def test_what_ask_and_training_use_is_one_template_or_said_to_be_two() -> None:
    compared = tuple(TemplateComparison(template, 0.5, 0.5, 96) for template in TEMPLATES)

    def told(template: str) -> str:
        made = Answer(template, GENERAL, {}, False, {}, np.ones(40, bool), compared)
        return template_tables(made)[0].notes[0]

    assert (
        told(GENERAL) == f"On 96 training texts. {quoted(GENERAL)} is used below, as it is by training: no other is "
        "shown to be better."
    )
    other = TEMPLATES[-1]
    assert told(other) == (
        f"On 96 training texts. {quoted(other)} is used below. "
        f"Training uses {quoted(GENERAL)} where no template is given."
    )


def test_the_line_to_train_with_has_what_was_asked_with_and_no_template_that_is_used_anyway(
    afina: Command, gpt2: Backbone, toy: str
) -> None:
    def line(*more: str) -> list[str]:
        told = afina("ask", "--task", toy, "--backbone", gpt2.address, *more)
        return shlex.split(told.out.splitlines()[-1].removeprefix("To train with this template: "))

    usual = GENERAL.replace("\n", "\\n")
    begins = ["afina", "train", toy, "--backbone", gpt2.address]
    assert line("--template", usual) == begins
    words = ["--words", "bad=dull", "--words", "good=warm"]
    assert line("--template", usual, *words) == [*begins, *words]
    assert line("--template", "{text} is", "--offset") == [*begins, "--template", "{text} is", "--set", "offset=true"]


def test_train_asks_without_being_told_how(afina: Command, gpt2: Backbone, toy: str) -> None:
    answer = afina("train", "--task", toy, "--backbone", gpt2.address, "--out", OUT, *SHORT)
    assert answer.code == 0, answer.err
    (path,) = OUT.glob("adapters/lora-*")
    manifest = read_manifest(path)
    assert (manifest.template, manifest.words) == (GENERAL, {"bad": (" bad",), "good": (" good",)})
    report = " ".join((OUT / "report.md").read_text(encoding="utf-8").split())
    assert f"texts stand in {json.dumps(GENERAL)}" in report
    assert "published" not in report
    label = Predictor.load(path)(["a lamp"])[0]["label"]
    assert label in ("bad", "good")


def test_labels_that_are_numbers_keep_a_head_that_is_drawn(afina: Command, gpt2: Backbone, numbered: str) -> None:
    answer = afina("train", "--task", numbered, "--backbone", gpt2.address, "--out", OUT, *SHORT, "--json")
    made = answer.object()
    (record,) = made["records"]
    manifest = read_manifest(Path(record["adapter"]))
    assert (manifest.template, manifest.words) == (None, None)
    note = no_words_note(("0", "1"), 48)
    assert note in answer.err.split("\n"), "before training"
    assert made["conclusion"][1] == note, "after the answer"
    report = " ".join((OUT / "report.md").read_text(encoding="utf-8").split())
    assert "--words 0=negative,1=positive" in report
    assert "afina ask" not in report, "it would be an error"


def test_the_option_of_the_note_is_understood_and_ends_it(afina: Command, gpt2: Backbone, numbered: str) -> None:
    words = shlex.split(re.search(r"--words \S+", no_words_note(("0", "1"), 48))[0])  # type: ignore[index]
    answer = afina("train", "--task", numbered, "--backbone", gpt2.address, "--out", OUT, *SHORT, *words, "--json")
    (path,) = OUT.glob("adapters/lora-*")
    assert read_manifest(path).words == {"0": (" negative",), "1": (" positive",)}
    assert "not words" not in answer.err + " ".join(answer.object()["conclusion"])


def test_a_study_takes_words_and_templates_a_method_may_have_its_own(
    afina: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Ask] = {}

    class Noting(InventedExecutor):
        def carry_out(self, run: Run, out: Path, study: str, listen: Listener, until: float | None = None) -> Record:
            asked[run.name or run.method] = run.ask
            return super().carry_out(run, out, study, listen, until)

    monkeypatch.setattr(by_name, "LocalExecutor", lambda slots, **_: Noting())
    path = tmp_path / "heads.toml"
    path.write_text(
        """
        name = "heads"
        backbone = "gpt2"
        task = "sst2"
        [ask]
        template = "{text} It was"
        [methods.lora]
        [methods.drawn]
        method = "lora"
        head = "random"
        [methods.chosen]
        method = "lora"
        words = {bad = [" dull"], good = [" warm", " lovely"]}
        """,
        encoding="utf-8",
    )
    assert afina("study", path, "--out", OUT).code == 0
    assert {name: ask.template for name, ask in asked.items()} == dict.fromkeys(asked, "{text} It was")
    own = {"bad": (" dull",), "good": (" warm", " lovely")}
    assert {name: (ask.head, ask.words) for name, ask in asked.items()} == {
        "lora": ("auto", None),
        "drawn": ("random", None),
        "chosen": ("auto", own),
    }
    again = afina("study", path, "--template", "{text}", "--words", "bad=cold", "--words", "good=bright", "--out", "b")
    assert again.code == 0, again.err
    given = {"bad": (" cold",), "good": (" bright",)}
    assert {name: (ask.template, ask.head) for name, ask in asked.items()} == {
        "lora": ("{text}", "words"),
        "drawn": ("{text}", "random"),
        "chosen": ("{text}", "words"),
    }
    assert (asked["lora"].words, asked["chosen"].words) == (given, own)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--template", "no place"], "--template 'no place': expected {text} once, and {text_pair} at most once"),
        (["--words", "goood=warm"], "--words: unknown label 'goood'. Did you mean 'good'?"),
        (["--words", "good"], "--words good: expected LABEL=WORD,WORD, such as positive=great,good."),
        (
            ["--template", "{text} " + 300 * "and so on "],
            "no token is left for the text. Give a shorter template, or a",
        ),
    ],
    ids=["no text", "foreign", "form", "long"],
)
def test_what_cannot_be_asked_is_an_error(
    afina: Command, gpt2: Backbone, toy: str, arguments: list[str], told: str
) -> None:
    given = ("--task", toy, "--backbone", gpt2.address, *arguments)
    answer = afina("ask", *given).error
    assert told in answer
    assert len(answer) < 400
    assert told in afina("train", *given, "--out", OUT, *SHORT).error
    assert not list(OUT.glob("adapters/*"))


def test_labels_that_are_no_words_need_some_to_be_asked_for(afina: Command, gpt2: Backbone, numbered: str) -> None:
    told = "the labels 0, 1 are not words that a language model could answer with. Give words for each"
    assert told in afina("ask", "--task", numbered, "--backbone", gpt2.address).error
    train = ("train", "--task", numbered, "--backbone", gpt2.address, "--method", "zero-shot", "--out", OUT)
    assert told in afina(*train).error
    assert afina(*train, "--words", "0=dull", "--words", "1=warm").code == 0


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["method=baseline", "head=words"], "baseline has a random head and no template by definition. Remove head."),
        (["method=zero-shot", "head=random"], "zero-shot answers in words by definition. Remove head."),
        (["method=lora", "head=random", "offset=true"], 'offset: a head that is "random" does not use it.'),
    ],
    ids=str,
)
def test_settings_that_contradict_a_method_are_an_error(
    afina: Command, gpt2: Backbone, toy: str, settings: list[str], told: str
) -> None:
    method, *others = (setting.split("=", 1)[1] if setting.startswith("method") else setting for setting in settings)
    more = [part for setting in others for part in ("--set", setting)]
    given = ("--task", toy, "--backbone", gpt2.address, "--method", method, "--out", OUT, *SHORT)
    assert told in afina("train", *given, *more).error


def test_words_are_typed_without_the_space_before_them() -> None:
    assert words_option(["a=great, good", "b = bad ", "a=fine"]) == {"a": [" great", " good", " fine"], "b": [" bad"]}
    assert words_option(["0=negative,1=positive,fine"]) == {"0": [" negative"], "1": [" positive", " fine"]}
    assert words_option(["a, b=x,c=y"]) == {"a, b": [" x"], "c": [" y"]}
    assert words_option(None) is words_option([]) is None
    for wrong in ("a", "a=", "=b", "a= , ", "a=x,b=", "a=x,=y"):
        with raises(InvalidStudy, code="option.invalid", option="words"):
            words_option([wrong])
