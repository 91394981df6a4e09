"""text-embeddings-inference: `POST /predict`.

`inputs` is a text, a pair of texts in an array, or an array of such arrays; scores are in falling order. What is added:
`model`, since that server has one model and this one many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from afina.errors import InvalidData
from afina.server.http.schemas import RANKED_SCORES, TEXT, Array, Body, array, either, record
from afina.server.requests import ServedAnswer, Text

EXAMPLE = {"model": "acme/reviews@production", "inputs": [["It broke on the second day."], ["As good as they say."]]}

ANSWER = either(RANKED_SCORES, array(RANKED_SCORES))
ERROR = record({"error": TEXT, "error_type": TEXT})


class Predict(Body):
    """A request."""

    inputs: str | Array[str] | Array[Array[str]]
    model: str | None = Field(None, description="client/task, client/task@alias or client/task@version")
    raw_scores: bool = False
    truncate: bool | None = Field(None, description="false: refuse a text that is too long; else it is cut")

    @property
    def batch(self) -> bool:
        """Whether answers come in an array of their own each."""
        return isinstance(self.inputs, list) and not all(isinstance(one, str) for one in self.inputs)


def texts(body: Predict) -> Sequence[Text]:
    """Raises InvalidData for arrays that are neither a text nor a pair."""
    given = body.inputs if body.batch else [body.inputs]
    return [_text([one] if isinstance(one, str) else list(one)) for one in given]


def _text(given: list[Any]) -> Text:
    if len(given) not in (1, 2):
        raise InvalidData(
            f"`inputs`: found {len(given)} strings, expected a text or a pair.",
            code="request.texts-count",
            found=len(given),
            most=2,
        )
    return Text(*given)


def answered(body: Predict, answers: Sequence[ServedAnswer]) -> Any:
    """A response. Raises InvalidData where a text was cut that was not to be."""
    if body.truncate is False and any(one.prediction.truncated for one in answers):
        raise InvalidData(
            "`inputs` must have less tokens than the model reads. Set `truncate` to true to cut them.",
            code="request.text-invalid",
        )
    made = [one.ranked(raw=body.raw_scores) for one in answers]
    return made if body.batch else made[0]


def error(status: int, kind: str, message: str) -> dict[str, Any]:
    """What is said instead."""
    kinds = {429: "Overloaded", 422: "Validation", 400: "Validation", 413: "Validation"}
    return {"error": message, "error_type": kinds.get(status, "Backend")}
