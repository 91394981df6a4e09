"""OpenAI's protocol, as the package `openai` and clients of vLLM speak it: completions, chat completions, responses.

The model's own template is put around a prompt, and the model's own settings of generation are the defaults, as in
`afina predict`. A chat needs a model that was trained with the backbone's chat template. This module does not know how
answers are computed.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from afina.data.prompts import rendered_chat
from afina.data.tokenize import Tokenizer
from afina.errors import InvalidData, NotFound
from afina.generating.answer_stream import TokenTexts
from afina.generating.guides import GuideMaker
from afina.models import objectives
from afina.models.objective import Objective
from afina.server.core import Core
from afina.server.http.errors import Refusal
from afina.server.http.request_pool import body_of, core_of, key_of, pool_of
from afina.server.http.schemas import Body
from afina.server.protocols import openai_answers, openai_bodies, responses, responses_answers
from afina.server.protocols.openai_answers import AnswerHead, ChatFormat, CompletionFormat, EchoedPrompt, OpenAIFormat
from afina.server.protocols.openai_bodies import ChatRequest, CompletionRequest
from afina.server.protocols.openai_stream import EventStream, NewTokenQueue, PendingAnswers
from afina.server.protocols.responses import ResponsesRequest
from afina.server.protocols.responses_answers import ResponsesFormat
from afina.server.receipts import RECEIPT
from afina.server.requests import AcceptedRequest, GenerationOptions, Text
from afina.server.versions.canaries import STICKY
from afina.store import publishing
from afina.store.keys import Key

BODIES: Sequence[type[Body]] = [CompletionRequest, ChatRequest, ResponsesRequest]

router = APIRouter()


class TextTools:
    """Texts and guides for the tokenizer of a server. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.texts, self.guides = TokenTexts(tokenizer), GuideMaker(tokenizer)


@router.post(
    "/v1/completions",
    **openai_answers.describe_route(
        openai_answers.COMPLETION_ANSWER,
        CompletionRequest,
        openai_bodies.COMPLETION_EXAMPLE,
        events=openai_answers.COMPLETION_EVENT,
    ),
)
async def completions(request: Request) -> Response:
    """Write an answer to each prompt (OpenAI's completions). The model's template is put around the prompt."""
    body = await body_of(request, CompletionRequest)
    _stick(body.user)
    return await _answered(request, body, openai_bodies.completion_texts(body))


@router.post(
    "/v1/chat/completions",
    **openai_answers.describe_route(
        openai_answers.CHAT_ANSWER, ChatRequest, openai_bodies.CHAT_EXAMPLE, events=openai_answers.CHAT_EVENT
    ),
)
async def chat(request: Request) -> Response:
    """Write the next message of a chat (OpenAI's chat completions), by a model that was trained on chats."""
    body = await body_of(request, ChatRequest)
    _stick(body.user)
    prompt = await pool_of(request).look(
        key_of(request), _rendered, core_of(request), key_of(request), body, STICKY.get()
    )
    return await _answered(request, body, [Text(prompt)])


def _stick(user: str | None) -> None:
    """Let the end user decide whether a canary answers, so that one version answers all requests of a user."""
    if user:
        STICKY.set(user)


@router.post(
    "/v1/responses",
    **openai_answers.describe_route(
        responses_answers.ANSWER, ResponsesRequest, responses.EXAMPLE, events=responses_answers.EVENT
    ),
)
async def respond(request: Request) -> Response:
    """Write the next message of a conversation (OpenAI's responses). No response is stored."""
    body = await body_of(request, ResponsesRequest)
    _stick(body.user)
    made = responses.chat_of(body)
    try:
        prompt = await pool_of(request).look(
            key_of(request), _rendered, core_of(request), key_of(request), made, STICKY.get()
        )
        return await _answered(request, made, [Text(prompt)], body)
    except (Refusal, InvalidData) as error:
        raise responses.refusal(body, error) from None


async def _answered(
    request: Request,
    body: CompletionRequest | ChatRequest,
    texts: Sequence[Text],
    response: ResponsesRequest | None = None,
) -> Response:
    """Return the answers. `response`: the request for a response that became `body`."""
    try:
        return await _computed(request, body, texts, response)
    except InvalidData as error:
        raise openai_bodies.refusal(body, error) from None


async def _computed(
    request: Request, body: CompletionRequest | ChatRequest, texts: Sequence[Text], response: ResponsesRequest | None
) -> Response:
    core, key, pool = core_of(request), key_of(request), pool_of(request)
    streams = bool(body.stream)
    if body.stream_options is not None and body.stream_options.asks and not streams:
        raise Refusal(400, "invalid", "`stream_options`: needs `stream` true.")
    tools: TextTools = request.app.state.text_tools
    new = NewTokenQueue()
    given = key, body, len(texts), tools, new if streams else None
    guided = openai_bodies.is_guided(body)
    options = await pool.look(key, _options, *given) if guided else _options(*given)  # compiling a grammar takes time
    asked = await pool.ask(key, body.model, texts, options)
    try:
        _check(asked, options)
        pending = PendingAnswers(core, asked, new, request)
    except BaseException:
        asked.release()
        raise
    head = AnswerHead(request.scope["afina.request"], int(publishing._seconds()), body.model, asked.receipt.adapter)
    written = _format_of(body, response, head, tools.texts, asked)
    headers = {RECEIPT: str(asked.receipt)}
    begun = False
    try:
        if streams:
            await pending.next()
            for number, future in enumerate(pending.futures):
                if future.done():
                    pending.outcome(number)  # an error before the first piece is an error of the request
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
        outcomes, usage = [pending.outcome(number) for number in range(len(pending.futures))], pending.usage()
        if body.max_tokens == 0:
            outcomes, usage = [one.without_answer() for one in outcomes], pending.usage_with(0)
        assert asked.decoding is not None
        if options.logprobs is None:
            return JSONResponse(written.response(outcomes, asked.decoding, usage), headers=headers)
        # 65,000 tokens with log-probabilities take 0.6 seconds, in which the event loop answers others.
        made = await pool.look(key, written.response, outcomes, asked.decoding, usage)
        return JSONResponse(made, headers=headers)
    finally:
        if not begun:
            pending.close()


def _format_of(
    body: CompletionRequest | ChatRequest,
    response: ResponsesRequest | None,
    head: AnswerHead,
    texts: TokenTexts,
    asked: AcceptedRequest,
) -> OpenAIFormat:
    assert asked.generation is not None
    assert asked.decoding is not None
    reports = asked.generation.logprobs is not None
    if isinstance(body, CompletionRequest):
        prompts = [
            EchoedPrompt(encoded.tokens.tolist(), None if one.tokens is not None else one.text)
            for one, encoded in zip(asked.texts, asked.encoded, strict=True)
        ]
        echoed = prompts if body.echo else ()
        return CompletionFormat(head, texts, reports=reports, prompts=echoed, n=asked.generation.n)
    function = openai_bodies.function_of(body)
    name = None if function is None else function.name
    if response is None:
        return ChatFormat(head, texts, reports=reports, function=name)
    sampling = {"temperature": asked.decoding.temperature, "top_p": asked.decoding.top_p}
    return ResponsesFormat(head, texts, reports=reports, function=name, body=response, sampling=sampling)


def _options(
    key: Key,
    body: CompletionRequest | ChatRequest,
    prompts: int,
    tools: TextTools,
    new: NewTokenQueue | None,
) -> GenerationOptions:
    """Return how answers are generated. `new`: receives new tokens. Raises Refusal and the errors of a grammar."""
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
        make_guide=None if grammar is None else tools.guides.prepare(key.client, grammar),
        prompt_as="chat" if isinstance(body, ChatRequest) else openai_bodies.prompt_of(body),
        echo=isinstance(body, CompletionRequest) and bool(body.echo),
        heard=None if new is None else new.put,
    )


def _check(asked: AcceptedRequest, options: GenerationOptions) -> None:
    """Raise Refusal for what depends on the model."""
    decoding = asked.decoding
    assert decoding is not None
    if options.n > 1 and not decoding.samples:
        raise Refusal(400, "invalid", "`n`: without sampling, all answers are the same. Give a `temperature` above 0.")
    if options.logprobs is not None and decoding.beams > 1:
        message = "`logprobs`: not available with the beam search of this model. Give a `temperature` above 0."
        raise Refusal(400, "invalid", message)
    if options.prompt_as != "text" and any(one.truncated for one in asked.encoded):
        field = "messages" if options.prompt_as == "chat" else "prompt"
        raise Refusal(400, "context_length_exceeded", f"`{field}`: more tokens than the model reads. Send less.")
    if options.echo and options.logprobs is not None:
        values = options.n * sum(len(one.tokens) for one in asked.encoded) * (1 + options.logprobs)
        if values > openai_bodies.ECHOED:
            message = f"{values:,} log-probabilities of the prompts, expected at most {openai_bodies.ECHOED:,}"
            raise Refusal(400, "invalid", f"`echo`: {message}. Send fewer prompts, or ask for fewer `logprobs`.")
    if options.prompt_as == "chat":
        _check_chat(asked.objective, asked.manifest.template)


def _rendered(core: Core, key: Key, body: ChatRequest, sticky: str | None) -> str:
    """Return the prompt of a chat. Raises Refusal, Missing and InvalidData."""
    manifest = core.version(key, body.model, sticky).manifest
    _check_chat(objectives.make(tuple(manifest["label_names"]), manifest.get("objective")), manifest.get("template"))
    return rendered_chat(core.engine.backbone.tokenizer, [one.for_template() for one in body.messages])


def _check_chat(objective: Objective, template: str | None) -> None:
    """Raise Refusal for a model that was not trained on chats."""
    if objective.auto_class != "language_model":
        raise Refusal(400, "invalid", "`model`: this model gives no text. Ask for its labels or its number.")
    if not (objective.settings or {}).get("chat"):
        message = f"`messages`: this model was not trained on chats, but with the template {template!r}"
        raise Refusal(400, "invalid", f"{message[:400]}. Send the text as `prompt` to /v1/completions.")
