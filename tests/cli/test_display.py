"""Progress for whoever waits: which run, how far; several runs at once do not get into each other's way."""

from __future__ import annotations

import io
from typing import cast

from rich.console import Console

from afina.cli.progress import Bars, PlainLines, watcher
from afina.events import Progress
from afina.studies.results import Results
from afina.studies.runs.run import Run

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
    shown.failed(OTHER, "run full: mine.csv: no column 'x'. Name the right one with `text`.")
    shown.progress(ONE, Progress("evaluate", 0, 5))
    assert written(to).splitlines() == [
        "[1/2] lora, seed 0: train",
        "[2/2] full, seed 0: train",
        "Error: full, seed 0: mine.csv: no column 'x'. Name the right one with --text.",
        "[1/2] lora, seed 0: evaluate",
    ]


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
