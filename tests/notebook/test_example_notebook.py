"""The notebook of the documentation runs from top to bottom, and holds nothing of where it was made."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from afina import assets
from afina.errors import NotFound

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "notebook.ipynb"


def outputs(content: dict[str, Any]) -> str:
    return json.dumps([cell.get("outputs", []) for cell in content["cells"]])


def test_the_notebook_is_small_and_has_no_trace_of_a_machine() -> None:
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 40_000
    assert not re.search(r"/(?:home|root|tmp|Users|work)/", text)
    content = json.loads(text)
    assert {"text/plain", "text/html"} >= set(re.findall(r'"(\w+/[\w+.-]+)":', outputs(content)))
    assert "Traceback" not in outputs(content)
    assert "Stopped" not in outputs(content)
    assert "Warning" not in outputs(content)


@pytest.mark.slow
@pytest.mark.assets
@pytest.mark.filterwarnings("default")  # those of the kernel's own process and its channels are not ours
def test_every_cell_of_the_notebook_runs_in_a_fresh_kernel(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    try:
        assets.fetch("smollm2")
        assets.fetch("snippets")
    except NotFound as error:
        pytest.skip(str(error))
    content = nbformat.read(NOTEBOOK, as_version=4)
    client.NotebookClient(content, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = outputs(content)
    assert "Warning" not in shown
    assert "<svg" in shown, "the results are plotted"
    assert "lora, seed 0: accuracy" in shown, "the study told what it did"
    assert shown.count("'label':") == 2, "two texts are answered"
