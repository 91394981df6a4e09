"""The example of docs/reference/estimator.md, on the tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from afina import Backbone
from pages import ROOT, blocks


@pytest.mark.slow
def test_the_example_of_the_page_runs(
    gpt2: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = blocks(ROOT / "docs" / "reference" / "estimator.md", "python")
    assert '"embedded"' in code
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace('"embedded"', repr(gpt2.address)), "docs/reference/estimator.md", "exec"), {})
    answers, scores, best, predicted = capsys.readouterr().out.splitlines()
    assert answers.startswith("['bad' 'good'] ['")
    assert len(scores.strip("[]").split()) == 2
    assert "learning_rate" in best
    assert "'label': '" in predicted
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
