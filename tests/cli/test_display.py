"""Progress for whoever waits: which run, how far; several runs at once do not get into each other's way."""

from __future__ import annotations

import io
from typing import cast

import pytest
from rich.console import Console

from afina import meter
from afina.cli.progress import Bars, Minutes, PlainLines, watcher
from afina.events import Progress
from afina.report.progress import LINE_SECONDS
from afina.sentence import Sentence
from afina.studies.results import Results
from afina.studies.runs.run import Run
from clock import Clock
from command import running

ONE, OTHER = (Run(backbone="b", task="t", method=method) for method in ("lora", "full"))


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120)


def unwritten(results: Results) -> None:
    """No report is written here."""


def written(to: Console) -> str:
    return cast(io.StringIO, to.file).getvalue()


def test_lines_of_runs_that_go_on_together_name_the_run_and_each_phase_once() -> None:
    to = console(terminal=False)
    shown = watcher(to, unwritten)
    shown.started(ONE, 1, 2)
    shown.started(OTHER, 2, 2)
    for step in range(3):
        for run in (ONE, OTHER):
            shown.progress(run, Progress("train", step, 3))
    with running("train"):
        shown.failed(OTHER, Sentence.of("run full: mine.csv: no column 'x'. Name the right one with `text`."))
    shown.progress(ONE, Progress("evaluate", 0, 5))
    assert written(to).splitlines() == [
        "[1/2] lora, seed 0: train",
        "[2/2] full, seed 0: train",
        "Error: full, seed 0: mine.csv: no column 'x'. Name the right one with --text.",
        "[1/2] lora, seed 0: evaluate",
    ]


PLACE = "a node with 3.1 GiB and 1 CPU; the largest has 2 GiB"


def test_a_run_without_a_place_says_what_it_waits_for_and_no_more_often_than_a_line_each_quarter_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, to = Clock(), console(terminal=False)
    monkeypatch.setattr(meter, "now", clock)
    shown = watcher(to, unwritten)
    for number, run in enumerate((ONE, OTHER), start=1):
        shown.started(run, number, 2)
        shown.progress(run, Progress("wait", note=PLACE))
    shown.progress(ONE, Progress("wait", note="a node with 1 CPU"))
    clock.now += LINE_SECONDS
    for _ in range(2):
        shown.progress(ONE, Progress("wait", note="a node with 1 CPU"))
        shown.progress(OTHER, Progress("wait", note=PLACE))
    shown.progress(ONE, Progress("load"))
    assert written(to).splitlines() == [
        f"[1/2] lora, seed 0: waits for {PLACE}",
        f"[2/2] full, seed 0: waits for {PLACE}",
        "[1/2] lora, seed 0: waits for a node with 1 CPU",
        "[1/2] lora, seed 0: load",
    ]


def test_the_bar_of_a_run_without_a_place_says_what_the_run_waits_for() -> None:
    shown = watcher(console(terminal=True), unwritten)
    assert isinstance(shown, Bars)
    shown.started(ONE, 1, 1)
    shown.progress(ONE, Progress("wait", note=PLACE))
    assert shown.bars is not None
    assert [task.description for task in shown.bars.tasks] == [f"[1/1] lora, seed 0: waits for {PLACE}"]
    shown.stop()


def test_a_recommendation_says_once_what_its_runs_wait_for() -> None:
    said: list[str] = []
    shown = Minutes(meter.now(), said.append)
    for run in (ONE, ONE, OTHER):
        shown.progress(run, Progress("wait", note=PLACE))
        shown.progress(run, Progress("load"))
    assert [line.partition("] ")[2] for line in said] == [f"lora: waits for {PLACE}", f"full: waits for {PLACE}"]


def test_each_run_that_goes_on_has_a_bar_of_its_own_and_none_is_left_when_all_have_ended() -> None:
    to = console(terminal=True)
    shown = watcher(to, unwritten)
    assert isinstance(shown, Bars)
    shown.started(ONE, 1, 2)
    shown.started(OTHER, 2, 2)
    shown.progress(ONE, Progress("train", 1, 4))
    shown.progress(OTHER, Progress("encode"))
    assert shown.bars is not None
    assert [(task.description, task.completed, task.total) for task in shown.bars.tasks] == [
        ("[1/2] lora, seed 0: train", 1, 4),
        ("[2/2] full, seed 0: encode", 0, None),
    ]
    shown.failed(ONE, "no")
    assert [task.description for task in shown.bars.tasks] == ["[2/2] full, seed 0: encode"]
    shown.failed(OTHER, "no")
    assert shown.bars is None
    assert type(watcher(console(terminal=False), unwritten)) is PlainLines


def test_bars_go_away_when_the_work_is_interrupted_and_may_be_asked_to_twice() -> None:
    shown = Bars(console(terminal=True), unwritten)
    shown.started(ONE, 1, 1)
    shown.stop()
    shown.stop()
    assert shown.bars is None
    shown.progress(ONE, Progress("train", 1, 4))


def test_seconds_of_a_download_are_said_and_do_not_count_as_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    shown = Minutes(0.0, said.append)
    monkeypatch.setattr(meter, "now", lambda: 120.0)
    shown.fetched(0.1)
    assert not said
    shown.fetched(89.9)
    shown.says("fitting")
    assert said == ["[0.5 min] the model was fetched in 90 s; the minutes begin after that", "[0.5 min] fitting"]
