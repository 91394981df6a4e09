"""afina's own HTTP protocol: answers of several models, JSON lines, aliases, shadow versions and drift."""

from __future__ import annotations

from fastapi import Response
from fastapi.responses import JSONResponse
from pydantic import Field

from afina.server import routes
from afina.server.answer_formats import ANSWER_FORMATS
from afina.server.http.bodies import Array, Body, Readable, Remark
from afina.server.http.calls import Called
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
from afina.server.protocols.bulk import Bulk, answered
from afina.server.receipts import GenerationFacts
from afina.server.requests import Text
from afina.server.versions.served_answers import KEPT_DAYS, WINDOW_DAYS, days_of

TASKS_EXAMPLE = {"text": "It broke on the second day.", "models": ["acme/reviews@production", "acme/urgent"]}
ALIAS_EXAMPLE = {"version": 3, "expected": 2, "message": "three points better on checked texts"}
LINE_EXAMPLE = '{"model": "acme/reviews", "text": "It broke."}\n{"model": "acme/urgent", "text": "Call me now!"}\n'

_GENERATION = record(
    max_new_tokens=about(COUNT, "most new tokens of an answer, the end token included"),
    beams=about(COUNT, "number of beams"),
    length_penalty=about(NUMBER, "exponent of the length by which the score of a beam is divided"),
    no_repeat_ngram=about(COUNT, "size of n-grams that occur at most once"),
    temperature=about(NUMBER, "temperature of sampling"),
    top_p=about(NUMBER, "probability of the tokens among which sampling draws"),
    top_k=about(COUNT, "number of most probable tokens among which sampling draws"),
    min_p=about(NUMBER, "least share of the largest probability of the tokens among which sampling draws"),
    stop_token_ids=about(array(COUNT), "tokens that ended the answer"),
    ignore_eos=about(YES_OR_NO, "whether the end token did not end the answer"),
    min_new_tokens=about(COUNT, "number of tokens before which the answer could not end"),
    presence_penalty=about(NUMBER, "subtracted from the logit of each token that the answer has"),
    frequency_penalty=about(NUMBER, "the same, as often as the answer has the token"),
    repetition_penalty=about(NUMBER, "divisor of the logits of tokens that prompt or answer have"),
    logit_bias=about(by_name(NUMBER), "numbers that were added to the logits of tokens, by token id"),
    seed=about({"type": "integer"}, "seed of the first choice"),
    n=about(COUNT, "number of choices"),
    stop=about(TEXT, "digest of the stop strings"),
    guide=about(TEXT, "digest of the grammar that the answer had to follow"),
    prompt=about(one_of("raw", "chat", "tokens"), "how the text became the prompt, if not by the adapter's template"),
    chat_template=about(TEXT, "digest of the chat template that rendered the messages of a chat"),
    optional=GenerationFacts.model_fields.keys() - {"max_new_tokens"},
)
_TRUNCATION = record(
    max_length=about(COUNT, "most tokens of a text, if the request asked for fewer than the model reads"),
    side=about(one_of("left", "right"), "side at which texts lost tokens, if the request named it"),
    optional=("max_length", "side"),
)
_RECEIPT = record(
    version=about(TEXT, "version that answered, as client/task@number"),
    adapter=about(TEXT, "digest of the adapter"),
    base=about(TEXT, "digest of the backbone"),
    dtype=about(TEXT, "dtype of the computation"),
    precision=about(TEXT, "precision of the frozen weights, if it is not float"),
    generation=about(_GENERATION, "how a text was generated, without the values that are defaults"),
    truncation=about(_TRUNCATION, "how texts were truncated, if not as in training"),
    optional=("precision", "generation", "truncation"),
)
_ANSWERED = {
    "model": about(TEXT, "model as in the request"),
    "truncated": about(YES_OR_NO, "whether the text was cut to the length that the model reads"),
    "receipt": about(_RECEIPT, "what computed the answer: version, digests and dtype"),
}
_BY_KIND = [
    record(**_ANSWERED, **one.fields, **one.optional_fields, optional=one.optional_fields)
    for one in ANSWER_FORMATS.values()
]
TASKS_ANSWER = record(results=about(array(either(*_BY_KIND)), "one answer per model, in the order of `models`"))
ALIAS_ANSWER = record(
    name=about(TEXT, "client/task"),
    alias=about(TEXT, "the alias"),
    **{"from": about(either(COUNT, NOTHING), "number of the version before; null: the alias is new")},
    to=about(COUNT, "number of the version now"),
    share=about(NUMBER, "percentage of the requests for production, for the alias canary"),
    optional=("share",),
)
_ENDS = either(array(NUMBER), NOTHING)
SHADOW = record(
    name=about(TEXT, "client/task"),
    current=about(COUNT, "number of the version that answers"),
    shadow=about(either(COUNT, NOTHING), "number of the shadow version; null: the model has no shadow version"),
    state=about(TEXT, "none, loading, riding (being compared), failed or promoted (the shadow is in production)"),
    problem=about(either(TEXT, NOTHING), "why the shadow failed"),
    texts=about(COUNT, "texts that both versions computed"),
    flips=about(
        either(COUNT, NOTHING), "texts that both answered with different labels, or sets of labels; null for numbers"
    ),
    drift=about(NUMBER, "mean difference, shadow minus production, of the label's probability, or of the number"),
    scatter=about(NUMBER, "sum of squared deviations from the drift"),
    faults=about(COUNT, "texts for which the shadow failed"),
    only_current=about(COUNT, "texts that only the production version answered, as the shadow abstained"),
    only_shadow=about(COUNT, "texts that only the shadow answered, as the production version abstained"),
    unanswered=about(COUNT, "texts that neither version answered"),
    flip_rate=about(
        either(NUMBER, NOTHING), "flips divided by the texts that both answered; null for numbers or without such texts"
    ),
    flip_interval=about(_ENDS, "95 % confidence interval of the flip rate (Wilson), low and high"),
    drift_interval=about(_ENDS, "95 % confidence interval of the drift, low and high; null for less than two texts"),
    left_out=about(COUNT, "texts not given to the shadow: it was not in memory, or the queue was too full"),
)
_COUNTS = record(
    edges=about(array(NUMBER), "upper ends of the bins of scores, without the last bin's"),
    scores=about(array(COUNT), "texts whose score is in each bin"),
    labels=about(by_name(COUNT), "texts with each label; empty for numbers"),
    tokens=about(array(COUNT), "texts with a token of each group (token id modulo 256); empty without tokens"),
)
_TEST = record(
    of=about(one_of("scores", "labels", "tokens"), "what the test compares"),
    distance=about(NUMBER, "difference, as a share of texts"),
    p=about(NUMBER, "p value of the single test"),
    shares=about(array(NUMBER), "share that differs most: of the evaluation texts, and of clients' texts"),
    most=about(either(TEXT, NOTHING), "label whose share differs most; null: not of labels"),
    edge=about(either(COUNT, NOTHING), "scores: index of the edge below which the shares are counted"),
    adjusted=about(NUMBER, "p value, corrected for the number of tests (Holm)"),
)
_DRIFT = record(
    reference=about(COUNT, "number of evaluation texts"),
    texts=about(COUNT, "number of clients' texts"),
    tests=about(array(_TEST), "the tests; empty without texts"),
    level=about(NUMBER, "probability of a false alarm, over all tests"),
    effect=about(NUMBER, "difference below which a significant difference is called small"),
    needed=about(either(COUNT, NOTHING), "texts that notice such a difference; null: too few evaluation texts"),
    noticeable=about(either(NUMBER, NOTHING), "difference that so many texts notice; null: no texts"),
    state=about(one_of("none", "few", "small", "drift"), "the verdict"),
    p=about(NUMBER, "smallest corrected p value"),
)
DRIFT = record(
    name=about(TEXT, "client/task"),
    alias=about(TEXT, "the alias"),
    version=about(COUNT, "number of the version that the alias points to"),
    digest=about(TEXT, "digest of the version's adapter"),
    kind=about(TEXT, "kind of the task: classes, labels or number"),
    score=about(one_of("confidence", "value"), "what the score of an answer is"),
    one_label=about(YES_OR_NO, "whether each answer has exactly one label"),
    days=about(COUNT, "days that are counted, today included"),
    since=about(either(TEXT, NOTHING), "time of the first counted answer, UTC; null: no answer was counted"),
    reference=about(either(_COUNTS, NOTHING), "counts of the evaluation texts; null: unknown"),
    answers=about(_COUNTS, "counts of clients' texts"),
    servers=about(COUNT, "servers whose counts were added"),
    drift=about(either(_DRIFT, NOTHING), "comparison of both; null: there is no reference"),
)
DAYS = {**COUNT, "minimum": 1, "maximum": KEPT_DAYS, "default": WINDOW_DAYS}
router = ProtocolRouter()


class Tasks(Body):
    """A text or a pair of texts, and the models that answer it."""

    text: Readable = Field(description="the text, or the first text of a pair")
    pair: Readable | None = Field(None, description="the second text of a pair")
    models: Array[str] = Field(
        min_length=1, max_length=64, description="each client/task, client/task@alias or client/task@version"
    )


class Alias(Body):
    """The version that an alias is moved to, and the reason for the audit log."""

    version: int = Field(ge=1, description="number of the version")
    expected: int | None = Field(
        None, ge=1, description="number that the alias points to now; with another number the request is refused (409)"
    )
    share: float | None = Field(
        None,
        description="for the alias canary: percentage of the requests for production that the version answers",
        json_schema_extra={"exclusiveMinimum": 0, "exclusiveMaximum": 100},  # the store says what to do instead
    )
    message: Remark | None = Field(None, description="reason, kept in the audit log for ever")


@router.answers(routes.TASKS, TASKS_ANSWER, Tasks, TASKS_EXAMPLE)
async def tasks(call: Called) -> Response:
    """Return the answers of several models of the key's client to one text, computed in one batch if possible."""
    body = await call.body(Tasks)
    text = [Text(body.text, body.pair)]
    found = await call.together([call.asks(model, text) for model in body.models])
    pairs = zip(body.models, found, strict=True)
    return JSONResponse({"results": [{"model": model, **answered(one)} for model, (one,) in pairs]})


@router.answers(routes.BULK, lines=LINE_EXAMPLE, media="application/x-ndjson", query={"model": TEXT})
async def bulk(call: Called) -> Response:
    """Read JSON lines with texts, and return a JSON line with the answer to each line, in the same order.

    The answers to the first lines are returned while further lines still arrive. The query parameter `model` is the
    model for lines without the field `model`.
    """
    headers = call.request.headers
    if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
        raise Refusal(422, "invalid", "The body is empty. Send a JSON object in each line.")
    return Bulk(call, call.in_query("model"))


@router.answers(routes.ALIAS, ALIAS_ANSWER, Alias, ALIAS_EXAMPLE)
async def move(call: Called, client: str, task: str, alias: str) -> Response:
    """Make an alias point to a version of a model.

    The audit log records the id of the API key. The server answers with the version once the version has passed its
    golden test.
    """
    body = await call.body(Alias)
    wanted = (f"{client}/{task}", alias, body.version, body.expected, body.share, body.message)
    return JSONResponse((await call.look(call.administration.move, call.key, *wanted)).as_json())


@router.answers(routes.SHADOW, SHADOW)
async def shadow(call: Called, client: str, task: str) -> Response:
    """Return the state of a model's shadow version, and how often its answers differ from the production version's.

    The counts cover only the texts that this server received.
    """
    return JSONResponse(await call.look(call.administration.shadow, call.key, f"{client}/{task}"))


@router.answers(routes.DRIFT, DRIFT, query={"days": DAYS})
async def drift(call: Called, client: str, task: str, alias: str) -> Response:
    """Return how far the answers of the last days differ from the answers to the adapter's evaluation texts.

    The counts cover only the texts that this server answered since its start.
    """
    days = days_of(call.in_query("days"))
    found = await call.look(call.administration.served_answers, f"{client}/{task}", alias, days)
    return JSONResponse(await call.look(found.as_json))
