"""Norms alone: what scales and shifts between the layers trains, and the layers stay (Zhao et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from afina.methods.selective import Selective
from afina.models.families import HEAD


@dataclass(frozen=True)
class LayerNorm(Selective):
    """Trains the weights and biases of all norms, LayerNorm's or RMSNorm's, and the head."""

    name: ClassVar[str] = "layernorm"
    title: ClassVar[str] = "norms"
    summary: ClassVar[str] = "the norms between the layers train, the layers stay frozen"
    learning_rate: ClassVar[float] = 1e-3
    practical: ClassVar[bool] = False
    said_by_peft: ClassVar[bool] = True

    def trains(self, name: str) -> bool:
        """Norms by the names that they have in every family, and the head."""
        *path, _ = name.split(".")
        return HEAD in path or (bool(path) and ("norm" in path[-1] or path[-1].startswith("ln_")))

    def in_peft(self, model: Any) -> Mapping[str, Any]:
        """The norms' modules, by the ends of their names."""
        found = {name.split(".")[-2] for name in self.chosen(model) if HEAD not in name.split(".")}
        return {"modules_to_save": sorted(found)}
