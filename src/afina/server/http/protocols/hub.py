"""Hugging Face's text-classification task: `POST /models/CLIENT/TASK`, as `InferenceClient` sends it to a URL.

The clients of the Hub take the first of what comes, so a single text has an array around its scores too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from afina.errors import InvalidData
from afina.server.answer_formats import ANSWER_FORMATS
from afina.server.http.schemas import RANKED_SCORES, TEXT, Array, Body, array, record
from afina.server.requests import ServedAnswer, Text

EXAMPLE = {"inputs": "It broke on the second day.", "parameters": {"top_k": 1}}

ANSWER = array(RANKED_SCORES)
ERROR = record({"error": TEXT})


class Parameters(Body):
    """What it may ask for."""

    top_k: int | None = Field(None, ge=1)
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None


class Classification(Body):
    """A request."""

    inputs: str | Array[str]
    parameters: Parameters | None = None


def texts(body: Classification) -> Sequence[Text]:
    """One or several."""
    return [Text(one) for one in ([body.inputs] if isinstance(body.inputs, str) else body.inputs)]


def answered(body: Classification, answers: Sequence[ServedAnswer]) -> Any:
    """A response. Raises InvalidData for a function that the adapter's kind has not."""
    asked = body.parameters or Parameters(top_k=None, function_to_apply=None)
    own = ANSWER_FORMATS[answers[0].objective.kind].function
    if asked.function_to_apply not in (None, "none", own):
        raise InvalidData(
            f"`function_to_apply` {asked.function_to_apply}: this model has {own} or none.",
            code="request.malformed",
            option="function_to_apply",
            found=asked.function_to_apply,
            known=[own],
        )
    raw = asked.function_to_apply == "none" and own != "none"
    return [one.ranked(raw=raw, most=asked.top_k) for one in answers]


def error(status: int, kind: str, message: str) -> dict[str, Any]:
    """What is said instead."""
    return {"error": message}
