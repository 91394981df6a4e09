"""Replay: an answer computed again from its receipt, by the adapter alone. Knows no store and no engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from afina.data.prompts import rendered_chat
from afina.data.tokenize import Template, encode
from afina.errors import InvalidData, Refused
from afina.inference.predictor import ModelPredictor, Predictor, predicted
from afina.server.receipts import GenerationFacts

PROMPTS: dict[str, Template | None] = {
    "text": None,
    "raw": Template("{text}"),
    "chat": Template("{text}", special_tokens=False),
}
"""Template of each way in which a text becomes a prompt. None: the adapter's own."""


def replayed(
    predictor: Predictor,
    facts: GenerationFacts | None,
    text: str,
    pair: str | None = None,
    stop: Sequence[str] | None = None,
    choice: int = 0,
) -> dict[str, Any]:
    """Return an answer as JSON values, as `Predictor` returns it.

    Args:
        predictor: The adapter that answered, in the dtype of the receipt.
        facts: How the answer was generated. None: the answer is not a text.
        text: The text of the request. For a chat: the array `messages` of the request, as JSON.
        pair: The second text of a pair.
        stop: Stop strings of the request. None: the request had none of its own.
        choice: Number of the choice, from 0.

    Raises:
        Refused: The receipt does not match, or the answer followed a grammar.
        InvalidData: The text is not an array of messages.
        AfinaError: Errors of the predictor.
    """
    pairs = None if pair is None else [pair]
    if facts is None or not isinstance(predictor, ModelPredictor):
        if stop or choice:
            raise Refused(
                "the receipt is of an answer that was not generated, so that `stop` and `choice` have no effect. Leave "
                "them out.",
                code="receipt.mismatch",
                what="generation",
            )
        return predictor([text], pairs)[0]
    if facts.guide is not None:
        raise Refused(
            f"the answer was guided by a grammar with the digest {facts.guide[:19]}, and a replay does not read "
            "grammars. Send the request again, with the same seed, to a server with the same version.",
            code="receipt.guided",
            guide=facts.guide,
        )
    own = (predictor.manifest.objective or {}).get("decoding", {}).get("stop", ())
    decoding = facts.decoding(own if stop is None else stop, choice)
    objective = predictor.objective.decoding_changed(**decoding.model_dump())
    tokenizer, template = predictor.backbone.tokenizer, PROMPTS[facts.prompt]
    if template is None:
        prompt = predictor.encode([text], pairs)
    else:
        whole = rendered_chat(tokenizer, _messages(text)) if facts.prompt == "chat" else text
        prompt = encode(tokenizer, [whole], pairs, max_length=predictor.max_length, template=template)
    found = predicted(predictor.classifier, prompt, objective, tokenizer)
    return next(iter(objective.answers(found)))


def _messages(text: str) -> list[dict[str, str]]:
    """Return the messages of a chat. Raises InvalidData."""
    try:
        given = json.loads(text)
        made = [{name: one[name] for name in ("role", "content")} for one in given]
    except (ValueError, TypeError, KeyError, RecursionError):
        made = []
    if not made or not all(isinstance(value, str) for one in made for value in one.values()):
        raise InvalidData(
            "the receipt is of a chat, but the text is not the array `messages` of the request as JSON. Give the "
            """array, such as '[{"role": "user", "content": "Where is my parcel?"}]'.""",
            code="receipt.chat-malformed",
        )
    return made
