"""The words of the command line for options of the library: what a user of the running command types."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import typer

from afina import METHODS, cli
from afina.cli.option_names import flag, with_flags
from afina.methods import NEEDS_SETTINGS
from afina.sentence import Sentence
from command import Command, running
from errors_page import declared


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("plan", {"max_length": "--length", "labels": "--labels", "epochs": "--epochs", "url": "--endpoint"}),
        ("study", {"max_length": "train.max_length", "labels": "data.labels", "evaluation": "--eval"}),
        ("study", {"metric": "metric", "overrides": "--set", "shots": "shots", "beams": "generate.beams"}),
        ("train", {"max_length": "train.max_length", "labels": "--labels", "overrides": "--set", "url": "url"}),
        ("train", {"attach": None, "store": "AFINA_STORE"}),
        ("predict", {"max_new_tokens": "--max-new-tokens", "temperature": "--temperature", "texts": "TEXT..."}),
        ("doubts", {"task": "--task", "task_file": "FILE"}),
        ("next", {"unlabelled": "POOL"}),
        ("serve", {"limit": "--memory", "store": "--store", "generation_timeout": "--generation-timeout"}),
        ("store publish", {"limits": "--limit", "message": "--message", "who": "--who", "store": "--store"}),
    ],
)
def test_an_option_has_the_name_that_the_running_command_takes(command: str, options: dict[str, str | None]) -> None:
    with running(command):
        assert {name: flag(name) for name in options} == options


def test_a_sentence_is_said_in_flags_and_a_plain_text_as_it_is() -> None:
    sentence = Sentence.of("{place}: Name the right one with `text_pair`, not `this`.", place="a `text` file")
    with running("train"):
        assert with_flags(sentence) == "a `text` file: Name the right one with --text-pair, not `this`."
        assert with_flags("Name it with `text`.") == "Name it with `text`."
    assert with_flags(sentence) == sentence, "before a command's options are parsed"


@pytest.mark.parametrize(
    ("command", "words"),
    [("train", ["--task", "t.csv"]), ("study", ["quickstart"])],
)
def test_what_an_override_that_is_none_is_told_to_be_can_be_typed(
    afina: Command, command: str, words: list[str]
) -> None:
    (advised,) = re.findall(r"such as (\S+)\.$", afina(command, *words, "--set", "r").error)
    assert advised == "train.epochs=1"
    again = afina(command, *words[:1] * (command == "study"), "--task", "nowhere.csv", "--set", advised)
    assert again.error.startswith("task nowhere.csv: no such file"), "the advice is taken"


def test_train_takes_a_training_setting_with_or_without_its_section(afina: Command) -> None:
    for setting in ("train.batch_size=0", "batch_size=0"):
        told = afina("train", "--task", "nowhere.csv", "--set", setting).error
        assert told.startswith("afina train, methods.lora: batch_size = 0"), told


OWN_WORDS = (
    *("about", "attach", "format", "messages", "response_format", "stream", "structured_outputs"),
    *("address", "pair", "pairs", "watcher", "weights", "full", "inputs", "outputs", "prompt", "truncate"),
    *("input", "instructions", "tool_choice", "tools", "chat_template"),
)
"""Names in backquotes that stay: a function of a method, fields of a manifest, a bundle and a request, and arguments of
the library that no command passes."""


def _commands() -> Iterator[str]:
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        yield from [f"{name} {each}" for each in getattr(command, "commands", {})] or [name]


def test_every_option_that_an_error_names_has_something_to_type_for_it() -> None:
    named = {
        option
        for name, problem in declared().items()
        if not name.startswith(("afina.cli.", "afina.estimators.")) and not problem.code.startswith("request.")
        for option in re.findall(r"`([a-z_]+)`", problem.sentence)
    }
    assert len(named) > 30
    typed = set()
    for command in _commands():
        with running(command):
            typed |= {name for name in named if flag(name)}
    assert named - typed - {*OWN_WORDS, *METHODS, *NEEDS_SETTINGS} == set()


def test_no_error_of_the_library_names_a_flag() -> None:
    said = [
        (name, re.sub(r"afina store init --blobs URL", "", problem.sentence))
        for name, problem in declared().items()
        if not name.startswith("afina.cli.")
    ]
    assert [name for name, sentence in said if re.search(r"(?<![\w-])--[a-z]", sentence)] == []
