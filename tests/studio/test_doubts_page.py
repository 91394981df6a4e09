"""The page of doubtful labels: the search, a decision about each label, and what trainings leave out for it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from doubts_of_studios import found
from starlette.testclient import TestClient

from afina.data.task import Task
from afina.errors import CorruptAdapter, InvalidData
from afina.studies.labelling.doubts import DoubtfulLabel
from afina.studio.corrections import Correction, Corrections
from afina.studio.folder import Project
from afina.studio.label_decisions import LabelDecisions, key_of
from afina.studio.pages import doubts
from afina.studio.pages.data import arguments_of, inspect_arguments, inspection_of
from raises import raises

Make = Callable[..., Project]

TEXTS = [f"review number {index}" for index in range(40)]
REVIEWS = "text,label\n" + "".join(f"{text},{('bad', 'good')[index % 2]}\n" for index, text in enumerate(TEXTS))


def label(row: int, **given: Any) -> DoubtfulLabel:
    """The label of a line of REVIEWS, doubted by a model."""
    words = ("bad", "good")
    facts = {"file": "reviews.csv", "row": row, "text": TEXTS[row - 2], "training": True, "reason": "the model says so"}
    return DoubtfulLabel(**facts | {"label": words[row % 2], "suggested": words[1 - row % 2]} | given)


def facts(web: TestClient) -> dict[str, Any]:
    return dict(web.get("/reviews/doubts.json").json())


def decide(web: TestClient, one: DoubtfulLabel, decision: str) -> Any:
    return web.post("/reviews/doubts/decide", data={"key": key_of(one), "decision": decision})


def options(project: Project) -> dict[str, Any]:
    return dict(Project.read(project.directory).options)


def listed(project: Project) -> list[int]:
    """The rows that the list of the project's commands leaves out."""
    path = options(project).get("without")
    lines = Path(path).read_text().splitlines() if path else []
    return [int(row["row"]) for row in csv.DictReader(lines) if row["row"]]


@pytest.fixture
def reviews(project: Make) -> Project:
    return project(REVIEWS.encode())


def test_the_page_begins_the_search_only_when_it_is_asked(
    web: TestClient, reviews: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[list[str]] = []
    monkeypatch.setattr(doubts.CommandProcess, "start", lambda self, arguments: begun.append([*arguments]))
    assert facts(web)["state"] == "none"
    assert "Look for doubtful labels" in web.get("/reviews/doubts").text
    assert not begun
    assert web.post("/reviews/doubts/find").headers["location"] == "/reviews/doubts"
    (arguments,) = begun
    assert arguments[:2] == ["doubts", reviews.address]
    assert arguments[-3:] == ["--out", str(doubts._results(reviews).absolute()), "--json"]


def test_a_search_that_failed_says_why(web: TestClient, reviews: Project) -> None:
    process = doubts._process(reviews)
    process.directory.mkdir(parents=True)
    (process.directory / "command.json").write_text(json.dumps({"arguments": ["doubts"]}))
    (process.directory / "exit.json").write_text('{"status": 2}')
    error = {"parts": ["too few texts for ", {"option": "label"}, "."]}
    (process.directory / "error.json").write_text(json.dumps({"error": error}))
    made = facts(web)
    assert (made["state"], made["problem"]) == ("failed", "too few texts for “Column of the label”.")
    assert "Look again" in web.get("/reviews/doubts").text


def test_a_decision_about_each_label_changes_what_trainings_read_and_no_file_of_texts(
    web: TestClient, reviews: Project
) -> None:
    whole = Task.load(reviews.address)
    assert whole.train.rows
    assert whole.evaluation.rows
    numbers = [*whole.train.rows.numbers[:3], *whole.evaluation.rows.numbers[:2]]
    rows = [label(number, training=number in numbers[:3]) for number in numbers]
    found(reviews, *rows)
    page = web.get("/reviews/doubts").text
    assert page.count('value="taken"') == page.count('value="out"') == 3, "a held-out text does not change"
    for one, decision in zip(rows, ("taken", "out", "kept", "taken", "kept"), strict=True):
        assert decide(web, one, decision).status_code == (409 if one is rows[3] else 303)
    assert Corrections(reviews).read() == [Correction(rows[0].text, rows[0].suggested)]
    assert listed(reviews) == [rows[1].row]
    made = facts(web)
    own = made["changes"].pop("list")
    assert options(reviews) == {"without": own}
    assert arguments_of(Project.read(reviews.directory))[-2:] == ["--without", own]
    assert (made["undecided"], made["decisions"], made["state"]) == (1, 4, "found")
    assert made["changes"] == {"left_out": 1, "corrected": 1, "used": True, "reads_list": True}
    assert "--without" not in made["command"], "what is left out is looked at too"
    task = Task.load(reviews.address, without=own)
    assert {*whole.train.texts} - {*task.train.texts} == {rows[1].text}
    assert task.label_names[task.train.labels[task.train.texts.index(rows[0].text)]] == rows[0].suggested
    assert task.evaluation.digest == whole.evaluation.digest
    assert (reviews.data / "reviews.csv").read_text() == REVIEWS


def test_a_decision_is_changed_and_taken_back(web: TestClient, reviews: Project) -> None:
    one, other = label(3), label(6)
    found(reviews, one, other)
    decide(web, one, "taken")
    decide(web, other, "out")
    decide(web, one, "out")
    assert (Corrections(reviews).read(), listed(reviews)) == ([], [6, 3])
    decide(web, one, "taken")
    Corrections(reviews).add(Correction(one.text, "fine"), "classes")
    decide(web, one, "undo")
    assert Corrections(reviews).read() == [Correction(one.text, "fine")], "that of the page Try is another one"
    assert listed(reviews) == [6]
    decide(web, other, "undo")
    assert (listed(reviews), facts(web)["undecided"]) == ([], 2)
    Corrections(reviews).remove(Correction(one.text, "fine"), "classes")
    assert decide(web, other, "undo").status_code == 303
    assert options(reviews) == {}


def test_a_decision_that_another_tab_has_made_is_not_replaced(web: TestClient, reviews: Project) -> None:
    found(reviews, label(3))
    key = facts(web)["waiting"][0]["key"]
    for decision, seen, status in (("out", "", 303), ("taken", "", 409), ("undo", "kept", 409), ("undo", "out", 303)):
        sent = {"key": key, "decision": decision, "seen": seen}
        assert web.post("/reviews/doubts/decide", data=sent).status_code == status
    assert Corrections(reviews).read() == []
    assert 'name="seen" value=""' in web.get("/reviews/doubts").text


def test_the_list_of_texts_to_leave_out_is_harmless_in_a_spreadsheet(web: TestClient, reviews: Project) -> None:
    found(reviews, label(3, label="=1+1"))
    decide(web, label(3, label="=1+1"), "out")
    assert "'=1+1" in Path(options(reviews)["without"]).read_text()


def test_a_list_of_the_users_own_is_not_replaced(web: TestClient, reviews: Project) -> None:
    one = label(3)
    found(reviews, one)
    reviews.with_options({"without": "/data/mine.csv"})
    answer = decide(web, one, "out")
    assert answer.status_code == 409
    assert "/data/mine.csv" in answer.text
    assert options(reviews) == {"without": "/data/mine.csv"}
    assert decide(web, one, "kept").status_code == 303


@pytest.mark.parametrize("form", [{"key": "0" * 16}, {"decision": "sold"}, {"key": ""}, {"decision": ""}])
def test_what_the_page_does_not_send_is_refused(web: TestClient, reviews: Project, form: dict[str, str]) -> None:
    one = label(3)
    found(reviews, one)
    answer = web.post("/reviews/doubts/decide", data={"key": key_of(one), "decision": "out"} | form)
    assert answer.status_code in (404, 422)
    assert 'role="alert"' in answer.text
    assert listed(reviews) == []


def test_several_labels_are_corrected_with_the_separator_of_the_texts(web: TestClient, project: Make) -> None:
    made = project(b"text,label\na,loud;late\nb,late\n")
    inspection = inspection_of(made)
    inspection.directory.mkdir(parents=True)
    names = [{"label": name, "train": 1, "evaluation": 0} for name in ("late", "loud", "rude, or not")]
    (inspection.directory / "output").write_text(json.dumps({"labels": names}))
    rows = [label(3, suggested="loud, late"), label(6, suggested="none"), label(9, suggested="rude, or not")]
    rows.insert(2, label(8, suggested="late"))
    result = found(made, *rows, kind="labels", separator=";")
    for one in rows[:3]:
        assert decide(web, one, "taken").status_code == 303
    assert [one.answer for one in Corrections(made).read()] == ["loud;late", "", "late"]
    assert decide(web, rows[3], "taken").status_code == 422
    with raises(InvalidData, code="studio.suggestion-ambiguous", found="rude, or not"):
        LabelDecisions(made).decide(result, rows[3], "taken", ["late", "loud"])


@pytest.mark.parametrize("content", ["[]", "{", '{"a": {}}', '{"a": {"label": {}, "decision": "out"}}', '{"a": 1}'])
def test_damaged_decisions_are_said(web: TestClient, reviews: Project, content: str) -> None:
    LabelDecisions(reviews).path.write_text(content)
    with pytest.raises(CorruptAdapter):
        LabelDecisions(reviews).read()
    assert web.get("/reviews/doubts").status_code >= 400


def test_changes_are_used_or_not_by_one_press_and_each_list_is_another_reading(
    web: TestClient, reviews: Project, answered: Any
) -> None:
    rows = [label(row) for row in Task.load(reviews.address).train.rows.numbers[:3]]
    found(reviews, *rows)
    counts, trained = [], []
    for one in rows[:2]:
        decide(web, one, "out")
        now = Project.read(reviews.directory)
        answered(inspection_of(now), [*inspect_arguments(now), "--json"])
        counts.append(web.get("/reviews/data.json").json()["found"]["train"])
        trained.append(len(Task.load(now.address, without=now.options["without"]).train))
    assert counts == trained == [31, 30], "the page counts what the next run reads"
    web.post("/reviews/data/changes", data={"use": ""})
    assert options(reviews) == {}
    decide(web, rows[2], "taken")
    assert options(reviews) == {}, "who reads the file without changes goes on to do so"
    assert "Use the changes in the next run" in web.get("/reviews/doubts").text
    web.post("/reviews/data/changes", data={"use": "yes"})
    assert len(listed(reviews)) == 2
    assert facts(web)["changes"]["corrected"] == 1


def test_the_changes_of_an_earlier_version_are_used_after_a_press(web: TestClient, reviews: Project) -> None:
    old = reviews.directory / "left-out.csv"
    old.write_text(f"file,row,text\nreviews.csv,3,{TEXTS[1]}\n")
    reviews.with_options({"without": str(old.absolute())})
    Corrections(reviews).add(Correction(TEXTS[1], "bad"), "classes")
    changes = facts(web)["changes"]
    assert (changes["used"], changes["reads_list"]) == (False, True)
    assert web.post("/reviews/data/changes", data={"use": "yes"}).status_code == 303
    assert facts(web)["changes"]["used"]


def test_a_suggestion_that_is_no_label_of_the_project_is_refused(web: TestClient, reviews: Project) -> None:
    inspection = inspection_of(reviews)
    inspection.directory.mkdir(parents=True)
    (inspection.directory / "output").write_text(json.dumps({"labels": [{"label": "bad"}, {"label": "good"}]}))
    one = label(3, suggested="fine")
    found(reviews, one)
    answer = decide(web, one, "taken")
    assert answer.status_code == 422
    assert "no text of the project has the label" in answer.text.lower()
