"""The page at `/`: what all adapters of a client say of a sentence, and what the server does. Knows no model.

Names and labels are a client's, so jinja2 escapes all that goes in. The page itself, its script and its style (in
`page_files`) say nothing of anyone, and ask for no key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files

from fastapi import APIRouter, Request, Response
from jinja2 import Environment, FunctionLoader, StrictUndefined

from afina.errors import Busy, NotFound
from afina.server.answer_formats import ANSWER_FORMATS, LabelScore
from afina.server.http import native
from afina.server.http.errors import Refusal
from afina.server.http.request_pool import body_of, core_of, each, key_of, pool_of
from afina.server.http.schemas import Body, describe, describe_file
from afina.server.metrics import WINDOW, Rates
from afina.server.requests import ServedAnswer, Text
from afina.store.versions import PRODUCTION, NameSummary

SHOWN = 8
"""Labels of a task that are shown at once; the others fold away."""


@dataclass(frozen=True)
class Card:
    """What one task says.

    name     `client/task`;  version  that answered, or that was asked
    aliases  those that point to it
    labels   what is said, in words: a label, several, or a number
    scores   a label and its probability, the highest first; empty where there are none
    cut      whether the text was longer than the adapter reads
    problem  why there is no answer, if there is none
    """

    name: str
    version: int
    aliases: Sequence[str]
    labels: Sequence[str] = ()
    scores: Sequence[LabelScore] = ()
    cut: bool = False
    problem: str | None = None


def render_page() -> str:
    """The page, which says nothing of anyone."""
    return _environment().get_template("page.html.j2").render()


def render_answers(cards: Sequence[Card], beyond: int) -> str:
    """What tasks say of a text, a fragment; beyond: how many more there are."""
    return _environment().get_template("answers.html.j2").render(cards=cards, beyond=beyond, shown=SHOWN)


def render_throughput(rates: Rates, waiting: int) -> str:
    """What the server does for a client, a fragment; waiting: texts."""
    template = _environment().get_template("figures.html.j2")
    return template.render(rates=rates, waiting=waiting, window=WINDOW)


@cache
def page_file(name: str) -> str:
    """A file of `page_files`."""
    return (files("afina.server.http") / "page_files" / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    return Environment(
        loader=FunctionLoader(page_file),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


MOST_TASKS = 64
"""Tasks that one text is asked of, by name."""

OF_THE_TEXT = (422, 429)
"""Status of refusals that say something of the text, or of how much was asked, and nothing of a task."""

EXAMPLE = {"text": "It broke on the second day."}

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Nothing is loaded from elsewhere, no script or style stands in the page, no other page holds or opens it."""

PAGE = partial(describe, "page", native.ERROR)

router = APIRouter()


class Sentence(Body):
    """What is typed into the page."""

    text: str


def _html(content: str) -> Response:
    return Response(content, media_type="text/html", headers=HEADERS)


@router.get("/", **describe_file("page", "text/html"))
async def page(request: Request) -> Response:
    """The page: a sentence, and what every adapter of a client says of it."""
    return _html(render_page())


@router.get("/page/script.js", **describe_file("page", "text/javascript"))
async def script(request: Request) -> Response:
    """The page's script."""
    return Response(page_file("script.js"), media_type="text/javascript", headers=HEADERS)


@router.get("/page/style.css", **describe_file("page", "text/css"))
async def style(request: Request) -> Response:
    """The page's style."""
    return Response(page_file("style.css"), media_type="text/css", headers=HEADERS)


@router.post("/page/answers", **PAGE(None, Sentence, EXAMPLE, media="text/html"))
async def answers(request: Request) -> Response:
    """What every adapter of the caller's client says of a text, as a part of the page: production's, or the newest."""
    body = await body_of(request, Sentence)
    listed = await _listed(request)
    asked = listed[:MOST_TASKS]
    found = await each(request, [(_served(one), [Text(body.text)]) for one in asked])
    refused = [one for one in found if isinstance(one, Refusal)]
    if refused and len(refused) == len(found) and refused[0].status in OF_THE_TEXT:
        raise refused[0]
    cards = [_card(one, outcome) for one, outcome in zip(asked, found, strict=True)]
    return _html(render_answers(cards, len(listed) - len(asked)))


@router.get("/page/figures", **PAGE(media="text/html"))
async def figures(request: Request) -> Response:
    """What the server does for the caller's client at the moment, as a part of the page."""
    core, client = core_of(request), key_of(request).client
    return _html(render_throughput(core.metrics.throughput.rates(client), core.batching.waiting_of(client)))


async def _listed(request: Request) -> Sequence[NameSummary]:
    """The tasks of the caller's client that are to be asked."""
    core, key = core_of(request), key_of(request)
    try:
        return await pool_of(request).look(key, core.store.list, key.client)
    except NotFound:
        if not core.follows:
            raise Busy("the store does not answer.", code="server.store-silent") from None
        return []


def _served(one: NameSummary) -> str:
    return f"{one.name}@{PRODUCTION if PRODUCTION in one.aliases else one.newest}"


def _card(one: NameSummary, found: Sequence[ServedAnswer] | Refusal) -> Card:
    if isinstance(found, Refusal):
        number = one.aliases.get(PRODUCTION, one.newest)
        return Card(one.name, number, _aliases(one, number), problem=found.message)
    (answer,) = found
    number = int(answer.receipt.version.rpartition("@")[2])
    said, ranked = ANSWER_FORMATS[answer.objective.kind].on_the_page(answer.objective, answer.prediction)
    return Card(one.name, number, _aliases(one, number), said, ranked, answer.prediction.truncated)


def _aliases(one: NameSummary, number: int) -> Sequence[str]:
    return [alias for alias, to in one.aliases.items() if to == number]
