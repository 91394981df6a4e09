"""The system's Chromium without a window, driven by playwright; it downloads no browser of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find() -> str | None:
    """The program, from AFINA_BROWSER or the PATH."""
    named = os.environ.get("AFINA_BROWSER")
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)


@contextmanager
def opened(program: str) -> Iterator[Browser]:
    """The browser, for as long as the block lasts."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        try:
            yield browser
        finally:
            browser.close()


class View:
    """One page in a window of `width` by 800 pixels, with that colour scheme preferred.

    said   what the console was told, and errors that no script caught
    asked  addresses of all that was asked for, the page among them
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))


@contextmanager
def viewed(browser: Browser, what: Path | str, width: int, scheme: Literal["light", "dark"]) -> Iterator[View]:
    """A file or a URL, loaded, in a profile of its own."""
    mobile = width < 600
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, is_mobile=mobile, service_workers="block"
    )
    try:
        view = View(context.new_page())
        view.page.goto(what if isinstance(what, str) else what.absolute().as_uri(), wait_until="load")
        yield view
    finally:
        context.close()
