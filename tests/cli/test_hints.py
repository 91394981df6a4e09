"""What the library calls a field, the command line calls by what a user types."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pytest
import typer

from afina import METHODS, cli
from afina.cli.terminal import COMMANDS, FLAGS, WITH_STORE, with_flags
from command import Command
from errors_page import declared


def _sentences() -> Iterator[tuple[str, str]]:
    """The name and the sentence of each problem that the command line shows.

    Callers of the library and clients of the server type the field's own name.
    """
    for name, problem in declared().items():
        if not name.startswith(("afina.cli.", "afina.estimators.")) and not problem.code.startswith("request."):
            yield name, problem.sentence


def test_a_field_in_backquotes_becomes_its_flag_and_nothing_else_changes() -> None:
    told = with_flags("mine.csv: no column 'x'. Name the right one with `text_pair`, not `this`, nor text.")
    assert told == "mine.csv: no column 'x'. Name the right one with --text-pair, not `this`, nor text."


def test_a_command_has_its_own_word_where_it_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {}
    for command in ("plan", "study", "train"):
        monkeypatch.setattr(sys, "argv", ["afina", command])
        said[command] = with_flags("`max_length` is 9; `labels`")
    assert said == {
        "plan": "--length is 9; --labels",
        "study": "train.max_length is 9; data.labels",
        "train": "max_length is 9; --labels",
    }


def test_a_command_without_an_option_for_the_store_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    library = "store typo: there is none. Give another with `store`, or publish to begin one."
    monkeypatch.setattr(sys, "argv", ["afina", "predict", "store:acme/reviews", "a"])
    assert with_flags(library) == "store typo: there is none. Set AFINA_STORE, or publish to begin one."
    for command in WITH_STORE:
        monkeypatch.setattr(sys, "argv", ["afina", command])
        assert with_flags(library).endswith("Give another with --store, or publish to begin one.")


@pytest.mark.parametrize(
    ("command", "words"),
    [("train", ["--task", "t.csv"]), ("study", ["quickstart"])],
)
def test_what_an_override_that_is_none_is_told_to_be_can_be_typed(
    afina: Command, command: str, words: list[str]
) -> None:
    (advised,) = re.findall(r"such as (\S+)\.$", afina(command, *words, "--set", "r").error)
    assert advised == {"train": "epochs=1", "study": "train.epochs=1"}[command]
    again = afina(command, *words[:1] * (command == "study"), "--task", "nowhere.csv", "--set", advised)
    assert again.error.startswith("task nowhere.csv: no such file"), "the advice is taken"


def test_train_takes_a_training_setting_with_or_without_its_section(afina: Command) -> None:
    for setting in ("train.batch_size=0", "batch_size=0"):
        told = afina("train", "--task", "nowhere.csv", "--set", setting).error
        assert told.startswith("afina train, methods.lora: batch_size = 0"), told


def test_every_flag_is_an_option_of_a_command() -> None:
    commands = dict(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]
    for group in ("store", "keys"):
        commands |= {f"{group} {name}": command for name, command in commands[group].commands.items()}
    of = {name: {o for one in command.params for o in one.opts} for name, command in commands.items()}
    of["store"] |= set().union(*(opts for name, opts in of.items() if name.startswith("store ")))
    assert {flag for flag in FLAGS.values() if flag.startswith("--")} <= set().union(*of.values())
    for name, words in COMMANDS.items():
        assert words.keys() <= FLAGS.keys()
        assert {flag for flag in words.values() if flag.startswith("--")} <= of[name]


OWN_WORDS = (
    *("about", "attach", "format", "messages", "response_format", "stream", "structured_outputs"),
    *("address", "data", "pair", "pairs", "texts", "watcher", "weights"),
    *("input", "instructions", "tool_choice", "tools"),
)
"""Names in backquotes that stay: a function of a method, fields of a manifest, a bundle and a request, and arguments of
the library that no command passes."""


def test_every_field_that_an_error_names_has_something_to_type_for_it() -> None:
    named = {(name, field) for name, sentence in _sentences() for field in re.findall(r"`(\w+)`", sentence)}
    assert len(named) > 3
    assert {(name, field) for name, field in named if field not in {*FLAGS, *METHODS, *OWN_WORDS}} == set()


def test_no_error_of_the_library_names_a_flag() -> None:
    said = [(name, re.sub(r"afina store init --blobs URL", "", sentence)) for name, sentence in _sentences()]
    assert [name for name, sentence in said if re.search(r"(?<![\w-])--[a-z]", sentence)] == []
