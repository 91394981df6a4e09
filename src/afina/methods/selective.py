"""What selective methods have in common: they train some of the model's own parameters, and add none."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from afina.methods.method import Method
from afina.models.families import HEAD


@dataclass(frozen=True)
class Selective(Method):
    """Trains the parameters whose names it chooses."""

    @abstractmethod
    def trains(self, name: str) -> bool:
        """Whether the parameter of that name in the model trains."""

    def owns(self, name: str) -> bool:
        """What it chooses."""
        return self.trains(name)

    def pretrained(self, model: Any) -> set[str]:
        """All that trains but the head, which is drawn, or made of words."""
        return {name for name in self.trainable(model) if HEAD not in name.split(".")}

    def attach(self, model: Any) -> Any:
        """Freeze all others."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.trains(name))
        return model
