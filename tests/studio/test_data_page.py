"""The page of a project's texts: what was recognised, doubts with what mends them, and rubbish."""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from rubbish_files import RUBBISH
from starlette.testclient import TestClient

from afina.data.reading_options import OPTIONS
from afina.errors import OutOfMemory
from afina.sentence import Sentence
from afina.studies.study import Study
from afina.studio.command_process import LOCK, CommandProcess
from afina.studio.folder import Project
from afina.studio.kept_answer import KeptAnswer
from afina.studio.option_labels import OPTION_LABELS, in_words
from afina.studio.page import Studio
from afina.studio.pages import data

REVIEWS = "text,label\n" + "".join(f"review number {i},{('bad', 'good')[i % 2]}\n" for i in range(60))

Make = Callable[..., Project]


def read(answered: Any, project: Project) -> dict[str, Any]:
    """What `afina inspect` answers for a project, which its page then shows."""
    return dict(answered(data.inspection_of(project), [*data.inspect_arguments(project), "--json"]))


def options(project: Project) -> dict[str, Any]:
    return dict(Project.read(project.directory).options)


def test_each_reading_option_of_the_command_has_a_label_in_the_form() -> None:
    """The trainings of a project have no teacher, so the form has no file of texts without labels."""
    in_form = {name for group in data.GROUPS.values() for name in group}
    flags = {name for name, one in OPTIONS.items() if one.metadata["flag"]}
    assert in_form == set(OPTION_LABELS) == flags - {"unlabelled"}


def test_a_study_reads_the_texts_with_the_reading_options_of_the_project(project: Make) -> None:
    given = {"label": 'the "größte" \\ label', "labels": ["a", "b"], "merge_labels": True, "without": "/x/left out.csv"}
    made = project(b"text,label\na,b\n").with_options(given)
    _, address, *settings = data.study_arguments(made)
    read = Study.load("quickstart", [f"task={json.dumps(address)}", *settings[1::2]]).data
    assert {name: getattr(read, name) for name in given} == given | {"labels": ("a", "b")}
    assert settings[::2] == ["--set"] * 4


def test_a_sentence_names_fields_of_the_form_and_the_uploaded_file_without_its_directory(project: Make) -> None:
    made = project(b"", "r.csv")
    where = f"{made.data.absolute()}/r.csv, line 3"
    said = in_words(made, Sentence.of("{where}: name it with `text_pair`, or set `max_length`.", where=where))
    assert said == "r.csv, line 3: name it with “Column of a second text”, or set the most tokens of a text."


def test_the_page_shows_labels_lengths_and_examples_and_leads_to_the_plan(
    web: TestClient, project: Make, answered: Any
) -> None:
    made = project(REVIEWS.encode())
    read(answered, made)
    page = web.get("/reviews/data").text
    assert "<dt>Training texts</dt><dd>48</dd>" in page
    assert 'href="/reviews/plan"' in page
    assert "review number 0" in page
    assert ">bad</th>" in page
    facts = web.get("/reviews/data.json").json()
    assert facts["found"]["kind"] == "classes"
    assert facts["problem"] == ""
    assert facts["command"].startswith("afina inspect")


def test_while_the_texts_are_read_the_page_shows_the_last_words_and_the_share(
    web: TestClient, project: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = project(REVIEWS.encode())
    process = data.inspection_of(made)
    process.directory.mkdir(parents=True)
    (process.directory / "command.json").write_text(json.dumps({"arguments": ["inspect"]}))
    said = {"parts": [f"{made.data.absolute()}/reviews.csv: 40,960 rows read, 34%"], "share": 0.34}
    (process.directory / "progress.json").write_text(json.dumps(said))
    monkeypatch.setattr(type(process), "is_running", property(lambda self: True))
    page = web.get("/reviews/data").text
    assert "Reading the texts: reviews.csv: 40,960 rows read, 34%" in page
    assert 'value="0.34"' in page
    assert 'data-events="/reviews/data/live"' in page
    assert "Read with these options" not in page


def test_texts_that_need_more_memory_than_one_reading_may_use_are_refused_in_words(
    web: TestClient, project: Make
) -> None:
    process = data.inspection_of(project(REVIEWS.encode()))
    process.directory.mkdir(parents=True)
    for name, content in (("exit", {"status": 2}), ("error", {"error": OutOfMemory(limit=1 << 30).as_json()})):
        (process.directory / f"{name}.json").write_text(json.dumps(content))
    assert web.get("/reviews/data.json").json()["problem"] == data.TOO_LARGE


def test_the_button_of_a_doubt_sets_the_option_that_mends_it(web: TestClient, project: Make, answered: Any) -> None:
    made = project(REVIEWS.replace("good", "Good", 3).encode())
    (doubt,) = read(answered, made)["doubts"]
    assert doubt["code"] == "data.labels-alike"
    assert doubt["refuses"]
    page = web.get("/reviews/data").text
    assert "The texts cannot be read yet." in page
    assert "`" not in re.sub(r"<pre>.*?</pre>", "", page)
    (remedy,) = doubt["remedies"]
    answer = web.post("/reviews/data/options", data={"remedy": json.dumps(remedy["options"])})
    assert (answer.status_code, answer.headers["location"]) == (303, "/reviews/data")
    assert options(made) == {"merge_labels": True}
    assert read(answered, Project.read(made.directory))["kind"] == "classes"


def test_the_form_sets_options_and_an_empty_field_takes_them_back(web: TestClient, project: Make) -> None:
    made = project(REVIEWS.encode())
    sent = {"text": " body", "label": "mark", "labels": "bad, good", "missing": "skip", "allow_leakage": "yes"}
    web.post("/reviews/data/options", data=sent)
    expected = {**sent, "labels": ["bad", "good"], "allow_leakage": True}
    assert options(made) == expected
    words = data.arguments_of(Project.read(made.directory))[2:]
    assert sorted(words) == sorted(
        ["--text", " body", "--label", "mark", "--labels", "bad,good", "--missing", "skip", "--allow-leakage"]
    )
    web.post("/reviews/data/options", data={})
    assert options(made) == {}


def test_an_uploaded_file_is_what_later_runs_are_evaluated_on(web: TestClient, project: Make, answered: Any) -> None:
    made = project(REVIEWS.encode())
    content = b"text,label\nanother text,bad\na further text,good\n"
    sent = {"file": ("../my test.csv", content)}
    assert web.post("/reviews/data/evaluation", files=sent).headers["location"] == "/reviews/data"
    path = options(made)["evaluation"]
    assert Path(path).read_bytes() == content
    assert Path(path).parent.parent == made.directory.absolute() / "evaluation"
    now = Project.read(made.directory)
    assert (read(answered, now)["train"], read(answered, now)["evaluation"]) == (60, 2)
    assert data.arguments_of(now)[-2:] == ["--eval", path]
    assert "Evaluate on this file" in web.get("/reviews/data").text
    assert web.post("/reviews/data/evaluation", files={"file": ("a.exe", b"x")}).status_code == 422
    assert web.post("/reviews/data/evaluation").status_code == 422
    web.post("/reviews/data/evaluation", files=sent)
    assert options(made)["evaluation"] != path, "a run keeps the file that it was started with"


@pytest.mark.parametrize("sent", ["[1]", "{", "null"])
def test_a_remedy_of_another_page_changes_nothing(web: TestClient, project: Make, answered: Any, sent: str) -> None:
    made = project(REVIEWS.encode())
    read(answered, made)
    assert web.post("/reviews/data/options", data={"remedy": sent}).status_code == 422
    assert options(made) == {}


def test_an_option_that_cannot_be_applied_is_a_sentence_and_the_form_stays(
    web: TestClient, project: Make, answered: Any
) -> None:
    made = project(REVIEWS.encode()).with_options({"positive": "great"})
    read(answered, made)
    page = web.get("/reviews/data").text
    assert "is not a label" in page
    assert "“bad” is the positive label" in page
    assert 'value="great"' in page


def test_columns_of_the_file_are_the_choices_of_the_form(web: TestClient, project: Make, answered: Any) -> None:
    made = project(REVIEWS.replace("text,label", "title,stars & more").encode())
    found = read(answered, made)
    offered = [one["options"] for one in found["doubts"][0]["remedies"]]
    assert offered == [{"text": "title"}, {"text": "stars & more"}, {"text": "title", "target": "stars & more"}]
    page = web.get("/reviews/data").text
    assert '<option value="stars &amp; more">stars &amp; more</option>' in page


def test_a_column_without_a_name_is_no_choice(web: TestClient, project: Make, answered: Any) -> None:
    rows = enumerate(REVIEWS.splitlines()[1:])
    read(answered, project(("\n".join([",text,label", *(f"{index},{row}" for index, row in rows)])).encode()))
    page = web.get("/reviews/data").text
    assert re.findall(r"recognised: (?:text|label)<", page) == ["recognised: text<", "recognised: label<"]
    assert page.count(">none</option>") == 2


def test_an_answer_that_is_gone_at_the_second_look_is_shown(
    web: TestClient, project: Make, answered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when another tab begins to read the texts again."""
    looks = iter([read(answered, project(REVIEWS.encode()))])
    monkeypatch.setattr(KeptAnswer, "found", property(lambda _: next(looks, None)))
    assert web.get("/reviews/data").status_code == 200


def test_a_task_with_fixed_columns_has_no_fields_for_columns(web: TestClient, studio: Studio) -> None:
    directory = data.inspection_of(studio.folder.create("movies", "snippets:movies")).directory
    directory.mkdir(parents=True)
    contents = {
        "command.json": {"arguments": ["inspect"]},
        "error.json": {"error": {"parts": ["there is no network."]}},
        "exit.json": {"status": 2},
    }
    for name, content in contents.items():
        (directory / name).write_text(json.dumps(content))
    page = web.get("/movies/data").text
    assert "there is no network." in page
    assert 'name="text"' not in page
    assert 'name="kind"' in page
    assert 'name="evaluation"' in page


def test_an_address_without_texts_is_a_problem_on_the_page(web: TestClient, studio: Studio, answered: Any) -> None:
    made = studio.folder.create("gone", "/nowhere/gone.csv")
    assert "error" in read(answered, made)
    page = web.get("/gone/data").text
    assert 'role="alert"' in page
    assert "no such file" in page


@pytest.mark.parametrize("name", RUBBISH)
def test_rubbish_says_on_the_page_what_is_wrong_and_where_and_leaves_nothing_half_written(
    web: TestClient, studio: Studio, answered: Any, name: str
) -> None:
    file, content, words = RUBBISH[name]
    sent = web.post("/", files={"file": (file, content)}, data={"title": "Rubbish"})
    uploads = studio.folder.own / "uploads"
    assert not list(uploads.iterdir())
    if sent.status_code != 303:
        assert sent.status_code == 422
        assert words in sent.text
        assert not studio.folder.projects()
        return
    (made,) = studio.folder.projects()
    found = read(answered, made)
    said = [found["error"]["message"]] if "error" in found else [one["words"] for one in found["doubts"]]
    page = web.get("/rubbish/data")
    assert (page.status_code, web.get("/rubbish/data.json").status_code) == (200, 200)
    assert "`" not in re.sub(r"<pre>.*?</pre>", "", page.text)
    assert "The texts cannot be read yet." in page.text or 'role="alert"' in page.text
    assert words in " ".join(said).replace(f"{made.data.absolute()}/", ""), said
    assert str(made.data.absolute()) not in re.sub(r"<pre>.*?</pre>", "", page.text)
    assert sorted(path.name for path in made.data.iterdir()) == [made.task]
    assert "Go on: plan" not in page.text


def test_two_files_are_read_at_once_and_a_third_waits_and_can_be_stopped(
    studio: Studio, web: TestClient, project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, told = list[Path](), list[Path]()
    monkeypatch.setattr(CommandProcess, "start", lambda process, *_, **__: begun.append(process.directory))
    monkeypatch.setattr(CommandProcess, "interrupt", lambda process: told.append(process.directory))
    third = project(b"text,label\na,bad\nb,good\n")
    with ExitStack() as stack:
        for name in ("first", "second"):
            directory = studio.folder.create(name, "sst2").process("inspect", name).directory
            directory.mkdir(parents=True)
            fcntl.flock(stack.enter_context((directory / LOCK).open("w")), fcntl.LOCK_EX)  # as if it ran
        assert "they wait until one of two other files is read" in web.get(f"/{third.name}/data").text
        assert begun == []
    web.get(f"/{third.name}/data")
    place = data.inspection_of(third).directory
    assert begun == [place]
    web.post(f"/{third.name}/data/stop")
    assert told == [place]
    for name, content in (("command.json", {"arguments": []}), ("exit.json", {"status": 130})):
        (place / name).write_text(json.dumps(content), encoding="utf-8")
    assert "The reading was stopped." in web.get(f"/{third.name}/data").text
    web.post(f"/{third.name}/data/again")
    web.get(f"/{third.name}/data")
    assert begun == [place, place]
