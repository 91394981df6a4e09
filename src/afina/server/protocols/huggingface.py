"""Two protocols of Hugging Face: text-embeddings-inference (`POST /predict`), and the Hub's text-classification task.

In `/predict`, `inputs` is a text, a pair of texts in an array, or an array of such arrays; scores are in falling order.
The field `model` is an addition: text-embeddings-inference serves one model, afina many.

The Hub's task is `POST /models/CLIENT/TASK`; `InferenceClient` sends such requests if its model is that URL. Clients of
the Hub read the first element of the response, so the scores of a single text are inside an array too. This module does
not know how answers are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from afina.errors import InvalidData
from afina.predicting.reading import Truncation
from afina.server.answer_formats import ANSWER_FORMATS
from afina.server.http.schemas import RANKED_SCORES, TEXT, Array, Body, Readable, Texts, about, array, either, record
from afina.server.requests import AcceptedRequest, ServedAnswer, Text

PREDICT_EXAMPLE = {
    "model": "acme/reviews@production",
    "inputs": [["It broke on the second day."], ["As good as they say."]],
}

PREDICT_ANSWER = either(RANKED_SCORES, array(RANKED_SCORES))
PREDICT_ERROR = record(
    {
        "error": about(TEXT, "what is wrong and what to do"),
        "error_type": about(TEXT, "one word for programs: Overloaded, Validation or Backend"),
    }
)


_Pair = Annotated[Array[Readable], Field(json_schema_extra={"minItems": 1, "maxItems": 2})]
"""A text or a pair; `predict_texts` checks the number."""


class Predict(Body):
    """A request of text-embeddings-inference."""

    inputs: Readable | _Pair | Annotated[Array[_Pair], Field(json_schema_extra={"minItems": 1})] = Field(
        description="a text; a pair of texts as an array of two; or a batch: an array of arrays of one or two texts"
    )
    model: str | None = Field(None, description="client/task, client/task@alias or client/task@version")
    raw_scores: bool = Field(False, description="true: return logits instead of probabilities")
    truncate: bool | None = Field(None, description="false: refuse texts that are too long; otherwise they are cut")
    truncation_direction: Literal["Left", "Right", "left", "right"] | None = Field(
        None, description="side at which a text that is too long loses tokens; default: as in training"
    )

    @property
    def batch(self) -> bool:
        """Whether the response is an array with one element for each text."""
        return isinstance(self.inputs, list) and not all(isinstance(one, str) for one in self.inputs)

    @property
    def truncation(self) -> Truncation:
        """How long texts are truncated."""
        side = self.truncation_direction
        return Truncation(side=None if side is None else "left" if side.lower() == "left" else "right")

    def check(self, asked: AcceptedRequest) -> None:
        """Raise InvalidData if a text is cut although `truncate` is false."""
        if self.truncate is False and any(one.truncated for one in asked.encoded):
            raise InvalidData(
                "`inputs`: a text has more tokens than the model reads. Set `truncate` to true to cut such texts.",
                code="request.text-invalid",
            )


def predict_texts(body: Predict) -> Sequence[Text]:
    """Return the texts of a request. Raises InvalidData unless each array has one or two strings."""
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
    """Return the response."""
    made = [one.ranked(raw=body.raw_scores) for one in answers]
    return made if body.batch else made[0]


CLASSIFICATION_EXAMPLE = {"inputs": "It broke on the second day.", "parameters": {"top_k": 1}}

CLASSIFICATION_ANSWER = array(RANKED_SCORES)
CLASSIFICATION_ERROR = record({"error": about(TEXT, "what is wrong and what to do")})


class Parameters(Body):
    """Options of a request."""

    top_k: int | None = Field(None, ge=1, description="return the labels with the top_k highest scores; default: all")
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = Field(
        None, description="function from logits to scores; none: return logits; default: the function of the model"
    )


class Classification(Body):
    """A request of the Hub's text-classification task."""

    inputs: Readable | Texts = Field(description="one text or several")
    parameters: Parameters | None = Field(None, description="options")

    def check(self, asked: AcceptedRequest) -> None:
        """Raise InvalidData for a `function_to_apply` that the adapter's kind does not have."""
        function = self.parameters and self.parameters.function_to_apply
        own = ANSWER_FORMATS[asked.objective.kind].function
        if function not in (None, "none", own):
            raise InvalidData(
                f"`parameters.function_to_apply`: found {function}, expected {own} or none for this model.",
                code="request.malformed",
                option="function_to_apply",
                found=function,
                known=[own],
            )


def classification_texts(body: Classification) -> Sequence[Text]:
    """Return the texts of a request."""
    return [Text(one) for one in ([body.inputs] if isinstance(body.inputs, str) else body.inputs)]


def classification_answer(body: Classification, answers: Sequence[ServedAnswer]) -> Any:
    """Return the response."""
    asked = body.parameters or Parameters(top_k=None, function_to_apply=None)
    return [one.ranked(raw=asked.function_to_apply == "none", most=asked.top_k) for one in answers]
