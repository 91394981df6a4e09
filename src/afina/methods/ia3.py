"""(IA)^3: vectors that scale keys, values and the inner activations of each MLP (Liu et al. 2022), by peft."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from afina.errors import InvalidStudy
from afina.methods.peft import PeftMethod, check_targets
from afina.models.architectures import architecture_of


@dataclass(frozen=True)
class Ia3(PeftMethod):
    """Trains a vector at each target, all ones at first, and the head.

    targets      names of the scaled modules; by default peft's for the family. Its word for GPT-2's is the fused
                 projection, so queries are scaled there too
    feedforward  those of them whose input is scaled, where the others' output is; by default peft's among the targets
    """

    name: ClassVar[str] = "ia3"
    title: ClassVar[str] = "(IA)³"
    summary: ClassVar[str] = "vectors train that scale keys, values and the inside of each MLP, the body stays frozen"
    learning_rate: ClassVar[float] = 5e-3

    targets: tuple[str, ...] = ()
    feedforward: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        beyond = sorted(set(self.feedforward) - set(self.targets))
        if self.targets and beyond:
            raise InvalidStudy(
                f"method ia3: feedforward {beyond[0]!r} is none of the targets. Name it there, too.",
                code="method.setting-invalid",
                method="ia3",
                feedforward=beyond[0],
            )

    def for_family(self, family: str) -> Self:
        """With peft's targets for the family where none are named; every family that afina knows has some."""
        from peft.utils.constants import (
            TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as INNER,
        )
        from peft.utils.constants import (
            TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as TARGETS,
        )

        if self.targets and (self.feedforward or not set(self.targets) & set(INNER[family])):
            return self
        targets = self.targets or tuple(TARGETS[family])
        return replace(
            self, targets=targets, feedforward=self.feedforward or tuple(t for t in targets if t in INNER[family])
        )

    def settings(self, model: Any) -> Any:
        """Raises InvalidStudy for a target that the model lacks."""
        from peft import IA3Config

        family = model.config.model_type
        check_targets(self.name, model, self.targets, type(self)().for_family(family).targets)
        return IA3Config(
            task_type="SEQ_CLS",
            target_modules=sorted(self.targets),
            feedforward_modules=sorted(self.feedforward),
            fan_in_fan_out=architecture_of(model).fan_in_fan_out,
        )

    def decays(self, model: Any) -> set[str]:
        """Not the vectors, which decay would draw away from the one that changes nothing, towards zero."""
        return {name for name in super().decays(model) if "ia3_l" not in name.split(".")}
