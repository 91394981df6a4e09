"""Decoding: how an answer is generated. The module does not import torch and does not know models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from afina.models import problems
from afina.schema import Frozen, WrongValue

_TokenId = Annotated[int, Field(ge=0)]

_IN_WORDS = ("min_new_tokens", "presence_penalty", "frequency_penalty", "repetition_penalty")
_SINGLE = ("min_new_tokens", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias")
"""Settings that a sentence names, and settings that beam search does not have."""


class Decoding(Frozen):
    """The settings with which an answer is generated, token by token.

    Attributes:
        max_new_tokens: Most tokens of an answer, the end token included. None: as many as the model has positions for.
        beams: Number of beams of beam search; 1: no beam search.
        length_penalty: In beam search, the sum of log-probabilities is divided by length ** length_penalty.
        no_repeat_ngram: Size of n-grams that occur at most once in prompt and answer together. 0: no limit.
        temperature: Divisor of the logits before sampling. 0: the most probable token, without sampling.
        top_p: Sampling draws from the fewest most probable tokens that have at least this probability together.
        top_k: Sampling draws from this number of most probable tokens. 0: from all tokens.
        min_p: Sampling draws only from tokens with at least this share of the most probable token's probability.
        seed: Seed of sampling. The same prompt with the same seed has the same answer, alone or among other prompts.
        stop: Strings that end an answer; the answer is cut before the string.
        stop_token_ids: Tokens that end an answer; the answer is cut before the token.
        ignore_eos: Whether the model's end token does not end an answer.
        min_new_tokens: Number of tokens before which no token may end an answer.
        presence_penalty: Subtracted from the logit of each token that the answer has.
        frequency_penalty: Subtracted from the logit of each token as often as the answer has the token.
        repetition_penalty: The logit of each token of prompt and answer is divided by this if it is above 0, and
            multiplied by it otherwise. 1: no change.
        logit_bias: Numbers that are added to the logits of tokens, by token id.
    """

    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    beams: Annotated[int, Field(ge=1, le=64)] = 1
    length_penalty: float = Field(default=1.0, allow_inf_nan=False)
    no_repeat_ngram: int = Field(default=0, ge=0)
    temperature: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0)
    min_p: float = Field(default=0.0, ge=0.0, le=1.0)
    seed: int = 0
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    stop_token_ids: tuple[_TokenId, ...] = ()
    ignore_eos: bool = False
    min_new_tokens: int = Field(default=0, ge=0)
    presence_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    frequency_penalty: float = Field(default=0.0, ge=-2.0, le=2.0)
    repetition_penalty: float = Field(default=1.0, ge=0.01, le=100.0)
    logit_bias: Mapping[_TokenId, Annotated[float, Field(ge=-100, le=100)]] = {}

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn at random."""
        return self.temperature > 0

    @property
    def in_words(self) -> str:
        """The decoding method in words, to follow the word "by"."""
        if self.samples:
            limits = [f"top-p {self.top_p:g}"] * (self.top_p < 1) + [f"top-k {self.top_k}"] * (self.top_k > 0)
            limits += [f"min-p {self.min_p:g}"] * (self.min_p > 0)
            made = ", ".join([f"sampling at temperature {self.temperature:g}", *limits, f"seed {self.seed}"])
        elif self.beams > 1:
            made = f"beam search with {self.beams} beams and length penalty {self.length_penalty:g}"
        else:
            made = "greedy search (the most probable token at each step)"
        made += f", no {self.no_repeat_ngram}-gram twice" if self.no_repeat_ngram else ""
        for name in _IN_WORDS:
            value = getattr(self, name)
            made += f", {name} {value:g}" if value != type(self).model_fields[name].default else ""
        made += f", a bias for {len(self.logit_bias)} tokens" if self.logit_bias else ""
        made += ", not ended by the end token" if self.ignore_eos else ""
        ends = [*map(repr, self.stop), *(f"token {token}" for token in self.stop_token_ids)]
        return made + (f", up to {' or '.join(ends)}" if ends else "")

    def for_transformers(self, most: int | None = None) -> dict[str, Any]:
        """Return the arguments of `generate` in transformers, without those at their defaults.

        The arguments do not include stop strings, end tokens, `logit_bias`, and penalties for presence and frequency.

        Args:
            most: Most new tokens if `max_new_tokens` is None. None: no limit.
        """
        sampling = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k} if self.samples else {}
        sampling |= {"min_p": self.min_p} if self.min_p else {}
        beams = {"num_beams": self.beams, "length_penalty": self.length_penalty} if self.beams > 1 else {}
        limit = self.max_new_tokens or most
        return {
            **({"max_new_tokens": limit} if limit else {}),
            "do_sample": self.samples,
            **sampling,
            **beams,
            **({"no_repeat_ngram_size": self.no_repeat_ngram} if self.no_repeat_ngram else {}),
            **({"repetition_penalty": self.repetition_penalty} if self.repetition_penalty != 1 else {}),
            **({"min_new_tokens": self.min_new_tokens} if self.min_new_tokens else {}),
        }

    @field_validator("temperature")
    @classmethod
    def _one_way(cls, temperature: float, info: ValidationInfo) -> float:
        if temperature and info.data.get("beams", 1) > 1:
            raise ValueError(f"cannot be combined with {info.data['beams']} beams")
        return temperature

    @field_validator(*_SINGLE)
    @classmethod
    def _without_beams(cls, value: Any, info: ValidationInfo) -> Any:
        if value != cls.model_fields[info.field_name or ""].default and info.data.get("beams", 1) > 1:
            raise ValueError(f"cannot be combined with {info.data['beams']} beams")
        return value

    @field_validator("min_new_tokens")
    @classmethod
    def _in_order(cls, fewest: int, info: ValidationInfo) -> int:
        most = info.data.get("max_new_tokens")
        if most is not None and fewest > most:
            raise ValueError(f"is more than the {most:,} of max_new_tokens")
        if fewest and info.data.get("stop"):
            raise ValueError("cannot be combined with stop strings, which may end an answer earlier")
        return fewest

    @field_validator("top_p", "top_k", "min_p")
    @classmethod
    def _of_samples(cls, value: float, info: ValidationInfo) -> float:
        if value != cls.model_fields[info.field_name or ""].default and not info.data.get("temperature", 1):
            raise ValueError("has no effect without a temperature above 0")
        return value

    @property
    def keeps_logits(self) -> bool:
        """Whether the most probable token is chosen by the model's unchanged logits."""
        changes = self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1 or self.logit_bias
        return not (self.samples or self.no_repeat_ngram or self.min_new_tokens or changes)

    def check_vocabulary(self, size: int) -> None:
        """Raise InvalidStudy if a token id is not below the size of a model's vocabulary."""
        for option in ("stop_token_ids", "logit_bias"):
            largest = max(getattr(self, option), default=0)
            if largest >= size:
                raise problems.TOKEN_UNKNOWN(most=size - 1, option=option, found=largest)

    def changed(self, **given: Any) -> Decoding:
        """Return the settings with other values for some of them. Raises InvalidStudy for an invalid value."""
        try:
            return type(self).model_validate({**self.model_dump(), **given})
        except ValidationError as error:
            problem = WrongValue.of(error)
            raise problems.DECODING_INVALID(
                expected=problem.sentence, option=problem.place[0], found=problem.found
            ) from None


GREEDY = Decoding()
"""The most probable token at each step."""
