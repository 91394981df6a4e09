"""Hugging Face's protocols: text-embeddings-inference (`POST /predict`), and the Hub's text-classification task.

Of the former, `inputs` is a text, a pair of texts in an array, or an array of such arrays; scores are in falling order.
What is added: `model`, since that server has one model and this one many. The latter is `POST /models/CLIENT/TASK`, as
`InferenceClient` sends it to a URL. The clients of the Hub take the first of what comes, so a single text has an array
around its scores too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from afina.errors import InvalidData
from afina.server.answer_formats import ANSWER_FORMATS
from afina.server.http.schemas import RANKED_SCORES, TEXT, Array, Body, array, either, record
from afina.server.requests import ServedAnswer, Text

PREDICT_EXAMPLE = {
    "model": "acme/reviews@production",
    "inputs": [["It broke on the second day."], ["As good as they say."]],
}

PREDICT_ANSWER = either(RANKED_SCORES, array(RANKED_SCORES))
PREDICT_ERROR = record({"error": TEXT, "error_type": TEXT})


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


def predict_texts(body: Predict) -> Sequence[Text]:
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


def predict_answer(body: Predict, answers: Sequence[ServedAnswer]) -> Any:
    """A response. Raises InvalidData where a text was cut that was not to be."""
    if body.truncate is False and any(one.prediction.truncated for one in answers):
        raise InvalidData(
            "`inputs` must have less tokens than the model reads. Set `truncate` to true to cut them.",
            code="request.text-invalid",
        )
    made = [one.ranked(raw=body.raw_scores) for one in answers]
    return made if body.batch else made[0]


def predict_error(status: int, kind: str, message: str) -> dict[str, Any]:
    """What is said instead."""
    kinds = {429: "Overloaded", 422: "Validation", 400: "Validation", 413: "Validation"}
    return {"error": message, "error_type": kinds.get(status, "Backend")}


CLASSIFICATION_EXAMPLE = {"inputs": "It broke on the second day.", "parameters": {"top_k": 1}}

CLASSIFICATION_ANSWER = array(RANKED_SCORES)
CLASSIFICATION_ERROR = record({"error": TEXT})


class Parameters(Body):
    """What it may ask for."""

    top_k: int | None = Field(None, ge=1)
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None


class Classification(Body):
    """A request."""

    inputs: str | Array[str]
    parameters: Parameters | None = None


def classification_texts(body: Classification) -> Sequence[Text]:
    """One or several."""
    return [Text(one) for one in ([body.inputs] if isinstance(body.inputs, str) else body.inputs)]


def classification_answer(body: Classification, answers: Sequence[ServedAnswer]) -> Any:
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


def classification_error(status: int, kind: str, message: str) -> dict[str, Any]:
    """What is said instead."""
    return {"error": message}
