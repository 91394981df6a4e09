"""A notebook has one output for all that goes on, and it changes in place; elsewhere nothing is said unasked."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from afina import Lines, Run, Study, repr_html
from afina.events import Progress
from afina.notebook import display
from afina.notebook.display import Display
from command import InventedExecutor
from fakes import Runs

ONE, OTHER = (Run(backbone="b", task="t", method=method) for method in ("lora", "full"))


class Outputs:
    """A kernel's outputs: each is the list of what it has shown."""

    def __init__(self) -> None:
        self.made: list[list[dict[str, str]]] = []

    def display(self, shown: dict[str, str], *, raw: bool, display_id: bool) -> SimpleNamespace:
        assert raw
        assert display_id
        self.made.append([shown])
        place = self.made[-1]
        return SimpleNamespace(update=lambda again, raw: place.append(again))

    @property
    def last(self) -> dict[str, str]:
        (only,) = self.made
        return only[-1]


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> Outputs:
    """This process as a kernel."""
    made = Outputs()
    shell = SimpleNamespace(kernel=object())
    fake: Any = ModuleType("IPython")
    fake.display, fake.get_ipython = SimpleNamespace(display=made.display), lambda: shell
    monkeypatch.setitem(sys.modules, "IPython", fake)
    return made


def study() -> Study:
    return Study(name="s", backbone="gpt2", task="sst2", methods={"full": {}, "lora": {"targets": ["c_attn"]}})


def test_runs_that_go_on_have_a_bar_each_in_one_output_that_ends_with_their_results(
    outputs: Outputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "PAUSE", 0.0)
    shown = Display()
    shown.started(ONE, 1, 2)
    shown.started(OTHER, 2, 2)
    shown.progress(ONE, Progress("train", 3, 4, 0.5, 1000.0, 61))
    html = outputs.last["text/html"]
    assert "[1/2] lora, seed 0" in html
    assert "width: 75%" in html
    assert "train 3/4: loss 0.500, 1,000 tokens/s, 1:01 left" in html
    assert "[2/2] full, seed 0" in html
    assert outputs.last["text/plain"].splitlines() == ["[1/2] lora, seed 0: train", "[2/2] full, seed 0: start"]
    shown.progress(OTHER, Progress("wait", note="a node with 1 CPU"))
    assert "waits for a node with 1 CPU" in outputs.last["text/html"]
    assert outputs.last["text/plain"].splitlines()[1] == "[2/2] full, seed 0: waits for a node with 1 CPU"
    shown.failed(ONE, "run lora: <b>no</b>")
    assert "Error: lora, seed 0: &lt;b&gt;no&lt;/b&gt;" in outputs.last["text/html"]
    assert "width: 75%" not in outputs.last["text/html"]
    shown.stop()
    assert "Stopped" in outputs.last["text/plain"]


def test_steps_that_come_fast_are_not_all_shown(outputs: Outputs) -> None:
    shown = Display()
    for step in range(500):
        shown.progress(ONE, Progress("train", step, 500))
    assert len(outputs.made[0]) < 50


def test_a_study_in_a_kernel_shows_itself_and_no_bar_is_left(outputs: Outputs, tmp_path: Path) -> None:
    study().run(tmp_path, executor=InventedExecutor())
    lines = outputs.last["text/plain"].splitlines()
    assert [line.split(":")[0] for line in lines] == ["full, seed 0", "lora, seed 0"]
    assert "(recorded before)" not in lines[0]
    assert "inline-block" not in outputs.last["text/html"]


def test_a_run_in_a_kernel_shows_itself(outputs: Outputs, runs: Runs, tmp_path: Path) -> None:
    run = runs.run("gpt2", "lora", max_steps=2)
    record = run.execute(tmp_path)
    assert f"lora, seed 0: accuracy {record.accuracy:.4f}" in outputs.last["text/plain"]
    assert any("train" in each["text/plain"] for each in outputs.made[0])
    assert run.adapter(tmp_path) == tmp_path / record.adapter


def test_what_ends_early_leaves_no_bar_that_seems_to_move(
    outputs: Outputs, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from afina.training.fit import Fit

    def interrupt(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(Fit, "step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        runs.run("gpt2", "lora", max_steps=2).execute(tmp_path)
    assert "Stopped." in outputs.last["text/plain"]
    assert "inline-block" not in outputs.last["text/html"]


def test_a_watcher_that_was_given_is_told_and_nothing_is_shown_besides(outputs: Outputs, tmp_path: Path) -> None:
    said: list[str] = []
    study().run(tmp_path, Lines(said.append), executor=InventedExecutor())
    assert [line.split(":")[0] for line in said] == ["full, seed 0", "lora, seed 0"]
    assert outputs.made == []


def test_outside_a_kernel_nothing_is_shown_and_ipython_is_not_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "IPython", None)  # an import would fail
    assert repr_html.make_watcher() is None
    study().run(tmp_path, executor=InventedExecutor())
    terminal: Any = ModuleType("IPython")
    terminal.get_ipython = lambda: SimpleNamespace()  # IPython in a terminal has no kernel
    monkeypatch.setitem(sys.modules, "IPython", terminal)
    assert repr_html.make_watcher() is None
    assert capfd.readouterr() == ("", "")
