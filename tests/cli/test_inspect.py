"""`afina inspect`: how texts are read, in words and as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from command import Command

ROWS = [(f"text number {i}", "ny"[i % 2]) for i in range(40)]


def csv(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows), encoding="utf-8")
    return path


def test_words_counts_and_doubts_are_printed(afina: Command, tmp_path: Path) -> None:
    answer = afina("inspect", "--task", csv(tmp_path / "a.csv", [*ROWS, ROWS[0]]))
    assert answer.code == 0
    assert "kind classes" in answer.out
    assert "held-out texts" in answer.out
    assert "Doubtful: 1 of 41 rows repeat the text of an earlier row." in " ".join(answer.out.split())
    assert "inspect: looking at the texts and labels of 41 rows" in answer.err


def test_a_refusal_exits_0_and_names_the_flag_that_mends_it(afina: Command, tmp_path: Path) -> None:
    answer = afina("inspect", "--task", csv(tmp_path / "a.csv", [*ROWS, ("one more", "N")]))
    assert answer.code == 0
    assert "Refused:" in answer.out
    assert "  --merge-labels: Merge the spellings" in answer.out
    assert "kind classes" in afina("inspect", "--task", tmp_path / "a.csv", "--merge-labels").out


def test_an_option_to_leave_out_is_said(afina: Command, tmp_path: Path) -> None:
    answer = afina("inspect", "--task", csv(tmp_path / "a.csv", ROWS), "--separator", ";")
    assert "  without --separator: Recognise the separator" in answer.out


def test_a_file_that_does_not_exist_is_an_error(afina: Command, tmp_path: Path) -> None:
    assert "no such file" in afina("inspect", "--task", tmp_path / "a.csv").error


def test_texts_are_measured_with_the_tokenizer_of_a_backbone(afina: Command, toy: str, backbones: Any) -> None:
    tiny = str(backbones.path("bert"))
    found = afina("inspect", "--task", toy, "--backbone", tiny, "--json").object()
    (one,) = found["tokens"]
    assert (one["backbone"], one["sampled"]) == (tiny, found["train"])
    assert 0 < one["median"] <= one["longest"]
    assert f"lengths in tokens of {tiny}: median" in afina("inspect", "--task", toy, "--backbone", tiny).out


def test_a_backbone_that_is_not_on_this_machine_is_not_fetched(
    afina: Command, toy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    answer = afina("inspect", "--task", toy, "--backbone", "nobody/nothing", "--backbone", "minilm", "--json")
    assert answer.object()["tokens"] == []
    for one in ("nobody/nothing", "minilm"):
        assert f"the tokenizer of {one} is not on this machine" in answer.err


def test_no_model_at_a_path_is_an_error(afina: Command, toy: str) -> None:
    assert "/nowhere/model" in afina("inspect", "--task", toy, "--backbone", "/nowhere/model").error
