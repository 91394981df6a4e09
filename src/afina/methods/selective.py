"""What selective methods have in common: they train some of the model's own parameters, and add none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from afina.methods.method import Method, plain_name
from afina.models.families import HEAD


@dataclass(frozen=True)
class Selective(Method):
    """Trains the parameters that it chooses: by name, or, where a name is not enough, in `chosen`."""

    def trains(self, name: str) -> bool:
        """Whether the parameter of that name in the model trains."""
        raise NotImplementedError

    def chosen(self, model: Any) -> set[str]:
        """Names of the parameters that train, as `plain_name` has them."""
        names = (plain_name(name) for name, _ in model.named_parameters())
        return {name for name in names if self.trains(name)}

    def owned(self, model: Any) -> set[str]:
        """What it chooses."""
        return self.chosen(model)

    def pretrained(self, model: Any) -> set[str]:
        """All that trains but the head, which is drawn, or made of words."""
        return {name for name in self.trainable(model) if HEAD not in name.split(".")}

    def attach(self, model: Any) -> Any:
        """Freeze all others."""
        chosen = self.chosen(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(plain_name(name) in chosen)
        return model
