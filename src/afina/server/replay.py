"""Functions of `afina replay`, which computes an answer of the server again from the answer's receipt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from afina.data.word_tokens import WordTokens
from afina.engine.mixed_batches import Prediction
from afina.generating.answers import text_of
from afina.generating.generation import answers
from afina.generating.guides import Grammar, GuideMaker, TokenGuide
from afina.models.decoding import Decoding
from afina.models.predictions import Predictions
from afina.predicting.predictor import ModelPredictor, Predictor, predicted
from afina.predicting.reading import Truncation
from afina.server import problems
from afina.server.answer_formats import ANSWER_FORMATS
from afina.server.receipts import PROMPTS, GenerationFacts

if TYPE_CHECKING:
    from afina.data.tokenize import Tokenizer
    from afina.server.protocols.openai_bodies import ChatRequest


def replayed(
    predictor: Predictor,
    facts: GenerationFacts | None,
    text: str,
    pair: str | None = None,
    stop: Sequence[str] | None = None,
    choice: int = 0,
    grammar: Grammar | None = None,
    truncation: Truncation | None = None,
    *,
    each_token: bool = False,
) -> dict[str, Any]:
    """Compute an answer again as its receipt says, and return the answer as JSON values.

    Args:
        predictor: the predictor of the adapter that answered, in the dtype of the receipt.
        facts: None: the answer was not generated.
        text: the text of the request; for a chat or a prompt of token ids, the request's JSON array as a string.
        stop: None: the request had no stop strings.
        choice: the number of the choice (one of several answers to the text), from 0.
        grammar: None: the answer had no grammar.
        truncation: None: long texts are truncated as in training.
        each_token: whether the probabilities of the tags of each token are returned, as `data`.

    Raises Refused if the receipt does not match the adapter or the arguments, InvalidData if `text` is not the JSON
    array of such a receipt, and the errors of the predictor or the grammar.
    """
    pairs = None if pair is None else [pair]
    if truncation is not None and isinstance(predictor, ModelPredictor):
        predictor = replace(predictor, truncation=truncation)
    if facts is None or not isinstance(predictor, ModelPredictor):
        if stop or choice or grammar:
            raise problems.NOT_GENERATED(what="generation")
        return _of_tokens(predictor, text, pairs) if each_token else predictor([text], pairs)[0]
    found = None if grammar is None else grammar.digest
    if found != facts.guide:
        raise problems.GRAMMAR_DIFFERS(_expected=_brief(facts.guide), _found=_brief(found), what="guide")
    own = (predictor.manifest.objective or {}).get("decoding", {}).get("stop", ())
    decoding = facts.decoding(own if stop is None else stop, choice)
    objective = predictor.objective.decoding_changed(**dict(decoding))
    tokenizer = predictor.backbone.tokenizer
    facts.check_chat_template(predictor.backbone.chat_template)
    whole = _chat_prompt(tokenizer, text) if facts.prompt == "chat" else text
    if facts.prompt == "tokens":
        prompt = _tokens(text, predictor.backbone.vocabulary)
    else:
        prompt = predictor.reading.changed(PROMPTS[facts.prompt], None).encode([whole], pairs)[0]
    guide = None if grammar is None else GuideMaker(tokenizer).prepare("", grammar)()
    written = np.array([_written(predictor, prompt, decoding, guide)], dtype=object)
    return next(iter(objective.answers(Predictions(written))))


def grammar_of(given: Mapping[str, Any]) -> Grammar:
    """Return the grammar that a request's fields describe, such as `structured_outputs`, or `tools` and `tool_choice`.

    Raises InvalidData if the fields contain no valid grammar, and NotFound if llguidance is not installed.
    """
    from afina.server.http.refusals import Refusal
    from afina.server.protocols import openai_bodies

    try:
        found, problem = openai_bodies.grammar_of(_formed(given)), "it has no grammar"
    except ValidationError:
        found, problem = None, "the fields are not those of a request"
    except Refusal as refusal:
        found, problem = None, refusal.message
    if found is None:
        raise problems.GRAMMAR_INVALID(_problem=problem)
    return found


def _written(predictor: ModelPredictor, prompt: np.ndarray, decoding: Decoding, guide: TokenGuide | None) -> str:
    tokenizer = predictor.backbone.tokenizer
    make_guide = None if guide is None else lambda: guide
    ends = [tokenizer.eos_token_id]
    (found,) = answers(predictor.classifier, [prompt], decoding, ends, tokenizer, make_guide=make_guide)
    return text_of(tokenizer, found.tokens, decoding)


def _of_tokens(predictor: Predictor, text: str, pairs: Sequence[str] | None) -> dict[str, Any]:
    """Return the probabilities of each token's tags. Raises Refused for a text of several windows or without tags."""
    objective = predictor.objective
    if isinstance(predictor, ModelPredictor):
        encoded = predictor.encode([text], pairs)
        if isinstance(encoded, WordTokens) and len(encoded) == 1:
            every = encoded.at_each_token()
            (rows,) = predicted(predictor.classifier, every, objective, predictor.backbone.tokenizer).outputs
            made = Prediction({}, objective.kind, rows, digest="", version=None, truncated=False, words=every.words[0])
            return {"data": ANSWER_FORMATS[objective.kind].tag_scores(objective, made)}
    raise problems.NOT_READ_AT_ONCE(what="each_token")


def _brief(digest: str | None) -> str:
    return "none" if digest is None else digest[:19]


def _formed(fields: Mapping[str, Any]) -> ChatRequest:
    """Return a chat request with fields that restrict the answer, and no text. Raises as `_request`."""
    try:
        return _request({**fields, "messages": [{"role": "user", "content": ""}]})
    except ValidationError:
        return _request({**fields, "input": ""})


def _request(fields: Mapping[str, Any]) -> ChatRequest:
    """Return the chat request that has the given fields: those of `/v1/responses` if they contain `input`.

    Raises ValidationError and Refusal if the fields are invalid.
    """
    from afina.server.protocols import responses_bodies
    from afina.server.protocols.openai_bodies import ChatRequest

    if "input" in fields:
        return responses_bodies.chat_of(responses_bodies.ResponsesRequest.model_validate({**fields, "model": ""}))
    return ChatRequest.model_validate({**fields, "model": ""})


def _tokens(text: str, size: int) -> np.ndarray:
    """Return the token ids of a prompt, int32 [length], from a JSON array of ids below `size`. Raises InvalidData."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, list) or not given or not all(type(one) is int and 0 <= one < size for one in given):
        raise problems.NOT_TOKEN_IDS()
    return np.array(given, np.int32)


def _chat_prompt(tokenizer: Tokenizer, text: str) -> str:
    """Return the prompt of a chat, from JSON: its messages, or fields of the request. Raises InvalidData."""
    from afina.server.http.refusals import Refusal
    from afina.server.protocols.tool_calls import chat_prompt

    try:
        given = json.loads(text)
        return chat_prompt(tokenizer, _request({"messages": given} if isinstance(given, list) else {**given})).text
    except (ValueError, TypeError, RecursionError, Refusal):  # a ValidationError is a ValueError
        raise problems.NOT_A_CHAT() from None
