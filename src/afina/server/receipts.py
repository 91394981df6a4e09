"""Receipts: what computed an answer, so that `afina replay` can compute the answer again. They contain no text.

Knows no engine and no protocol.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError

from afina import digest
from afina.data.tokenize import Template
from afina.models.backbone_spec import FLOAT
from afina.models.decoding import Decoding
from afina.models.manifest import Manifest
from afina.predicting.reading import Truncation
from afina.schema import Frozen
from afina.server import problems

RECEIPT = "Afina-Receipt"
"""Header of an answer with its receipt."""

Prompt = Literal["text", "raw", "chat", "tokens"]
"""How a text became a prompt: in the adapter's template, as it is, as messages in the tokenizer's chat template, or as
token ids."""

PROMPTS: dict[str, Template | None] = {
    "text": None,
    "raw": Template("{text}"),
    "chat": Template("{text}", special_tokens=False),
}
"""Template of each way in which a text, and not token ids, becomes a prompt. None: the adapter's own."""


class GenerationFacts(Frozen):
    """How an answer was generated: the settings of `Decoding` by the same names, and what else the answer depends on.

    Attributes:
        max_new_tokens: Most new tokens, the end token included.
        seed: Seed of choice 0. `choice_seed` gives the seeds of the others.
        n: Number of choices.
        stop: Digest of the stop strings. None: there were none.
        guide: Digest of what the answer had to follow, such as a JSON schema. None: nothing.
        prompt: How the text became the prompt.
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

    @classmethod
    def of(cls, decoding: Decoding, n: int = 1, guide: str | None = None, prompt: Prompt = "text") -> Self:
        """Return the facts of a generation.

        Args:
            decoding: The settings, with `max_new_tokens` filled in.
            n: Number of choices.
            guide: Digest of what the answer has to follow.
            prompt: How the text became the prompt.
        """
        said = decoding.model_dump(exclude={"stop"})
        return cls(**said, n=n, stop=_digest_of(decoding.stop), guide=guide, prompt=prompt)

    def decoding(self, stop: Sequence[str], choice: int = 0) -> Decoding:
        """Return the settings of a choice.

        Args:
            choice: Number of the choice, from 0.

        Raises:
            Refused: There is no such choice, the stop strings are others, or the settings are invalid.
        """
        if choice >= self.n:
            raise problems.CHOICE_UNKNOWN(choice=choice, choices=self.n, what="choice")
        if (found := _digest_of(stop)) != self.stop:
            said = "no stop strings" if self.stop is None else f"stop strings with the digest {self.stop[:19]}"
            raise problems.STOP_STRINGS_DIFFER(_said=said, _found=str(found)[:19], what="stop")
        settings = self.model_dump(exclude={"n", "stop", "guide", "prompt"})
        try:
            return Decoding(**settings | {"seed": choice_seed(self.seed, choice)}, stop=tuple(stop))
        except ValidationError as error:
            raise problems.DECODING_INVALID(_errors=error.errors()[0]["msg"], what="generation") from None


class TruncationFacts(Frozen):
    """How the texts of a request were truncated, where the request asked for it.

    Attributes:
        max_length: Most tokens of a text. None: the adapter's own.
        side: The side at which a text lost tokens. None: the tokenizer's own.
    """

    max_length: Annotated[int, Field(ge=1)] | None = None
    side: Literal["left", "right"] | None = None

    @property
    def truncation(self) -> Truncation:
        return Truncation(self.max_length, self.side)


def choice_seed(seed: int, choice: int) -> int:
    """Return the seed of a choice. Choice 0 keeps the seed of the request."""
    return seed + choice


def _digest_of(stop: Sequence[str]) -> str | None:
    return digest.of_strings(stop) if stop else None


class Receipt(Frozen):
    """The version, backbone and dtype that computed an answer.

    Attributes:
        version: `client/task@number`.
        adapter: digest of the adapter.
        base: digest of the backbone.
        dtype: dtype of the computation.
        precision: precision of the backbone's frozen weights. "float" is not written.
        generation: how the answer was generated. None: the answer is not a text; not written.
        truncation: how the texts were truncated, if the request asked for it and a text was truncated. None: as in
            training; not written.
    """

    version: str
    adapter: str
    base: str
    dtype: str
    precision: str = FLOAT
    generation: GenerationFacts | None = None
    truncation: TruncationFacts | None = None

    def __str__(self) -> str:
        return json.dumps(self.as_json(), separators=(",", ":"))

    def as_json(self) -> dict[str, Any]:
        return self.non_defaults()

    def check(self, adapter: str, manifest: Manifest) -> None:
        """Raise Refused unless a version is the one that answered."""
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
        """Return the receipt in a JSON text. Raises InvalidName."""
        try:
            return cls.model_validate_json(text, strict=True)
        except ValidationError:
            raise problems.RECEIPT_MALFORMED(given=text[:80]) from None
