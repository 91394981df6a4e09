"""Routes of the page. The page itself, its script and its style say nothing of anyone, and ask for no key."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from fastapi import APIRouter, Request, Response

from afina.errors import Busy, NotFound
from afina.server.answer_formats import ANSWER_FORMATS
from afina.server.http.asking import core_of, desk_of, each, given, key_of
from afina.server.http.bodies import Body
from afina.server.http.described import described, still
from afina.server.http.page import rendered
from afina.server.http.page.rendered import Card
from afina.server.http.protocols import native
from afina.server.http.refusal import Refusal
from afina.server.requests import ServedAnswer, Text
from afina.store.versions import PRODUCTION, NameSummary

MOST = 64
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

PAGE = partial(described, "page", native.ERROR)

router = APIRouter()


class Sentence(Body):
    """What is typed into the page."""

    text: str


def _html(content: str) -> Response:
    return Response(content, media_type="text/html", headers=HEADERS)


@router.get("/", **still("page", "text/html"))
async def page(request: Request) -> Response:
    """The page: a sentence, and what every adapter of a client says of it."""
    return _html(rendered.whole())


@router.get("/page/script.js", **still("page", "text/javascript"))
async def script(request: Request) -> Response:
    """The page's script."""
    return Response(rendered.static("script.js"), media_type="text/javascript", headers=HEADERS)


@router.get("/page/style.css", **still("page", "text/css"))
async def style(request: Request) -> Response:
    """The page's style."""
    return Response(rendered.static("style.css"), media_type="text/css", headers=HEADERS)


@router.post("/page/answers", **PAGE(None, Sentence, EXAMPLE, media="text/html"))
async def answers(request: Request) -> Response:
    """What every adapter of the caller's client says of a text, as a part of the page: production's, or the newest."""
    body = await given(request, Sentence)
    listed = await _listed(request)
    asked = listed[:MOST]
    found = await each(request, [(_served(one), [Text(body.text)]) for one in asked])
    refused = [one for one in found if isinstance(one, Refusal)]
    if refused and len(refused) == len(found) and refused[0].status in OF_THE_TEXT:
        raise refused[0]
    cards = [_card(one, outcome) for one, outcome in zip(asked, found, strict=True)]
    return _html(rendered.answers(cards, len(listed) - len(asked)))


@router.get("/page/figures", **PAGE(media="text/html"))
async def figures(request: Request) -> Response:
    """What the server does for the caller's client at the moment, as a part of the page."""
    core, client = core_of(request), key_of(request).client
    return _html(rendered.figures(core.metrics.throughput.rates(client), core.batching.waiting_of(client)))


async def _listed(request: Request) -> Sequence[NameSummary]:
    """The tasks of the caller's client that are to be asked."""
    core, key = core_of(request), key_of(request)
    try:
        return await desk_of(request).look(key, core.store.list, key.client)
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
