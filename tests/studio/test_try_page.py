"""The page Try: versions side by side, streamed texts, files, and corrections."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from stores_of_studios import TEXT, finished_run, publish, served

from afina import AdapterStore, Backbone
from afina.data.entities import with_texts
from afina.data.task import Task
from afina.errors import InvalidData
from afina.models.objective import ANSWERS_NOTHING
from afina.pages.marked_text import MarkedText
from afina.spreadsheet_cells import harmless, restored
from afina.studio.corrections import Correction, Corrections
from afina.studio.folder import Project
from afina.studio.page import Studio
from afina.studio.pages.try_out import _answer
from afina.studio.questions import KEPT, in_a_cell
from afina.studio.right_answer import _entities
from afina.studio.server_process import StudioServer
from crowd import adapter
from fakes import Runs
from servers import PRICE, TAGS, TOLD, predictor, probed
from stores import adapter as invented

Make = Callable[..., Project]


def chosen(*numbers: int, name: str = "studio/reviews") -> dict[str, str]:
    return {f"ask-{name}@{number}": "yes" for number in numbers}


def ask(web: TestClient, text: str = TEXT, **form: Any) -> str:
    """Ask both versions; the address of the answers."""
    answer = web.post("/reviews/try", data={"text": text, **chosen(1, 2)} | form)
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"]).removesuffix("#answers")


def facts(web: TestClient, address: str = "/reviews/try") -> dict[str, Any]:
    return dict(web.get(address.replace("/try", "/try.json", 1)).json())


# A text


def test_without_a_version_the_page_leads_to_publishing(web: TestClient, project: Make) -> None:
    project(b"text,label\na,bad\n")
    page = web.get("/reviews/try").text
    assert 'href="/reviews/keep"' in page
    assert "<textarea" not in page
    assert web.post("/reviews/try", data={"text": "a"}).status_code == 404


@pytest.mark.slow
def test_versions_answer_side_by_side_as_by_themselves_and_what_changed_is_said(
    web: TestClient, url: str, two: list[Any], gpt2: Backbone
) -> None:
    address = ask(web)
    first, second = facts(web, address)["answers"]
    alone = [predictor(one, gpt2)([TEXT])[0] for one in two]
    for found, expected in zip((first, second), alone, strict=True):
        assert found["labels"] == [expected["label"]]
        chances = {one["label"]: one["probability"] for one in found["chances"]}
        assert chances == pytest.approx(expected["probabilities"], abs=1e-5)
    assert (first["differs"], second["differs"]) == (False, True)
    changes = {one["label"]: one["change"] for one in second["chances"]}
    before, after = (one["probabilities"]["good"] for one in alone)
    assert changes["good"] == pytest.approx(after - before, abs=1e-5)
    assert json.loads(second["receipt"])["version"] == "studio/reviews@2"
    page = web.get(address).text
    assert "The versions do not agree: Version 2 answers differently" in page
    assert web.get(address).text == page, "loading the page anew gives the same answers"


def test_an_answer_that_is_not_sure_differs_from_the_same_answer() -> None:
    sure: dict[str, Any] = {"label": "good", "probabilities": {"bad": 0.4, "good": 0.6}}
    unsure = _answer("Version 2", sure | {"answered": False}, sure)
    assert (unsure.answered, unsure.differs, unsure.labels) == (False, True, ["good"])
    assert (_answer("Version 2", sure, sure).answered, _answer("Version 2", sure, sure).differs) == (True, False)
    assert (in_a_cell(sure), in_a_cell(sure | {"answered": True})) == ("good", "good")
    assert in_a_cell(sure | {"answered": False}) == "not answered (best guess: good)"
    assert in_a_cell({"labels": [], "answered": False}) == "not answered (best guess: none of the labels)"


@pytest.mark.slow
def test_a_version_that_is_not_sure_shows_its_best_guess(
    web: TestClient, studio: Studio, reviews: Project, gpt2: Backbone
) -> None:
    unsure = {"kind": "classes", "temperature": 1.0, "abstain_below": ANSWERS_NOTHING}
    made = probed(adapter(gpt2, "lora", {"r": 4}, objective=unsure), gpt2)
    publish(studio.folder, made, reviews.adapters)
    with served(studio.folder, gpt2):
        address = ask(web, **{**dict.fromkeys(chosen(1), ""), **chosen(2, 3)})
        second, third = facts(web, address)["answers"]
        assert (second["answered"], third["answered"]) == (True, False)
        assert second["labels"] == third["labels"]
        assert third["differs"]
        page = web.get(address).text
        assert page.count("Not sure: not answered. The best guess:") == 1
        answer = web.post("/reviews/try/corrections", data={"text": TEXT, "label": "good"})
        assert answer.status_code == 303
    assert Corrections(reviews).read() == [Correction(TEXT, "good")]


def test_the_newest_version_and_the_one_in_production_are_asked_by_default(
    web: TestClient, studio: Studio, reviews: Project, gpt2: Backbone
) -> None:
    assert facts(web)["chosen"] == ["studio/reviews@2", "studio/reviews@1"]
    publish(studio.folder, adapter(gpt2, "lora", {"r": 8}), reviews.adapters)
    assert facts(web)["chosen"] == ["studio/reviews@3", "studio/reviews@2"]
    AdapterStore(studio.folder.store).alias("studio/reviews@1")
    assert facts(web)["chosen"] == ["studio/reviews@3", "studio/reviews@1"]


def test_a_version_that_does_not_answer_leaves_the_others_their_answers(
    web: TestClient, studio: Studio, url: str, tmp_path: Path
) -> None:
    AdapterStore(studio.folder.store).publish(invented(tmp_path / "other"), "studio/reviews", message="why")
    found = facts(web, ask(web, **chosen(3)))["answers"]
    assert [bool(one["problem"]) for one in found] == [False, False, True]
    assert "backbone" in found[2]["problem"]
    assert found[0]["labels"]


@pytest.mark.parametrize("form", [{"text": " "}, {**{f"ask-studio/reviews@{number}": "" for number in (1, 2)}}])
def test_a_question_without_a_text_or_a_version_is_refused(web: TestClient, url: str, form: dict[str, str]) -> None:
    answer = web.post("/reviews/try", data={"text": TEXT, **chosen(1, 2)} | form)
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text


def test_an_address_that_no_question_has_is_no_question(web: TestClient, reviews: Project) -> None:
    for address in ("../../etc", "0" * 15, "g" * 16):
        assert facts(web, f"/reviews/try?asked={address}")["question"] is None


@pytest.mark.slow
def test_the_last_questions_of_a_project_are_kept(
    web: TestClient, reviews: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StudioServer, "start", lambda server, backbone: None)
    first = ask(web, "first")
    for number in range(KEPT):
        last = ask(web, f"question {number}")
    assert facts(web, first)["question"] is None
    assert facts(web, last)["question"]["text"] == f"question {KEPT - 1}"
    assert len([*(reviews.directory / "questions").iterdir()]) == KEPT


def test_a_server_that_does_not_run_is_said_and_asking_starts_it(
    web: TestClient, studio: Studio, reviews: Project, gpt2: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = list[str]()
    monkeypatch.setattr(StudioServer, "start", lambda server, backbone: started.append(backbone))
    assert "The studio starts it when you ask" in web.get("/reviews/try").text
    address = ask(web)
    assert started == [gpt2.address]
    log = studio.folder.server.directory / "log"
    log.parent.mkdir()
    log.write_text("2026-01-01 INFO serving\n")
    assert "The server does not run." in facts(web, address)["problem_found"]
    monkeypatch.setattr(StudioServer, "state", "starting")
    found = web.get(address)
    assert f'data-events="/reviews/try/live?{address.partition("?")[2]}"' in found.text
    assert "The studio starts the server" in found.text
    assert "http-equiv" in found.text, "without a script, the page is loaded again"


def test_the_untrained_model_of_a_run_is_asked_beside_the_versions(
    web: TestClient, studio: Studio, project: Make, runs: Runs, gpt2: Backbone, at_once: None
) -> None:
    made = project(b"text,label\na,bad\n")
    publish(studio.folder, probed(adapter(gpt2, "lora", {"r": 2}), gpt2), made.adapters)
    finished_run(made, runs, "zero-shot")
    assert facts(web)["untrained"] == "finished"
    assert web.post("/reviews/try/untrained").status_code == 303
    assert facts(web)["untrained"] == "published"
    with served(studio.folder, gpt2):
        form = {"text": TEXT, **chosen(1), **chosen(1, name="studio/reviews.base")}
        answer = web.post("/reviews/try", data=form)
        found = facts(web, answer.headers["location"].removesuffix("#answers"))["answers"]
    assert [one["title"] for one in found] == ["Untrained model", "Version 1"]
    assert all(one["chances"] for one in found)


def test_an_untrained_model_that_no_run_has_is_measured_and_published(
    web: TestClient, studio: Studio, project: Make, gpt2: Backbone, at_once: None
) -> None:
    rows = [f"film {row} was {('dull', 'fine')[row % 2]},{('bad', 'good')[row % 2]}" for row in range(40)]
    made = project("\n".join(["text,label", *rows]).encode())
    publish(studio.folder, adapter(gpt2, "lora", {"r": 2}), made.adapters)
    assert facts(web)["untrained"] == "possible"
    assert web.post("/reviews/try/untrained").status_code == 303
    assert facts(web)["problem_found"] == ""
    assert facts(web)["untrained"] == "published"
    assert AdapterStore(studio.folder.store).show("studio/reviews.base").manifest["method"] == "zero-shot"


def test_a_model_that_cannot_be_asked_untrained_is_said(
    web: TestClient, studio: Studio, reviews: Project, at_once: None
) -> None:
    rows = [f"film {row},{row % 2}" for row in range(40)]
    Path(reviews.address).write_text("\n".join(["text,label", *rows]))
    web.post("/reviews/try/untrained")
    found = facts(web)
    assert (found["untrained"], found["publishing"]) == ("possible", False)
    assert "words" in found["problem_found"]
    assert 'action="/reviews/try/untrained"' in web.get("/reviews/try").text


def test_an_untrained_model_that_cannot_be_published_is_said(
    web: TestClient, project: Make, runs: Runs, at_once: None
) -> None:
    (finished_run(project(b"text,label\na,bad\n"), runs, "zero-shot") / "manifest.json").write_text("{")
    web.post("/reviews/try/untrained")
    assert facts(web)["untrained"] == "finished"
    assert "manifest.json" in facts(web)["problem_found"]


def test_pairs_are_asked_with_both_texts_and_numbers_are_corrected_with_numbers(
    web: TestClient, studio: Studio, project: Make, gpt2: Backbone
) -> None:
    made = project(b"text,pair,label\na,b,1.5\n")
    one = adapter(gpt2, "lora", {"r": 2}, pairs=True, template="{text} and {text_pair}", **PRICE)
    publish(studio.folder, one, made.adapters)
    with served(studio.folder, gpt2):
        page = web.get("/reviews/try").text
        assert 'name="pair"' in page
        address = ask(web, "a warm ferry", pair="the soup")
        (found,) = facts(web, address)["answers"]
        (alone,) = predictor(one, gpt2)(["a warm ferry"], ["the soup"])
        assert found["labels"] == [f"{alone['value']:.4g}"]
        assert 'type="number" step="any" required' in web.get(address).text
        program = web.get("/reviews/keep.json").json()["programs"][0]["text"]
        assert '"pair": ' in program
    form = {"text": "a", "pair": "b", "label": "many"}
    assert web.post("/reviews/try/corrections", data=form).status_code == 422
    assert web.post("/reviews/try/corrections", data=form | {"label": "-2.5"}).status_code == 303
    assert Corrections(made).path.read_text() == "text,text_pair,label\na,b,-2.5\n"


# Texts that are written


@pytest.fixture
def writes(studio: Studio, project: Make, gpt2: Backbone) -> Iterator[str]:
    """A project whose adapters write texts, served."""
    made = project(b"text,target\na,b\n")
    for rank in (2, 4):
        publish(studio.folder, adapter(gpt2, "lora", {"r": rank}, seed=rank, **TOLD), made.adapters)
    with served(studio.folder, gpt2) as url:
        yield url


def test_written_texts_are_streamed_by_the_script_and_whole_without_it(
    web: TestClient, studio: Studio, writes: str
) -> None:
    address = ask(web)
    page = web.get(address).text
    assert f'data-prompt="{TEXT}"' in page
    assert 'data-model="studio/reviews@2" data-completions="/reviews/try/completions"' in page
    body = {"model": "studio/reviews@2", "prompt": TEXT, "stream": True}
    answer = web.post("/reviews/try/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert json.loads(answer.headers["afina-receipt"])["version"] == "studio/reviews@2"
    lines = [line[5:].strip() for line in answer.text.splitlines() if line.startswith("data:")]
    assert lines[-1] == "[DONE]"
    streamed = "".join(choice["text"] for line in lines[:-1] for choice in json.loads(line)["choices"])
    whole = facts(web, f"{address}&whole=yes")["answers"]
    assert whole[1]["labels"] == [streamed], whole[1]["problem"]
    assert f"{address.partition('?')[0]}?{address.partition('?')[2]}&amp;whole=yes" in page


def test_only_texts_of_the_project_are_passed_on(web: TestClient, writes: str) -> None:
    refused = {
        b'{"model": "bolt/mail@1", "prompt": "a"}': 404,
        b'{"model": "studio/other", "prompt": "a"}': 404,
        b'{"prompt": "a"}': 404,
        b"[1]": 404,
        b"{": 422,
        b'{"model": "studio/reviews@9", "prompt": "a"}': 403,
    }
    for body, status in refused.items():
        answer = web.post("/reviews/try/completions", content=body)
        assert answer.status_code == status, body
        assert answer.json()["error"]["message"]
        other = web.post("/reviews/try/completions", content=body, headers={"Origin": "http://evil.example"})
        assert other.status_code == 403, body
        assert "another address" in other.text


def test_a_stream_without_a_server_is_refused_in_a_sentence(web: TestClient, reviews: Project) -> None:
    answer = web.post("/reviews/try/completions", json={"model": "studio/reviews@1", "prompt": "a"})
    assert answer.status_code == 409
    assert answer.json() == {"error": {"message": "the server does not run. Start it first."}}


# A file


@pytest.mark.slow
def test_a_file_is_answered_by_each_version_and_different_answers_come_first(
    web: TestClient, reviews: Project, two: list[Any], gpt2: Backbone, at_once: None
) -> None:
    texts = ["a warm ferry", "=1+1", TEXT, "the novel was dull."]
    content = "text,label\n" + "".join(f'"{text}",good\n' for text in texts)
    files = {"file": ("../new.csv", content.encode())}
    answer = web.post("/reviews/try", data=chosen(1, 2), files=files)
    assert answer.status_code == 303, answer.text
    address = answer.headers["location"].removesuffix("#answers")
    found = facts(web, address)["in_file"]
    alone = [[line["label"] for line in predictor(one, gpt2)(texts)] for one in two]
    differing = [first != second for first, second in zip(*alone, strict=True)]
    assert (found["texts"], found["differing"]) == (4, sum(differing))
    assert [row["differs"] for row in found["rows"]] == sorted(differing, reverse=True)
    by_text = {row["text"]: row["answers"] for row in found["rows"]}
    assert by_text == dict(zip(texts, map(list, zip(*alone, strict=True)), strict=True))
    page = web.get(address).text
    assert f"different answers to {sum(differing)} of them" in page
    assert facts(web, address)["in_file"] == found, "the answers are read once, and kept"
    assert not [*(reviews.directory / "questions").rglob("new.csv")], "the file is no longer needed"
    link = f"/reviews/try/answers/{address.partition('=')[2]}/1"
    assert f'href="{link}"' in page
    download = web.get(link)
    assert 'filename="reviews-2.jsonl"' in download.headers["content-disposition"]
    assert [json.loads(line)["label"] for line in download.text.splitlines()] == alone[1]
    for other in (f"{link}7", "/reviews/try/answers/..%2f..%2fproject/0", "/reviews/try/answers/0/0"):
        assert web.get(other).status_code == 404


def test_a_file_that_cannot_be_read_says_why(web: TestClient, reviews: Project, at_once: None) -> None:
    answer = web.post("/reviews/try", data=chosen(1, 2), files={"file": ("new.csv", b"number\n1\n")})
    page = web.get(answer.headers["location"].removesuffix("#answers")).text
    assert 'role="alert"' in page
    assert "no text column" in page
    refused = web.post("/reviews/try", data=chosen(1), files={"file": ("new.exe", b"x")})
    assert refused.status_code == 422


# Corrections


@pytest.mark.parametrize(
    "cell", ["=SUM(A1)", "+1 for it", "-", "@home", "\tx", "'=x", "''=x", "'tis", "", "-3.5", "+7"]
)
def test_a_cell_is_harmless_in_a_spreadsheet_and_read_as_it_was(cell: str) -> None:
    assert restored(harmless(cell)) == cell
    assert harmless(cell)[:1] not in ("=", "@", "\t")
    assert harmless("-3.5") == "-3.5"
    assert harmless("=1") == "'=1"


def test_a_wrong_answer_becomes_a_row_of_the_corrections_and_a_training_text_of_the_next_run(
    web: TestClient, reviews: Project, url: str
) -> None:
    address = ask(web, "=cmd()")
    form = {"asked": address.partition("=")[2], "text": "=cmd()", "label": "good"}
    answer = web.post("/reviews/try/corrections", data=form)
    assert answer.headers["location"] == f"{address}#corrections"
    web.post("/reviews/try/corrections", data={"text": 'a "b",\nc', "label": "good"})
    web.post("/reviews/try/corrections", data={"text": 'a "b",\nc', "label": "bad"})
    assert Corrections(reviews).path.read_text() == 'text,label\n\'=cmd(),good\n"a ""b"",\nc",bad\n'
    assert Corrections(reviews).read() == [Correction("=cmd()", "good"), Correction('a "b",\nc', "bad")]
    download = web.get("/reviews/try/corrections.csv")
    assert download.headers["content-disposition"] == 'attachment; filename="reviews-corrections.csv"'
    assert download.text == Corrections(reviews).path.read_text()
    assert "2 texts with the right answer" in web.get("/reviews/try").text
    without = Project.read(reviews.directory).options["without"]
    task = Task.load(reviews.address, evaluation=reviews.address, allow_leakage=True, without=without)
    assert dict(zip(task.train.texts, task.train.labels.tolist(), strict=True)) == {
        "a": 0,
        "b": 1,
        "=cmd()": 1,
        'a "b",\nc': 0,
    }


def test_without_a_right_answer_nothing_is_kept(web: TestClient, reviews: Project, url: str) -> None:
    assert web.post("/reviews/try/corrections", data={"text": "a"}).status_code == 422
    assert web.post("/reviews/try/corrections", data={"label": "good"}).status_code == 422
    assert web.get("/reviews/try/corrections.csv").status_code == 404
    assert web.post("/reviews/try/corrections", data={"text": "a", "label": "fine"}).status_code == 422
    assert not Corrections(reviews).path.exists()


def test_a_correction_of_several_labels_has_them_in_one_cell(
    web: TestClient, studio: Studio, project: Make, gpt2: Backbone
) -> None:
    made = project(b"text,labels\na,x;y\n")
    publish(studio.folder, adapter(gpt2, "lora", {"r": 2}, **TAGS), made.adapters)
    web.post("/reviews/try/corrections", data={"text": "a", "label-0": "yes", "label-2": "yes"})
    (kept,) = Corrections(made).read()
    assert kept.answer == ",".join((TAGS["labels"][0], TAGS["labels"][2]))


# Entities


ENTITIES = {"entities": [{"start": 0, "end": 3, "label": "PER", "score": 0.9}], "receipt": {"version": 1}}


def test_the_entities_of_an_answer_are_marked_and_two_answers_are_compared_by_their_places() -> None:
    version, text = "Version 1", "Ana saw Ana."
    first = with_texts(ENTITIES, text)
    made = _answer(version, first, None, text)
    assert made.marked == MarkedText.of(text, [(0, 3, "PER")])
    assert (made.labels, made.differs) == (["Ana PER"], False)
    moved = with_texts({"entities": [{"start": 8, "end": 11, "label": "PER", "score": 0.9}]}, text)
    assert _answer(version, moved, first, text).differs
    assert not _answer(version, with_texts(ENTITIES, text), first, text).differs
    assert _answer(version, {"entities": []}, first, text).labels == []
    assert in_a_cell({"text": text, **first}) == "[Ana PER] saw Ana."


@pytest.mark.parametrize(
    "given",
    [
        *("", "Ana", "{}", "[1]", '[{"start": 0}]'),
        *('[{"start": 0, "end": 30, "label": "PER"}]', '[{"start": 0, "end": 3, "label": "ORG"}]'),
        '[{"start": 0, "end": 3, "label": "PER"}, {"start": 2, "end": 4, "label": "PER"}]',
    ],
)
def test_a_correction_that_does_not_fit_the_text_is_refused(given: str) -> None:
    with pytest.raises(InvalidData, match=r"Expected a JSON list .* among LOC, PER"):
        _entities(given, "Ana saw Ana.", ["LOC", "PER"])


def test_a_correction_of_entities_is_kept_in_the_order_of_the_text() -> None:
    given = '[{"start": 8, "end": 11, "label": "PER"}, {"start": 0, "end": 3, "label": "LOC", "score": 1}]'
    assert json.loads(_entities(given, "Ana saw Ana.", ["LOC", "PER"])) == [
        {"start": 0, "end": 3, "label": "LOC"},
        {"start": 8, "end": 11, "label": "PER"},
    ]
    assert _entities("[]", "Ana saw Ana.", ["LOC", "PER"]) == "[]"
