"""The protocol of vLLM: `POST /classify`, and `GET /v1/models`, which its clients call first.

This module does not know how answers are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import Field

from afina.server.http.schemas import COUNT, NOTHING, NUMBER, TEXT, Array, Body, about, array, one_of, record
from afina.server.requests import ServedAnswer, Text
from afina.store.versions import NameSummary

EXAMPLE = {"model": "acme/reviews@production", "input": ["It broke on the second day.", "As good as they say."]}

_LABELLED = record(
    {
        "index": about(COUNT, "place of the text in `input`, from 0"),
        "label": about(TEXT, "the label with the highest probability"),
        "probs": about(array(NUMBER), "probabilities in the adapter's order of labels"),
        "num_classes": about(COUNT, "number of labels"),
    }
)
_USAGE = record(
    {
        "prompt_tokens": about(COUNT, "tokens of all texts of the request"),
        "total_tokens": about(COUNT, "same number as `prompt_tokens`"),
        "completion_tokens": about(COUNT, "always 0: no text is generated"),
        "prompt_tokens_details": about(NOTHING, "always null"),
    }
)
_LIST = about(one_of("list"), "type of the response in this protocol")
_HEAD = {
    "id": about(TEXT, "id of the request"),
    "object": _LIST,
    "created": about(COUNT, "seconds since 1970"),
    "model": about(TEXT, "model as in the request"),
}
ANSWER = record(
    {**_HEAD, "data": about(array(_LABELLED), "one answer per text"), "usage": about(_USAGE, "numbers of tokens")}
)
MODEL = record(
    {
        "id": about(TEXT, "client/task; for a single model, as in the request"),
        "object": about(one_of("model"), "type of the entry in this protocol"),
        "created": about(COUNT, "publication of the version, in seconds since 1970; in a list: of the newest"),
        "owned_by": about(TEXT, "client"),
    }
)
MODELS = record({"object": _LIST, "data": about(array(MODEL), "one entry per model")})
_PROBLEM = record(
    {
        "message": about(TEXT, "what is wrong and what to do"),
        "type": about(TEXT, "one word for programs"),
        "param": about(NOTHING, "always null"),
        "code": about(COUNT, "HTTP status"),
    }
)
ERROR = record({"error": about(_PROBLEM, "the error")})


class Classify(Body):
    """A request of vLLM's classification API. Token ids as input are not supported."""

    model: str = Field(description="client/task, client/task@alias or client/task@version")
    input: str | Array[str] = Field(description="one text or several")


def texts(body: Classify) -> Sequence[Text]:
    """Return the texts of a request."""
    return [Text(one) for one in ([body.input] if isinstance(body.input, str) else body.input)]


def answered(body: Classify, answers: Sequence[ServedAnswer], request: str, created: int) -> dict[str, Any]:
    """Return the response. `created`: seconds since 1970."""
    data = []
    for index, one in enumerate(answers):
        found = [score.score for score in one.scores()]
        data.append({"index": index, "label": one.label, "probs": found, "num_classes": len(found)})
    tokens = sum(one.tokens for one in answers)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": None}
    head = {"id": f"classify-{request}", "object": "list", "created": created, "model": body.model}
    return {**head, "data": data, "usage": usage}


def model(name: str, created: str) -> dict[str, Any]:
    """Return the entry of a model. `created`: time of publication in ISO format, UTC."""
    seconds = int(datetime.fromisoformat(created).timestamp())
    return {"id": name, "object": "model", "created": seconds, "owned_by": name.partition("/")[0]}


def models(listed: Sequence[NameSummary]) -> dict[str, Any]:
    """Return the response with the models of a client."""
    return {"object": "list", "data": [model(one.name, one.created) for one in listed]}
