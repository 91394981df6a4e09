"""Zero-shot: nothing is trained, and the language model's own logits for the labels' words are the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from afina.methods.selective import Selective


@dataclass(frozen=True)
class ZeroShot(Selective):
    """Trains nothing; the template and the words are a run's, as for any method."""

    name: ClassVar[str] = "zero-shot"
    title: ClassVar[str] = "zero-shot"
    summary: ClassVar[str] = "the language model as it is, asked in words: what it answers before anything is trained"

    search: ClassVar[None] = None
    practical: ClassVar[bool] = False
    trains_body: ClassVar[bool] = False
    head: ClassVar[Literal["random", "words"] | None] = "words"

    @property
    def trains_head(self) -> bool:
        """Its rows stay the output embeddings that they are."""
        return False

    def trains(self, name: str) -> bool:
        """Nothing."""
        return False
