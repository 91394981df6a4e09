"""Full fine-tuning: every parameter trains. Saved as a directory that `from_pretrained` opens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from afina.methods.selective import Selective

if TYPE_CHECKING:
    from afina.models.backbone import Backbone


@dataclass(frozen=True)
class Full(Selective):
    """Trains every parameter, the head included."""

    name: ClassVar[str] = "full"
    title: ClassVar[str] = "full fine-tuning"
    summary: ClassVar[str] = "every parameter of the model trains"
    learning_rate: ClassVar[float] = 1e-4
    tensor_file: ClassVar[str] = "model.safetensors"

    def trains(self, name: str) -> bool:
        """Everything."""
        return True

    def accompany(self, model: Any, backbone: Backbone, directory: Path) -> None:
        """Write the configuration and the tokenizer, as `save_pretrained` does."""
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(directory)
        backbone.tokenizer.save_pretrained(directory)
