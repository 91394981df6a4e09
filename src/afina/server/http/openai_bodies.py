"""Request bodies of OpenAI's protocol, as the package `openai` sends them, and what they ask of the core.

A field that would change an answer and is not supported is refused, and so is every unknown field. This module does not
know how answers are computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from afina.inference import guides
from afina.inference.guides import Grammar
from afina.server.http.errors import Refusal
from afina.server.http.schemas import Array, Body
from afina.server.requests import Text

PROMPTS, ANSWERS = 64, 64
"""Most prompts of a request, and most answers of a request. `Settings` has the limit of answers to a prompt."""

MESSAGES = 256
"""Most messages of a chat."""

STOPS, STOP_CHARACTERS = 16, 64
"""Most stop strings, and most characters of one."""

ALTERNATIVES = 20
"""Most log-probabilities of alternatives at each token."""

COMPLETION_EXAMPLE = {
    "model": "acme/replies@production",
    "prompt": "Where is my parcel?",
    "max_tokens": 40,
    "stop": ["\n"],
}
CHAT_EXAMPLE = {
    "model": "acme/replies@production",
    "messages": [{"role": "user", "content": "Where is my parcel?"}],
    "max_completion_tokens": 40,
}

_ANY_JSON = dict[str, Any]


class _Strict(Body):
    """A body that refuses unknown fields: an option that is ignored would change answers unnoticed."""

    model_config = ConfigDict(strict=True, extra="forbid", populate_by_name=False)


class StreamOptions(_Strict):
    """Options of a streamed response."""

    include_usage: bool | None = Field(None, description="true: the last event has the numbers of tokens")
    include_obfuscation: Literal[False] | None = Field(None, description="not supported: only false")


class NamedSchema(_Strict):
    """A JSON schema with a name."""

    name: str = Field(description="name of the schema; not used", max_length=64)
    schema_: _ANY_JSON = Field(alias="schema", description="the JSON schema of the answer")
    description: str | None = Field(None, description="not used", max_length=4096)
    strict: bool | None = Field(None, description="not used: an answer always follows the schema")


class ResponseFormat(_Strict):
    """The format of an answer."""

    type: Literal["text", "json_object", "json_schema"] = Field(
        description="text: any text; json_object: a JSON object; json_schema: JSON that follows `json_schema`"
    )
    json_schema: NamedSchema | None = Field(None, description="the schema, with type json_schema only")


class StructuredOutputs(_Strict):
    """The form of an answer, as in vLLM. Exactly one field is given."""

    choice: Array[str] | None = Field(None, description="the answer is one of these texts")
    regex: str | None = Field(
        None, description="the answer matches this regular expression (syntax of Rust's regex; without look-around)"
    )
    json_: _ANY_JSON | None = Field(None, alias="json", description="the answer is JSON that follows this JSON schema")


Stops = Annotated[
    str | Annotated[Array[str], Field(max_length=STOPS)] | None,
    Field(
        description=f"strings that end an answer, which is cut before them: at most {STOPS}, with 1 to "
        f"{STOP_CHARACTERS} characters each. Default: those of the model"
    ),
]

_SETTING = "Default: the model's own setting, as `afina predict` uses it"


class Generate(_Strict):
    """The fields of both kinds of requests."""

    model: str = Field(description="client/task, client/task@alias or client/task@version")
    stream: bool | None = Field(None, description="true: return the answer in pieces, as server-sent events")
    stream_options: StreamOptions | None = Field(None, description="options of a streamed response")
    stop: Stops = None
    max_tokens: int | None = Field(None, ge=1, description=f"most tokens of an answer. {_SETTING}")
    temperature: float | None = Field(
        None,
        ge=0,
        le=2,
        description=f"divisor of the logits; 0: always the most probable token. {_SETTING}, and not 1 as with OpenAI",
    )
    top_p: float | None = Field(
        None, gt=0, le=1, description=f"draw from the most probable tokens with this probability together. {_SETTING}"
    )
    top_k: int | None = Field(
        None, ge=0, description=f"draw from this number of most probable tokens; 0: from all (as in vLLM). {_SETTING}"
    )
    seed: int | None = Field(
        None,
        ge=-(2**63),
        lt=2**63 - ANSWERS,
        description=f"seed of random draws; the same request with the same seed has the same answer. {_SETTING}",
    )
    n: int | None = Field(None, ge=1, le=ANSWERS, description="number of answers to each prompt. Default: 1")
    user: str | None = Field(None, description="accepted and not used")
    frequency_penalty: float | None = Field(None, ge=0, le=0, description="not supported: only 0")
    presence_penalty: float | None = Field(None, ge=0, le=0, description="not supported: only 0")
    structured_outputs: StructuredOutputs | None = Field(None, description="the form of the answers, as in vLLM")
    response_format: ResponseFormat | None = Field(None, description="the format of the answers")


def _no_token_ids(given: Any) -> Any:
    """Refuse a prompt of token ids."""
    first = given[0] if isinstance(given, list) and given else None
    if isinstance(first, int | list):
        raise PydanticCustomError("token_ids", "token ids are not supported. Send the text itself")
    return given


class CompletionRequest(Generate):
    """A request of OpenAI's completions API."""

    prompt: Annotated[
        str | Annotated[Array[str], Field(min_length=1, max_length=PROMPTS)], BeforeValidator(_no_token_ids)
    ] = Field(
        description=f"the text that the model reads, or up to {PROMPTS} texts with an answer each. The model's "
        "template is put around it"
    )
    pair: str | None = Field(
        None, description="second part of a single prompt, for a model that reads pairs of texts (an addition of afina)"
    )
    template: bool | None = Field(
        None, description="false: no template is put around the prompt (an addition of afina). Default: true"
    )
    logprobs: int | None = Field(
        None,
        ge=0,
        le=ALTERNATIVES,
        description="log-probabilities of the tokens, and of this number of most probable tokens in their place",
    )
    echo: Literal[False] | None = Field(None, description="not supported: only false")
    best_of: Literal[1] | None = Field(None, description="not supported: only 1")
    suffix: None = Field(None, description="not supported: only null")


class TextPart(_Strict):
    """A part of a message."""

    type: Literal["text"] = Field(description="only text is supported")
    text: str = Field(description="the text")


class ChatMessage(_Strict):
    """A message of a chat."""

    role: Literal["system", "user", "assistant"] = Field(description="who says it")
    content: str | Annotated[Array[TextPart], Field(min_length=1, max_length=MESSAGES)] = Field(
        description="the text, or parts of it, which are joined"
    )

    @property
    def text(self) -> str:
        """The whole text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Generate):
    """A request of OpenAI's chat completions API."""

    messages: Annotated[Array[ChatMessage], Field(min_length=1, max_length=MESSAGES)] = Field(
        description=f"the messages so far, at most {MESSAGES}. The chat template of the backbone puts them together"
    )
    max_completion_tokens: int | None = Field(None, ge=1, description="the same as `max_tokens`; give one of them")
    logprobs: bool | None = Field(None, description="true: return log-probabilities of the tokens")
    top_logprobs: int | None = Field(
        None,
        ge=0,
        le=ALTERNATIVES,
        description="number of most probable tokens whose log-probabilities are returned too; needs `logprobs`",
    )


def completion_texts(body: CompletionRequest) -> Sequence[Text]:
    """Return the texts of a request. Raises Refusal."""
    if isinstance(body.prompt, str):
        return [Text(body.prompt, body.pair)]
    if body.pair is not None:
        raise Refusal(422, "invalid", "`pair`: needs a single prompt, not an array.")
    return [Text(one) for one in body.prompt]


def answers_wanted(body: Generate, prompts: int) -> int:
    """Return the number of answers to each prompt. Raises Refusal if a request has too many answers in all."""
    number = body.n or 1
    if number * prompts > ANSWERS:
        raise Refusal(422, "invalid", f"`n`: {number * prompts:,} answers, expected at most {ANSWERS} in a request.")
    return number


def alternatives(body: CompletionRequest | ChatRequest) -> int | None:
    """Return the number of alternatives at each token; None: no log-probabilities. Raises Refusal."""
    if isinstance(body, CompletionRequest):
        return body.logprobs
    if body.top_logprobs is not None and not body.logprobs:
        raise Refusal(422, "invalid", "`top_logprobs`: needs `logprobs` true.")
    return (body.top_logprobs or 0) if body.logprobs else None


def decoding_changes(body: CompletionRequest | ChatRequest, *, guided: bool) -> Mapping[str, Any]:
    """Return the fields of `Decoding` that a request changes. Raises Refusal.

    At temperature 0, top-p and top-k have no effect. A guided answer is not cut at stop strings, and has no beams and
    no n-gram that is forbidden, so that it follows its grammar to the end.
    """
    most = [body.max_tokens, *([body.max_completion_tokens] if isinstance(body, ChatRequest) else [])]
    given = {one for one in most if one is not None}
    if len(given) > 1:
        raise Refusal(422, "invalid", "`max_tokens`: differs from `max_completion_tokens`. Leave one of them out.")
    stop = None if body.stop is None else (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
    if any(not 1 <= len(one) <= STOP_CHARACTERS for one in stop or ()):
        raise Refusal(422, "invalid", f"`stop`: expected strings of 1 to {STOP_CHARACTERS} characters.")
    if guided and stop:
        raise Refusal(422, "invalid", "`stop`: cannot be combined with a grammar of the answer. Leave `stop` out.")
    found = {
        "max_new_tokens": next(iter(given), None),
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "seed": body.seed,
        "stop": stop,
    }
    if body.temperature == 0:
        found |= {"top_p": 1.0, "top_k": 0}
    elif body.temperature is not None:
        found["beams"] = 1
    if guided:
        found |= {"stop": (), "beams": 1, "no_repeat_ngram": 0}
    return {name: value for name, value in found.items() if value is not None}


def grammar_of(body: Generate) -> Grammar | None:
    """Return the grammar of the answers; None: any text. Raises Refusal and InvalidData."""
    form, asked = body.response_format, body.structured_outputs
    named = form is not None and form.type == "json_schema"
    if form is not None and named != (form.json_schema is not None):
        raise Refusal(422, "invalid", "`response_format`: `json_schema` and type json_schema belong together.")
    if asked is not None:
        given = [one for one in (asked.choice, asked.regex, asked.json_) if one is not None]
        if len(given) != 1:
            raise Refusal(422, "invalid", "`structured_outputs`: expected one of choice, regex and json.")
    if form is not None and form.type == "text":
        form = None
    if form is not None and asked is not None:
        raise Refusal(422, "invalid", "`structured_outputs`: leave it out, or leave `response_format` out.")
    if form is None and asked is None:
        return None
    guides.require()
    if form is not None:
        return Grammar.of_schema(form.json_schema.schema_ if form.json_schema else {"type": "object"})
    assert asked is not None
    if asked.choice is not None:
        return Grammar.of_choices(asked.choice)
    return Grammar.of_regex(asked.regex) if asked.regex is not None else Grammar.of_schema(asked.json_ or {})
