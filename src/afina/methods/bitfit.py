"""BitFit: the biases train, and the weights that they are added to stay (Ben Zaken et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from afina.errors import InvalidStudy
from afina.methods.selective import Selective
from afina.models.architectures import is_head


@dataclass(frozen=True)
class BitFit(Selective):
    """Trains every bias, those of norms too, and the head."""

    name: ClassVar[str] = "bitfit"
    title: ClassVar[str] = "BitFit"
    summary: ClassVar[str] = "the biases train, the weights that they are added to stay frozen"
    learning_rate: ClassVar[float] = 1e-3
    practical: ClassVar[bool] = False
    said_by_peft: ClassVar[bool] = True

    def trains(self, name: str) -> bool:
        """Biases, and the head."""
        return name.endswith(".bias") or is_head(name)

    def in_peft(self, model: Any) -> Mapping[str, Any]:
        """All biases."""
        return {"bias": "all"}

    def attach(self, model: Any) -> Any:
        """As `Selective.attach`. Raises InvalidStudy where the model has no bias."""
        if all(is_head(name) for name in self.chosen(model)):
            raise InvalidStudy(
                f"method {self.name}: {model.config.model_type} has no biases; layernorm trains a number of parameters "
                "like theirs, lora adds some.",
                code="method.family-unsupported",
                method=self.name,
                family=model.config.model_type,
            )
        return super().attach(model)
