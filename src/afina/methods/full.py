"""Full fine-tuning: every parameter trains. Saved as a directory that `from_pretrained` opens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from afina.errors import InvalidStudy
from afina.methods.method import later
from afina.methods.selective import Selective
from afina.models.architectures import architecture_of, is_head

if TYPE_CHECKING:
    from afina.models.backbone import Backbone


@dataclass(frozen=True)
class Full(Selective):
    """Trains every parameter, the head included.

    layer_decay  what the learning rate of each block is of the one above it: the head and the final norm have the whole
                 rate, the last block this share of it, the embeddings the least (Bao et al. 2022)
    """

    name: ClassVar[str] = "full"
    title: ClassVar[str] = "full fine-tuning"
    summary: ClassVar[str] = "every parameter of the model trains"
    learning_rate: ClassVar[float] = 1e-4
    tensor_file: ClassVar[str] = "model.safetensors"

    layer_decay: float = later(1.0)

    def __post_init__(self) -> None:
        if not 0 < self.layer_decay <= 1:  # nor a number that is none
            raise InvalidStudy(
                f"method full: layer_decay={self.layer_decay}; expected 0 < layer_decay <= 1.",
                code="method.setting-invalid",
                method="full",
                layer_decay=self.layer_decay,
            )

    def trains(self, name: str) -> bool:
        """Everything."""
        return True

    def multipliers(self, model: Any) -> Mapping[str, float]:
        """By depth, where the rate decays; see `layer_decay`."""
        if self.layer_decay == 1:
            return {}
        blocks, there = architecture_of(model).block, model.config.num_hidden_layers
        found = {}
        for name, _ in model.named_parameters():
            index = blocks.index(name)
            if index is not None:
                found[name] = self.layer_decay ** (there - index)
            elif not is_head(name) and blocks.final_norm not in name.split("."):
                found[name] = self.layer_decay ** (there + 1)
        return found

    def accompany(self, model: Any, backbone: Backbone, directory: Path) -> None:
        """Write the configuration and the tokenizer, as `save_pretrained` does."""
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(directory)
        backbone.tokenizer.save_pretrained(directory)
