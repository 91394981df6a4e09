"""Page: an address, the facts that are shown there (a frozen dataclass), and the template that shows them.

`PageRouter` gives each page a twin in JSON with the same facts at the same address with `.json`. A form of a page
changes something and leads to an address; an error is shown on the page of the form. The module does not know the
pages.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Protocol

from jinja2 import Environment
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from afina.data.addresses import own_path, reads_files
from afina.errors import AfinaError
from afina.pages.html import environment
from afina.pages.marked_text import MarkedText
from afina.report.formatting import size
from afina.report.plots import svg
from afina.report.progress import clock
from afina.studio import problems
from afina.studio.access import Access, status_of
from afina.studio.folder import Project, StudioFolder
from afina.studio.forms import Form, read_form
from afina.studio.option_labels import label
from afina.studio.run_queue import RunQueue

LIVE_SECONDS = 0.7
"""Seconds between two looks at what a live part shows."""

MOST_ONCE = 20
"""Answers of forms that wait to be shown once."""

STEPS = {"data": "Data", "plan": "Plan", "runs": "Runs", "try": "Try", "keep": "Keep and serve"}
"""The titles of the pages of a project, in the order of the way; each page is at `/PROJECT/STEP`."""


@dataclass
class Studio:
    """The state that all pages share: the folder, who may use it, and the runs."""

    folder: StudioFolder
    access: Access
    queue: RunQueue
    upload_limit: int
    files: Path | None = None
    """The folder whose paths the pages may name; None: every path if only this machine reaches it, else none."""
    closing: bool = False
    once: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Content that a page shows once, such as a new key, by the random name in the address of the page."""


@dataclass(frozen=True)
class Visit:
    """A request for a page: the studio, and the query of the address."""

    studio: Studio
    query: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> StudioFolder:
        return self.studio.folder

    def project(self, name: str) -> Project:
        """Return the project of this name. Raises NotFound."""
        return self.studio.folder.project(name)

    def check_path(self, path: str, project: Project | None = None) -> None:
        """Raise Refused for a path outside of `Studio.files` and of the project; the error does not say what is there.

        A studio that other machines can reach reads no other path for them.
        """
        folder = self.studio.files
        if folder is None and self.studio.access.local:
            return
        allowed = [one for one in (folder, project.directory if project else None) if one is not None]
        if not any(Path(path).expanduser().resolve().is_relative_to(one.resolve()) for one in allowed):
            raise problems.PATH_OUTSIDE(found=path, _folder="no folder" if folder is None else f"only {folder}")

    def check_address(self, address: str) -> None:
        """Raise Refused for the address of a task that reads a file outside of `Studio.files`."""
        if reads_files(address):
            self.check_path(str(own_path(address)))


class Facts(Protocol):
    """The facts that a page shows: a frozen dataclass. `command`: the command line that gives the same."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def command(self) -> str: ...


class ComputedFacts:
    """Facts that a command computes: its answer `found`, or the `problem` that kept the command from an answer."""

    found: Mapping[str, Any] | None
    problem: str

    @property
    def is_final(self) -> bool:
        return self.found is not None or bool(self.problem)


class LiveFacts(Facts, Protocol):
    """Facts that change while the page is open, until they are final."""

    @property
    def is_final(self) -> bool: ...


@dataclass(frozen=True)
class ShownOnce:
    """The answer of a form that its page shows once, such as a new key: loading the page anew does not show it."""

    values: Mapping[str, Any]


Show = Callable[..., Facts]
Act = Callable[..., str | ShownOnce]
Answer = Callable[..., Response]


class PageRouter:
    """The routes of a page: HTML, JSON, forms, live parts and downloads."""

    def __init__(self) -> None:
        self.routes: list[Route] = []
        self._paths: dict[Show, str] = {}

    def page(self, path: str, template: str, *, twin: bool = True) -> Callable[[Show], Show]:
        """Return a decorator of the function that returns a page's facts for a visit and the parts of the path.

        `twin`: the facts are the JSON at `path` + `.json`; else the page has a route of its own for it.
        """

        def added(show: Show) -> Show:
            async def html(request: Request) -> Response:
                facts, once = await _shown(request, show), None
                if request.method == "GET":
                    once = studio_of(request).once.pop(request.query_params.get("once", ""), None)
                again = "" if once is None else path_of(request)
                return HTMLResponse(render(template, request, facts, again=again, **(once or {})))

            async def facts(request: Request) -> Response:
                return json_answer(asdict(await _shown(request, show)))

            if twin:
                self.routes.append(Route("/index.json" if path == "/" else f"{path}.json", facts))
            self.routes.append(Route(path, html))
            self._paths[show] = path
            return show

        return added

    def form(self, path: str, page: Show, template: str) -> Callable[[Act], Act]:
        """Return a decorator of the function that does what a form asks for, and returns the address to go on at.

        A function that returns ShownOnce leads to the page of the form, whose template gets the values once. `page` and
        `template` are those of the page with the form, which is shown again with an error.
        """
        where = self._paths[page]

        def added(act: Act) -> Act:
            async def answer(request: Request) -> Response:
                studio, again = studio_of(request), where.format(**request.path_params)
                form = Form()
                try:
                    form = await read_form(request, studio.folder, studio.upload_limit)
                    found = await asyncio.to_thread(act, _visit(request), form, **request.path_params)
                    if isinstance(found, ShownOnce):
                        name = secrets.token_urlsafe(16)
                        studio.once = dict([*studio.once.items(), (name, found.values)][-MOST_ONCE:])
                        found = f"{again}?once={name}"
                except AfinaError as error:
                    facts = await _shown(request, page)
                    text = render(template, request, facts, problem=error.said(label), again=again)
                    return HTMLResponse(text, status_of(error))
                finally:
                    form.drop()
                return RedirectResponse(found, 303)

            self.routes.append(Route(path, answer, methods=["POST"]))
            return act

        return added

    def live(self, path: str, template: str) -> Callable[[Show], Show]:
        """Return a decorator of the function whose facts are sent as HTML with each change, as server-sent events."""

        def added(show: Show) -> Show:
            async def stream(request: Request) -> Response:
                first = await _shown(request, show)  # an error has its status before the stream begins
                if request.method == "HEAD":
                    return Response(media_type=EVENTS)
                return StreamingResponse(_events(request, show, template, first), media_type=EVENTS)

            self.routes.append(Route(path, stream))
            return show

        return added

    def answers(self, path: str) -> Callable[[Answer], Answer]:
        """Return a decorator of the function that returns a whole response, such as a download."""

        def added(make: Answer) -> Answer:
            async def answer(request: Request) -> Response:
                return await asyncio.to_thread(make, _visit(request), **request.path_params)

            self.routes.append(Route(path, answer))
            return make

        return added


EVENTS = "text/event-stream"

END = "event: end\ndata: end\n\n"
"""The last event of a live part: the page is loaded anew, unless it answers a form."""


async def _events(request: Request, show: Show, template: str, facts: Any) -> AsyncIterator[str]:
    """Yield a live part as HTML with each change, until it is final, or until the studio ends."""
    last: str | None = None  # a live part that is empty at once replaces what the page was sent with
    studio = studio_of(request)
    while not studio.closing:
        text = render(template, request, facts)
        if text != last:
            yield "".join(f"data: {line}\n" for line in text.splitlines() or [""]) + "\n"
        last = text
        if facts.is_final:
            yield END
            return
        await asyncio.sleep(LIVE_SECONDS)
        try:
            facts = await _shown(request, show)
        except AfinaError:  # such as a project that was removed; the page says it
            yield END
            return


def download(path: Any, name: str) -> Response:
    """Return a file as a download."""
    return FileResponse(path, filename=name, content_disposition_type="attachment")


def studio_of(request: Request) -> Studio:
    """Return the studio that answers a request."""
    found: Studio = request.app.state.studio
    return found


def _visit(request: Request) -> Visit:
    return Visit(studio_of(request), dict(request.query_params))


async def _shown(request: Request, show: Show) -> Facts:
    return await asyncio.to_thread(show, _visit(request), **request.path_params)


def json_answer(content: Any, status: int = 200) -> Response:
    """Return JSON values as a response."""
    text = json.dumps(_finite(content), ensure_ascii=False, default=str, allow_nan=False)
    return Response(_encodable(text), status, media_type="application/json")


def _finite(content: Any) -> Any:
    """Return JSON content with null for numbers that are NaN or infinite, which JSON does not have."""
    if isinstance(content, Mapping):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not isfinite(content) else content


def path_of(request: Request) -> str:
    """Return the path of a request; that of `request.url` also depends on the header `Host`, which anybody chooses."""
    path: str = request.scope["path"]
    return path


def render(
    template: str, request: Request, facts: Facts | None = None, problem: str = "", again: str = "", **more: Any
) -> str:
    """Return a page as HTML. Characters that UTF-8 does not have, as in some names of files, become `?`.

    `again`: the address of the page if this is the answer to a form of the page, or shown once; else empty.
    """
    path = path_of(request).strip("/").split("/")
    values = {"facts": facts, "problem": _sentence(problem), "again": again, "path": path, "steps": STEPS, **more}
    values["base"] = str(request.base_url)
    return _encodable(_environment().get_template(template).render(values))


_FIRST_WORD = re.compile(r"[a-z]+ ")


def _sentence(message: str) -> str:
    """Return the message of an error with a capital, unless it begins with a name, such as that of a file."""
    return message[0].upper() + message[1:] if _FIRST_WORD.match(message) else message


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def error_answer(request: Request, error: AfinaError, *, inside: bool = True) -> Response:
    """Return the page, or the JSON, that says an error. `inside`: the browser is signed in."""
    status = status_of(error)
    if path_of(request).endswith(".json"):
        return json_answer({"error": error.as_json(label)}, status)
    return HTMLResponse(render("problem.html.j2", request, problem=error.said(label), inside=inside), status)


def style() -> str:
    """Return the style sheet of all pages."""
    return _environment().get_template("style.css.j2").render()


_STYLE_ELEMENT = re.compile(r"<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL)


def _drawn(svg: str) -> Markup:
    """Return a plot of the library as markup, without the style element that the policy of the pages refuses."""
    return Markup(_STYLE_ELEMENT.sub("", svg))


def _marked_text(found: Mapping[str, Any]) -> MarkedText:
    """Return a text with marked spans that was read from JSON."""
    return MarkedText.of_json(found["text"], found["marks"])


@cache
def _environment() -> Environment:
    made = environment("afina.studio", "templates", size=size, clock=clock, drawn=_drawn, marked_text=_marked_text)
    made.globals |= {"light": svg.LIGHT, "dark": svg.DARK}
    return made
