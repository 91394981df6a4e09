"""The report that the command line has written while a study goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from afina.studies.executors import by_name
from afina.studies.runs.record import Record
from afina.studies.runs.run import Run
from command import Command, InventedExecutor

STUDY = """
name = "two"
backbone = "gpt2"
task = "sst2"
[methods.full]
[methods.lora]
"""


class Invented(InventedExecutor):
    """The run of LoRA fails as long as there is a file `fail`."""

    def carry_out(self, run: Run, out: Path, study: str, listen: Any, until: float | None = None) -> Record:
        self.failing = {"lora"} if Path("fail").exists() else set()
        if run.method == "lora":
            assert "full fine-tuning" in Path("out/report.md").read_text(encoding="utf-8"), "not written after each run"
        return super().carry_out(run, out, study, listen, until)


def test_the_report_has_the_command_and_the_runs_that_failed_until_they_do_not(
    afina: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_name, "LocalExecutor", lambda slots, **_: Invented())
    Path("a file.toml").write_text(STUDY, encoding="utf-8")
    Path("fail").touch()
    told = afina("study", "a file.toml", "--out", "out", "--json")
    assert told.code == 2
    assert "it was made to fail" in Path("out/report.md").read_text(encoding="utf-8")
    shown = afina("study", "a file.toml", "--out", "out", "--json")
    assert [(one["name"], one["status"]) for one in json.loads(shown.out)["records"]] == [
        ("full", "done"),
        ("lora", "failed"),
    ]
    Path("fail").unlink()
    assert afina("study", "a file.toml", "--out", "out").code == 0
    text = Path("out/report.md").read_text(encoding="utf-8")
    assert "it was made to fail" not in text
    assert "afina study 'a file.toml' --out out" in text
