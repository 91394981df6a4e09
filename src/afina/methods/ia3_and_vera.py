"""(IA)^3 and VeRA: trained vectors that scale what is frozen, by peft. Starts without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from afina.errors import InvalidStudy
from afina.methods.peft import PeftMethod, check_targets, quiet
from afina.models.architectures import ARCHITECTURES, architecture_of


@dataclass(frozen=True)
class Ia3(PeftMethod):
    """Trains vectors that scale keys, values and the inside of each MLP, and the head (Liu et al. 2022).

    One at each target, all ones at first.

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


MOST_RANK = 16_384
"""The paper's highest is 1,024; two matrices of this many rows and columns are made before anything is looked at."""


@dataclass(frozen=True)
class Vera(PeftMethod):
    """Trains two vectors beside each target, and the head (Kopiczko et al. 2024).

    They scale random matrices, which all layers share.

    r          rank of the shared matrices, which are drawn from `key` again and never saved
    d_initial  what the inner vectors start at; the outer ones start at zero, so nothing changes at first
    dropout    probability that an input of the shared matrices is dropped while training
    key        of the draw
    targets    names of the adapted modules; by default peft's for the family, else its attention input projections
    """

    name: ClassVar[str] = "vera"
    title: ClassVar[str] = "VeRA"
    summary: ClassVar[str] = "vectors train that scale shared random matrices, the body stays frozen"
    learning_rate: ClassVar[float] = 3e-3
    search: ClassVar[Mapping[str, tuple[Any, ...]]] = {"r": (64, 256, 1024)}
    practical: ClassVar[bool] = False

    r: int = 256
    d_initial: float = 0.1
    dropout: float = 0.0
    key: int = 0
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.r <= MOST_RANK or not 0 <= self.dropout < 1 or not 0 < abs(self.d_initial) < MOST_RANK:
            raise InvalidStudy(
                f"method vera: r={self.r}, d_initial={self.d_initial}, dropout={self.dropout}; "
                f"expected 1 <= r <= {MOST_RANK:,}, 0 <= dropout < 1 and a d_initial other than 0.",
                code="method.setting-invalid",
                method="vera",
                r=self.r,
                d_initial=self.d_initial,
                dropout=self.dropout,
            )
        if not 0 <= self.key < 2**63:
            raise InvalidStudy(
                f"method vera: key={self.key}; expected a seed, which is at least 0.",
                code="method.setting-invalid",
                method="vera",
                key=self.key,
            )

    def for_family(self, family: str) -> Self:
        """With the default targets where none are named."""
        return self if self.targets else replace(self, targets=_usual(family))

    def settings(self, model: Any) -> Any:
        """Raises InvalidStudy for a target that the model lacks."""
        from peft import VeraConfig

        family = model.config.model_type
        check_targets(self.name, model, self.targets, _usual(family))
        with quiet():
            return VeraConfig(
                task_type="SEQ_CLS",
                r=self.r,
                d_initial=self.d_initial,
                vera_dropout=self.dropout,
                projection_prng_key=self.key,
                save_projection=False,
                target_modules=sorted(self.targets),
                fan_in_fan_out=ARCHITECTURES[family].fan_in_fan_out,
            )


def _usual(family: str) -> tuple[str, ...]:
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_VERA_TARGET_MODULES_MAPPING as TARGETS

    return tuple(TARGETS.get(family, ARCHITECTURES[family].lora_targets))
