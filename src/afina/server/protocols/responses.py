"""OpenAI's `/v1/responses`: a request becomes a chat, whose answer is written in the format of this route.

The server stores no response, so each request must contain the whole conversation.
"""

from __future__ import annotations

from functools import partial

from fastapi import Response

from afina.errors import InvalidData
from afina.generating.answer_stream import TokenTexts
from afina.server import routes
from afina.server.http.calls import Called
from afina.server.http.refusals import Refusal
from afina.server.http.routing import ProtocolRouter
from afina.server.protocols import openai, openai_bodies, responses_answers, responses_bodies
from afina.server.protocols.openai_answers import AnswerHead
from afina.server.protocols.openai_bodies import ChatRequest
from afina.server.protocols.responses_answers import ResponsesFormat
from afina.server.protocols.responses_bodies import ResponsesRequest
from afina.server.requests import AcceptedRequest

router = ProtocolRouter()


@router.answers(
    routes.RESPONSES,
    responses_answers.ANSWER,
    ResponsesRequest,
    responses_bodies.EXAMPLE,
    events=responses_answers.EVENT,
)
async def respond(call: Called) -> Response:
    """Generate the next message of a conversation (OpenAI's responses). No response is stored."""
    body = await call.body(ResponsesRequest)
    chat = responses_bodies.chat_of(body)
    try:
        return await openai.answered(call, chat, await openai.rendered(call, chat), partial(_format, body, chat))
    except (Refusal, InvalidData) as error:
        raise responses_bodies.refusal(body, error) from None


def _format(
    body: ResponsesRequest, chat: ChatRequest, head: AnswerHead, texts: TokenTexts, accepted: AcceptedRequest
) -> ResponsesFormat:
    decoding, options = accepted.decoding, accepted.request.generation
    assert decoding is not None
    assert options is not None
    sampling = {"temperature": decoding.temperature, "top_p": decoding.top_p}
    function, reports = openai_bodies.function_name(chat), options.logprobs is not None
    return ResponsesFormat(head, texts, reports=reports, function=function, body=body, sampling=sampling)
