"""Protocols of Hugging Face: text-embeddings-inference (`POST /predict`), and three tasks of the Hub.

If an adapter does not answer a text, since it is not sure enough, the list of the text's labels begins with the label
`NOT_ANSWERED`.

huggingface_hub's `InferenceClient` sends requests to `/models/CLIENT/TASK` if its `model` is the URL of this route.
Clients of text-classification read the first element of the response, so the response to a single text is an array with
one element, the scores. The response of token-classification to a single text is the array of the entities.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Annotated, Any, Literal

from fastapi import Query, Response
from fastapi.responses import JSONResponse
from pydantic import ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from afina import __version__
from afina.errors import InvalidData
from afina.models import objectives
from afina.predicting.reading import Truncation
from afina.server import problems, routes
from afina.server.answer_formats import ANSWER_FORMATS, RANKED_SCORES, HubTask
from afina.server.core import Core
from afina.server.http.bodies import Array, Body, Readable, Texts
from afina.server.http.calls import Called, ClientCall
from afina.server.http.refusals import Refusal
from afina.server.http.routing import ProtocolRouter
from afina.server.json_shapes import (
    COUNT,
    NOTHING,
    NUMBER,
    TEXT,
    YES_OR_NO,
    about,
    array,
    by_name,
    either,
    one_of,
    record,
)
from afina.server.protocols import text_generation
from afina.server.protocols.openai_bodies import STOPS
from afina.server.protocols.text_generation import GenerationParameters
from afina.server.requests import AcceptedRequest, ServedAnswer, Text, check_scored

PREDICT_EXAMPLE = {
    "model": "acme/reviews@production",
    "inputs": [["It broke on the second day."], ["As good as they say."]],
}

PREDICT_ANSWER = either(RANKED_SCORES, array(RANKED_SCORES))
router = ProtocolRouter()

_Pair = Annotated[Array[Readable], Field(json_schema_extra={"minItems": 1, "maxItems": 2})]
"""The type of an array with one or two texts; `predict_texts` checks their number."""


class Predict(Body):
    """The body of a `/predict` request, with the fields of text-embeddings-inference and the field `model`."""

    model_config = ConfigDict(json_schema_extra={"required": ["inputs", "model"]})

    inputs: Readable | _Pair | Annotated[Array[_Pair], Field(json_schema_extra={"minItems": 1})] = Field(
        description="a text; a pair of texts as an array of two; or a batch: an array of arrays of one or two texts"
    )
    model: str | SkipJsonSchema[None] = Field(None, description="client/task, client/task@alias or client/task@version")
    raw_scores: bool = Field(False, description="true: return logits instead of probabilities")
    truncate: bool | None = Field(None, description="false: refuse texts that are too long; otherwise they are cut")
    truncation_direction: Literal["Left", "Right"] | Literal["left", "right"] | None = Field(
        None, description="side at which a text that is too long loses tokens; default: as in training"
    )

    @property
    def batch(self) -> bool:
        """Whether `inputs` is a batch, so that the response is an array with one element for each text."""
        return isinstance(self.inputs, list) and not all(isinstance(one, str) for one in self.inputs)

    @property
    def truncation(self) -> Truncation:
        side = self.truncation_direction
        return Truncation(side=None if side is None else "left" if side.lower() == "left" else "right")

    def check(self, asked: AcceptedRequest) -> None:
        """Raise InvalidData if the answers have no scores, or if `truncate` is false and a text is too long."""
        check_scored(asked)
        if self.truncate is False and any(one.truncated for one in asked.encoded):
            raise problems.TEXT_WOULD_BE_CUT()


def predict_texts(body: Predict) -> Sequence[Text]:
    """Return the texts of a `/predict` request. Raises InvalidData unless each array has one or two strings."""
    given = body.inputs if body.batch else [body.inputs]
    return [_text([one] if isinstance(one, str) else list(one)) for one in given]


def _text(given: list[Any]) -> Text:
    if len(given) not in (1, 2):
        raise problems.NOT_A_PAIR(found=len(given), most=2)
    return Text(*given)


@router.answers(routes.TEI_PREDICT, PREDICT_ANSWER, Predict, PREDICT_EXAMPLE)
async def predict(call: Called, model: Annotated[str | None, Query(include_in_schema=False)] = None) -> Response:
    """Classify texts (protocol of text-embeddings-inference). The labels with the highest scores come first.

    For clients of that protocol, which have no field `model`, `?model=` in the URL replaces the field.
    """
    body = await call.body(Predict)
    asked = call.in_query("model")
    if None not in (body.model, asked) and body.model != asked:
        raise Refusal.at("model", "differs between the body and the query. Leave one of them out.")
    model = body.model or asked
    if model is None:
        raise Refusal.at("model", "missing. Give it in the body or in the query.")
    try:
        found = await call.answers(model, predict_texts(body), truncation=body.truncation, check=body.check)
    except InvalidData as error:
        if error.code != problems.TEXT_EMPTY.code:
            raise
        raise Refusal(400, "invalid", str(error)) from None
    made = [one.ranked(raw=body.raw_scores) for one in found]
    return call.answered(made if body.batch else made[0], found)


CLASSIFICATION_EXAMPLE = {"inputs": "It broke on the second day.", "parameters": {"top_k": 1}}

_PART = {
    "score": about(NUMBER, "mean over the words of the probability of the word's tag"),
    "word": about(TEXT, "the characters of the text from `start` to `end`"),
    "start": about(COUNT, "index of the first character (Unicode code point) in the text as sent"),
    "end": about(COUNT, "index after the last character"),
}
_ENTITIES = array(
    either(
        record(entity_group=about(TEXT, "label of the entity, or O for words in no entity"), **_PART),
        record(entity=about(TEXT, "BIO tag of the word, such as B-PER"), **_PART),
    )
)
CLASSIFICATION_ANSWER = either(array(RANKED_SCORES), _ENTITIES, array(_ENTITIES))
HUB_ANSWER = either(CLASSIFICATION_ANSWER, text_generation.ANSWER)

OUTSIDE = "O"
"""The tag of a word in no entity, and the entity group of such words."""

OPTIONS: Mapping[HubTask, Sequence[str]] = {
    "text-generation": text_generation.OPTIONS,
    "text-classification": ("top_k", "function_to_apply"),
    "token-classification": ("aggregation_strategy", "ignore_labels"),
}
"""The options (fields of `Parameters`) of each task of the Hub."""

WORDS, GROUPS = "none", ("simple", "first")
"""The values of `aggregation_strategy`: words with their tags, or entities."""


class Parameters(GenerationParameters):
    """The options of a request for a task of the Hub."""

    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = Field(
        None,
        description="text-classification: function from logits to scores; none: return logits; default: the function "
        "of the model",
    )
    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] | None = Field(
        None,
        description="token-classification: simple and first: entities (default); none: words with their tags; average "
        "and max are refused, since the model has one tag for each word",
    )
    ignore_labels: Array[str] | None = Field(
        None,
        description="token-classification: labels, or with aggregation_strategy none tags, that are left out; default: "
        "O, the tag of words in no entity",
    )


class ClientOptions(Body):
    """Wishes of earlier clients of the Hub, none of which changes an answer of this server."""

    use_cache: bool | None = Field(None, description="accepted without effect")
    wait_for_model: bool | None = Field(None, description="accepted without effect")
    use_gpu: bool | None = Field(None, description="accepted without effect")


class Classification(Body):
    """The body of a request for a task of the Hub: text-classification, token-classification or text-generation."""

    inputs: Readable | Texts = Field(description="one text or, except for text-generation, several")
    parameters: Parameters | None = Field(None, description="options")
    options: ClientOptions | None = Field(None, description="accepted without effect")
    stream: bool | None = Field(None, description="text-generation: true: return the answer in pieces")

    @property
    def asked(self) -> Parameters:
        return self.parameters or Parameters.model_construct()

    @property
    def batch(self) -> list[str]:
        return [self.inputs] if isinstance(self.inputs, str) else self.inputs

    def check(self, asked: AcceptedRequest) -> None:
        """Raise InvalidData for an option that does not fit the adapter, such as softmax for a multi-label task."""
        written = ANSWER_FORMATS[asked.objective.kind]
        self.check_options(written.hub_task)
        if self.stream:
            raise Refusal.at("stream", "only answers of text-generation are streamed. Leave it out.", "unsupported")
        values = {"function_to_apply": ("none", written.function), "aggregation_strategy": (WORDS, *GROUPS)}
        for option, known in values.items():
            if (value := getattr(self.asked, option)) not in (None, *known):
                raise problems.VALUE_OF_OTHER_TASK(option=option, found=value, known=known)

    def check_options(self, hub_task: HubTask) -> None:
        """Raise InvalidData for an option of another task."""
        for option, value in self.asked:
            if value is not None and option not in OPTIONS[hub_task]:
                raise problems.OPTION_OF_OTHER_TASK(option=option, found=hub_task)


def _ranked(body: Classification, found: Sequence[ServedAnswer]) -> Sequence[Any]:
    raw = body.asked.function_to_apply == "none"
    return [one.ranked(raw=raw, most=body.asked.top_k) for one in found]


def _entities(body: Classification, found: Sequence[ServedAnswer]) -> Sequence[Any]:
    ignored = [OUTSIDE] if body.asked.ignore_labels is None else body.asked.ignore_labels
    written = _words if body.asked.aggregation_strategy == WORDS else _groups
    made = [[entity for entity in written(one) if next(iter(entity.values())) not in ignored] for one in found]
    return made[0] if isinstance(body.inputs, str) else made


def _words(one: ServedAnswer) -> Sequence[dict[str, Any]]:
    return [{"entity": word.tag, **_part(one.text, word.score, word.start, word.end)} for word in one.words]


def _groups(one: ServedAnswer) -> Sequence[dict[str, Any]]:
    """Return the entities of a text, and the runs of words between them, in the order of the text."""
    entities = one.prediction.answer["entities"]
    made = [{"entity_group": each["label"], **_part(one.text, *(each[name] for name in _SPAN))} for each in entities]
    for inside, words in groupby(one.words, key=lambda word: word.tag != OUTSIDE):
        if not inside:
            run = [*words]
            score = sum(word.score for word in run) / len(run)
            made.append({"entity_group": OUTSIDE, **_part(one.text, score, run[0].start, run[-1].end)})
    return sorted(made, key=lambda each: int(each["start"]))


_SPAN = ("score", "start", "end")


def _part(text: str, score: float, start: int, end: int) -> dict[str, Any]:
    return {"score": score, "word": text[start:end], "start": start, "end": end}


FEATURES = ("normalize", "prompt_name", "truncate", "truncation_direction", "dimensions", "encoding_format")
"""The fields of requests for the Hub's task feature-extraction."""

_HUB_CLIENT = re.compile("hf_hub/[1-9]")
"""The name of huggingface_hub, from version 1 on, in the header User-Agent."""


async def _hub_body(call: ClientCall) -> Classification:
    """Return the body of a request. Raises Refusal for the task feature-extraction, which has no `parameters`.

    huggingface_hub sends `parameters` for every other task. Other clients may leave `parameters` out for all tasks.
    """
    try:
        body = await call.body(Classification)
    except Refusal as refusal:
        if refusal.field not in FEATURES:
            raise
    else:
        if "parameters" in body.model_fields_set or not _HUB_CLIENT.search(call.request.headers.get("user-agent", "")):
            return body
    problem = "feature-extraction is not available: models give labels, entities or texts, and no embeddings."
    raise Refusal(422, "unsupported", problem)


@router.answers(routes.HUB_CLASSIFY, HUB_ANSWER, Classification, CLASSIFICATION_EXAMPLE, events=text_generation.EVENT)
async def answer_as_hub(call: Called, client: str, task: str) -> Response:
    """Answer texts as the Hub's tasks text-classification, token-classification and text-generation.

    The labels with the highest scores come first; entities are in the order of the text. The model decides the task.
    """
    body = await _hub_body(call)
    model = f"{client}/{task}"
    manifest = (await call.look(call.core.version, call.key, model, call.id)).manifest
    objective = objectives.make(tuple(manifest["label_names"]), manifest.get("objective"))
    if ANSWER_FORMATS[objective.kind].hub_task == "text-generation":
        body.check_options("text-generation")
        if not isinstance(body.inputs, str):
            raise Refusal.at("inputs", "expected one text for this model, which writes texts.")
        return await text_generation.generated(call, model, body.inputs, body.asked, stream=bool(body.stream))
    found = await call.answers(model, [Text(one) for one in body.batch], check=body.check)
    task_of_hub = ANSWER_FORMATS[found[0].objective.kind].hub_task
    written = _entities(body, found) if task_of_hub == "token-classification" else _ranked(body, found)
    return call.answered(written, found)


INFO = record(
    model_id=about(TEXT, "the backbone's address; of a directory, its name only"),
    model_sha=about(TEXT, "digest of the backbone"),
    model_dtype=about(TEXT, "dtype of the computation"),
    router=about(one_of("afina"), "always afina"),
    version=about(TEXT, "version of afina"),
    max_concurrent_requests=about(COUNT, "open requests of a client"),
    max_client_batch_size=about(COUNT, "texts of a request"),
    max_batch_tokens=about(COUNT, "tokens of a batch"),
    max_input_length=about(COUNT, "tokens that the backbone reads; an adapter may read fewer"),
    max_input_tokens=about(COUNT, "same number as `max_input_length`, as TGI calls it"),
    max_total_tokens=about(COUNT, "tokens of a prompt and its answer together"),
    max_best_of=about(COUNT, "generated answers to a prompt"),
    max_stop_sequences=about(COUNT, "stop strings of a request"),
    auto_truncate=about(YES_OR_NO, "always true: texts are cut to the length that the adapter reads"),
    served_model_name=about(TEXT, "same text as `model_id`"),
    model_type=about(
        record(
            classifier=about(
                record(
                    id2label=about(by_name(TEXT), "labels by their place"),
                    label2id=about(by_name(COUNT), "places by label"),
                ),
                "labels of the model in the query; without one, empty",
            )
        ),
        "always a classifier",
    ),
    max_batch_requests=about(NOTHING, "always null: tokens limit a batch"),
    tokenization_workers=about(COUNT, "threads that tokenize the texts of a client"),
    sha=about(NOTHING, "always null"),
    docker_label=about(NOTHING, "always null"),
)


@router.answers(routes.INFO, INFO, query={"model": TEXT})
async def described(call: Called) -> Response:
    """Return the backbone, dtype, version and limits of this server, and the labels of the model in the query.

    The fields are those of `/info` in text-embeddings-inference (TEI) and text-generation-inference (TGI).
    """
    asked = call.in_query("model")
    labels = [] if asked is None else (await call.look(call.core.version, call.key, asked)).manifest["label_names"]
    return JSONResponse(await call.look(_described, call.core, labels))


def _described(core: Core, labels: Sequence[str]) -> dict[str, Any]:
    """Return the content of `/info`."""
    backbone, settings = core.engine.backbone, core.settings
    length = backbone.longest
    places = {label: place for place, label in enumerate(labels)}
    return {
        "served_model_name": backbone.shown,
        "model_type": {"classifier": {"id2label": {str(places[one]): one for one in labels}, "label2id": places}},
        "max_batch_requests": None,
        "tokenization_workers": 1,
        "sha": None,
        "docker_label": None,
        "model_id": backbone.shown,
        "model_sha": backbone.digest,
        "model_dtype": core.engine.computes,
        "router": "afina",
        "version": __version__,
        "max_concurrent_requests": settings.at_once,
        "max_client_batch_size": settings.texts,
        "max_batch_tokens": settings.batch_tokens,
        "max_input_length": length,
        "max_input_tokens": length,
        "max_total_tokens": length,
        "max_best_of": settings.choices,
        "max_stop_sequences": STOPS,
        "auto_truncate": True,
    }
