"""PreLayer: only the layers before the blocks, the embeddings, train.

The fourth approach of the study in `afina.report.paper.published`. Its text describes the embeddings, 39,383,808
parameters of GPT-2; its table reports 46,080. `prelayer` follows the text, `prelayer-46080` trains one of the sets with
exactly the table's count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from afina.errors import InvalidStudy
from afina.methods.method import plain_name
from afina.methods.selective import Selective
from afina.models.architectures import ARCHITECTURES, Architecture, architecture_of, is_head


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

    @property
    def trains_head(self) -> bool:
        """As asked."""
        return self.train_head

    def chosen(self, model: Any) -> set[str]:
        """The embeddings, and the head where it is not frozen."""
        names = [plain_name(name) for name, _ in model.named_parameters()]
        head = {name for name in names if is_head(name)} if self.train_head else set()
        return head | {name for name in names if self.chooses(architecture_of(model), name)}

    def chooses(self, entry: Architecture, name: str) -> bool:
        """Whether the parameter of that name, in a body of that family, trains."""
        return any(f".{path}." in f".{name}" for path in entry.embeddings)

    def in_peft(self, model: Any) -> Mapping[str, Any]:
        """The embeddings' modules, by their names."""
        return {"modules_to_save": sorted(architecture_of(model).embeddings)}


@dataclass(frozen=True)
class PreLayer46080(PreLayer):
    """Trains `ln_1` and `c_attn.bias` of every block: 12 x 3,840 parameters of GPT-2."""

    name: ClassVar[str] = "prelayer-46080"
    title: ClassVar[str] = "PreLayer (46,080)"
    summary: ClassVar[str] = "GPT-2 only: ln_1 and c_attn.bias of every block train, the count in the paper's table"
    practical: ClassVar[bool] = False
    said_by_peft: ClassVar[bool] = False

    def for_family(self, family: str) -> Self:
        """Only for the published study's own family."""
        if not ARCHITECTURES[family].published:
            own = ", ".join(name for name, entry in ARCHITECTURES.items() if entry.published)
            raise InvalidStudy(
                f"method {self.name}: defined for {own} only, this backbone is of type {family}.",
                code="method.family-unsupported",
                method=self.name,
                family=family,
            )
        return self

    def chooses(self, entry: Architecture, name: str) -> bool:
        """The first norm and the bias of the attention's input projection, in every block."""
        parts = name.split(".")
        assert entry.block.pre_norm is not None
        return entry.block.pre_norm.first in parts or (parts[-1] == "bias" and parts[-2] in entry.lora_targets)
