"""Decoding: how an answer is generated. Does not import torch and does not know models."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from afina.errors import InvalidStudy
from afina.schema import Frozen, Problem


class Decoding(Frozen):
    """How an answer is generated, token by token.

    Attributes:
        max_new_tokens: Most tokens of an answer, the end token included. None: as many as the model has positions for.
        beams: Number of beams of beam search; 1: no beam search.
        length_penalty: In beam search, the sum of log-probabilities is divided by length ** length_penalty.
        no_repeat_ngram: Size of n-grams that occur at most once in prompt and answer together. 0: no limit.
        temperature: Divisor of the logits before sampling. 0: the most probable token, without sampling.
        top_p: Sampling draws from the fewest most probable tokens that have at least this probability together.
        top_k: Sampling draws from this number of most probable tokens. 0: from all tokens.
        seed: Seed of sampling. The same prompt with the same seed has the same answer, alone or among other prompts.
        stop: Strings that end an answer; the answer is cut before the string.
    """

    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    beams: Annotated[int, Field(ge=1, le=64)] = 1
    length_penalty: float = Field(default=1.0, allow_inf_nan=False)
    no_repeat_ngram: int = Field(default=0, ge=0)
    temperature: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0)
    seed: int = 0
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn at random."""
        return self.temperature > 0

    @property
    def in_words(self) -> str:
        """How answers are generated, to follow the word "by"."""
        if self.samples:
            limits = [f"top-p {self.top_p:g}"] * (self.top_p < 1) + [f"top-k {self.top_k}"] * (self.top_k > 0)
            made = ", ".join([f"sampling at temperature {self.temperature:g}", *limits, f"seed {self.seed}"])
        elif self.beams > 1:
            made = f"beam search with {self.beams} beams and length penalty {self.length_penalty:g}"
        else:
            made = "greedy search (the most probable token at each step)"
        made += f", no {self.no_repeat_ngram}-gram twice" if self.no_repeat_ngram else ""
        return made + (f", up to {' or '.join(map(repr, self.stop))}" if self.stop else "")

    def for_transformers(self, most: int | None = None) -> dict[str, Any]:
        """Return the arguments of `generate` in transformers, without those at their defaults and without stop strings.

        Args:
            most: Most new tokens where `max_new_tokens` is None. None: no limit is named.
        """
        sampling = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k} if self.samples else {}
        beams = {"num_beams": self.beams, "length_penalty": self.length_penalty} if self.beams > 1 else {}
        limit = self.max_new_tokens or most
        return {
            **({"max_new_tokens": limit} if limit else {}),
            "do_sample": self.samples,
            **sampling,
            **beams,
            **({"no_repeat_ngram_size": self.no_repeat_ngram} if self.no_repeat_ngram else {}),
        }

    @field_validator("temperature")
    @classmethod
    def _one_way(cls, temperature: float, info: ValidationInfo) -> float:
        if temperature and info.data.get("beams", 1) > 1:
            raise ValueError(f"cannot be combined with {info.data['beams']} beams")
        return temperature

    @field_validator("top_p", "top_k")
    @classmethod
    def _of_samples(cls, value: float, info: ValidationInfo) -> float:
        if value != cls.model_fields[info.field_name or ""].default and not info.data.get("temperature", 1):
            raise ValueError("has no effect without a temperature above 0")
        return value

    def changed(self, **given: Any) -> Decoding:
        """Return the settings with other values for some of them. Raises InvalidStudy for an invalid value."""
        try:
            return type(self).model_validate({**self.model_dump(), **given})
        except ValidationError as error:
            problem = Problem.of(error)
            raise InvalidStudy(
                f"`{problem.place[0]}` {problem.found!r}: {problem.sentence} Give another value.",
                code="option.invalid",
                option=problem.place[0],
                found=problem.found,
            ) from None


GREEDY = Decoding()
"""The most probable token at each step."""
