"""No fine-tuning: the pretrained body under a random head, evaluated as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

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

    @property
    def trains_head(self) -> bool:
        """It stays as it was drawn."""
        return False

    def trains(self, name: str) -> bool:
        """Nothing."""
        return False
