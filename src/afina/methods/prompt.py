"""Prompt tuning: trained rows before the embeddings of every text (Lester et al. 2021, arXiv 2104.08691)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from afina.methods.virtual import Virtual

if TYPE_CHECKING:
    from torch import Tensor

    from afina.models.rider import Rider


@dataclass(frozen=True)
class Prompt(Virtual):
    """Trains `tokens` rows of the input, and the head.

    They have the first positions of every text, and are seen like its tokens. They start as embeddings of tokens drawn
    from the vocabulary, as peft's do, which the paper finds better than rows drawn at random (section 3.2).
    """

    name: ClassVar[str] = "prompt"
    title: ClassVar[str] = "prompt tuning"
    summary: ClassVar[str] = "virtual tokens before each text train, the body stays frozen"
    learning_rate: ClassVar[float] = 7e-3

    @property
    def adds(self) -> str:
        """One module, at the input."""
        from afina.models.virtual_tokens import PROMPT

        return PROMPT

    def add(self, body: Any) -> None:
        """A row for each token."""
        from afina.models import virtual_tokens

        body.add_module(self.adds, virtual_tokens.Prompt(virtual_tokens.words(body, self.tokens)))

    def rider(self, model: Any, state: Mapping[str, Tensor], base: Any) -> Rider | None:
        """Its rows."""
        from afina.models.rider import Rider

        (name,) = self.added(state)
        return Rider(prompt=state[name], heard=frozenset({name}))
