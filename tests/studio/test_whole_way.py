"""The tutorial "In a browser" is clicked through, from a dropped file to a served adapter that answers a curl."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from afina import Task, assets
from afina.errors import NotFound
from afina.studio.command_process import CommandProcess
from command import PROGRAM
from fakes import write_csv
from pages import ROOT
from servers import within
from services import free_port

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.assets]

TUTORIAL = ROOT / "docs" / "tutorials" / "in-a-browser.md"
MINUTES = "4"
"""On a busy machine, what fits in memory alone takes more than a minute, and no language model is trained in two."""

LONG_MS = 400_000
"""Milliseconds that a run of MINUTES may take on a busy machine."""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The address that `afina studio` prints; all processes of the studio end with the test."""
    try:
        assets.fetch("smollm2")
        assets.fetch("snippets")
    except NotFound as error:
        pytest.skip(str(error))
    command = [*PROGRAM, "studio", str(tmp_path / "studio"), "--port", str(free_port())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[1]
        finally:
            process.terminate()
            process.wait(30)
            kept = [*(tmp_path / "studio").glob("*/processes/*"), tmp_path / "studio" / ".studio" / "server"]
            for one in map(CommandProcess, kept):
                one.kill()
                assert within(30, lambda: not one.is_running)  # noqa: B023 - called at once


class Reader:
    """Somebody who reads the tutorial and presses what stands there in bold, in its order."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.bold = re.findall(r"\*\*(.+?)\*\*", TUTORIAL.read_text(encoding="utf-8"))

    def press(self, name: str) -> None:
        """Press a button or follow a link, which has to be the next one in the tutorial."""
        assert self.bold.pop(0) == name
        button = self.page.get_by_role("button", name=name, exact=True)
        link = self.page.get_by_role("link", name=name, exact=True)
        button.or_(link).first.click(timeout=LONG_MS)


def test_from_a_dropped_file_to_a_served_adapter_that_answers_a_curl(
    chromium: Browser, address: str, tmp_path: Path
) -> None:
    file = tmp_path / "reviews.csv"
    movies = Task.load("snippets:movies")
    rows = [*zip(movies.train.texts, movies.train.labels, strict=True)]
    of_each = [[row for row in rows if row[1] == label][:75] for label in (0, 1)]
    write_csv(file, [(text, movies.label_names[label]) for pair in zip(*of_each, strict=True) for text, label in pair])
    page = chromium.new_context().new_page()
    page.goto(address)
    assert "token" not in page.url
    reader = Reader(page)
    assert reader.bold.pop(0) == "Open the example"
    page.set_input_files("input[type=file]", str(file))
    reader.press("Make the project")
    reader.press("Go on: plan")
    reader.press("Go on: start a run")
    expect(page.get_by_label("embedded")).to_be_checked()
    page.get_by_role("spinbutton", name="Minutes").fill(MINUTES)
    reader.press("Start")
    reader.press("Read the answer")
    expect(page.get_by_role("heading", level=1)).to_contain_text("accuracy", timeout=LONG_MS)
    reader.press("Go on: keep and serve the adapter")
    reader.press("Publish")
    reader.press("Start the server")
    expect(page.get_by_text("The server runs at")).to_be_visible(timeout=LONG_MS)
    reader.press("Create the key")
    expect(page.get_by_role("heading", name="The new key")).to_be_visible(timeout=LONG_MS)
    page.wait_for_load_state()  # a click ends when the next page has begun, and the browser may have read a part of it
    export = page.locator("pre", has_text=re.compile("^export AFINA_KEY=")).text_content()
    curl = page.locator("pre", has_text=re.compile("^curl ")).text_content()

    def answers() -> bool:
        done = subprocess.run(["bash", "-c", f"{export}\n{curl}"], capture_output=True, text=True, check=True)
        return re.search('"label": ?"(negative|positive)"', done.stdout) is not None

    assert within(20, answers), "the server knows a new key after about a second"
    reader.press("Try")
    page.get_by_label("Text", exact=True).fill("a bright film")
    reader.press("Ask")
    expect(page.get_by_role("article").first).to_contain_text("%", timeout=LONG_MS)
    reader.press("Data")
    assert reader.bold == []
