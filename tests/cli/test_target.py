"""--target names the column of texts to write, wherever a command reads labelled texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from afina import Backbone
from command import Command

ROWS = "".join(f"in {i},out {i},{'ab'[i % 2]}\n" for i in range(20))


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A file in which the target has no usual name."""
    path = tmp_path / "mine.csv"
    path.write_text(f"body,reply,mood\n{ROWS}", encoding="utf-8")
    return path


@pytest.mark.parametrize("command", [("train",), ("choose",), ("plan",), ("ask",), ("study", "quickstart")])
def test_a_target_and_another_label_are_refused_before_anything_is_done(
    afina: Command, mine: Path, gpt2: Backbone, command: tuple[str, ...]
) -> None:
    named = ["--target", "reply", "--label", "mood"]
    told = "--target reply: --label names another column, mood. Give one of the two: "
    if command[0] == "study":
        named = ["--set", "data.target=reply", "--set", "data.label=mood"]
        told = "data.target reply: data.label names another column, mood. Give one of the two: "
    answer = afina(*command, "--task", mine, "--backbone", gpt2.address, *named)
    assert answer.code == 2
    assert answer.error.startswith(told)
    assert not Path("results").exists()


def test_an_adapter_of_labels_has_no_target(afina: Command, trained: Path, mine: Path) -> None:
    answer = afina("evaluate", trained, "--task", mine, "--target", "reply")
    assert answer.code == 2
    assert answer.error.startswith("--target reply: a column of texts to write, but the task is of kind classes.")
