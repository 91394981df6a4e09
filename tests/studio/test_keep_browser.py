"""The pages Try and Keep and serve in a real browser: streamed texts, and pages for everybody."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, expect
from stores_of_studios import publish, served
from visitors import Visitor, answering, violations

from afina import AdapterStore, Backbone
from afina.studio.access import Access
from afina.studio.folder import StudioFolder
from afina.studio.page import Studio
from afina.studio.run_queue import RunQueue
from crowd import adapter
from servers import TOLD
from services import free_port

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=\"document.title = 'taken'\">"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, gpt2: Backbone) -> Iterator[Studio]:
    """A studio whose server answers: a project of two labels, and one whose adapters write texts."""
    folder = StudioFolder(tmp_path_factory.mktemp("keeping") / "studio")
    with folder.locked():
        made = Studio(folder, Access(folder, "127.0.0.1", free_port()), RunQueue(folder), upload_limit=10**6)
        for title, changes in {"labels": {"labels": ("good", HOSTILE)}, "texts": TOLD}.items():
            project = folder.create(title, "snippets:movies")
            for rank in (2, 4):
                publish(folder, adapter(gpt2, "lora", {"r": rank}, seed=rank, **changes), project.adapters)
        AdapterStore(folder.store).alias("studio/labels@1")
        with served(folder, gpt2), answering(made):
            yield made


@pytest.mark.slow
def test_texts_of_two_versions_are_streamed_beside_each_other(chromium: Browser, studio: Studio) -> None:
    visitor = Visitor(chromium, studio, 1280)
    try:
        page = visitor.go("texts/try")
        page.get_by_label("Text", exact=True).fill("It broke on the second day.")
        page.get_by_role("button", name="Ask", exact=True).click()
        for number in range(2):
            card = page.locator("article").nth(number)
            expect(card.locator(".tally")).to_have_text(re.compile(r"\d+ tokens, .* s"), timeout=30_000)
            expect(card).to_have_attribute("aria-busy", "false")
            assert card.locator(".problem").inner_text() == ""
            expect(card.locator(".receipt")).to_be_visible()
    finally:
        visitor.context.close()
    assert visitor.said == []
    assert visitor.elsewhere == []


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_trying_and_serving_are_accessible_and_run_no_script_of_a_label(
    chromium: Browser, studio: Studio, tmp_path: Path, width: int, scheme: Literal["light", "dark"]
) -> None:
    visitor = Visitor(chromium, studio, width, color_scheme=scheme, reduced_motion="reduce")
    found = {}
    try:
        for path in ("labels/keep", "texts/keep", "labels/try", "texts/try"):
            page = visitor.go(path)
            found[path] = violations(page)
            assert page.evaluate("document.scrollingElement.scrollWidth") <= width, path
        page = visitor.go("labels/try")
        page.get_by_label("Text", exact=True).fill(HOSTILE)
        page.get_by_role("button", name="Ask", exact=True).click()
        expect(page.locator("article")).to_have_count(2)
        found["answers"] = violations(page)
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        assert page.title() != "taken"
        page = visitor.go("labels/keep")
        page.get_by_role("button", name="Create the key").click()
        expect(page.get_by_role("heading", name="The new key")).to_be_visible()
        found["key"] = violations(page)
    finally:
        visitor.context.close()
    assert found == {path: [] for path in found}
    assert visitor.said == []
    assert visitor.elsewhere == []


@pytest.mark.slow
def test_the_answer_to_a_form_stays_when_work_in_progress_ends_and_the_form_is_sent_once(
    chromium: Browser, studio: Studio
) -> None:
    output, sent = studio.folder.server.directory / "output", list[str]()
    said = output.read_text()
    visitor = Visitor(chromium, studio, 1280)
    visitor.page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    try:
        output.write_text("")  # the server starts
        page = visitor.go("labels/keep")
        page.get_by_role("button", name="Create the key").click()
        page.wait_for_load_state()  # the click ends when the next page has begun
        key = page.locator("pre", has_text=re.compile("^afina_")).text_content()
        expect(page.get_by_text("The server loads the backbone")).to_be_visible()
        output.write_text(said)
        expect(page.get_by_text("The server loads the backbone")).to_have_count(0)
        page.wait_for_timeout(1000)
        expect(page.locator("pre", has_text=re.compile("^afina_"))).to_have_text(key or "")
        assert sent == [f"{visitor.base}labels/keep/keys"]
        page.get_by_role("link", name="load it").click()
        expect(page.get_by_text("The server runs at")).to_be_visible()
        assert page.url == f"{visitor.base}labels/keep"
    finally:
        output.write_text(said)
        visitor.context.close()
    assert visitor.said == []
