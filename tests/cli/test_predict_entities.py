"""`afina predict` of entities: JSON in a pipe, marks on a terminal."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from afina.cli.adapters import _Answers
from afina.data.readers.texts import Chunk

SPANS = [{"start": 0, "end": 3, "label": "PER", "text": "Ana", "score": 0.9}]
ANSWERS: list[dict[str, Any]] = [
    {"row": 1, "text": "Ana sat.", "entities": SPANS},
    {"row": 2, "text": "Rain.", "entities": []},
    {"row": 3, "text": None, "entities": None, "reason": "line 3: no text there"},
]


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> _Answers:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return _Answers(SimpleNamespace(manifest=SimpleNamespace(label_names=("LOC", "PER"))), as_json=False)  # type: ignore[arg-type]


def test_a_pipe_gets_json_with_the_part_of_the_text(said: _Answers, capsys: pytest.CaptureFixture[str]) -> None:
    said.add(Chunk.of(["Ana sat."]), ANSWERS)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == ANSWERS


def test_a_terminal_gets_the_text_with_marks_and_what_has_no_answer(
    said: _Answers, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    said.add(Chunk.of(["Ana sat."]), ANSWERS)
    marked, plain, missing = capsys.readouterr().out.splitlines()
    assert marked == "\x1b[35m[\x1b[1mAna\x1b[22m PER]\x1b[0m sat."
    assert plain == "Rain."
    assert json.loads(missing) == ANSWERS[2]
