"""report.html in a real browser: nothing in the console, nothing loaded, nothing that sticks out, light and dark."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

import browser
from afina.report.evaluated import Evaluated
from afina.report.report import Report
from browser import Browser
from records import TRAINED, result, results

pytestmark = pytest.mark.browser

WIDTHS, SCHEMES = (360, 1280), ("light", "dark")
LONG = "unbroken" * 40
HOSTILE = '<script>document.title = "taken"</script><img src="http://example.invalid/x.png" onerror="throw 1">'


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = browser.find()
    if program is None:
        pytest.skip("no Chromium: set AFINA_BROWSER, or put chromium on the PATH")
    with Browser(program, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of everything that could break a layout: long names, long words, markup, several seeds."""
    answers = {"full": (0, 1, 1, 0, 0), "lora": (0, 1, 0, 0, 1)}
    made = [
        result(
            method,
            seed=seed,
            predicted=answers.get(method, (1, 1, 1, 1, 1)),
            label_names=("negative " * 20, HOSTILE),
        )
        for seed in (0, 1)
        for method in TRAINED
    ]
    made += [result(name=f"lora-{LONG}", seed=seed) for seed in (0, 1)]
    texts = [HOSTILE, LONG, "a fine film", "`" * 30, "日本 – “Zoë”"]
    report = Report.of(results(made, "a study", command=("afina", "study", LONG)), Evaluated(texts, "sha256:d1"))
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report.page(), encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_browser_finds_nothing_to_say_and_nothing_sticks_out(
    chromium: Browser, page: Path, width: int, scheme: str
) -> None:
    chromium.open(page, width, scheme)
    assert chromium.evaluate("innerWidth") == width
    assert chromium.evaluate("document.scrollingElement.scrollWidth") <= width
    said = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
    assert [(method, found) for method, found in chromium.events if method in said] == []
    asked = [found["request"]["url"] for method, found in chromium.events if method == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert chromium.evaluate("document.title") == "a study – afina"
    assert chromium.evaluate("document.querySelectorAll('script, img').length") == 0


@pytest.mark.parametrize(("scheme", "paper"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(21, 24, 28)")])
def test_page_and_plots_follow_the_preferred_colours(chromium: Browser, page: Path, scheme: str, paper: str) -> None:
    chromium.open(page, 1280, scheme)
    assert chromium.evaluate("getComputedStyle(document.body).backgroundColor") == paper
    ink = chromium.evaluate("getComputedStyle(document.body).color")
    letters = "[...document.querySelectorAll('svg text')].map(one => getComputedStyle(one).fill)"
    assert chromium.evaluate(f"[...new Set({letters})].join()") == ink
    tones = "[...document.querySelectorAll('#accuracy-axes_1 use')].map(one => getComputedStyle(one).fill)"
    assert len(chromium.evaluate(f"[...new Set({tones})]")) >= 5


def test_plots_have_their_size_and_a_text_and_ids_are_unique(chromium: Browser, page: Path) -> None:
    chromium.open(page, 360, "light")
    boxes = chromium.evaluate(
        "[...document.querySelectorAll('svg')].map(one => [one.getBoundingClientRect().width, "
        "one.getBoundingClientRect().height, one.getAttribute('aria-label').length])"
    )
    assert len(boxes) >= 12
    assert all(width > 150 and height > 80 and text > 20 for width, height, text in boxes)
    ids = "[...document.querySelectorAll('[id]')].map(one => one.id)"
    assert chromium.evaluate(f"{ids}.length - new Set({ids}).size") == 0


def test_it_prints(chromium: Browser, page: Path) -> None:
    chromium.open(page, 1280, "dark")
    printed = base64.b64decode(chromium.call("Page.printToPDF")["data"])
    assert printed.startswith(b"%PDF")
    chromium.call("Emulation.setEmulatedMedia", media="print")
    assert chromium.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    chromium.call("Emulation.setEmulatedMedia", media="")
