"""Receipts, with which `afina replay` computes an answer of the server again, without any text of request or answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError

from afina import digest
from afina.data.template import Template
from afina.models.backbone_spec import FLOAT
from afina.models.decoding import Decoding
from afina.models.manifest import Manifest
from afina.predicting.reading import Truncation
from afina.schema import Frozen
from afina.server import problems

RECEIPT = "Afina-Receipt"
"""The HTTP header that holds the receipt of a response."""

Prompt = Literal["text", "raw", "chat", "tokens"]
"""How a request becomes a prompt: in the adapter's template, unchanged, by the chat template, or as token ids."""

PROMPTS: dict[str, Template | None] = {
    "text": None,
    "raw": Template("{text}"),
    "chat": Template("{text}", special_tokens=False),
}
"""The prompt template of a text for each value of `Prompt` except "tokens". None: the adapter's template."""


class GenerationFacts(Frozen):
    """The part of a receipt that says how an answer was generated.

    Attributes:
        max_new_tokens: the largest number of generated tokens, the end token included.
        seed: the random seed of choice 0. `choice_seed` returns the seeds of the other choices.
        n: the number of choices, which are independent answers to one text.
        stop: the digest of the stop strings. None: the request had no stop strings.
        guide: the digest of the grammar that restricted the answer. None: no grammar.
        chat_template: the digest of the chat template that rendered the messages. None: no chat, or an older server.
    """

    max_new_tokens: Annotated[int, Field(ge=1)]
    beams: int = 1
    length_penalty: float = 1.0
    no_repeat_ngram: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_new_tokens: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = {}
    seed: int = 0
    n: Annotated[int, Field(ge=1)] = 1
    stop: str | None = None
    guide: str | None = None
    prompt: Prompt = "text"
    chat_template: str | None = None

    @classmethod
    def of(
        cls,
        decoding: Decoding,
        n: int = 1,
        guide: str | None = None,
        prompt: Prompt = "text",
        chat_template: str | None = None,
    ) -> Self:
        """Return the facts of a generation.

        `decoding` has a `max_new_tokens`. `guide`: digest of the grammar. `chat_template`: the text, used if the prompt
        is a chat.
        """
        said = decoding.model_dump(exclude={"stop"})
        rendered_with = digest.of_strings([chat_template]) if prompt == "chat" and chat_template else None
        stop = _digest_of(decoding.stop)
        return cls(**said, n=n, stop=stop, guide=guide, prompt=prompt, chat_template=rendered_with)

    def check_chat_template(self, chat_template: str | None) -> None:
        """Raise Refused if another chat template than this one rendered the messages."""
        found = digest.of_strings([chat_template]) if chat_template else None
        if self.chat_template not in (None, found):
            raise problems.CHAT_TEMPLATE_DIFFERS(
                _expected=self.chat_template[:19], _found=str(found)[:19], what="chat_template"
            )

    def decoding(self, stop: Sequence[str], choice: int = 0) -> Decoding:
        """Return the decoding settings that generated a choice, with the stop strings of the request.

        Raises Refused if the receipt has no such choice or other stop strings, or if its settings are invalid.
        """
        if choice >= self.n:
            raise problems.CHOICE_UNKNOWN(choice=choice, choices=self.n, what="choice")
        if (found := _digest_of(stop)) != self.stop:
            said = "no stop strings" if self.stop is None else f"stop strings with the digest {self.stop[:19]}"
            raise problems.STOP_STRINGS_DIFFER(_said=said, _found=str(found)[:19], what="stop")
        settings = self.model_dump(exclude={"n", "stop", "guide", "prompt", "chat_template"})
        try:
            return Decoding(**settings | {"seed": choice_seed(self.seed, choice)}, stop=tuple(stop))
        except ValidationError as error:
            raise problems.DECODING_INVALID(_errors=error.errors()[0]["msg"], what="generation") from None


class TruncationFacts(Frozen):
    """The part of a receipt that says how texts were truncated; None: as in training."""

    max_length: Annotated[int, Field(ge=1)] | None = None
    side: Literal["left", "right"] | None = None

    @property
    def truncation(self) -> Truncation:
        return Truncation(self.max_length, self.side)


def choice_seed(seed: int, choice: int) -> int:
    """Return the random seed of a choice (one of a text's several answers)."""
    return seed + choice


def _digest_of(stop: Sequence[str]) -> str | None:
    return digest.of_strings(stop) if stop else None


class Receipt(Frozen):
    """What computed an answer: version, backbone, dtype and options. The JSON omits fields with default values.

    Attributes:
        version: the adapter's version as `client/task@number`.
        adapter: the digest of the adapter.
        base: the digest of the backbone.
        precision: the precision of the backbone's frozen weights.
        generation: None: the answer was not generated.
        truncation: None: no text was truncated, or long texts were truncated as in training.
        each_token: whether the answer has the outputs of all tokens.
    """

    version: str
    adapter: str
    base: str
    dtype: str
    precision: str = FLOAT
    generation: GenerationFacts | None = None
    truncation: TruncationFacts | None = None
    each_token: bool = False

    def __str__(self) -> str:
        return json.dumps(self.as_json(), separators=(",", ":"))

    def as_json(self) -> dict[str, Any]:
        return self.non_defaults()

    def check(self, adapter: str, manifest: Manifest) -> None:
        """Raise Refused if the digest of an adapter, or its manifest, differs from what the receipt names."""
        for what, found, expected in (
            ("adapter", adapter, self.adapter),
            ("backbone", manifest.backbone_digest, self.base),
            ("precision", manifest.precision, self.precision),
        ):
            if found != expected:
                raise problems.VERSION_DIFFERS(
                    found=str(found)[:19], expected=expected[:19], version=str(self.version), what=what
                )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the receipt that a string of JSON contains. Raises InvalidName if the string is not a receipt."""
        try:
            return cls.model_validate_json(text, strict=True)
        except ValidationError:
            raise problems.RECEIPT_MALFORMED(given=text[:80]) from None
