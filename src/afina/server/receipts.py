"""Receipts: what computed an answer, so that `afina replay` can compute the answer again. Receipts contain no text.

A receipt names version, backbone, dtype and decoding settings.
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
    """How an answer was generated: the settings of `Decoding`, seed, number of choices and guide.

    Attributes:
        max_new_tokens: Most new tokens, the end token included.
        seed: Random seed of choice 0. `choice_seed` returns the seeds of the other choices.
        n: Number of choices.
        stop: Digest of the stop strings. None: there were no stop strings.
        guide: Digest of the grammar of the answer, such as a JSON schema. None: the answer had no grammar.
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
        """Return the facts of a generation for a receipt.

        Args:
            decoding: The decoding settings, with `max_new_tokens` filled in.
            n: Number of choices.
            guide: Digest of the grammar of the answer.
            prompt: How the text became the prompt.
        """
        said = decoding.model_dump(exclude={"stop"})
        return cls(**said, n=n, stop=_digest_of(decoding.stop), guide=guide, prompt=prompt)

    def decoding(self, stop: Sequence[str], choice: int = 0) -> Decoding:
        """Return the decoding settings of a choice.

        Args:
            choice: Number of the choice, from 0.

        Raises:
            Refused: The choice does not exist, the stop strings differ, or the settings are invalid.
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
    """How the texts of a request were truncated, if the request asked for truncation.

    Attributes:
        max_length: Most tokens of a text. None: the adapter's maximum length.
        side: The side at which a text lost tokens. None: the tokenizer's default.
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
        precision: precision of the backbone's frozen weights. The receipt omits "float".
        generation: how the answer was generated. None (omitted in the receipt): the answer is not a text.
        truncation: how the texts were truncated, if the request asked for truncation and a text was truncated. None
            (omitted in the receipt): as in training.
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
        """Raise Refused unless this adapter and manifest are those of the version that answered."""
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
        """Return the receipt in a text of JSON. Raises InvalidName."""
        try:
            return cls.model_validate_json(text, strict=True)
        except ValidationError:
            raise problems.RECEIPT_MALFORMED(given=text[:80]) from None
