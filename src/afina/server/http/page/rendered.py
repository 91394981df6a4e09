"""Rendered: facts to HTML. Names and labels are a client's, so jinja2 escapes all that goes in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined

from afina.server.answer_formats import LabelScore
from afina.server.metrics import WINDOW, Rates

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


def whole() -> str:
    """The page, which says nothing of anyone."""
    return _environment().get_template("page.html.j2").render()


def answers(cards: Sequence[Card], beyond: int) -> str:
    """What tasks say of a text, a fragment; beyond: how many more there are."""
    return _environment().get_template("answers.html.j2").render(cards=cards, beyond=beyond, shown=SHOWN)


def figures(rates: Rates, waiting: int) -> str:
    """What the server does for a client, a fragment; waiting: texts."""
    template = _environment().get_template("figures.html.j2")
    return template.render(rates=rates, waiting=waiting, window=WINDOW)


@cache
def static(name: str) -> str:
    """A file that stands beside this one."""
    return (files("afina.server.http.page") / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    return Environment(
        loader=FunctionLoader(static),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
