"""A run that tags words with a causal language model says that the words after a word are not read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from afina import Backbone, Run, Task
from afina.models.verbalizer import Verbalizer
from afina.studies.runs.prepared import encoded_task
from afina.studies.runs.spec import UNASKED
from fakes import Backbones, sentences
from tagging import entities_in


@pytest.mark.parametrize(("family", "says"), [("gpt2", True), ("bert", False)])
def test_a_causal_language_model_is_said_to_read_no_words_after_a_word(
    backbones: Backbones, tmp_path: Path, family: str, says: bool
) -> None:
    texts = [text for text, _ in sentences(30)]
    lines = [json.dumps({"text": text, "entities": [[*one] for one in entities_in(text)]}) for text in texts]
    (tmp_path / "task.jsonl").write_text("\n".join(lines))
    path = str(backbones.path(family))
    run = Run(backbone=path, task=str(tmp_path / "task.jsonl"), method="lora", ask=UNASKED)
    made, _ = encoded_task(run, Task.load(run.task), Backbone.load(path), Verbalizer(None), 64)
    assert any("without the words after it" in note for note in made.notes) == says
