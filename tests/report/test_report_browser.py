"""report.html in a real browser: nothing in the console, nothing loaded, nothing that sticks out, light and dark."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Literal

import pytest
from matplotlib.image import imread
from playwright.sync_api import Browser

from afina.report.examples.disagreements import EvaluationTexts
from afina.report.report import Report
from browser import viewed
from grid import some_slow
from records import TEXTS, TRAINED, answering, of_kind, result, results, texts

pytestmark = [pytest.mark.browser, pytest.mark.slow]

WIDTHS = (360, 1280)
SHAPES = """[...document.querySelectorAll('svg')].map(one => [one.getBoundingClientRect().width,
    one.getBoundingClientRect().height, one.getAttribute('aria-label').length])"""
LONG = "unbroken" * 40
HOSTILE = '<script>document.title = "taken"</script><img src="http://example.invalid/x.png" onerror="throw 1">'


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
    report = Report.of(results(made, "a study", command=("afina", "study", LONG)), EvaluationTexts(texts, "sha256:d1"))
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report.page(), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("width", "scheme", "paper"), [(1280, "light", "rgb(255, 255, 255)"), (360, "dark", "rgb(21, 24, 28)")]
)
def test_a_browser_finds_nothing_to_say_nothing_sticks_out_and_colours_are_those_preferred(
    chromium: Browser, page: Path, width: int, scheme: Literal["light", "dark"], paper: str
) -> None:
    with viewed(chromium, page, width, scheme) as view:
        assert view.page.evaluate("innerWidth") == width
        assert view.page.evaluate("document.scrollingElement.scrollWidth") <= width
        assert view.page.title() == "Study a study – afina"
        assert view.page.locator("script, img").count() == 0
        shapes = view.page.evaluate(SHAPES)
        ids = view.page.evaluate("[...document.querySelectorAll('[id]')].map(one => one.id)")
        assert view.page.evaluate("getComputedStyle(document.body).backgroundColor") == paper
        ink = view.page.evaluate("getComputedStyle(document.body).color")
        letters = "[...document.querySelectorAll('svg text')].map(one => getComputedStyle(one).fill)"
        assert view.page.evaluate(f"[...new Set({letters})]") == [ink]
        tones = "[...document.querySelectorAll('#accuracy-axes_1 use')].map(one => getComputedStyle(one).fill)"
        assert len(view.page.evaluate(f"[...new Set({tones})]")) >= 5
    assert len(shapes) >= 12
    assert all(wide > 150 and high > 80 and text > 20 for wide, high, text in shapes)
    assert ids
    assert len(ids) == len(set(ids))
    assert view.said == []
    assert page.as_uri() in view.asked
    assert [url for url in view.asked if not url.startswith(("file:", "data:"))] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_table_that_goes_on_has_a_shadow_at_the_side_where_it_does(
    chromium: Browser, page: Path, scheme: Literal["light", "dark"]
) -> None:
    with viewed(chromium, page, 390, scheme) as view:
        table = view.page.locator(".scroll").first
        assert table.evaluate("one => one.scrollWidth - one.clientWidth") > 50

        def edges() -> tuple[float, float]:
            """The contrast of the left and the right end with the middle, in the lowest pixels."""
            pixels = imread(BytesIO(table.screenshot()))[-3:, :, :3]
            paper = pixels[:, pixels.shape[1] // 2]
            return float(abs(pixels[:, 0] - paper).max()), float(abs(pixels[:, -1] - paper).max())

        left, right = edges()
        assert left < 0.05 < 0.1 < right
        table.evaluate("one => one.scrollTo(one.scrollWidth, 0)")
        left, right = edges()
        assert right < 0.05 < 0.1 < left


@pytest.mark.parametrize("kind", some_slow(["number", "labels", "text", "sizes"], quick=["number", "text"]))
def test_pages_of_other_kinds_of_task_fit_too(chromium: Browser, tmp_path: Path, kind: str) -> None:
    if kind == "sizes":
        made = [
            answering(method, range(size // 4), train_examples=size, key=f"{method}-{size}")
            for size in (64, 256, 1024)
            for method in ("full", "lora")
        ]
    elif kind == "text":
        made = [texts(method, seed=seed) for method in ("full", "lora", "zero-shot") for seed in (0, 1)]
        for one in made:
            one.predictions.outputs[0], one.predictions.outputs[12] = LONG, HOSTILE
    else:
        names = {"label_names": (HOSTILE, LONG, "c")} if kind == "labels" else {}
        made = [of_kind(kind, method, seed=seed, **names) for method in ("full", "lora", "baseline") for seed in (0, 1)]
    made[0].record.ceiling["pearson"] = 0.9
    path, shown = tmp_path / "report.html", EvaluationTexts([HOSTILE, LONG] * (TEXTS // 2), "sha256:d1")
    path.write_text(Report.of(results(made), shown).page(), encoding="utf-8")
    for width in WIDTHS:
        with viewed(chromium, path, width, "light") as view:
            assert view.page.evaluate("document.scrollingElement.scrollWidth") <= width
            shapes = view.page.evaluate(SHAPES)
            titles = view.page.evaluate("[...document.querySelectorAll('h2')].map(one => one.textContent)")
        assert view.said == []
        assert all(150 < wide <= width for wide, *_ in shapes)
    wanted = {"number": "Predicted against given", "labels": "Label by label", "sizes": "How many labels"}
    wanted |= {"text": "Examples"}
    assert wanted[kind] in titles


def test_what_a_page_says_and_asks_for_is_heard(chromium: Browser, tmp_path: Path) -> None:
    """So that the silence above means something."""
    loud = tmp_path / "loud.html"
    loud.write_text(
        "<script>console.log('told')</script><script>throw new Error('thrown')</script>"
        "<img src='http://127.0.0.1:9/x.png'>"
    )
    with viewed(chromium, loud, 1280, "light") as view:
        assert {"told", "thrown"} <= set(view.said)
        assert any("ERR_" in one for one in view.said)
        assert "http://127.0.0.1:9/x.png" in view.asked


def test_single_seeds_are_folded_open_by_a_key_and_are_all_on_paper(chromium: Browser, page: Path) -> None:
    with viewed(chromium, page, 360, "dark") as view:
        folded = view.page.locator("details")
        assert folded.count() >= 3
        behind = folded.first.locator("tbody tr").first
        assert not behind.is_visible()
        folded.first.locator("summary").focus()
        view.page.keyboard.press("Enter")
        assert behind.is_visible()
        assert view.page.evaluate("document.scrollingElement.scrollWidth") <= 360
        view.page.keyboard.press("Enter")
        assert not view.page.evaluate("document.querySelector('details tr').checkVisibility()")
        assert view.page.pdf().startswith(b"%PDF")
        view.page.emulate_media(media="print")
        assert view.page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
        assert view.page.evaluate("[...document.querySelectorAll('details tr')].every(one => one.checkVisibility())")
