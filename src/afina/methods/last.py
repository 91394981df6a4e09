"""The last blocks: what is nearest the head trains with it, and what is below stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from afina.errors import InvalidStudy
from afina.methods.method import weight_names
from afina.methods.selective import Selective
from afina.models.architectures import architecture_of, is_head


@dataclass(frozen=True)
class Last(Selective):
    """Trains the last blocks, the norm after them, and the head; no gradient goes further down.

    blocks  how many
    """

    name: ClassVar[str] = "last"
    title: ClassVar[str] = "last blocks"
    summary: ClassVar[str] = "the last transformer blocks and the final norm train, the blocks below stay frozen"
    learning_rate: ClassVar[float] = 5e-4
    practical: ClassVar[bool] = False
    search: ClassVar[Mapping[str, tuple[Any, ...]]] = {"blocks": (1, 2, 4)}

    blocks: int = 2

    def __post_init__(self) -> None:
        if self.blocks < 1:
            raise InvalidStudy(
                f"method last: blocks={self.blocks}; expected 1 or more. `head` trains the head alone.",
                code="method.setting-invalid",
                method="last",
                blocks=self.blocks,
            )

    def chosen(self, model: Any) -> set[str]:
        """Those of the last `blocks`, of the final norm and of the head. Raises InvalidStudy where there are fewer."""
        names, there = architecture_of(model).block, model.config.num_hidden_layers
        if self.blocks > there:
            raise InvalidStudy(
                f"method {self.name}: blocks is {self.blocks:,}, and this model has {there}. Full fine-tuning "
                "trains all of them and the embeddings.",
                code="method.setting-invalid",
                method=self.name,
                blocks=self.blocks,
            )
        found = set()
        for name in set.union(*weight_names(model)):
            index = names.index(name)
            above = is_head(name) or names.final_norm in name.split(".")
            if above if index is None else index >= there - self.blocks:
                found.add(name)
        return found
