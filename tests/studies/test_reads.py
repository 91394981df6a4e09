"""Facts once: a task is read once by the process that asks for runs, and once by each that carries one out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from afina import Run, Task
from afina.data.addresses import stamp
from afina.studies.runs import inputs
from command import Command
from fakes import Backbones, sentences, write_csv


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that were read, in order."""
    seen: list[str] = []
    load = Task.load.__func__  # type: ignore[attr-defined]

    def counted(cls: type[Task], address: Any, *given: Any, **how: Any) -> Task:
        seen.append(os.fspath(address))
        made: Task = load(cls, address, *given, **how)
        return made

    monkeypatch.setattr(Task, "load", classmethod(counted))
    return seen


def test_a_command_reads_its_file_once_and_once_in_each_run(
    afina: Command, backbones: Backbones, reads: list[str], tmp_path: Path
) -> None:
    """The run takes place in this process here; the baselines read the file once, and the report is written too."""
    file, out = write_csv(tmp_path / "toy.csv", sentences(60)), tmp_path / "out"
    told = ("--task", file, "--backbone", backbones.path("gpt2"), "--out", out)
    settings = ("--set", "max_steps=1", "--set", "temperature=true")
    assert afina("train", *told, *settings).code == 0
    assert len(reads) == 3
    assert (out / "report.html").is_file()
    assert afina("train", *told, *settings).code == 0  # all is recorded, and the file is as it was
    assert len(reads) == 3


def test_a_file_that_changed_is_read_again(toy: str, reads: list[str], tmp_path: Path) -> None:
    file = write_csv(tmp_path / "toy.csv", sentences(60))
    run = Run(backbone="gpt2", task=str(file), method="lora")
    before = [inputs.facts_of(run) for _ in range(3)]
    assert (len(reads), len({id(one) for one in before})) == (1, 1)
    with file.open("a", encoding="utf-8") as more:
        more.write("a new text,1\n")
    after = inputs.facts_of(run)
    assert len(reads) == 2
    assert after.data_digest != before[0].data_digest


def test_what_cannot_be_known_to_be_unchanged_has_no_stamp(tmp_path: Path) -> None:
    assert stamp("hub:owner/name") is None
    assert stamp(str(tmp_path / "nothing.csv")) is None
    assert stamp("snippets:movies") == ()
    (tmp_path / "train.csv").write_text("text,label\n")
    first = stamp(str(tmp_path))
    (tmp_path / "dev.csv").write_text("text,label\n")
    assert first is not None
    assert stamp(str(tmp_path)) != first


def test_facts_of_a_task_keep_few_texts_and_none_to_train_on(
    toy: str, reads: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = Run(backbone="gpt2", task=str(write_csv(tmp_path / "toy.csv", sentences(60))), method="lora")
    facts = inputs.facts_of(run)
    assert facts.evaluation is not None
    assert inputs.evaluation_of(run.task, run.data) is facts.evaluation
    assert len(reads) == 1
    monkeypatch.setattr(inputs, "KEPT", 10)
    longer = run.model_copy(update={"task": str(write_csv(tmp_path / "other.csv", sentences(60)))})
    assert inputs.facts_of(longer).evaluation is None
    assert inputs.evaluation_of(longer.task, longer.data).digest == facts.evaluation.digest
    assert len(reads) == 3
