"""(IA)^3 and VeRA: methods that train vectors which scale frozen weights, implemented by peft.

The module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from afina.methods import problems
from afina.methods.layers import ALL, Layers, adapted_modules, blocks_from, check_layers
from afina.methods.method import out_of_range
from afina.methods.peft import PeftMethod, Targets, check_targets, quiet
from afina.models.architectures import ARCHITECTURES, architecture_of


@dataclass(frozen=True)
class Ia3(PeftMethod):
    """(IA)^3: trains vectors that scale keys, values and the MLP's hidden layer, and the head (Liu et al. 2022).

    Each target module has one vector, all of whose values are 1 before training.

    Attributes:
        targets: Names of the modules whose inputs or outputs are scaled. By default, the targets are peft's for the
            model family. For a family without peft targets, the targets are the projections of keys and values, and the
            MLP's last layer. If one layer projects both queries and keys (GPT-2, ModernBERT), (IA)^3 scales the queries
            too.
        feedforward: Names of the targets whose input is scaled instead of their output. By default, `feedforward` has
            the targets whose input peft scales in the model family by default.
        layers: The transformer blocks that (IA)^3 adapts: "all", "upper half", "upper quarter", or the number of upper
            blocks.
    """

    name: ClassVar[str] = "ia3"
    title: ClassVar[str] = "(IA)³"
    summary: ClassVar[str] = "vectors train that scale keys, values and the inside of each MLP, the body stays frozen"
    learning_rate: ClassVar[float] = 5e-3
    encoder_rate: ClassVar[float | None] = 5e-2
    stated: ClassVar[frozenset[str]] = frozenset({"targets", "feedforward"})

    targets: Targets = ()
    feedforward: tuple[str, ...] = ()
    layers: Layers = ALL

    def __post_init__(self) -> None:
        check_layers(self.layers, self.name)
        beyond = sorted(set(self.feedforward) - set(self.targets))
        if self.targets and beyond:
            raise problems.IA3_FEEDFORWARD(method="ia3", feedforward=beyond[0])

    def for_family(self, family: str) -> Self:
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as INNER
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as TARGETS

        usual, inner = TARGETS.get(family, _usual_vectors(family)), INNER.get(family, _last_of_mlp(family))
        if self.targets and (self.feedforward or not set(self.targets) & set(inner)):
            return self
        targets = self.targets or tuple(usual)
        return replace(self, targets=targets, feedforward=self.feedforward or tuple(t for t in targets if t in inner))

    def settings(self, model: Any) -> Any:
        """Raises InvalidStudy for a target that the model or its adapted blocks lack, and for too few blocks."""
        from peft import IA3Config

        family, first = model.config.model_type, blocks_from(self.layers, model, self.name)
        check_targets(self.name, model, self.targets, type(self)().for_family(family).targets)
        below: list[str] = []
        if self.layers != ALL:  # peft's configuration of (IA)^3 has no `layers_to_transform`
            _, below = adapted_modules(model, first, self.targets, self.name)
        return IA3Config(
            task_type="SEQ_CLS",
            target_modules=sorted(self.targets),
            feedforward_modules=sorted(self.feedforward),
            exclude_modules=below or None,
            fan_in_fan_out=architecture_of(model).fan_in_fan_out,
        )

    def decays(self, model: Any) -> set[str]:
        """Without the vectors, because decay would move them from 1 towards 0."""
        return {name for name in super().decays(model) if "ia3_l" not in name.split(".")}


def _usual_vectors(family: str) -> tuple[str, ...]:
    """The projections of keys and values, and the MLP's last layer."""
    projections = ARCHITECTURES[family].lora_targets
    return (*(projections[1:] or projections), *_last_of_mlp(family))


def _last_of_mlp(family: str) -> tuple[str, ...]:
    return tuple(path for path, sizes in ARCHITECTURES[family].block.linear.items() if sizes[0] == "inner")


MOST_RANK = 16_384
"""Maximum rank of VeRA; the paper's highest is 1,024. peft allocates two such matrices before checking anything."""


@dataclass(frozen=True)
class Vera(PeftMethod):
    """VeRA: trains two vectors at each target module, and the head (Kopiczko et al. 2024).

    The trained vectors scale the rows of random frozen matrices that all layers share.

    Attributes:
        r: Rank of the shared random matrices. Files do not contain the matrices; loading an adapter draws them again
            from `key`.
        d_initial: Initial value of the vectors of length `r`. The vectors of a layer's output width start at zero, so
            that attaching VeRA does not change the model's outputs.
        dropout: Dropout probability of the inputs of the shared random matrices.
        key: Seed from which the shared random matrices are drawn.
        targets: Names of the adapted modules. By default, the targets are peft's for the model family, or, if peft has
            none, the input projections of the attention.
    """

    name: ClassVar[str] = "vera"
    title: ClassVar[str] = "VeRA"
    summary: ClassVar[str] = "vectors train that scale shared random matrices, the body stays frozen"
    learning_rate: ClassVar[float] = 3e-3
    encoder_rate: ClassVar[float | None] = 3e-2
    search: ClassVar[Mapping[str, tuple[Any, ...]]] = {"r": (64, 256, 1024)}
    practical: ClassVar[bool] = False

    r: int = 256
    d_initial: float = 0.1
    dropout: float = 0.0
    key: int = 0
    targets: Targets = ()

    def __post_init__(self) -> None:
        if not 1 <= self.r <= MOST_RANK or not 0 <= self.dropout < 1 or not 0 < abs(self.d_initial) < MOST_RANK:
            expected = f"1 <= r <= {MOST_RANK:,}, 0 <= dropout < 1 and a d_initial other than 0"
            raise out_of_range("vera", expected, r=self.r, d_initial=self.d_initial, dropout=self.dropout)
        if not 0 <= self.key < 2**63:
            raise out_of_range("vera", "a seed of at least 0", key=self.key)

    def for_family(self, family: str) -> Self:
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
