"""LoRA: W + (alpha / r) B A beside frozen weights W (Hu et al. 2021), by peft."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from afina.errors import InvalidStudy
from afina.methods.peft import PeftMethod
from afina.models.families import FAMILIES

if TYPE_CHECKING:
    from torch import Tensor

MOST_ALPHA = 1e6
"""Far more than any use of it, and little enough to compute with."""


@dataclass(frozen=True)
class Lora(PeftMethod):
    """Trains two low-rank matrices beside each target, and the head.

    r        rank
    alpha    scale; the update is multiplied by alpha / r
    dropout  probability that an input of A is dropped while training
    targets  names of the adapted modules; by default the family's attention input projections
    """

    name: ClassVar[str] = "lora"
    title: ClassVar[str] = "LoRA"
    summary: ClassVar[str] = "low-rank matrices beside the attention projections train, the body stays frozen"
    learning_rate: ClassVar[float] = 1e-3
    search: ClassVar[Mapping[str, tuple[Any, ...]]] = {"r": (4, 8, 16)}

    r: int = 4
    alpha: float = 16
    dropout: float = 0.05
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.r < 1 or not 0 < self.alpha <= MOST_ALPHA or not 0 <= self.dropout < 1:  # nor a number that is none
            raise InvalidStudy(
                f"method lora: r={self.r}, alpha={self.alpha}, dropout={self.dropout}; "
                f"expected r >= 1, 0 < alpha <= {MOST_ALPHA:,.0f} and 0 <= dropout < 1."
            )

    def for_family(self, family: str) -> Self:
        """With the family's default targets where none are named."""
        return self if self.targets else replace(self, targets=FAMILIES[family].lora_targets)

    def settings(self, model: Any) -> Any:
        """B starts at zero, so nothing changes at first.

        Raises InvalidStudy for a target that the model lacks, and for a rank that no layer of it is as wide as.
        """
        from peft import LoraConfig

        family = FAMILIES[model.config.model_type]
        # peft takes what it finds, and says nothing of a target that matches no module beside one that does.
        names = [f".{name}" for name, _ in model.named_modules()]
        for target in self.targets:
            if not any(name.endswith(f".{target}") for name in names):
                raise InvalidStudy(
                    f"method {self.name}: targets: this model has no module named {target!r}. "
                    f"The default for {model.config.model_type} is {', '.join(family.lora_targets)}."
                )
        widest = max(max(weight.shape) for weight in self._adapted(model))
        if self.r > widest:
            raise InvalidStudy(
                f"method {self.name}: r is {self.r:,}, and the widest layer that it would adapt has {widest:,} inputs "
                "or outputs. A rank beyond that adds nothing; 4 to 64 are usual."
            )
        return LoraConfig(
            task_type="SEQ_CLS",
            r=self.r,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # peft only divides it by r
            lora_dropout=self.dropout,
            target_modules=sorted(self.targets),
            fan_in_fan_out=family.fan_in_fan_out,
        )

    def _adapted(self, model: Any) -> Iterator[Tensor]:
        """Weights of the targets; of one that is no layer but holds some, theirs."""
        for name, module in model.named_modules():
            if any(f".{name}".endswith(f".{target}") for target in self.targets):
                yield from (weight for weight in module.parameters() if weight.dim() == 2)
