"""`events.jsonl`: what other processes read of a study while it goes on."""

from __future__ import annotations

import json
import re
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from afina import Study, meter
from afina.data.reading_options import ReadingOptions
from afina.events import Progress
from afina.studies import study as studies
from afina.studies.choosing.recommendation import Contender, Dropped, Recommendation
from afina.studies.event_file import EVERY, FIELDS, RARELY, EventFile, read_events
from afina.studies.results import Results
from afina.studies.runs.output_directory import OutputDirectory
from afina.studies.trials import Trial
from afina.studies.watcher import Watcher
from command import InventedExecutor
from full_disk import no_file_above
from pages import ROOT
from records import record
from scribe import Scribe


def names(path: Path) -> list[str]:
    return [event["event"] for event in read_events(path)]


def three() -> Study:
    content = {"name": "three", "backbone": "gpt2", "task": "sst2", "methods": {"baseline": {}, "full": {}, "lora": {}}}
    return Study.parse(content, "three")


RUN = three().runs()[1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which stands still unless a test changes it."""
    time = [100.0]
    monkeypatch.setattr(meter, "now", lambda: time[0])
    return time


def _so_far(out: Path) -> Results:
    one = Contender(name="TF-IDF", metrics={"accuracy": 0.75})
    later = {"lora": Dropped(why="ended"), "full": Dropped(why="train")}
    same: dict[str, Any] = {
        "task": "sst2",
        "data": ReadingOptions(),
        "backbone": "gpt2",
        "comparisons": (),
        "early": True,
    }
    same |= {"recommended": one.name, "adapter": None, "contenders": (one,), "dropped": later}
    made = Recommendation(**same, train_examples=240, examples=60, minutes=5, seconds=9)
    return Results(name="choose", out=out, recommendation=made)


def test_each_event_has_its_fields_and_passes_on(path: Path) -> None:
    scribe = Scribe()
    told = EventFile(path, scribe, anew=True)
    told.says("reading")
    told.fetched(1.5)
    told.started(RUN, 1, 3)
    told.waits(RUN, 2**30, 2**20)
    told.progress(RUN, Progress("train", 3, 10, 0.5, 100.0, 9.0))
    told.finished(RUN, record("full"), now=True)
    told.changed(_so_far(path.parent))
    told.failed(RUN, "it diverged")
    told.trying(RUN, 1, 0.25)
    told.tried(RUN, 1, Trial(setting={}, value=0.75, steps=4, seconds=1.0), 10)
    told.stop()
    events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [event["event"] for event in events] == [*FIELDS]
    assert [set(event) - {"at", "event"} for event in events] == [set(fields) for fields in FIELDS.values()]
    assert events[5] | {"run": RUN.label, "phase": "train", "step": 3, "loss": 0.5, "note": ""} == events[5]
    told_so_far = {"name": "TF-IDF", "metric": "accuracy", "value": 0.75, "examples": 60, "next": ["lora"]}
    assert events[7] | told_so_far == events[7]
    assert [*read_events(path)] == events
    assert [one.step for one in scribe.heard] == [3]
    assert scribe.told[:2] == ["reading", "started full 1/3"]


def test_progress_of_a_phase_is_written_twice_a_second_and_at_its_end(path: Path, clock: list[float]) -> None:
    scribe = Scribe()
    told = EventFile(path, scribe, anew=True)
    for step in range(1, 11):
        told.progress(RUN, Progress("train", step, 10))
        clock[0] += EVERY / 4
    told.progress(RUN, Progress("evaluate"))
    steps = [(event["phase"], event["step"]) for event in read_events(path) if event["event"] == "progress"]
    assert steps == [("train", 1), ("train", 5), ("train", 9), ("train", 10), ("evaluate", 0)]
    assert len(scribe.heard) == 11


def test_the_longer_the_file_the_less_often_is_progress_written(path: Path, clock: list[float]) -> None:
    told = EventFile(path, Watcher(), anew=True)
    steps = 20 * 60 * 60
    for step in range(steps // 5):  # 48 minutes
        told.progress(RUN, Progress("train", step, steps))
        clock[0] += 0.2
    lines = [*read_events(path)]
    assert 1000 < len(lines) < 5000
    assert lines[-1]["step"] > steps // 5 - 5 * RARELY - 1


def test_figures_that_json_does_not_have_are_null(path: Path) -> None:
    EventFile(path, Watcher(), anew=True).progress(RUN, Progress("train", 1, 10, nan, inf, inf))
    last = path.read_text(encoding="utf-8").splitlines()[-1]
    assert json.loads(last, parse_constant=pytest.fail)["loss"] is None


def test_a_study_that_goes_on_appends_and_a_recommendation_begins_anew(path: Path) -> None:
    EventFile(path, Watcher(), anew=False).stop()
    EventFile(path, Watcher(), anew=False).stop()
    assert names(path) == ["begun", "stopped", "begun", "stopped"]
    EventFile(path, Watcher(), anew=True)
    assert names(path) == ["begun", "stopped", "begun", "stopped"], "nothing has happened yet"
    EventFile(path, Watcher(), anew=True).stop()
    assert names(path) == ["begun", "stopped"]


def test_half_a_line_of_a_process_that_was_killed_is_skipped_and_the_next_is_not_lost(path: Path) -> None:
    EventFile(path, Watcher(), anew=True).says("one")
    path.write_bytes(path.read_bytes()[:-9])
    EventFile(path, Watcher(), anew=False).says("two")
    assert names(path) == ["begun", "begun", "says"]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nonsense",
        "[]",
        "{}",
        '{"at": "2026-01-01T00:00:00+00:00"}',
        '{"at": "2026-01-01T00:00:00+00:00", "event": "says"}',
        '{"at": "2026-01-01T00:00:00+00:00", "event": "unheard-of"}',
        '{"at": "2026-01-01T00:00:00+00:00", "event": ["says"], "words": ""}',
        '{"at": "yesterday", "event": "says", "words": ""}',
        '{"at": "2026-01-01T00:00:00", "event": "says", "words": ""}',
        "[" * 60_000,
        '{"at": "2026-01-01T00:00:00+00:00", "event": "says", "words": "' + "x" * 70_000 + '"}',
    ],
    ids=lambda line: line[:40] + str(len(line)),
)
def test_a_damaged_line_is_skipped(path: Path, line: str) -> None:
    EventFile(path, Watcher(), anew=True).says("one")
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")
    EventFile(path, Watcher(), anew=False).says("two")
    assert names(path) == ["begun", "says", "begun", "says"]


def test_events_that_are_not_kept_and_a_file_that_is_absent_give_nothing(path: Path) -> None:
    assert [*read_events(path)] == []
    EventFile(path, Watcher(), anew=True).says("one")
    assert [one["event"] for one in read_events(path, lambda event: event["event"] == "says")] == ["says"]


def test_where_nothing_can_be_written_a_study_goes_on_and_later_lines_are_whole(path: Path) -> None:
    scribe = Scribe()
    told = EventFile(path, scribe, anew=True)
    told.says("begins")
    with no_file_above(path.stat().st_size + 20):
        told.says("the disk is full")
    told.says("there is room again")
    assert scribe.told == ["begins", "the disk is full", "there is room again"]
    assert [event.get("words") for event in read_events(path)] == [None, "begins", "there is room again"]


def test_words_with_half_a_character_stop_nothing(path: Path) -> None:
    EventFile(path, Watcher(), anew=True).says("a file named \udcff")
    assert names(path) == ["begun", "says"]


def test_the_page_on_figures_lists_each_event_with_its_fields() -> None:
    text = (ROOT / "docs" / "reference" / "figures.md").read_text(encoding="utf-8")
    table = text.partition("## Progress in `events.jsonl`")[2].partition("\n## ")[0]
    of_run = ("run", "title", "method", "backbone", "seed")
    assert all(f"`{name}`" in table.partition("| event |")[0] for name in of_run)
    listed = {
        name: (*(of_run if "the run's" in fields else ()), *re.findall(r"`(\w+)`", fields))
        for name, fields in re.findall(r"^\| `(\w+)` \| ([^|]*)\|", table, re.MULTILINE)
    }
    assert listed == {name: tuple(fields) for name, fields in FIELDS.items()}


def results_of(out: Path) -> dict[str, Any]:
    """The files of a results directory, except for the events."""
    found = {path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    found.pop(OutputDirectory(out).events.relative_to(out), None)
    return {str(path): content for path, content in found.items()}


def test_the_results_of_a_study_are_the_same_without_its_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def carried_out(out: Path) -> tuple[Results, Scribe]:
        scribe = Scribe()
        executor = InventedExecutor()
        executor.failing = {"full"}
        return three().run(out, scribe, executor=executor), scribe

    found, told = carried_out(tmp_path / "with")
    assert names(tmp_path / "with" / "events.jsonl").count("finished") == 2
    monkeypatch.setattr(studies, "EventFile", lambda path, passed, anew: passed)
    plain, told_plain = carried_out(tmp_path / "without")
    assert not (tmp_path / "without" / "events.jsonl").exists()
    assert [one.key for one in found.records] == [one.key for one in plain.records]
    assert told.told == told_plain.told
    assert results_of(tmp_path / "with") == results_of(tmp_path / "without")
