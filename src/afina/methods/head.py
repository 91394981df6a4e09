"""Linear probe: the body stays as it is, and a linear classifier of its last hidden states is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from afina.methods.selective import Selective
from afina.models.architectures import is_head


@dataclass(frozen=True)
class Head(Selective):
    """Trains the head on a body in evaluation, without dropout; so it reads each text once, however long it trains."""

    name: ClassVar[str] = "head"
    title: ClassVar[str] = "head only"
    summary: ClassVar[str] = "a linear head trains on what the frozen body gives, which is computed once"
    learning_rate: ClassVar[float] = 1e-2
    trains_body: ClassVar[bool] = False

    def trains(self, name: str) -> bool:
        """The head."""
        return is_head(name)
