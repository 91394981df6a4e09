"""Visitors of a studio: a studio that answers on its port, and browsers that are signed in."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from afina.studio import app
from afina.studio.page import Studio


@contextmanager
def answering(studio: Studio) -> Iterator[None]:
    """The studio answers in a thread of this process, at the address of its access."""
    ready = threading.Event()
    sockets = app.listen(studio.access.host, studio.access.port)
    server = app.server(studio, ready.set)
    thread = threading.Thread(target=server.run, args=([*sockets],))
    thread.start()
    try:
        assert ready.wait(60)
        yield
    finally:
        studio.closing = server.should_exit = True
        thread.join(60)
        for one in sockets:
            one.close()


def violations(page: Page) -> list[tuple[str, list[str]]]:
    """What axe-core finds, with the first elements."""
    found = Axe().run(page).response["violations"]
    return [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found]


class Visitor:
    """A page that is signed in; what the console said, and what was asked for elsewhere."""

    def __init__(self, browser: Browser, studio: Studio, width: int, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        base = studio.access.address
        self.context.add_cookies([{"name": studio.access.cookie, "value": studio.access.open_session(), "url": base}])
        self.page, self.base = self.context.new_page(), base
        self.said: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self._asked(request.url))

    def _asked(self, url: str) -> None:
        if not url.startswith((self.base, "data:")):
            self.elsewhere.append(url)

    def go(self, path: str) -> Page:
        self.page.goto(self.base + path, wait_until="load")
        return self.page
