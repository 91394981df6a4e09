"""PreLayer: only the layers before the blocks, the embeddings, train.

The fourth approach of the study in `afina.report.paper.published`. Its text describes the embeddings, 39,383,808
parameters of GPT-2; its table reports 46,080. `prelayer` follows the text, `prelayer-46080` trains one of the sets with
exactly the table's count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from afina.errors import InvalidStudy
from afina.methods.selective import Selective
from afina.models.families import HEAD

_EMBEDDINGS = frozenset({"wte", "wpe", "embed_in", "embed_tokens"})


@dataclass(frozen=True)
class PreLayer(Selective):
    """Trains the token and position embeddings, and the head unless `train_head` is false.

    The paper froze the head; a frozen random head stays near chance, so the default trains it.
    """

    name: ClassVar[str] = "prelayer"
    title: ClassVar[str] = "PreLayer"
    summary: ClassVar[str] = "the token and position embeddings train, the blocks stay frozen"
    learning_rate: ClassVar[float] = 2e-3
    said_by_peft: ClassVar[bool] = True

    train_head: bool = True

    def as_published(self) -> Self:
        """The head frozen."""
        return replace(self, train_head=False)

    @property
    def trains_head(self) -> bool:
        """As asked."""
        return self.train_head

    def trains(self, name: str) -> bool:
        """The embeddings, and the head where it is not frozen."""
        parts = name.split(".")
        return bool(_EMBEDDINGS.intersection(parts)) or (self.train_head and HEAD in parts)

    def in_peft(self, model: Any) -> Mapping[str, Any]:
        """The embeddings' modules, by the ends of their names."""
        names = {name.split(".")[-1] for name, _ in model.named_modules()}
        return {"modules_to_save": sorted(names & _EMBEDDINGS)}


@dataclass(frozen=True)
class PreLayer46080(PreLayer):
    """Trains `ln_1` and `c_attn.bias` of every block: 12 x 3,840 parameters of GPT-2."""

    name: ClassVar[str] = "prelayer-46080"
    title: ClassVar[str] = "PreLayer (46,080)"
    summary: ClassVar[str] = "GPT-2 only: ln_1 and c_attn.bias of every block train, the count in the paper's table"
    practical: ClassVar[bool] = False
    said_by_peft: ClassVar[bool] = False

    def for_family(self, family: str) -> Self:
        """Only GPT-2 has these parameters."""
        if family != "gpt2":
            raise InvalidStudy(f"method {self.name}: defined for gpt2 only, this backbone is of type {family}.")
        return self

    def trains(self, name: str) -> bool:
        """One layer norm and one bias a block, and the head where it is not frozen."""
        parts = name.split(".")
        return "ln_1" in parts or parts[-2:] == ["c_attn", "bias"] or (self.train_head and HEAD in parts)
