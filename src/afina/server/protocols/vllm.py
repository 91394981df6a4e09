"""The protocol of vLLM: `POST /classify`, `POST /pooling`, and `GET /v1/models`, which clients of vLLM call first.

Requests and responses have the formats of vLLM's OpenAI-compatible server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Response
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from afina import meter
from afina.models import objectives
from afina.models.backbone import Backbone
from afina.predicting.reading import Truncation
from afina.server import problems, routes
from afina.server.answer_formats import ANSWERED
from afina.server.core import Core
from afina.server.http.bodies import Array, Body, OnlyTrue, Readable, Texts
from afina.server.http.calls import Called
from afina.server.http.refusals import Refusal
from afina.server.http.routing import ProtocolRouter
from afina.server.json_shapes import COUNT, NOTHING, NUMBER, TEXT, about, array, exactly_one, one_of, record
from afina.server.requests import AcceptedRequest, ServedAnswer, Text, check_scored

EXAMPLE = {"model": "acme/reviews@production", "input": ["It broke on the second day.", "As good as they say."]}

_LABELLED = record(
    index=about(COUNT, "place of the text in `input`, from 0"),
    label=about(TEXT, "the label with the highest probability"),
    probs=about(array(NUMBER), "probabilities, or logits, in the adapter's order of labels"),
    num_classes=about(COUNT, "number of labels"),
    answered=ANSWERED,
    optional=("answered",),
)
_USAGE = record(
    prompt_tokens=about(COUNT, "tokens of all texts of the request"),
    total_tokens=about(COUNT, "same number as `prompt_tokens`"),
    completion_tokens=about(COUNT, "always 0: no text is generated"),
    prompt_tokens_details=about(NOTHING, "always null"),
)
_ROWS = record(
    index=about(COUNT, "place of the text in `input`, from 0"),
    object=about(one_of("pooling"), "type of the element in this protocol"),
    data=about(
        array(array(NUMBER)),
        "for each token of the text, special tokens included, the probabilities or logits of the tags O, B-LABEL, "
        "I-LABEL, ... of the adapter's labels in their order",
    ),
)
_LIST = about(one_of("list"), "type of the response in this protocol")
_HEAD = {
    "id": about(TEXT, "id of the request"),
    "object": _LIST,
    "created": about(COUNT, "seconds since 1970"),
    "model": about(TEXT, "model as in the request"),
}
ANSWER = record(**_HEAD, data=about(array(_LABELLED), "one answer per text"), usage=about(_USAGE, "numbers of tokens"))
POOLED = record(**_HEAD, data=about(array(_ROWS), "one element per text"), usage=about(_USAGE, "numbers of tokens"))
MODEL = record(
    id=about(TEXT, "client/task; for a single model, as in the request"),
    object=about(one_of("model"), "type of the entry in this protocol"),
    created=about(COUNT, "publication of the version, in seconds since 1970; in a list: of the newest"),
    owned_by=about(TEXT, "client"),
    max_model_len=about(
        COUNT, "most tokens that the model reads at once; of a model that writes texts, with those of the answer"
    ),
)
MODELS = record(object=_LIST, data=about(array(MODEL), "one entry per model"))
router = ProtocolRouter()


class ClassifiedMessage(Body):
    """A message to classify."""

    role: Literal["user"] = Field(description="only user")
    content: Readable = Field(description="the text")


def _some_tokens(given: int) -> int:
    if given == 0:
        raise PydanticCustomError("no_tokens", "found 0, expected -1 or at least 1")
    return given


_Tokens = Annotated[int, Field(ge=-1, json_schema_extra={"not": {"const": 0}}), AfterValidator(_some_tokens)]


class VllmRequest(Body):
    """The fields that requests for classification and for pooling have in common."""

    model: str = Field(description="client/task, client/task@alias or client/task@version")
    use_activation: bool | None = Field(None, description="false: return logits instead of probabilities")
    add_special_tokens: OnlyTrue | None = Field(
        None, description="accepted without effect: the model reads special tokens as in training"
    )
    priority: int | None = Field(None, ge=0, le=0, description="accepted without effect: only 0")
    user: str | None = Field(None, description="accepted without effect")


class Classify(VllmRequest):
    """The body of a classification request of vLLM. Token ids as input are not supported."""

    model_config = ConfigDict(json_schema_extra=exactly_one("input", "messages"))

    input: Readable | Texts | None = Field(None, description="one text or several; or give `messages`")
    messages: Annotated[Array[ClassifiedMessage], Field(min_length=1, max_length=1)] | None = Field(
        None, description="instead of `input`: one message of a user, whose text is read in the template of the model"
    )
    truncate_prompt_tokens: _Tokens | None = Field(
        None,
        description="most tokens of a text, at most as many as the model reads (`max_model_len`); template and special "
        "tokens count. -1 and null: as many as the model reads",
    )
    truncation_side: Literal["left", "right"] | None = Field(
        None, description="side at which a text that is too long loses tokens; default: as in training"
    )

    @property
    def truncation(self) -> Truncation:
        most = self.truncate_prompt_tokens
        return Truncation(None if most == -1 else most, self.truncation_side)

    def check(self, asked: AcceptedRequest) -> None:
        """Raise an error if the answers have no scores, or if the model reads fewer tokens than the request asks."""
        check_scored(asked)
        reading, given = asked.lease.resident().reading, self.truncate_prompt_tokens
        if reading is None or given is None:
            return
        if given > (most := _longest(reading.backbone, reading.manifest.max_length)):
            problem = f"found {given}, expected at most {most}, the tokens that the model reads."
            raise Refusal.at("truncate_prompt_tokens", problem)


POOLING_EXAMPLE = {"model": "acme/places@production", "input": "Maria lives in Lisbon."}


class Pooling(VllmRequest):
    """The body of a pooling request of vLLM, for adapters that answer with entities.

    Token ids and `messages` are not supported.
    """

    input: Readable | Texts = Field(description="one text or several")
    task: Literal["token_classify"] | None = Field(None, description="accepted without effect: only token_classify")
    encoding_format: Literal["float"] | None = Field(None, description="accepted without effect: only float")

    @property
    def texts(self) -> Sequence[Text]:
        return [Text(one) for one in ([self.input] if isinstance(self.input, str) else self.input)]


def texts(body: Classify) -> Sequence[Text]:
    """Return the texts of a request. Raises InvalidData unless either `input` or `messages` is given."""
    if (body.input is None) == (body.messages is None):
        found = "both" if body.messages else "neither"
        raise problems.INPUT_OR_MESSAGES(found=found, option="input")
    if body.messages is not None:
        return [Text(one.content) for one in body.messages]
    return [Text(one) for one in ([body.input] if isinstance(body.input, str) else body.input or ())]


@router.answers(routes.CLASSIFY, ANSWER, Classify, EXAMPLE)
async def classify(call: Called) -> Response:
    """Classify texts (protocol of vLLM). The probabilities are in the order of the adapter's labels."""
    body = await call.body(Classify)
    found = await call.answers(body.model, texts(body), truncation=body.truncation, check=body.check)
    return call.answered(answered(body, found, call.id, int(meter.posix_time())), found)


def answered(body: Classify, answers: Sequence[ServedAnswer], request: str, created: int) -> dict[str, Any]:
    data = []
    for index, one in enumerate(answers):
        found = [score.score for score in one.scores(raw=body.use_activation is False)]
        answered = {"answered": one.prediction.is_answered} if one.objective.abstain_below is not None else {}
        data.append({"index": index, "label": one.label, "probs": found, "num_classes": len(found), **answered})
    return _listed(f"classify-{request}", body.model, created, data, answers)


def _listed(id: str, model: str, created: int, data: Sequence[Any], answers: Sequence[ServedAnswer]) -> dict[str, Any]:
    tokens = sum(one.tokens for one in answers)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": None}
    return {"id": id, "object": "list", "created": created, "model": model, "data": data, "usage": usage}


@router.answers(routes.POOLING, POOLED, Pooling, POOLING_EXAMPLE)
async def pooling(call: Called) -> Response:
    """Return the probabilities of the tags of each token of texts (protocol of vLLM, task token_classify).

    The adapter has learnt tags of the first tokens of words. The numbers of the other tokens are those of the model's
    head, and mean nothing. A text that is longer than the adapter reads at once is refused.
    """
    body = await call.body(Pooling)
    found = await call.answers(body.model, body.texts, each_token=True)
    raw = body.use_activation is False
    data = [{"index": index, "object": "pooling", "data": one.tag_scores(raw=raw)} for index, one in enumerate(found)]
    return call.answered(_listed(f"pooling-{call.id}", body.model, int(meter.posix_time()), data, found), found)


@router.answers(routes.MODELS, MODELS)
async def models(call: Called) -> Response:
    """List the models of the key's client. The id of a model is client/task."""
    listed = await call.look(call.core.listed, call.key)
    data = [_model(call.core, one.name, one.created, manifest) for one, manifest in listed]
    return JSONResponse({"object": "list", "data": data})


@router.answers(routes.MODEL, MODEL)
async def one_model(call: Called, id: str) -> Response:
    """Return the entry of one model of the key's client."""
    version = await call.look(call.core.version, call.key, id)
    return JSONResponse(_model(call.core, id, version.created, version.manifest))


def _model(core: Core, name: str, created: str, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry of a model in the list of `/v1/models`. `created`: the time of publication (ISO format, UTC)."""
    objective = objectives.make(tuple(manifest["label_names"]), manifest.get("objective"))
    max_length = manifest.get("max_length", 0) if objective.generation() is None else 0
    return {
        "id": name,
        "object": "model",
        "created": int(datetime.fromisoformat(created).timestamp()),
        "owned_by": name.partition("/")[0],
        "max_model_len": _longest(core.engine.backbone, max_length),
    }


def _longest(backbone: Backbone, max_length: int) -> int:
    """Return the number of tokens that a model reads at once. `max_length`: the field of the model's manifest."""
    return max_length or backbone.longest
