"""No fine-tuning, as the study has it: the pretrained body under a random head, which was told nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from afina.methods.selective import Selective


@dataclass(frozen=True)
class Baseline(Selective):
    """Trains nothing."""

    name: ClassVar[str] = "baseline"
    title: ClassVar[str] = "no fine-tuning"
    summary: ClassVar[str] = "the pretrained body under a random head, evaluated as it is"

    search: ClassVar[None] = None
    practical: ClassVar[bool] = False
    trains_body: ClassVar[bool] = False
    head: ClassVar[Literal["random", "words"] | None] = "random"

    @property
    def trains_head(self) -> bool:
        """It stays as it was drawn."""
        return False

    def trains(self, name: str) -> bool:
        """Nothing."""
        return False
