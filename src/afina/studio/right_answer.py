"""The right answer to a text, as a form of the pages Try and Label gives it and as corrections have it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from numbers import Integral

from afina.pages.marked_text import MarkedText
from afina.schema import is_number
from afina.studio import problems
from afina.studio.answer_kinds import ANSWER_KINDS
from afina.studio.forms import Form


def lined(text: str) -> str:
    """Return a text with the line ends of files; those of forms are CR LF."""
    return text.replace("\r\n", "\n")


def right_answer(form: Form, kind: str, labels: Sequence[str], separator: str, text: str) -> str:
    """Return the right answer to a text. Raises InvalidData for none, and for one that the project cannot have."""
    right, answered = form.get("label"), ANSWER_KINDS[kind]
    if answered.has_several:
        return separator.join(one for number, one in enumerate(labels) if form.get(f"label-{number}"))
    if answered.is_number:
        form.number("label")
    if not right:
        raise problems.FIELD_MISSING(field="label")
    if answered.has_one_label and labels and right not in labels:
        raise problems.LABEL_MISSING(label=right, expected=list(labels)[:20])
    return _entities(right, text, labels) if answered.marks_text else lined(right)


def _entities(given: str, text: str, labels: Sequence[str]) -> str:
    """Return the entities of a correction as they are kept, in the order of their places.

    Raises InvalidData if they are no JSON, do not fit the text, or have other labels than `labels`.
    """
    try:
        found = json.loads(given)
        if not isinstance(found, list):
            raise TypeError(f"expected a list, found {found!r}")
        if not all(is_number(one[place], Integral) for one in found for place in ("start", "end")):
            raise TypeError("expected whole numbers as places")
        spans = [{"start": one["start"], "end": one["end"], "label": str(one["label"])} for one in found]
        MarkedText.of_json(text, spans)
    except (ValueError, TypeError, KeyError):
        raise problems.ENTITIES_MALFORMED(found=given, expected=list(labels)) from None
    if not {one["label"] for one in spans} <= {*labels}:
        raise problems.ENTITIES_MALFORMED(found=given, expected=list(labels))
    return json.dumps(sorted(spans, key=lambda one: one["start"]), ensure_ascii=False)
