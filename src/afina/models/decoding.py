"""`Decoding`: the settings with which a language model generates an answer. The module does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from afina.models import problems
from afina.schema import Frozen, WrongValue
from afina.sentence import Sentence

_TokenId = Annotated[int, Field(ge=0)]

_IN_WORDS = ("min_new_tokens", "presence_penalty", "frequency_penalty", "repetition_penalty")
_SINGLE = ("min_new_tokens", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias")
"""`_IN_WORDS`: settings that `Decoding.in_words` names. `_SINGLE`: settings that beam search excludes."""


LEAST_TEMPERATURE = 1e-4
"""The lowest temperature of sampling. Logits that are divided by a far lower one are infinite."""


class Decoding(Frozen):
    """The settings with which a language model generates an answer, token by token.

    Attributes:
        max_new_tokens: Maximum number of tokens of an answer, including the end token. None: as many as the model has
            positions for.
        beams: Number of beams of beam search; 1: no beam search.
        length_penalty: In beam search, the sum of log-probabilities is divided by length ** length_penalty.
        no_repeat_ngram: Size of n-grams that may occur at most once in the prompt and the answer together.
        temperature: Divisor of the logits before sampling. Below `LEAST_TEMPERATURE`: no sampling; each token is the
            most probable one.
        top_p: Sampling draws from the smallest set of most probable tokens whose probabilities sum to at least `top_p`.
        top_k: Sampling draws from the `top_k` most probable tokens. 0: sampling draws from all tokens.
        min_p: Sampling draws only from tokens whose probability is at least `min_p` times that of the most probable
            token.
        seed: Seed of sampling. With the same seed, a prompt has the same answer whether it is computed alone or with
            other prompts.
        stop: Strings that end an answer; the answer is cut before the string.
        stop_token_ids: Tokens that end an answer; the answer is cut before the token.
        ignore_eos: If True, generation continues after the model's end token.
        min_new_tokens: Minimum number of tokens of an answer; before, no token ends the answer.
        presence_penalty: Number subtracted from the logit of each token that already occurs in the answer.
        frequency_penalty: Number subtracted from a token's logit for each time that the token already occurs in the
            answer.
        repetition_penalty: The logit of each token of the prompt and the answer is divided by `repetition_penalty` if
            the logit is above 0, and multiplied by it otherwise. 1: no change.
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
        """Whether tokens are drawn at random (temperature `LEAST_TEMPERATURE` or more)."""
        return self.temperature >= LEAST_TEMPERATURE

    @property
    def in_words(self) -> str:
        """A description of the decoding method that follows the word "by", such as "beam search with 4 beams ..."."""
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
        """Return the arguments for transformers' `generate`, without those at their defaults.

        Stop strings, end tokens, `logit_bias`, presence penalty and frequency penalty have no such argument. `most`
        limits new tokens if `max_new_tokens` is None.
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
            raise ValueError(Sentence.of("is more than the {most} of `max_new_tokens`", most=most))
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
        """Whether each token is the most probable one by the model's unchanged logits (greedy search)."""
        changes = self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1 or self.logit_bias
        return not (self.samples or self.no_repeat_ngram or self.min_new_tokens or changes)

    def check_vocabulary(self, size: int) -> None:
        """Raise InvalidStudy if a token id in `stop_token_ids` or `logit_bias` is not below the vocabulary's size."""
        for option in ("stop_token_ids", "logit_bias"):
            if unknown := [token for token in getattr(self, option) if token >= size]:
                raise problems.TOKEN_UNKNOWN(_tokens=unknown, _size=size, most=size - 1, option=option, found=unknown)

    def changed(self, **given: Any) -> Decoding:
        """Return a copy with other values. Raises InvalidStudy for an invalid value."""
        try:
            return type(self).model_validate({**self.model_dump(), **given})
        except ValidationError as error:
            problem = WrongValue.of(error)
            raise problems.DECODING_INVALID(
                expected=problem.sentence, option=problem.place[0], found=problem.found
            ) from None


GREEDY = Decoding()
