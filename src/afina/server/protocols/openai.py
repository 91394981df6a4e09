"""OpenAI's protocol for the package `openai` and for clients of vLLM: completions and chat completions.

The prompt of a completion is put into the adapter's prompt template, and the adapter's decoding settings are the
defaults, as in `afina predict`. Chats need an adapter that was trained with the backbone's chat template.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from fastapi import Response
from fastapi.responses import JSONResponse

from afina import meter
from afina.data.tokenize import Tokenizer
from afina.errors import InvalidData, NotFound
from afina.generating.answer_stream import TokenTexts
from afina.generating.guides import GuideMaker
from afina.models import objectives
from afina.models.objective import Objective
from afina.server import routes
from afina.server.http.calls import Called, ClientCall
from afina.server.http.refusals import Refusal
from afina.server.http.routing import ProtocolRouter
from afina.server.protocols import openai_answers, openai_bodies
from afina.server.protocols.openai_answers import AnswerHead, ChatFormat, CompletionFormat, OpenAIFormat
from afina.server.protocols.openai_bodies import ChatRequest, CompletionRequest
from afina.server.protocols.openai_stream import EventStream, NewTokenQueue, PendingAnswers
from afina.server.protocols.tool_calls import ChatPrompt, chat_prompt
from afina.server.receipts import RECEIPT
from afina.server.requests import AcceptedRequest, GenerationOptions, Text
from afina.store.api_keys import Key

router = ProtocolRouter()


class TextTools:
    """What makes texts from token ids, and guides from grammars, with the backbone's tokenizer. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.texts, self.guides = TokenTexts(tokenizer), GuideMaker(tokenizer)


async def _tools_of(call: ClientCall) -> TextTools:
    """Return the server's TextTools object, which is made at the first request for it."""
    state = call.request.app.state
    if getattr(state, "text_tools", None) is None:
        state.text_tools = await call.look(TextTools, call.core.engine.backbone.tokenizer)
    tools: TextTools = state.text_tools
    return tools


@router.answers(
    routes.COMPLETIONS,
    openai_answers.COMPLETION_ANSWER,
    CompletionRequest,
    openai_bodies.COMPLETION_EXAMPLE,
    events=openai_answers.COMPLETION_EVENT,
)
async def completions(call: Called) -> Response:
    """Generate an answer to each prompt (OpenAI's completions).

    A prompt that is a text is put into the model's prompt template, unless `template` is false.
    """
    body = await call.body(CompletionRequest)
    return await answered(call, body, openai_bodies.completion_texts(body), partial(CompletionFormat, body), {})


@router.answers(
    routes.CHAT, openai_answers.CHAT_ANSWER, ChatRequest, openai_bodies.CHAT_EXAMPLE, events=openai_answers.CHAT_EVENT
)
async def chat(call: Called) -> Response:
    """Generate the next message of a chat (OpenAI's chat completions). The model must have been trained on chats."""
    return await _chatted(call, await call.body(ChatRequest))


@router.answers(
    routes.HUB_CHAT,
    openai_answers.CHAT_ANSWER,
    ChatRequest,
    {**openai_bodies.CHAT_EXAMPLE, "model": "dummy"},
    events=openai_answers.CHAT_EVENT,
)
async def chat_of_model(call: Called, client: str, task: str) -> Response:
    """Generate the next message of a chat with the model of the path, as clients of Hugging Face's Hub ask for it.

    `model` is the same model, or `dummy`, as these clients send it.
    """
    body, model = await call.body(ChatRequest), f"{client}/{task}"
    if body.model not in ("dummy", model):
        raise Refusal.at("model", f"differs from the model of the path. Send {model[:200]} or dummy.")
    return await _chatted(call, body.model_copy(update={"model": model}))


async def _chatted(call: ClientCall, body: ChatRequest) -> Response:
    said = await rendered(call, body)
    return await answered(call, body, [Text(said.text)], partial(ChatFormat, body, said.reader), said.headers)


FormatOf = Callable[[AnswerHead, TokenTexts, AcceptedRequest], OpenAIFormat]
"""A function that returns the format in which the answers to an accepted request are written."""


async def answered(
    call: ClientCall,
    body: CompletionRequest | ChatRequest,
    texts: Sequence[Text],
    format_of: FormatOf,
    headers: Mapping[str, str],
) -> Response:
    """Return the HTTP response with the generated answers to the texts, and with further `headers`."""
    try:
        return await _computed(call, body, texts, format_of, headers)
    except InvalidData as error:
        raise openai_bodies.refusal(body, error) from None


async def _computed(
    call: ClientCall,
    body: CompletionRequest | ChatRequest,
    texts: Sequence[Text],
    format_of: FormatOf,
    headers: Mapping[str, str],
) -> Response:
    streams = bool(body.stream)
    if body.stream_options is not None and body.stream_options.model_fields_set and not streams:
        raise Refusal.at("stream_options", "needs `stream` true.")
    tools = await _tools_of(call)
    new = NewTokenQueue()
    given = call.key, body, len(texts), tools, new if streams else None
    guided = openai_bodies.is_restricted(body) or openai_bodies.function_of(body) is not None
    options = await call.look(_options, *given) if guided else _options(*given)  # compiling a grammar takes time
    (accepted,) = await call.begin([call.asks(body.model, texts, options, user=body.user)], _check)
    assert accepted.decoding is not None
    pending = PendingAnswers(call, accepted, new)
    begun = False
    try:
        head = AnswerHead(call.id, int(meter.posix_time()), body.model, accepted.receipt.adapter)
        written = format_of(head, tools.texts, accepted)
        headers = {RECEIPT: str(accepted.receipt), **headers}
        if streams:
            await pending.next()
            await pending.finished()  # an error before the first piece is an error of the request
            begun = True
            wanted = body.stream_options
            return EventStream(
                pending,
                written,
                headers,
                usage=wanted is not None and bool(wanted.include_usage),
                usage_so_far=wanted is not None and bool(wanted.include_usage and wanted.continuous_usage_stats),
            )
        while not pending.done:
            await pending.next()
        outcomes, usage = [pending.outcome(number) for number in await pending.finished()], pending.usage()
        if body.max_tokens == 0:
            outcomes, usage = [one.without_answer() for one in outcomes], pending.usage_with(0)
        if options.logprobs is None and not written.takes_time:
            return JSONResponse(written.response(outcomes, accepted.decoding, usage), headers=headers)
        # 65,000 tokens with log-probabilities take 0.6 seconds, in which the event loop answers others.
        made = await call.look(written.response, outcomes, accepted.decoding, usage)
        return JSONResponse(made, headers=headers)
    finally:
        if not begun:
            pending.close()


def _options(
    key: Key,
    body: CompletionRequest | ChatRequest,
    prompts: int,
    tools: TextTools,
    new: NewTokenQueue | None,
) -> GenerationOptions:
    """Return the generation options of a request. `new`: receives new tokens; None: the response is not streamed.

    Raises Refusal for an invalid option, and the errors of the grammar that the request gives.
    """
    number = openai_bodies.answers_wanted(body, prompts)
    logprobs = openai_bodies.alternatives(body)
    try:
        grammar = openai_bodies.grammar_of(body)
    except NotFound as error:
        raise Refusal(400, "unsupported", str(error)) from None
    decoding = openai_bodies.decoding_changes(body, guided=grammar is not None)
    if isinstance(body, CompletionRequest):
        openai_bodies.check_echo(body)
    return GenerationOptions(
        decoding=decoding,
        n=number,
        logprobs=logprobs,
        guide=None if grammar is None else grammar.digest,
        schema=None if grammar is None else grammar.schema,
        make_guide=None if grammar is None else tools.guides.prepare(key.client, grammar),
        prompt_as="chat" if isinstance(body, ChatRequest) else openai_bodies.prompt_of(body),
        echo=isinstance(body, CompletionRequest) and bool(body.echo),
        heard=None if new is None else new.put,
    )


def _check(accepted: AcceptedRequest) -> None:
    """Raise Refusal if a request has options that the model does not support."""
    decoding, options = accepted.decoding, accepted.request.generation
    assert decoding is not None
    assert options is not None
    if options.n > 1 and not decoding.samples:
        raise Refusal.at("n", "without sampling, all answers are the same. Give a `temperature` of 0.0001 or more.")
    if options.logprobs is not None and decoding.beams > 1:
        problem = "not available with the beam search of this model. Give a `temperature` above 0."
        raise Refusal.at("logprobs", problem)
    if options.prompt_as != "text" and any(one.truncated for one in accepted.encoded):
        field = "messages" if options.prompt_as == "chat" else "prompt"
        raise Refusal.at(field, "more tokens than the model reads. Send less.", "context_length_exceeded")
    if options.echo and options.logprobs is not None:
        values = options.n * sum(len(one.tokens) for one in accepted.encoded) * (1 + options.logprobs)
        if values > openai_bodies.ECHOED:
            message = f"{values} log-probabilities of the prompts, expected at most {openai_bodies.ECHOED}"
            raise Refusal.at("echo", f"{message}. Send fewer prompts, or ask for fewer `logprobs`.")
    if options.prompt_as == "chat":
        _check_chat(accepted.objective, accepted.manifest.template)


async def rendered(call: ClientCall, body: ChatRequest) -> ChatPrompt:
    """Return the messages of a chat as one prompt, rendered with the backbone's chat template.

    Raises Refusal if the model was not trained on chats or a field could change the prompt, Missing if the key's client
    has no such model, and InvalidData if the chat template cannot render the messages.
    """
    manifest = (await call.look(call.core.version, call.key, body.model, body.user or call.id)).manifest
    _check_chat(objectives.make(tuple(manifest["label_names"]), manifest.get("objective")), manifest.get("template"))
    tokenizer = call.core.engine.backbone.tokenizer
    openai_bodies.check_unread(body, tokenizer.get_chat_template())
    return await call.look(chat_prompt, tokenizer, body)


def _check_chat(objective: Objective, template: str | None) -> None:
    """Raise Refusal if the model does not generate text, or was not trained on chats."""
    if objective.auto_class != "language_model":
        raise Refusal.at("model", "this model gives no text. Ask for its labels or its number.")
    if not (objective.settings or {}).get("chat"):
        problem = f"this model was not trained on chats, but with the template {template!r}"
        raise Refusal.at("messages", f"{problem[:400]}. Send the text as `prompt` to /v1/completions.")
