"""The page of clients: a row for each script, written from the results."""

from __future__ import annotations

from pathlib import Path

import pytest

from clients import page
from clients.run import clients


def test_the_page_has_a_row_for_each_client() -> None:
    assert [*page.rows()] == [one.name for one in clients([])], 'make clients ONLY="NAME" writes a row'
    assert page.PAGE.read_text(encoding="utf-8") == page.TOP + "".join(page.rows().values())


def test_new_results_replace_the_row_of_their_client_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = page.rows()
    monkeypatch.setattr(page, "PAGE", tmp_path / "clients.md")
    checks = [{"check": "chat", "problem": None}, {"check": "a | b", "problem": "of no\nimportance"}]
    page.write({**before, "gone_client.py": page.row("gone_client.py", "gone 1.0", [])})
    page.write({"llm_client.py": page.row("llm_client.py", "llm 1.0", checks)})
    assert page.rows() == {
        **before,
        "llm_client.py": "| `llm_client.py` | llm 1.0 | chat; a / b | 1 of 2; not: a / b |\n",
    }
