"""Pydantic models of the request bodies of OpenAI's protocol, and functions that read generation options from them.

A field that is unknown is refused, except fields of messages that the chat template does not read. A field of OpenAI's
protocol is refused if it would change the answer and this server does not support it. A field with the value null
counts as absent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from afina.errors import InvalidData
from afina.generating import guides
from afina.generating.guides import MOST_CHOICES, MOST_PATTERN, Grammar
from afina.server.http.bodies import Array, Body, OnlyFalse, OnlyTrue, Readable, Strict, unknown_are_null, without_nulls
from afina.server.http.refusals import Refusal
from afina.server.json_shapes import Shape, exactly_one
from afina.server.protocols import tools
from afina.server.protocols.tools import Function, Tools
from afina.server.receipts import Prompt
from afina.server.requests import Text

PROMPTS, ANSWERS = 64, 64
"""The largest number of prompts in a request, and of answers to all its prompts together."""

MESSAGES = 256
"""The largest number of messages in a chat."""

STOPS, STOP_CHARACTERS = 16, 64
"""The largest number of stop strings in a request, and the largest number of characters of a stop string."""

BIASES = 128
"""The largest number of tokens in `logit_bias`, all of which are in the receipt, an HTTP header."""

ECHOED = 1 << 17
"""The largest number of log-probabilities of prompt tokens in a response, each of a few hundred bytes."""

ALTERNATIVES = 20
"""The largest number of alternative tokens whose log-probabilities a request may ask for at each token."""

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


class StreamOptions(Body):
    """The options of a streamed response. Any of them, also as null, needs a stream, as with OpenAI and vLLM."""

    include_usage: bool | None = Field(None, description="true: the last event has the numbers of tokens")
    continuous_usage_stats: bool | None = Field(
        None, description="true, with `include_usage`: each event has the numbers of tokens so far, of all answers"
    )
    include_obfuscation: OnlyFalse | None = Field(None, description="not supported: only false")


class NamedSchema(Strict):
    """A JSON schema with a name."""

    name: str = Field(description="name of the schema; not used", max_length=64)
    schema_: _ANY_JSON = Field(alias="schema", description="the JSON schema of the answer")
    description: str | None = Field(None, description="not used", max_length=4096)
    strict: bool | None = Field(None, description="not used: an answer always follows the schema")


_VALUES: Mapping[str, Any] = {"json": dict, "json_object": (dict, type(None)), "regex": str}
"""The Python types of `ResponseFormat.value`, by the value of `ResponseFormat.type`. Other types have no `value`."""


class ResponseFormat(Strict):
    """The format of an answer: text, JSON or a JSON schema."""

    type: Literal["text", "json_object", "json_schema", "json", "regex"] = Field(
        description="text: any text; json_object: a JSON object; json_schema: JSON that follows `json_schema`; "
        "json, regex: a text that follows `value`, as huggingface_hub sends them"
    )
    json_schema: NamedSchema | None = Field(None, description="the schema, with type json_schema only")
    value: _ANY_JSON | str | None = Field(
        None, description="a JSON schema, with type json or json_object; a regular expression, with type regex"
    )


Choice = Annotated[str, Field(json_schema_extra={"pattern": r"^\S([\s\S]*\S)?$"})]


def _one_grammar(schema: Shape) -> None:
    unknown_are_null(schema)
    schema.update(exactly_one("choice", "regex", "json"))


class StructuredOutputs(Strict):
    """The grammar that restricts an answer, as in vLLM. Exactly one of the fields must be given."""

    model_config = ConfigDict(json_schema_extra=_one_grammar)

    choice: Annotated[Array[Choice], Field(json_schema_extra={"minItems": 1, "maxItems": MOST_CHOICES})] | None = Field(
        None, description="the answer is one of these texts"
    )
    regex: Annotated[str, Field(json_schema_extra={"minLength": 1, "maxLength": MOST_PATTERN})] | None = Field(
        None, description="the answer matches this regular expression (syntax of Rust's regex; without look-around)"
    )
    json_: _ANY_JSON | None = Field(None, alias="json", description="the answer is JSON that follows this JSON schema")


Stop = Annotated[str, Field(json_schema_extra={"minLength": 1, "maxLength": STOP_CHARACTERS})]

Stops = Annotated[
    Stop | Annotated[Array[Stop], Field(max_length=STOPS)] | None,
    Field(
        description=f"strings that end an answer, which is cut before them: at most {STOPS}, with 1 to "
        f"{STOP_CHARACTERS} characters each. Default: those of the model"
    ),
]

SETTING = "Default: the model's own setting, as `afina predict` uses it"


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
EFFORT = "accepted and not used, because there is no reasoning; refused if the chat template reads it"

Nothing = Annotated[list[Any], Field(max_length=0)]
"""The type of an array that must be empty."""


TokenId = Annotated[int, Field(ge=0, lt=2**31)]


_TOKEN_NAME = "0|[1-9][0-9]{0,9}"
_TOKEN_NAMES: Shape = {"propertyNames": {"pattern": f"^({_TOKEN_NAME})$"}}


def _token_names(given: Any) -> Any:
    wrong = [name for name in given if not re.fullmatch(_TOKEN_NAME, name)] if isinstance(given, dict) else []
    if wrong:
        found = {"found": " and ".join(repr(name[:40]) for name in wrong[:3]) + (" and others" if wrong[3:] else "")}
        raise PydanticCustomError("token_names", "found {found}, expected token ids as names such as 50256", found)
    return given


Bias = Annotated[float, Field(ge=-100, le=100)]

Biases = Annotated[
    dict[str, Bias], Field(max_length=BIASES, json_schema_extra=_TOKEN_NAMES), BeforeValidator(_token_names)
]
"""The type of a JSON object whose names are token ids."""


class Unused(Strict):
    """Request fields that are not generation options, with the values that this server accepts."""

    user: str | None = Field(None, description="the end user, all of whose requests one version answers")
    safety_identifier: str | None = Field(None, description="accepted and not used")
    metadata: _ANY_JSON | None = Field(None, description="accepted and not used: no answer is stored")
    store: bool | None = Field(None, description="accepted and not used: no answer is stored")
    service_tier: str | None = Field(None, description="accepted and not used")
    prompt_cache_key: str | None = Field(None, description="accepted and not used")
    prompt_cache_retention: str | None = Field(None, description="accepted and not used")
    prompt_cache_options: _ANY_JSON | None = Field(None, description="accepted and not used")
    skip_special_tokens: OnlyTrue | None = Field(None, description="not supported: only true")
    spaces_between_special_tokens: OnlyTrue | None = Field(None, description="not supported: only true")
    include_stop_str_in_output: OnlyFalse | None = Field(None, description="not supported: only false")
    use_beam_search: OnlyFalse | None = Field(None, description="not supported: only false")


class Sampled(Unused):
    """The sampling fields of every request for a generated answer."""

    model: str = Field(description="client/task, client/task@alias or client/task@version")
    stream: bool | None = Field(None, description="true: return the answer in pieces, as server-sent events")
    temperature: float | None = Field(
        None,
        ge=0,
        le=2,
        description="divisor of the logits; below 0.0001: always the most probable token. "
        f"{SETTING}, and not 1 as with OpenAI",
    )
    top_p: float | None = Field(
        None, gt=0, le=1, description=f"draw from the most probable tokens with this probability together. {SETTING}"
    )
    seed: int | None = Field(
        None,
        ge=-(2**63),
        lt=2**63 - ANSWERS,
        description=f"seed of random draws; the same request with the same seed has the same answer. {SETTING}",
    )


CHAT_LIMIT = "Default: the rest of the context, or what the server, the key's rate or the memory allows, if it is less"


class Generate(Sampled):
    """The generation fields of completions and of chats."""

    stream_options: StreamOptions | None = Field(None, description="options of a streamed response")
    stop: Stops = None
    max_tokens: int | None = Field(None, ge=1, description=f"most tokens of an answer. {CHAT_LIMIT}")
    top_k: int | None = Field(
        None,
        ge=-1,
        description=f"draw from this number of most probable tokens; 0 or -1: from all (as in vLLM). {SETTING}",
    )
    min_p: float | None = Field(
        None,
        ge=0,
        le=1,
        description=f"draw from tokens with at least this share of the largest probability (as in vLLM). {SETTING}",
    )
    n: int | None = Field(None, ge=1, le=ANSWERS, description="number of answers to each prompt. Default: 1")
    frequency_penalty: float | None = Field(
        None,
        ge=-2,
        le=2,
        description=f"subtracted from a token's logit as often as the answer has the token. {SETTING}",
    )
    presence_penalty: float | None = Field(
        None, ge=-2, le=2, description=f"subtracted from the logit of each token that the answer has. {SETTING}"
    )
    repetition_penalty: float | None = Field(
        None,
        ge=0.01,
        le=100,
        description="divisor of the positive logits, and factor of the others, of tokens that prompt or answer have "
        f"(as in vLLM); 1: no change. {SETTING}",
    )
    logit_bias: Biases | None = Field(
        None, description=f"numbers that are added to the logits of tokens, by token id: at most {BIASES}. {SETTING}"
    )
    stop_token_ids: Annotated[Array[TokenId], Field(max_length=STOPS)] | None = Field(
        None,
        description=f"tokens that end an answer, which is cut before them (as in vLLM): at most {STOPS}. {SETTING}",
    )
    ignore_eos: bool | None = Field(
        None, description=f"true: the model's end token does not end an answer (as in vLLM). {SETTING}"
    )
    min_tokens: int | None = Field(
        None, ge=0, description=f"number of tokens before which an answer does not end (as in vLLM). {SETTING}"
    )
    structured_outputs: StructuredOutputs | None = Field(None, description="the form of the answers, as in vLLM")
    response_format: ResponseFormat | None = Field(None, description="the format of the answers")


TokenIds = Annotated[Array[TokenId], Field(min_length=1)]
"""The type of a prompt that is an array of token ids."""


def _form_of(prompt: Any) -> str:
    """Return the form of the field `prompt` by its first element: a text, texts, token ids or arrays of token ids."""
    if isinstance(prompt, str):
        return "<text>"
    first = prompt[0] if prompt else ""
    return "<tokens>" if type(first) is int else "<arrays of tokens>" if isinstance(first, list) else "<texts>"


def _text_or_array(prompt: Any) -> Any:
    if not isinstance(prompt, str | list):
        raise PydanticCustomError("text_or_array_type", "expected a string or an array")
    return prompt


class CompletionRequest(Generate):
    """A request of OpenAI's completions API."""

    most_values: ClassVar[int] = 1 << 16
    """Largest number of JSON values in the body, which is enough for 64 prompts of 1,000 token ids."""

    prompt: Annotated[
        Annotated[Readable, Tag("<text>")]
        | Annotated[Array[Readable], Field(min_length=1, max_length=PROMPTS), Tag("<texts>")]
        | Annotated[TokenIds, Tag("<tokens>")]
        | Annotated[Array[TokenIds], Field(min_length=1, max_length=PROMPTS), Tag("<arrays of tokens>")],
        Discriminator(_form_of),
        BeforeValidator(_text_or_array),
    ] = Field(
        description=f"the text that the model reads, or up to {PROMPTS} texts with an answer each. The model's "
        f"template is put around it. Or token ids, which are taken as they are: one prompt, or up to {PROMPTS} arrays"
    )
    max_tokens: int | None = Field(
        None, ge=0, description=f"most tokens of an answer; 0: none, with `echo` only. {SETTING}"
    )
    pair: Readable | None = Field(
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
    echo: bool | None = Field(
        None,
        description="true: the prompt is returned before the answer, with its log-probabilities if `logprobs` is "
        "given. For token ids, or with `template` false; without `stream`",
    )
    best_of: int | None = Field(None, ge=1, le=ANSWERS, description="not supported: only the same number as `n`")
    suffix: Literal[""] | None = Field(None, description="not supported: only the empty text")


class TextPart(Strict):
    """A text part of a message."""

    type: Literal["text"] = Field(description="only text is supported")
    text: str = Field(description="the text")
    prompt_cache_breakpoint: _ANY_JSON | None = Field(None, description="accepted and not used")


class CalledFunction(Strict):
    """The function of a tool call."""

    name: str = Field(description="name of the function, for a chat template with tools")
    arguments: str = Field(description="the arguments as JSON, as the model wrote them")


class ToolCall(Strict):
    """A tool call in a message of the assistant."""

    id: str = Field(description="id of the call; not used")
    type: Literal["function"] | None = Field("function", description="only functions are supported")
    function: CalledFunction = Field(description="the function")
    index: int | None = Field(None, description="accepted and not used")


Content = str | Annotated[Array[TextPart], Field(min_length=1, max_length=MESSAGES)]


class Message(Strict):
    """The base class of messages of a chat. `check_unread` refuses further fields that could change the answer."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": True})

    role: str
    content: Content | None = Field(description="the text, or parts of it, which are joined")
    name: str | None = Field(None, description="name of the author, for the chat template", max_length=64)

    @property
    def text(self) -> str:
        content = self.content or ""
        return content if isinstance(content, str) else "".join(part.text for part in content)

    def for_template(self) -> dict[str, str]:
        """Return the message as the dictionary that transformers' chat templates expect."""
        return {"role": self.role, "content": self.text, **({} if self.name is None else {"name": self.name})}


class InstructingMessage(Message):
    """A message with the role `system`, or `developer` in newer clients."""

    role: Literal["system", "developer"] = Field(description="the chat template reads system")
    content: Content = Field(description="the text, or parts of it, which are joined")

    def for_template(self) -> dict[str, str]:
        return {**super().for_template(), "role": "system"}


class UserMessage(Message):
    """A message with the role `user`."""

    role: Literal["user"] = Field(description="who says it")
    content: Content = Field(description="the text, or parts of it, which are joined")


class AssistantMessage(Message):
    """A message with the role `assistant`, such as each message that this server returns."""

    role: Literal["assistant"] = Field(description="who says it")
    content: Content | None = Field(None, description="the text, or parts of it, which are joined. Default: none")
    tool_calls: Array[ToolCall] | None = Field(
        None, description="calls, which a chat template without tools reads as their arguments in the text"
    )
    annotations: Nothing | None = Field(None, description="not supported: only []")

    def for_template(self) -> dict[str, str]:
        """Return the message as chat templates without tools expect it: the arguments of its calls are text."""
        calls = [call.function.arguments for call in self.tool_calls or []]
        return {**super().for_template(), "content": "\n".join([self.text, *calls] if self.text else calls)}


class ToolMessage(Message):
    """A message with the result of a tool call."""

    role: Literal["tool"] = Field(description="who says it")
    content: Content = Field(description="the text, or parts of it, which are joined")
    tool_call_id: str = Field(description="the call that it answers, for the chat template", max_length=256)

    def for_template(self) -> dict[str, str]:
        return {**super().for_template(), "tool_call_id": self.tool_call_id}


ChatMessage = Annotated[
    InstructingMessage | UserMessage | AssistantMessage | ToolMessage,
    Field(discriminator="role"),
    BeforeValidator(without_nulls),
]


class ChatRequest(Generate, Tools):
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
    functions: Nothing | None = Field(None, description="not supported: only []")
    function_call: Literal["none", "auto"] | None = Field(None, description="accepted and not used without functions")
    modalities: Array[Literal["text"]] | None = Field(None, description='not supported: only ["text"]')
    prediction: _ANY_JSON | None = Field(None, description="accepted and not used: it changes no answer of OpenAI")
    reasoning_effort: Effort | None = Field(None, description=EFFORT)
    verbosity: Literal["medium"] | None = Field(None, description="not supported: only medium")
    add_generation_prompt: OnlyTrue | None = Field(None, description="not supported: only true")
    continue_final_message: OnlyFalse | None = Field(None, description="not supported: only false")
    chat_template_kwargs: _ANY_JSON | None = Field(
        None, description="accepted and not used; a name that the chat template has is refused"
    )


_MEANT = frozenset({"tool_calls", "function_call", "refusal", "audio", "images"})
"""Fields whose content the model would have to read. A message that does not define such a field is refused with it."""


def check_unread(body: ChatRequest, template: str) -> None:
    """Raise Refusal for a field that would change the answer if this server gave it to the chat template."""
    given = {f"chat_template_kwargs.{name}": name for name in body.chat_template_kwargs or {}}
    if body.reasoning_effort not in (None, "none"):
        given["reasoning_effort"] = "reasoning_effort"
    for index, message in enumerate(body.messages):
        extra = message.model_extra or {}
        if extra and message.content is None and not getattr(message, "tool_calls", None):
            raise Refusal.at(f"messages.{index}.content", "is missing or null.")
        given |= {f"messages.{index}.{name}": name for name in extra}
    for field, name in given.items():
        if name in _MEANT or re.search(rf"\b{re.escape(name)}\b", template):
            problem = "is not supported, and could change the prompt. Leave it out."
            raise Refusal.at(field[:STOP_CHARACTERS], problem, "unsupported")


def completion_texts(body: CompletionRequest) -> Sequence[Text]:
    """Return the prompts of a request. Raises Refusal if `pair` or `template` cannot be combined with them."""
    if isinstance(body.prompt, str):
        return [Text(body.prompt, body.pair)]
    if body.pair is not None:
        raise Refusal.at("pair", "needs a single prompt that is a text, not an array.")
    if prompt_of(body) == "tokens" and body.template:
        raise Refusal.at("template", "token ids are taken as they are. Leave `template` out.")
    one_prompt = [one for one in body.prompt if isinstance(one, int)]
    if one_prompt:
        return [Text("", tokens=one_prompt)]
    many = [one for one in body.prompt if not isinstance(one, int)]
    return [Text(one) if isinstance(one, str) else Text("", tokens=one) for one in many]


def prompt_of(body: CompletionRequest) -> Prompt:
    if isinstance(body.prompt, str) or isinstance(body.prompt[0], str):
        return "raw" if body.template is False else "text"
    return "tokens"


def check_echo(body: CompletionRequest) -> None:
    """Raise Refusal if a request combines `echo` with an option that cannot be combined with it."""
    if not body.echo:
        if body.max_tokens == 0:
            raise Refusal.at("max_tokens", "found 0, expected at least 1. Only `echo` allows 0.")
        return
    if prompt_of(body) == "text":
        message = "the adapter's template would be part of the prompt. Send token ids, or `template` false."
        raise Refusal.at("echo", f"{message}")
    if body.stream:
        raise Refusal.at("echo", "not available in a stream. Leave `stream` out.", "unsupported")


def refusal(body: CompletionRequest | ChatRequest, error: InvalidData) -> Refusal:
    """Return the refusal for an error in the request, with the field of the request that is wrong."""
    text = "messages" if isinstance(body, ChatRequest) else "prompt"
    form = "structured_outputs" if body.structured_outputs is not None else "response_format"
    form = form if function_of(body) is None else "tools"
    fields = {
        "request.chat-unusable": "messages",
        "request.text-invalid": text,
        "request.text-empty": text,
        "request.text-tokens": text,
        "request.token-unknown": text,
        "request.texts-count": text,
        "generation.prompt-too-long": text,
        "data.pairs-mismatch": "pair",
        "data.kind-mismatch": "model",
        "request.grammar-invalid": form,
        "request.grammar-costly": form,
    }
    kind = "context_length_exceeded" if error.code == "generation.prompt-too-long" else "invalid"
    message, field = error.sentence.renamed(partial(_field, body)), fields.get(error.code)
    if "option" in error.fields:
        field = _field(body, str(error.fields["option"]))
    if field is None or field == message.subject:
        return Refusal(422, kind, message, field=message.subject)
    return Refusal.at(field, message, kind)


def _field(body: CompletionRequest | ChatRequest, option: str) -> str:
    """Return the request field that sets a decoding option, such as `max_tokens` for `max_new_tokens`."""
    if option != "max_new_tokens":
        name = _OTHERWISE.get(option, option)
        return "top_logprobs" if name == "logprobs" and isinstance(body, ChatRequest) else name
    longer = isinstance(body, ChatRequest) and body.max_tokens is None
    return "max_completion_tokens" if longer else "max_tokens"


def answers_wanted(body: Generate, prompts: int) -> int:
    """Return the number of answers to each prompt. Raises Refusal if all prompts together have too many answers."""
    number = body.n or 1
    if isinstance(body, CompletionRequest) and body.best_of not in (None, number):
        raise Refusal.at("best_of", f"found {body.best_of}, expected {number}, as `n`.", "unsupported")
    if number * prompts > ANSWERS:
        raise Refusal.at("n", f"{number * prompts} answers, expected at most {ANSWERS} in a request.")
    return number


def alternatives(body: CompletionRequest | ChatRequest) -> int | None:
    """Return the number of alternative tokens that are reported at each token; None: no log-probabilities.

    Raises Refusal for `top_logprobs` without `logprobs`.
    """
    if isinstance(body, CompletionRequest):
        return body.logprobs
    if body.top_logprobs is not None and not body.logprobs:
        raise Refusal.at("top_logprobs", "needs `logprobs` true.")
    return (body.top_logprobs or 0) if body.logprobs else None


_ALIKE = (
    *("temperature", "top_p", "min_p", "seed", "ignore_eos"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
)
"""The fields of a request body that have the same names in `Decoding`."""

_OTHERWISE = {"min_new_tokens": "min_tokens"}
"""The names of request fields whose name in `Decoding` differs, by the name in `Decoding`."""


def decoding_changes(body: CompletionRequest | ChatRequest, *, guided: bool) -> Mapping[str, Any]:
    """Return the fields of `Decoding` that a request changes. Raises Refusal if fields contradict each other.

    At temperature 0, top-p, top-k and min-p are switched off. An answer that a grammar restricts (`guided`) has no stop
    tokens, beams or forbidden n-grams, and only the request's stop strings, so that the answer follows its grammar to
    the end or to a string that the client has asked for.
    """
    most = [body.max_tokens, *([body.max_completion_tokens] if isinstance(body, ChatRequest) else [])]
    given = {one for one in most if one is not None}
    if len(given) > 1:
        raise Refusal.at("max_tokens", "differs from `max_completion_tokens`. Leave one of them out.")
    stop = None if body.stop is None else (body.stop,) if isinstance(body.stop, str) else tuple(body.stop)
    if any(not 1 <= len(one) <= STOP_CHARACTERS for one in stop or ()):
        raise Refusal.at("stop", f"expected strings of 1 to {STOP_CHARACTERS} characters.")
    if guided and body.stop_token_ids:
        raise Refusal.at("stop_token_ids", "cannot be combined with a grammar of the answer. Leave it out.")
    biases = body.logit_bias
    found = {
        "max_new_tokens": max(given.pop(), 1) if given else None,  # with `echo`, 0 leaves the answer out
        "stop": stop,
        "top_k": None if body.top_k is None else max(body.top_k, 0),
        "stop_token_ids": None if body.stop_token_ids is None else tuple(body.stop_token_ids),
        "min_new_tokens": body.min_tokens,
        "logit_bias": None if biases is None else {int(token): value for token, value in biases.items()},
        **{name: getattr(body, name) for name in _ALIKE},
    }
    if body.temperature == 0:
        found |= {"top_p": 1.0, "top_k": 0, "min_p": 0.0}
    elif body.temperature is not None:
        found["beams"] = 1
    if guided:
        found |= {"stop": stop or (), "stop_token_ids": (), "beams": 1, "no_repeat_ngram": 0}
    return {name: value for name, value in found.items() if value is not None}


def function_of(body: Generate) -> Function | None:
    """Return the function that the answers must call, or None if the answers are texts.

    Raises Refusal if the request forces a function call and also has `structured_outputs`.
    """
    function = tools.forced(body) if isinstance(body, Tools) else None
    if function is not None and body.structured_outputs is not None:
        raise Refusal.at("structured_outputs", "leave it out, or leave `tool_choice` out.")
    return function


def is_restricted(body: Generate) -> bool:
    """Return whether a request restricts its answers by a grammar, and not by forcing a function call."""
    return body.structured_outputs is not None or (
        body.response_format is not None and body.response_format.type != "text"
    )


def grammar_of(body: Generate) -> Grammar | None:
    """Return the grammar that restricts the answers, or None if any text is allowed.

    A function call forces the function's JSON Schema. Raises Refusal and InvalidData if the fields are invalid.
    """
    if (function := function_of(body)) is not None:
        guides.require()
        return Grammar.of_schema(tools.schema_of(function))
    form, asked = body.response_format, body.structured_outputs
    if form is not None and (form.type == "json_schema") != (form.json_schema is not None):
        raise Refusal.at("response_format", "`json_schema` and type json_schema belong together.")
    if form is not None and not isinstance(form.value, _VALUES.get(form.type, type(None))):
        problem = "a JSON schema with type json or json_object, a text with type regex, and belongs to no other type"
        raise Refusal.at("response_format.value", f"is {problem}.")
    if asked is not None:
        given = [one for one in (asked.choice, asked.regex, asked.json_) if one is not None]
        if len(given) != 1:
            raise Refusal.at("structured_outputs", "expected one of choice, regex and json.")
    if form is not None and form.type == "text":
        form = None
    if form is not None and asked is not None:
        raise Refusal.at("structured_outputs", "leave it out, or leave `response_format` out.")
    if form is None and asked is None:
        return None
    guides.require()
    if form is not None:
        if isinstance(form.value, str):
            return Grammar.of_regex(form.value)
        named = form.json_schema.schema_ if form.json_schema else {"type": "object"}
        return Grammar.of_schema(named if form.value is None else form.value)
    assert asked is not None
    if asked.choice is not None:
        return Grammar.of_choices(asked.choice)
    return Grammar.of_regex(asked.regex) if asked.regex is not None else Grammar.of_schema(asked.json_ or {})
