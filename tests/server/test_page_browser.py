"""The page at `/` in a real browser: a key and a sentence are typed, and every task's labels are read."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from afina.engine.engine import Engine
from afina.server.core import Core
from afina.server.receipts import Receipt
from afina.server.settings import Settings
from browser import View, viewed
from crowd import adapter
from servers import TOLD, Served, beside, probed, running, serving, within

pytestmark = [pytest.mark.browser, pytest.mark.slow]

VIEWS = pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1280, "dark")])
LONG = "unbroken" * 20
HOSTILE = '<img src=x onerror="document.title = \'taken\'"><script>document.title = "taken"</script>'
TEXT = "the soup was bright."


@pytest.fixture(scope="module")
def made(gpt2: Any, crowd: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """With a task whose labels are hostile, long, and many."""
    root = tmp_path_factory.mktemp("page")
    labels = (HOSTILE, LONG, *(f"label {number}" for number in range(10)))
    hostile = probed(adapter(gpt2, "lora", {"r": 2}, seed=41, labels=labels), gpt2)
    with serving(gpt2, crowd | {"acme/hostile@1": hostile}, root) as served:
        yield served


@pytest.fixture(scope="module")
def url(made: Served) -> Iterator[str]:
    with beside(made) as found:
        yield found


def ask(page: Page, key: str, text: str = TEXT) -> None:
    page.get_by_label("Key").fill(key)
    page.get_by_label("Sentence").fill(text)
    page.get_by_role("button", name="Ask").click()


def settled(view: View) -> None:
    """Until the answers and the figures are there."""
    expect(view.page.get_by_role("article")).to_have_count(4, timeout=20_000)
    expect(view.page.locator("#figures").get_by_text("Tokens/s")).to_be_visible(timeout=20_000)


@VIEWS
def test_a_sentence_is_typed_and_labels_are_read_and_nothing_sticks_out(
    chromium: Browser, made: Served, url: str, width: int, scheme: Literal["light", "dark"]
) -> None:
    with viewed(chromium, url, width, scheme) as view:
        page = view.page
        ask(page, made.secrets["acme"])
        settled(view)
        (alone,) = made.alone("acme/reviews@1", TEXT)
        reviews = page.get_by_role("article").filter(has=page.get_by_role("heading", name="acme/reviews"))
        expect(reviews.locator("strong")).to_have_text(alone["label"])
        for label, chance in alone["probabilities"].items():
            expect(reviews.get_by_role("listitem").filter(has_text=label)).to_contain_text(f"{100 * chance:.1f} %")
        page.get_by_text("4 more").click()
        assert page.evaluate("innerWidth") == width
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        columns = page.locator(".cards").evaluate("one => getComputedStyle(one).gridTemplateColumns.split(' ').length")
        assert (columns == 1) == (width < 600)
        assert page.title() == "afina"
    assert view.said == []
    assert all(one.startswith((url, "data:")) for one in view.asked)


def test_the_keyboard_alone_is_enough(chromium: Browser, made: Served, url: str) -> None:
    with viewed(chromium, url, 1280, "light") as view:
        page = view.page
        focused = [page.evaluate("document.activeElement.id || document.activeElement.textContent")]
        for _ in range(3):
            page.keyboard.press("Tab")
            focused.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", focused
        assert focused == ["key", "forget", "text", "Ask"]
        for _ in range(3):
            page.keyboard.press("Shift+Tab")
        page.keyboard.type(made.secrets["acme"])
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.type(TEXT)
        page.keyboard.press("Control+Enter")
        settled(view)
        assert page.get_by_label("Answers", exact=True).get_attribute("aria-live") == "polite"
        assert page.evaluate("document.activeElement.id") == "text"


def test_the_key_is_kept_by_the_tab_alone_and_forgotten_when_told(chromium: Browser, made: Served, url: str) -> None:
    with viewed(chromium, url, 1280, "light") as view:
        page, key = view.page, made.secrets["acme"]
        ask(page, key)
        settled(view)
        page.reload()
        expect(page.get_by_label("Key")).to_have_value(key)
        assert page.evaluate("document.activeElement.id") == "text"
        assert page.context.cookies() == []
        assert page.evaluate("localStorage.length") == 0
        other = page.context.new_page()
        other.goto(url)
        expect(other.get_by_label("Key")).to_have_value("")
        page.get_by_role("button", name="Forget").click()
        expect(page.get_by_label("Key")).to_have_value("")
        assert page.evaluate("sessionStorage.length") == 0
    assert not [one for one in view.asked if key in one]


def test_a_refusal_is_told_in_its_words_and_a_wrong_key_is_not_kept(chromium: Browser, made: Served, url: str) -> None:
    with viewed(chromium, url, 360, "light") as view:
        page, alert = view.page, view.page.get_by_role("alert")
        ask(page, "wrong")
        expect(alert).to_have_text("a valid key is needed: Authorization: Bearer KEY.")
        assert page.evaluate("sessionStorage.length") == 0
        ask(page, made.secrets["acme"], "  ")
        expect(alert).to_have_text("The text is empty.")
        ask(page, made.secrets["acme"])
        settled(view)
        expect(alert).to_have_text("")
    assert len(view.said) == 2, "the browser notes the two refusals, and nothing else"


def test_what_is_no_answer_of_the_server_is_told(chromium: Browser, made: Served, url: str) -> None:
    with viewed(chromium, url, 360, "light") as view:
        view.page.route("**/page/answers", lambda route: route.fulfill(status=502, body="<html>bad gateway</html>"))
        ask(view.page, made.secrets["acme"])
        expect(view.page.get_by_role("alert")).to_have_text("no answer of the server (status 502).")


def test_an_answer_that_comes_after_a_later_question_is_left_alone(chromium: Browser, made: Served, url: str) -> None:
    with viewed(chromium, url, 1280, "light") as view:
        page, held = view.page, list[Route]()
        page.route("**/page/answers", lambda route: held.append(route))
        for text in ("first", "second"):
            ask(page, made.secrets["acme"], text)
        while len(held) < 2:
            page.wait_for_timeout(10)
        answers = page.get_by_label("Answers", exact=True)
        held[1].fulfill(body="<p>of the second</p>")
        expect(answers).to_have_text("of the second")
        expect(answers).to_have_attribute("aria-busy", "false")
        with page.expect_response("**/page/answers"):
            held[0].fulfill(body="<p>of the first</p>")
        page.wait_for_timeout(100)
        expect(answers).to_have_text("of the second")


class Writer(NamedTuple):
    """A server with a task that writes texts: at most ten tokens a second until `hurry`."""

    served: Served
    core: Core
    url: str
    hurry: threading.Event


@pytest.fixture(scope="module")
def writer(gpt2: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writer]:
    told = TOLD | {"objective": {"kind": "text", "answer_tokens": 25}}
    crowd = {
        "acme/reviews@1": probed(adapter(gpt2, "lora", {"r": 2}, seed=1), gpt2),
        "acme/told@1": adapter(gpt2, "lora", {"r": 2}, seed=6, **told),
    }
    with (
        serving(gpt2, crowd, tmp_path_factory.mktemp("writer")) as served,
        Engine(served.backbone, served.store) as engine,
    ):
        core = Core(engine, served.store, Settings(delay=0.001, every=0.05))
        generations = core.batching.computer.generations
        step, hurry = generations.step, threading.Event()

        def slow(most: int | None = None) -> Any:
            if generations.active:
                hurry.wait(0.1)
            return step(most)

        with pytest.MonkeyPatch.context() as patch, running(core) as (url, _):
            patch.setattr(generations, "step", slow)
            yield Writer(served, core, f"{url}/", hurry)


def told(view: View) -> Locator:
    """The card of the task that writes."""
    return view.page.get_by_role("article").filter(has=view.page.get_by_role("heading", name="acme/told"))


@VIEWS
def test_a_text_is_shown_while_it_is_written(
    chromium: Browser, writer: Writer, width: int, scheme: Literal["light", "dark"]
) -> None:
    (alone,) = writer.served.alone("acme/told@1", TEXT)
    writer.hurry.clear()
    with viewed(chromium, writer.url, width, scheme) as view:
        page, card = view.page, told(view)
        ask(page, writer.served.secrets["acme"])
        expect(page.get_by_role("article")).to_have_count(2, timeout=20_000)
        answer = card.locator(".written")
        expect(answer).not_to_be_empty(timeout=20_000)
        assert card.get_attribute("aria-busy") == "true"
        part = answer.text_content() or ""
        assert part != alone["answer"]
        assert alone["answer"].startswith(part)
        expect(card.get_by_role("button", name="Stop")).to_be_visible()
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        writer.hurry.set()
        expect(card).to_have_attribute("aria-busy", "false", timeout=20_000)
        assert answer.text_content() == alone["answer"]
        expect(card.locator(".tally")).to_contain_text(re.compile(r"^\d+ tokens, \d+\.\d s$"))
        expect(card.get_by_role("button", name="Stop")).to_be_hidden()
        card.get_by_text("Receipt", exact=True).click()
        receipt = Receipt.parse(card.locator("code").text_content() or "")
        assert receipt.version == "acme/told@1"
        assert receipt.generation is not None
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        expect(page.locator("#figures").get_by_text("Tokens/s")).to_be_visible(timeout=20_000)
    assert view.said == []


def test_stop_ends_a_text_on_the_page_and_on_the_server(chromium: Browser, writer: Writer) -> None:
    (alone,) = writer.served.alone("acme/told@1", TEXT)
    writer.hurry.clear()
    with viewed(chromium, writer.url, 1280, "light") as view:
        card = told(view)
        ask(view.page, writer.served.secrets["acme"])
        expect(card.locator(".written")).not_to_be_empty(timeout=20_000)
        card.get_by_role("button", name="Stop").click()
        expect(card.locator(".tally")).to_contain_text("stopped after")
        assert within(10, lambda: writer.core.batching.generating == (0, 0))
        part = card.locator(".written").text_content() or ""
        assert part != alone["answer"]
        assert alone["answer"].startswith(part)
        expect(card.locator(".problem")).to_be_empty()
    assert view.said == []


def test_a_refusal_of_a_text_is_told_in_its_place(chromium: Browser, writer: Writer) -> None:
    writer.hurry.set()
    with viewed(chromium, writer.url, 360, "dark") as view:
        busy = json.dumps({"error": {"message": "too many requests at the moment."}})
        view.page.route("**/v1/completions", lambda route: route.fulfill(status=429, body=busy))
        ask(view.page, writer.served.secrets["acme"])
        expect(told(view).locator(".problem")).to_have_text("too many requests at the moment.", timeout=20_000)
        expect(view.page.get_by_role("article")).to_have_count(2)
        expect(view.page.locator(".said strong")).to_be_visible()


def test_figures_go_on_by_themselves(
    chromium: Browser, made: Served, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("afina.server.metrics.WINDOW", 3)
    with viewed(chromium, url, 1280, "light") as view:
        ask(view.page, made.secrets["acme"])
        settled(view)
        tokens = view.page.locator("#figures dl div").filter(has_text="Tokens/s").locator("dd")
        expect(tokens).not_to_have_text("0", timeout=10_000)
        expect(tokens).to_have_text("0", timeout=20_000)
