"""No page of the studio reads a sentence: with other words in every message, each page has the same elements."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from rubbish_files import RUBBISH
from starlette.testclient import TestClient
from stores_of_studios import finished_run, publish

from afina import Backbone
from afina.studio.folder import Project
from afina.studio.page import Studio
from afina.studio.pages import data
from crowd import adapter
from fakes import Runs
from rewording import WORD, in_both_words

Make = Callable[..., Project]

REVIEWS = b"text,label\n" + b"".join(b"review number %d,%s\n" % (row, (b"bad", b"good")[row % 2]) for row in range(40))


def check(ask: Callable[[], Any]) -> None:
    """`ask` returns a page with a message, which is the same page in other words."""
    plain, other = in_both_words(ask)
    assert other.status_code == plain.status_code
    assert WORD not in plain.text
    assert WORD in other.text
    assert elements(other.text) == elements(plain.text)
    assert "`" not in re.sub(r"<pre.*?</pre>", "", other.text, flags=re.DOTALL)


def elements(page: str) -> list[str]:
    """The elements of a page with their attributes, without the random id of a question."""
    return re.findall(r"<[^>]*>", re.sub(r"[0-9a-f]{16}", "", page))


@pytest.mark.parametrize(
    "name",
    [
        *("a column twice", "spellings of a label", "numbers or classes", "two sheets", "a label of one text"),
        *("an empty label", "one label only", "half of a gzip"),
    ],
)
def test_the_doubts_and_the_error_of_a_file(web: TestClient, project: Make, answered: Any, name: str) -> None:
    file, content, _ = RUBBISH[name]
    made = project(content, file)

    def ask() -> Any:
        answered(data.inspection_of(made), [*data.inspect_arguments(made), "--json"])
        return web.get(f"/{made.name}/data")

    check(ask)


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/", {}),
        ("/reviews/data/options", {"remedy": "["}),
        ("/reviews/runs/1/stop", {}),
        ("/reviews/try", {"text": "a"}),
        ("/reviews/try", {"ask-studio/reviews@1": "yes"}),
        ("/reviews/try/corrections", {"text": "a"}),
        ("/reviews/keep/alias", {"alias": "Bad Name", "version": "1"}),
        ("/reviews/keep/alias", {"alias": "canary", "version": "1", "share": "many"}),
        ("/reviews/keep/publish", {"adapter": "none"}),
        ("/reviews/keep/keys", {"scope-predict": "yes", "expires": "soon"}),
        ("/reviews/doubts/decide", {"key": "0", "decision": "out"}),
    ],
)
def test_the_error_of_a_form(
    web: TestClient, studio: Studio, project: Make, gpt2: Backbone, at_once: None, path: str, form: dict[str, str]
) -> None:
    publish(studio.folder, adapter(gpt2, "lora", {"r": 2}), project(REVIEWS).adapters)
    check(lambda: web.post(path, data=form))


@pytest.mark.parametrize("path", ["/none/data", "/none", "/reviews/runs/7", "/reviews/keep/diff"])
def test_a_page_that_is_not_there(web: TestClient, project: Make, path: str) -> None:
    project(REVIEWS)
    check(lambda: web.get(path))


def test_an_adapter_that_cannot_be_published(web: TestClient, project: Make, runs: Runs, at_once: None) -> None:
    made = finished_run(project(REVIEWS), runs)
    (made / "manifest.json").write_text("{")

    def ask() -> Any:
        web.post("/reviews/keep/publish", data={"adapter": f"1/{made.relative_to(made.parents[1])}"})
        return web.get("/reviews/keep")

    check(ask)


def test_a_file_that_no_version_can_read(
    web: TestClient, studio: Studio, project: Make, gpt2: Backbone, at_once: None
) -> None:
    publish(studio.folder, adapter(gpt2, "lora", {"r": 2}), project(REVIEWS).adapters)

    def ask() -> Any:
        files = {"file": ("new.csv", b"number\n1\n")}
        sent = web.post("/reviews/try", data={"ask-studio/reviews@1": "yes"}, files=files)
        return web.get(sent.headers["location"].removesuffix("#answers"))

    check(ask)
