"""The server's web page at `/`, which shows the answers of all adapters of a client to a text, and the throughput.

Names and labels come from clients, so jinja2 escapes all values in the HTML. The page, its style sheet (in
`page_files`) and its script (in `afina.pages`) contain no data of any client, and need no API key.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache

from fastapi import Response
from jinja2 import Environment
from pydantic import Field

from afina.data.kinds import CLASSES
from afina.errors import AfinaError
from afina.pages import html
from afina.pages.marked_text import MarkedText
from afina.server import routes
from afina.server.answer_formats import ANSWER_FORMATS, LabelScore
from afina.server.core import Core
from afina.server.http.bodies import Body, Readable
from afina.server.http.calls import Called
from afina.server.http.refusals import Refusal
from afina.server.http.routing import ProtocolRouter
from afina.server.json_shapes import TEXT
from afina.server.metrics import WINDOW, Rates
from afina.server.requests import ServedAnswer, Text
from afina.store.api_keys import Key
from afina.store.versions import PRODUCTION, NameSummary

SHOWN = 8
"""The number of a task's labels that the web page shows at first. The user can unfold the other labels."""

TERMS: dict[str, str] = {
    "adapter": "The weights that a training changed or added for one task. The server uses them with its pretrained "
    "model.",
    "client": "The owner of adapters and keys. A key shows only the adapters of its own client.",
    "key": "The secret that a client sends with each request. The operator of the server makes keys with "
    "`afina keys create`.",
    "version": "A published adapter of a task. Versions are numbered from 1, and a version never changes.",
    "alias": "A name that points to one version of a task, and that can be moved to another version. The alias "
    "`production` points to the version that answers. Without this alias, the newest version answers.",
    "receipt": "The version, the precision and the settings that wrote a text, without the text. `afina replay` writes "
    "the text again from its receipt.",
    "entity": "A part of the text that an adapter has found, with a label. Its percentage is the mean probability of "
    "its words' tags.",
    "not answered": "An adapter that was trained with `--abstain-error` answers only if it is sure enough. Otherwise "
    "the page shows its best guess.",
    "cut": "An adapter reads a limited number of tokens. The part of the text beyond this limit has no influence on "
    "the answer.",
    "Requests/s": "HTTP requests of your client per second.",
    "Texts/s": "Texts that were computed for your client per second. A text counts once for each adapter that answers.",
    "Tokens/s": "Tokens that were computed for your client per second. A token is a word or a part of a word.",
    "Waiting texts": "Texts of your client in the queue of the server.",
}
"""The glossary of the web page: definitions of its terms, in the order of the page."""


@dataclass(frozen=True)
class Card:
    """The answer of one task on the web page.

    Attributes:
        name: the name of the task's model, `client/task`.
        version: the number of the version that answered or failed.
        aliases: the aliases that point to this version.
        labels: the answer in words: one label, several labels, or a number.
        scores: the labels with their probabilities, the highest first; empty for regression.
        cut: whether the text was truncated to the adapter's maximum length.
        answered: whether the adapter is sure enough to answer; if not, `labels` is its best guess.
        problem: why there is no answer. None: there is an answer.
        marked: the text with marks at the entities of the answer. None: the answer is in `labels`.
        model: the version whose generated answer the page's script requests as a stream. None: the answer is in
            `labels`.
    """

    name: str
    version: int
    aliases: Sequence[str]
    labels: Sequence[str] = ()
    scores: Sequence[LabelScore] = ()
    cut: bool = False
    answered: bool = True
    problem: str | None = None
    model: str | None = None
    marked: MarkedText | None = None


def render_page() -> str:
    """Return the web page as HTML. The page contains no data of any client."""
    return _environment().get_template("page.html.j2").render(terms=TERMS)


def render_answers(cards: Sequence[Card], beyond: int) -> str:
    """Return the answers of tasks as an HTML fragment. `beyond`: the number of tasks that were left out."""
    return _environment().get_template("answers.html.j2").render(cards=cards, beyond=beyond, shown=SHOWN)


def render_throughput(rates: Rates, waiting: int) -> str:
    """Return the server's throughput for a client as an HTML fragment.

    `waiting`: the number of the client's texts in the queue.
    """
    template = _environment().get_template("figures.html.j2")
    return template.render(rates=rates, waiting=waiting, window=WINDOW)


@cache
def _environment() -> Environment:
    return html.environment("afina.server.protocols", "page_files", anchor=_anchor)


@cache
def _style() -> str:
    return _environment().get_template("style.css").render()


def _anchor(term: str) -> str:
    """Return the HTML id of a glossary term's definition. Raises KeyError for a word without a definition."""
    if term not in TERMS:
        raise KeyError(term)
    return f"term-{term.lower().replace(' ', '-').replace('/', '-per-')}"


MOST_TASKS = 64
"""The largest number of tasks that answer a text on the web page. These are the first tasks by name."""

OF_THE_TEXT = (422, 429)
"""The HTTP statuses of errors that concern the text or the rate limit, and not a single task."""

EXAMPLE = {"text": "It broke on the second day."}

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Security headers of the web page.

Because of the security headers, the browser loads nothing from another origin, ignores inline scripts and styles, and
does not let other pages embed or open this page.
"""

router = ProtocolRouter()

_FILE = 200, "The file.", TEXT


class GlossarySentence(Body):
    """The text that the user typed into the web page."""

    text: Readable = Field(description="the text that the adapters answer")


def _html(content: str) -> Response:
    return Response(content, media_type="text/html", headers=HEADERS)


@router.answers_all(routes.HOME, _FILE, media="text/html")
async def page(call: Called) -> Response:
    """Return the web page, on which a user enters a text and sees the answer of each adapter. Needs no key."""
    return _html(render_page())


@router.answers_all(routes.SCRIPT, _FILE, media="text/javascript")
async def script(call: Called) -> Response:
    """Return the script of the web page. Needs no key."""
    return Response(html.shared("script.js"), media_type="text/javascript", headers=HEADERS)


@router.answers_all(routes.STYLE, _FILE, media="text/css")
async def style(call: Called) -> Response:
    """Return the style sheet of the web page. Needs no key."""
    return Response(_style(), media_type="text/css", headers=HEADERS)


@router.answers(routes.PAGE_ANSWERS, None, GlossarySentence, EXAMPLE, media="text/html")
async def answers(call: Called) -> Response:
    """Return the answers of the models of the key's client (at most 64) to a text, as HTML for the web page.

    Each model answers with its version in production, or with its newest version if none is in production. The card of
    a text-to-text model is empty, and the page's script requests the answer from `/v1/completions` as a stream.
    """
    body = await call.body(GlossarySentence)
    listed = await call.look(call.core.listed, call.key)
    shown = listed[:MOST_TASKS]
    streamed = await call.look(_streamed, call.core, call.key, shown)
    whole = [one for one in shown if one.name not in streamed]
    found = await call.each([call.asks(_served(one), [Text(body.text)]) for one in whole])
    refused = [one for one in found if isinstance(one, Refusal)]
    if refused and len(refused) == len(found) and refused[0].status in OF_THE_TEXT:
        raise refused[0]
    cards = {one.name: _card(one, outcome) for one, outcome in zip(whole, found, strict=True)} | streamed
    return _html(render_answers([cards[one.name] for one in shown], len(listed) - len(shown)))


@router.answers(routes.PAGE_FIGURES, media="text/html")
async def figures(call: Called) -> Response:
    """Return the server's current throughput for the key's client, as an HTML fragment for the web page."""
    core, client = call.core, call.key.client
    return _html(render_throughput(core.metrics.throughput.rates(client), core.batching.waiting_of(client)))


def _served(one: NameSummary) -> str:
    return f"{one.name}@{PRODUCTION if PRODUCTION in one.aliases else one.newest}"


def _streamed(core: Core, key: Key, asked: Sequence[NameSummary]) -> dict[str, Card]:
    """Return an empty card for each text-to-text task, by the task's name. The page's script fills in the answer."""
    cards = {}
    for one in asked:
        with suppress(AfinaError):  # the task is asked with the others, and its refusal says why
            version = core.version(key, _served(one))
            kind = (version.manifest.get("objective") or {}).get("kind", CLASSES)
            if kind in ANSWER_FORMATS and ANSWER_FORMATS[kind].streams:
                cards[one.name] = Card(one.name, version.number, _aliases(one, version.number), model=str(version))
    return cards


def _card(one: NameSummary, found: Sequence[ServedAnswer] | Refusal) -> Card:
    if isinstance(found, Refusal):
        number = one.aliases.get(PRODUCTION, one.newest)
        return Card(one.name, number, _aliases(one, number), problem=found.message)
    (answer,) = found
    number = int(answer.receipt.version.rpartition("@")[2])
    made, written = answer.prediction, ANSWER_FORMATS[answer.objective.kind]
    said, ranked = written.on_the_page(answer.objective, made)
    card = Card(one.name, number, _aliases(one, number), said, ranked, made.truncated, made.is_answered)
    return replace(card, marked=written.marked(made, answer.text))


def _aliases(one: NameSummary, number: int) -> Sequence[str]:
    return [alias for alias, to in one.aliases.items() if to == number]
