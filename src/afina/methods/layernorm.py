"""Norms alone: what scales and shifts between the layers trains, and the layers stay (Zhao et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from afina.methods.method import plain_name
from afina.methods.selective import Selective
from afina.models.architectures import architecture_of, is_head


@dataclass(frozen=True)
class LayerNorm(Selective):
    """Trains the weights and biases of all norms, LayerNorm's or RMSNorm's, and the head."""

    name: ClassVar[str] = "layernorm"
    title: ClassVar[str] = "norms"
    summary: ClassVar[str] = "the norms between the layers train, the layers stay frozen"
    learning_rate: ClassVar[float] = 1e-3
    practical: ClassVar[bool] = False
    said_by_peft: ClassVar[bool] = True

    def chosen(self, model: Any) -> set[str]:
        """Norms, and the head."""
        norms = architecture_of(model).norms
        names = (plain_name(name) for name, _ in model.named_parameters())
        return {name for name in names if is_head(name) or not norms.isdisjoint(name.split(".")[-2:-1])}

    def in_peft(self, model: Any) -> Mapping[str, Any]:
        """The norms' modules, by the ends of their names."""
        found = {name.split(".")[-2] for name in self.chosen(model) if not is_head(name)}
        return {"modules_to_save": sorted(found)}
