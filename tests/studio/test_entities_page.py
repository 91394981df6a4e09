"""Entities in the studio: marked in the text, corrected as JSON or by selecting parts of the text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect
from starlette.testclient import TestClient
from stores_of_studios import publish, served
from visitors import Visitor, answering, violations

from afina import Backbone
from afina.studio.corrections import Correction, Corrections
from afina.studio.folder import Project
from afina.studio.page import Studio
from crowd import adapter
from servers import predictor, probed

Make = Callable[..., Project]

WORDS: dict[str, Any] = {"labels": ("LOC", "PER"), "objective": {"kind": "entities", "viterbi": True}}
TEXT = "the soup 👩\u200d👧 was bright."
FILE = b'{"text": "Ana sat.", "entities": [[0, 3, "PER"]]}\n{"text": "It rained.", "entities": []}\n'


@pytest.fixture
def names(studio: Studio, project: Make, gpt2: Backbone) -> Project:
    """A project with a version that finds entities."""
    made = project(FILE, "names.jsonl")
    publish(studio.folder, version(gpt2), made.adapters)
    return made


def version(gpt2: Backbone) -> Any:
    return probed(adapter(gpt2, "lora", {"r": 4}, **WORDS), gpt2)


@pytest.fixture
def url(studio: Studio, names: Project, gpt2: Backbone) -> Iterator[str]:
    with served(studio.folder, gpt2) as found:
        yield found


def asked(web: TestClient) -> str:
    answer = web.post("/names/try", data={"text": TEXT, "ask-studio/names@1": "yes"})
    assert answer.status_code == 303, answer.text
    return str(answer.headers["location"]).removesuffix("#answers")


@pytest.mark.slow
def test_entities_of_an_answer_are_marked_and_begin_its_correction(
    web: TestClient, url: str, names: Project, gpt2: Backbone
) -> None:
    address = asked(web)
    (expected,) = predictor(version(gpt2), gpt2)([TEXT])
    assert expected["entities"], "a text without entities shows nothing"
    (shown,) = web.get(address.replace("/try", "/try.json", 1)).json()["answers"]
    places = [{name: one[name] for name in ("start", "end", "label")} for one in expected["entities"]]
    assert shown["marked"] == {"text": TEXT, "marks": [{**one, "remark": ""} for one in places]}
    page = web.get(address).text
    assert page.count("<mark>") == len(places)
    proposed = re.search(r'<textarea id="label"[^>]*>(.*?)</textarea>', page)
    assert proposed is not None
    assert json.loads(proposed[1].replace("&#34;", '"')) == places
    right = {"text": TEXT, "label": '[{"start": 4, "end": 8, "label": "LOC"}]'}
    assert web.post("/names/try/corrections", data=right).status_code == 303
    assert Corrections(names).read() == [Correction(TEXT, right["label"])]
    for place in (True, "1", 1.5):
        marks = json.dumps([{"start": place, "end": 4, "label": "LOC"}])
        assert web.post("/names/try/corrections", data=right | {"label": marks}).status_code == 422
    refused = web.post("/names/try/corrections", data=right | {"label": '[{"start": 4, "end": 80, "label": "LOC"}]'})
    assert (refused.status_code, len(Corrections(names).read())) == (422, 1)
    assert "whose places are in the text" in refused.text
    assert "/tasks" in web.get("/names/keep").text


@pytest.mark.browser
@pytest.mark.slow
def test_without_a_mouse_a_selected_part_of_the_text_gets_a_label(
    chromium: Browser, studio: Studio, url: str, names: Project
) -> None:
    with answering(studio):
        visitor = Visitor(chromium, studio, 1280)
        try:
            page = visitor.go("names/try")
            page.get_by_label("Text", exact=True).fill(TEXT)
            page.get_by_role("button", name="Ask").click()
            expect(page.locator("article")).to_be_visible(timeout=60_000)
            assert violations(page) == []
            page.get_by_label("The right entities, as JSON").fill("[]")
            page.locator("#marked").focus()
            page.keyboard.press("Control+Home")
            for _ in range(9 + 5):
                page.keyboard.press("ArrowRight")
            page.keyboard.type("no text changes")
            start = page.evaluate("document.getElementById('marked').selectionStart")
            for _ in range(3):
                page.keyboard.press("Shift+ArrowRight")
            page.get_by_role("button", name="PER", exact=True).press("Enter")
            (found,) = json.loads(page.get_by_label("The right entities, as JSON").input_value())
            units = TEXT.encode("utf-16-le")
            assert TEXT[found["start"] : found["end"]] == units[2 * start : 2 * start + 6].decode("utf-16-le")
            assert found["label"] == "PER"
            page.get_by_role("button", name="No entity").press("Enter")
            assert page.get_by_label("The right entities, as JSON").input_value() == "[]"
            page.get_by_role("button", name="LOC", exact=True).press("Enter")
            page.get_by_role("button", name="Keep the correction").press("Enter")
            expect(page.get_by_role("heading", name="Corrections")).to_be_visible()
            assert json.loads(Corrections(names).read()[0].answer)[0]["label"] == "LOC"
        finally:
            visitor.context.close()


@pytest.mark.parametrize("name", ["names.conll", "names.jsonl", "names.txt"])
def test_a_dropped_file_of_entities_is_recognised(web: TestClient, at_once: None, name: str) -> None:
    line, sentence = b'{"text": "Ana sat %d.", "entities": [[0, 3, "PER"]]}\n', b"Ana B-PER\nsat O\n%d O\n. O\n\n"
    content = b"".join((line if name.endswith(".jsonl") else sentence) % row for row in range(20))
    made = web.post("/", files={"file": (name, content)})
    assert made.status_code == 303, made.text
    found = web.get("/names/data.json").json()["found"]
    assert found["kind"] == "entities", found
    page = web.get("/names/data").text
    assert "<dd>entities</dd>" in page
    assert "kind entities" in page
