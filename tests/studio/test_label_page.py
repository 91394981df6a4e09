"""The page of texts to label: a round of `afina next`, a label for each text, and what the next run reads."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from afina.data.task import Task
from afina.studies.labelling.next_texts import _file_columns
from afina.studio.command_process import CommandProcess
from afina.studio.corrections import Correction, Corrections
from afina.studio.folder import Project
from afina.studio.labelling import Labelling
from afina.studio.page import Studio
from afina.studio.pages.data import inspection_of
from afina.studio.run_queue import runs_of

Make = Callable[..., Project]

TEXTS = [f"review number {index}" for index in range(40)]
REVIEWS = "text,label\n" + "".join(f"{text},{('bad', 'good')[index % 2]}\n" for index, text in enumerate(TEXTS))

POOL = {"file": ("new texts.csv", b"text\nfirst new\nsecond new\nthird new\n")}
ROWS = [("first new", "random"), ("second new", "uncertain"), ("=third new", "uncertain")]


def left(process: CommandProcess, answer: dict[str, Any]) -> None:
    """What a command leaves that has ended with this answer."""
    process.directory.mkdir(parents=True, exist_ok=True)
    (process.directory / "output").write_text(json.dumps(answer))
    (process.directory / "command.json").write_text(json.dumps({"arguments": ["next"]}))
    (process.directory / "exit.json").write_text('{"status": 0}')


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arguments of the commands that were begun, and their answer at once."""
    arguments: list[list[str]] = []

    def start(process: CommandProcess, given: list[str], **_: Any) -> None:
        arguments.append([*given])
        rows = [{"text": text, "text_pair": None, "chosen": why} for text, why in ROWS]
        left(process, {"rows": rows, "random": {"words": "accuracy on all texts: 0.80"}})

    monkeypatch.setattr(CommandProcess, "start", start)
    return arguments


@pytest.fixture
def reviews(project: Make) -> Project:
    """A project whose texts were read."""
    made = project(REVIEWS.encode())
    left(inspection_of(made), {"kind": "classes", "labels": [{"label": "bad"}, {"label": "good"}]})
    return made


def decide(web: TestClient, **given: str) -> int:
    key = web.get("/reviews/label.json").json()["key"]
    return web.post("/reviews/label/decide", data={"key": key, **given}).status_code


def test_labelled_texts_are_training_texts_of_the_next_run_with_the_reason_of_their_choice(
    web: TestClient, reviews: Project, begun: list[list[str]]
) -> None:
    assert "Choose texts to label" in web.get("/reviews/label").text
    assert web.post("/reviews/label/next").status_code == 422
    assert web.post("/reviews/label/next", data={"count": "0.5"}, files=POOL).status_code == 422
    assert web.post("/reviews/label/next", data={"count": "3"}, files=POOL).headers["location"] == "/reviews/label"
    (arguments,) = begun
    assert Path(arguments[1]).read_bytes() == POOL["file"][1]
    assert arguments[2:5] == ["--labelled", reviews.address, "--count=3"]
    page = web.get("/reviews/label").text
    assert "Text 1 of 3" in page
    assert 'value="good" data-key="2"' in page
    assert "accuracy on all texts: 0.80" in page
    first = web.get("/reviews/label.json").json()["key"]
    assert decide(web, label="fine") == 422
    assert decide(web, label="good") == 303
    assert decide(web, key=first, label="bad") == 409, "another tab was first"
    assert decide(web, key="0" * 16, label="bad") == 404
    assert decide(web, decision="skip") == 303
    assert decide(web, label="bad") == 303
    assert "All 3 texts of this round are labelled or skipped." in web.get("/reviews/label").text
    now = Project.read(reviews.directory)
    whole, task = Task.load(now.address), Task.load(now.address, without=now.options["without"])
    assert task.train.texts == [*whole.train.texts, "first new", "=third new"]
    assert task.evaluation.digest == whole.evaluation.digest
    assert task.data is not None
    assert sorted(_file_columns(task, task.data).reasons.values()) == ["random", "uncertain"]
    web.post("/reviews/label/next", data={"count": "3"})
    assert begun[1][1] == arguments[1], "the same file, without what is labelled"
    assert now.options["without"] in begun[1]


def test_what_was_done_last_is_taken_back(web: TestClient, reviews: Project, begun: list[list[str]]) -> None:
    web.post("/reviews/label/next", files=POOL)
    decide(web, label="good")
    decide(web, decision="skip")
    for _ in range(3):
        assert web.post("/reviews/label/decide", data={"decision": "undo"}).status_code == 303
    assert Corrections(reviews).read() == []
    assert Project.read(reviews.directory).options == {}
    assert "Text 1 of 3" in web.get("/reviews/label").text
    Labelling(reviews).path.write_text('{"texts": 1}')
    assert web.get("/reviews/label").status_code >= 400


def test_without_a_kind_the_page_leads_to_the_data(web: TestClient, project: Make) -> None:
    project(REVIEWS.encode())
    assert "Read them on the page Data" in web.get("/reviews/label").text


@pytest.mark.parametrize("what", ["choose", "study"])
def test_from_an_upload_over_a_decision_to_a_run_that_reads_the_right_labels_and_the_same_held_out_texts(
    web: TestClient, studio: Studio, begun: list[list[str]], what: str
) -> None:
    web.post("/", data={"title": "Reviews"}, files={"file": ("reviews.csv", REVIEWS.encode())})
    made = studio.folder.project("reviews")
    whole = Task.load(made.address)
    form = {"what": what, "preset": "quickstart", "minutes": "3"}
    web.post("/reviews/runs", data=form)
    left(inspection_of(made), {"kind": "classes", "labels": [{"label": "bad"}, {"label": "good"}]})
    web.post("/reviews/label/next", files=POOL)
    decide(web, label="good")
    Corrections(made).add(Correction(whole.train.texts[0], "good"), "classes")
    assert not web.get("/reviews/doubts.json").json()["changes"]["used"]
    assert web.post("/reviews/data/changes", data={"use": "yes"}).status_code == 303
    web.post("/reviews/runs", data=form)
    after, before = (run.arguments for run in runs_of(made))
    assert not any("changes" in word for word in before)
    if what == "choose":
        without = after[after.index("--without") + 1]
    else:
        without = json.loads(next(word for word in after if word.startswith("data.without=")).partition("=")[2])
    task = Task.load(made.address, without=without)
    assert task.evaluation.digest == whole.evaluation.digest
    assert task.train.texts == [*whole.train.texts, "first new"]
    assert (task.train.labels[0], task.train.labels[-1]) == (1, 1)
    assert (made.data / "reviews.csv").read_text() == REVIEWS
    with Path(without).open(newline="") as file:
        assert [row["chosen"] for row in csv.DictReader(file)] == ["random", ""]
