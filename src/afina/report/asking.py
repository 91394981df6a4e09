"""How the model was asked, in words: templates, label words. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from afina.studies.runs.record import Prompting


def settings(ask: Prompting) -> dict[str, object]:
    """What tells arms apart. `head` alone suffices to name two that differ in it."""
    found: dict[str, object] = {"head": "words" if ask.words else "random"}
    if ask.words:
        found["words"] = "; ".join(f"{name}: {','.join(given)}" for name, given in ask.words.items())
    if ask.template is not None:
        found["template"] = quoted(ask.template)
    if ask.offset is not None:
        found["offset"] = "yes"
    return found


def takes_pairs(ask: Prompting) -> bool:
    """Whether the template, if there is one, is for pairs of texts."""
    return "{text_pair}" in (ask.template or "")


def in_words(ask: Prompting) -> str:
    """What was asked and what may answer, as part of a sentence; empty where nothing was asked."""
    parts = []
    if ask.template is not None:
        parts.append(f"texts stand in {quoted(ask.template)}")
    if ask.words:
        answers = "; ".join(f"{name}: {', '.join(map(quoted, given))}" for name, given in ask.words.items())
        parts.append(f"the head begins as the output embeddings of words ({answers})")
    if ask.offset is not None:
        parts.append("outputs are shifted by " + ", ".join(f"{shift:+.2f}" for shift in ask.offset))
    return "; ".join(parts)


def notes(asked: Sequence[Prompting]) -> list[str]:
    """A line for each way of asking that there is."""
    said = dict.fromkeys(filter(None, map(in_words, asked)))
    return [f"Asked in words: {one}." for one in said]


def quoted(text: str) -> str:
    """In quotes, on one line."""
    return '"' + text.replace("\\", "\\\\").replace("\n", "\\n") + '"'
