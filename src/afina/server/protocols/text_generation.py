"""The Hub's task text-generation, as text-generation-inference (TGI) answers it: a request becomes a completion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import Response
from pydantic import Field

from afina.engine.generations import GeneratedText
from afina.errors import InvalidData
from afina.generating.answer_stream import AnswerStream, TokenTexts
from afina.models.decoding import Decoding
from afina.server.answer_formats import NOT_ANSWERED
from afina.server.http.bodies import Array, Body, OnlyFalse
from afina.server.http.calls import ClientCall
from afina.server.http.refusals import Refusal
from afina.server.json_shapes import COUNT, NOTHING, NUMBER, TEXT, YES_OR_NO, about, array, either, one_of, record
from afina.server.protocols import openai
from afina.server.protocols.openai_answers import LEAST, AnswerHead, CompletionFormat, ReportedToken, WrittenAnswer
from afina.server.protocols.openai_bodies import SETTING, STOP_CHARACTERS, STOPS, CompletionRequest
from afina.server.requests import AcceptedRequest, Text
from afina.server.routes import HUB

_TOKEN = {
    "id": about(COUNT, "id of the token"),
    "text": about(TEXT, "its text; in a stream, the text that it completes, which may be empty"),
    "logprob": about(NUMBER, "its log-probability, before temperature and top-p"),
    "special": about(YES_OR_NO, "true: a special token, such as the end token"),
}
_DETAILS = {
    "finish_reason": about(one_of("length", "eos_token", "stop_sequence"), "what ended the answer"),
    "generated_tokens": about(COUNT, "tokens of the answer, the end token included"),
    "seed": about(either(COUNT, NOTHING), "seed of random draws; null: no sampling"),
    "input_length": about(COUNT, "tokens of the prompt, with its template"),
}
_WHOLE = record(
    **_DETAILS,
    prefill=about(array({}), "always empty"),
    tokens=about(array(record(**_TOKEN)), "the tokens of the answer"),
)
_TEXT = about(TEXT, "the answer, after the text of the request with `return_full_text`")
ANSWER = array(
    record(generated_text=_TEXT, details=about(_WHOLE, "with `details` only"), optional=("details",)),
)
EVENT = record(
    index=about(COUNT, "number of tokens so far"),
    token=about(record(**_TOKEN), "the last of the new tokens; `logprob` is the sum over the new tokens"),
    generated_text=about(either(_TEXT, NOTHING), "in the last event: the whole answer"),
    details=about(either(record(**_DETAILS), NOTHING), "in the last event"),
)


class HubGrammar(Body):
    """The grammar that restricts an answer."""

    type: Literal["json", "regex"] = Field(description="json: JSON that follows a schema; regex: a text that matches")
    value: dict[str, Any] | str = Field(description="the JSON schema, or the regular expression")


class GenerationParameters(Body):
    """The options of a text-generation request. An option that this server does not support is refused."""

    max_new_tokens: int | None = Field(
        None, ge=1, description="text-generation: most tokens of the answer; default: the limit of the model"
    )
    return_full_text: bool | None = Field(
        None, description="text-generation: true: the answer begins with the text of the request"
    )
    do_sample: bool | None = Field(
        None,
        description="text-generation: true: draw tokens at random; false: always the most probable token, whatever the "
        f"other options of sampling are. Default: as the other options ask. {SETTING}",
    )
    temperature: float | None = Field(
        None, ge=0, le=2, description=f"text-generation: divisor of the logits. {SETTING}"
    )
    top_k: int | None = Field(
        None,
        ge=1,
        description="text-generation: draw from this number of most probable tokens. text-classification: return the "
        f"top_k entries with the highest scores, of which {NOT_ANSWERED} is one; default: all",
    )
    top_p: float | None = Field(
        None,
        gt=0,
        le=1,
        description=f"text-generation: draw from the most probable tokens with this probability together. {SETTING}",
    )
    typical_p: float | None = Field(None, description="text-generation: not supported, except with `do_sample` false")
    seed: int | None = Field(None, ge=0, lt=2**62, description=f"text-generation: seed of random draws. {SETTING}")
    stop: Annotated[Array[str], Field(max_length=STOPS)] | None = Field(
        None,
        description=f"text-generation: strings that end the answer, which is cut before them: at most {STOPS}, with 1 "
        f"to {STOP_CHARACTERS} characters each. Default, and without strings: those of the model",
    )
    repetition_penalty: float | None = Field(
        None, ge=0.01, le=100, description=f"text-generation: as in transformers; 1: no change. {SETTING}"
    )
    frequency_penalty: float | None = Field(
        None,
        ge=-2,
        le=2,
        description=f"text-generation: subtracted from a token's logit for each occurrence. {SETTING}",
    )
    grammar: HubGrammar | None = Field(None, description="text-generation: the form of the answer")
    details: bool | None = Field(None, description="text-generation: true: return the tokens and what ended the answer")
    watermark: OnlyFalse | None = Field(None, description="text-generation: accepted without effect: only false")
    decoder_input_details: OnlyFalse | None = Field(
        None, description="text-generation: accepted without effect: only false"
    )
    best_of: None = Field(None, description="text-generation: accepted without effect: only null")
    truncate: None = Field(None, description="text-generation: accepted without effect: only null")
    adapter_id: None = Field(None, description="text-generation: accepted without effect: only null")
    top_n_tokens: None = Field(None, description="text-generation: accepted without effect: only null")


OPTIONS = tuple(GenerationParameters.model_fields)

_ALIKE = ("seed", "repetition_penalty", "frequency_penalty")
"""The options that have the same names in a completion."""

_RENAMED = {
    "prompt": "inputs",
    "max_tokens": "parameters.max_new_tokens",
    "response_format": "parameters.grammar",
    "response_format.value": "parameters.grammar.value",
}
"""The fields of a text-generation request whose name in a completion is not the name of an option."""


def completion_of(model: str, text: str, asked: GenerationParameters, *, stream: bool) -> CompletionRequest:
    """Return the equivalent completion. Raises Refusal for an option that is not supported.

    As in TGI, an option of sampling alone makes the answer sampled; `do_sample` false makes it greedy.
    """
    temperature, sampling = asked.temperature, (asked.top_k, asked.top_p)
    if asked.do_sample is False:
        temperature, sampling = 0.0, (None, None)
    elif asked.typical_p is not None:
        raise Refusal.at(
            "parameters.typical_p", "not supported. Leave it out, or set `do_sample` false.", "unsupported"
        )
    elif temperature is None and (asked.do_sample or any(one is not None for one in sampling)):
        temperature = 1.0
    top_k, top_p = sampling
    return CompletionRequest.model_validate(
        {
            "model": model,
            "prompt": text,
            "stream": stream,
            "max_tokens": asked.max_new_tokens,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "stop": asked.stop or None,  # HuggingFaceEndpoint always sends an array
            **{name: getattr(asked, name) for name in _ALIKE},
            "response_format": None if asked.grammar is None else asked.grammar.model_dump(),
            "logprobs": 0 if stream or asked.details else None,
        }
    )


class TextGenerationFormat(CompletionFormat):
    """The responses of the task text-generation, or their events, whose text is that of all events together."""

    done = b""

    def __init__(
        self,
        asked: GenerationParameters,
        body: CompletionRequest,
        head: AnswerHead,
        texts: TokenTexts,
        accepted: AcceptedRequest,
    ) -> None:
        super().__init__(body, head, texts, accepted)
        assert accepted.decoding is not None
        self._seed = accepted.decoding.seed if accepted.decoding.samples else None
        self._echoes, self._text, self._last = bool(asked.return_full_text), "", 0

    def response(self, outcomes: Sequence[GeneratedText], decoding: Decoding, usage: dict[str, Any]) -> list[Any]:
        (outcome,) = outcomes
        answer, before = WrittenAnswer(0, AnswerStream(self.texts, decoding)), self._before(0, outcome)[0]
        made: dict[str, Any] = {"generated_text": before + outcome.text}
        if self.reports:
            answer.end(outcome)
            tokens = [self._token(self.texts.shown(one.token), [one]) for one in answer.take_reported()]
            finish = "stop" if outcome.ended else "length"
            made["details"] = {**self._details(answer, finish), "prefill": [], "tokens": tokens}
        return [made]

    def events(self, answer: WrittenAnswer, text: str, finish: str | None, *, first: bool) -> Iterator[dict[str, Any]]:
        self._text += text
        event = {"index": answer.seen, "token": self._token(text, answer.take_reported())}
        if finish is None:
            yield {**event, "generated_text": None, "details": None}
            return
        before = self._accepted.texts[0].text if self._echoes else ""
        yield {**event, "generated_text": before + self._text, "details": self._details(answer, finish)}

    def last_events(self, usage: dict[str, Any], *, wanted: bool) -> Sequence[dict[str, Any]]:
        return []

    def failure(self, refusal: Refusal) -> dict[str, Any]:
        return refusal.body(HUB)

    def _token(self, text: str, new: Sequence[ReportedToken]) -> dict[str, Any]:
        """Return the JSON of new tokens as one token, the last of them."""
        self._last = new[-1].token if new else self._last
        logprob = sum(max(one.logprobs.chosen, LEAST) for one in new if one.logprobs is not None)
        return {"id": self._last, "text": text, "logprob": logprob, "special": self._last in self.texts.special}

    def _details(self, answer: WrittenAnswer, finish: str) -> dict[str, Any]:
        by_end = self._last == self.texts.tokenizer.eos_token_id
        reason = "length" if finish == "length" else "eos_token" if by_end else "stop_sequence"
        return {
            "finish_reason": reason,
            "generated_tokens": answer.seen,
            "seed": self._seed,
            "input_length": len(self._accepted.encoded[0].tokens),
        }


async def generated(call: ClientCall, model: str, text: str, asked: GenerationParameters, *, stream: bool) -> Response:
    """Return the generated answer to a text as TGI does. Raises Refusal in the fields of a text-generation request."""
    try:
        body = completion_of(model, text, asked, stream=stream)
        return await openai.answered(call, body, [Text(text)], partial(TextGenerationFormat, asked, body), {})
    except (Refusal, InvalidData) as error:
        fields = {**{name: f"parameters.{name}" for name in OPTIONS}, **_RENAMED}
        fields["logprobs"] = "stream" if stream else "parameters.details"
        raise Refusal.of(error).renamed(lambda field: fields.get(field, field)) from None
