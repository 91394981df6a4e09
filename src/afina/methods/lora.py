"""LoRA: W + (alpha / r) B A with frozen weights W (Hu et al. 2021), from peft; also rsLoRA, DoRA and LoRA+."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator

from afina.methods import problems
from afina.methods.layers import ALL, Layers, adapted_modules, blocks_from, check_layers
from afina.methods.method import out_of_range
from afina.methods.peft import PeftMethod, Targets, check_targets
from afina.models.architectures import ARCHITECTURES, architecture_of, classifies_tokens, head_entry_of, is_head

MOST_ALPHA = 1e6
"""Far above useful values, and small enough for float arithmetic."""

MOST_PLUS = 1e4
"""16 is usual."""

ALL_LINEAR = "all-linear"
"""The value of `targets` with which LoRA adapts every linear layer except the head, as in peft."""

INITS = {"zero": True, "gaussian": "gaussian", "orthogonal": "orthogonal"}
"""Values of LoRA's `init`, and the values of peft's `init_lora_weights` for them."""

REWRITING = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""LoRA initialisations of peft that change backbone weights, which an adapter's files do not contain."""


def _as_targets(given: Any) -> Any:
    return (given,) if given == ALL_LINEAR else given


@dataclass(frozen=True)
class Lora(PeftMethod):
    """LoRA: trains two low-rank matrices A and B at each target module, and the head.

    Attributes:
        r: Rank of the matrices A and B.
        alpha: Scale of the update: B A is multiplied by alpha / r.
        dropout: Dropout probability of A's inputs.
        targets: Names of the adapted modules. By default, LoRA adapts the attention's input projections of the model
            family; with "all-linear", every linear layer except the head.
        rslora: Whether B A is multiplied by alpha / sqrt(r) instead of alpha / r: rsLoRA (Kalajdzievski 2023).
        dora: Whether the norm of each row of a weight is trained separately from the row's direction: DoRA (Liu 2024).
        init: Initial values of A and B. "zero": A is uniform (Kaiming) and B is zero. "gaussian": A is normal and B is
            zero. "orthogonal": A and B are random, and their product is zero.
        plus: LoRA+ (Hayou 2024): the ratio of B's learning rate to A's.
        layers: The transformer blocks that LoRA adapts: "all", "upper half", "upper quarter", or the number of upper
            blocks.
    """

    name: ClassVar[str] = "lora"
    title: ClassVar[str] = "LoRA"
    summary: ClassVar[str] = "low-rank matrices beside the attention projections train, the body stays frozen"
    learning_rate: ClassVar[float] = 1e-3
    encoder_rate: ClassVar[float | None] = 3e-3
    search: ClassVar[Mapping[str, tuple[Any, ...]]] = {"r": (4, 8, 16)}
    stated: ClassVar[frozenset[str]] = frozenset({"r", "alpha", "dropout", "targets"})

    r: int = 4
    alpha: float = 16
    dropout: float = 0.05
    targets: Annotated[Targets, BeforeValidator(_as_targets)] = ()
    rslora: bool = False
    dora: bool = False
    init: str = "zero"
    plus: float = 1.0
    layers: Layers = ALL

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", _as_targets(self.targets))
        if self.r < 1 or not 0 < self.alpha <= MOST_ALPHA or not 0 <= self.dropout < 1:  # NaN fails too
            expected = f"r >= 1, 0 < alpha <= {MOST_ALPHA:,.0f} and 0 <= dropout < 1"
            raise out_of_range("lora", expected, r=self.r, alpha=self.alpha, dropout=self.dropout)
        if not 0 < self.plus <= MOST_PLUS:
            raise out_of_range("lora", f"0 < plus <= {MOST_PLUS:,.0f}; 16 is usual", plus=self.plus)
        check_layers(self.layers, self.name)
        self._check_init()

    def _check_init(self) -> None:
        if self.init.startswith(REWRITING):
            raise problems.LORA_INIT_CHANGES_BACKBONE(method="lora", init=self.init, known=list(INITS))
        if self.init not in INITS:
            raise out_of_range("lora", f"one of {', '.join(INITS)}", init=self.init)
        if self.init == "orthogonal" and self.r % 2:
            raise problems.LORA_ORTHOGONAL_ODD(method="lora", init=self.init, r=self.r)

    def for_family(self, family: str) -> Self:
        return self if self.targets else replace(self, targets=ARCHITECTURES[family].lora_targets)

    def settings(self, model: Any) -> Any:
        """Raises InvalidStudy if the model lacks a target or enough blocks, or if the rank exceeds every dimension."""
        from peft import LoraConfig

        family, first = architecture_of(model), blocks_from(self.layers, model, self.name)
        everything = self.targets == (ALL_LINEAR,)
        targets: Sequence[str] = self.targets
        if everything and self.layers != ALL:  # peft selects blocks only of targets that are a list
            everything, targets = False, [*family.block.linear]
        elif not everything:
            check_targets(self.name, model, targets, family.lora_targets)
        adapted: Collection[str] | None = None
        if self.layers != ALL:
            adapted, _ = adapted_modules(model, first, targets, self.name)
        chosen = None if everything else targets
        widest = max(max(shape) for shape in _shapes(model, chosen, adapted))
        if self.r > widest:
            raise problems.RANK_TOO_LARGE(method=self.name, r=self.r, widest=widest)
        return LoraConfig(
            task_type="SEQ_CLS",
            r=self.r,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # peft only divides it by r
            lora_dropout=self.dropout,
            target_modules=ALL_LINEAR if everything else sorted(targets),
            fan_in_fan_out=family.fan_in_fan_out,
            use_rslora=self.rslora,
            use_dora=self.dora,
            init_lora_weights=INITS[self.init],  # type: ignore[arg-type]  # a word of peft's
            exclude_modules=(_trained_in_full(model) or None) if everything else None,
            **self._of_blocks(model, first),
        )

    def _of_blocks(self, model: Any, first: int) -> dict[str, Any]:
        """Return peft's settings that select the blocks from block `first` on."""
        if self.layers == ALL:
            return {}
        indices = list(range(first, int(model.config.num_hidden_layers)))
        pattern = architecture_of(model).block.layers.rpartition(".")[2]
        return {"layers_to_transform": indices, "layers_pattern": [pattern]}

    def multipliers(self, model: Any) -> Mapping[str, float]:
        """`plus` for every matrix B; empty if `plus` is 1."""
        if self.plus == 1:
            return {}
        return {name: self.plus for name in self.trainable(model) if "lora_B" in name.split(".")}

    def unlowered(self, model: Any) -> set[str]:
        """DoRA's magnitude vectors, whose updates are too small for bfloat16 with about three decimal digits."""
        return {name for name, _ in model.named_parameters() if "lora_magnitude_vector" in name.split(".")}


def _shapes(model: Any, targets: Sequence[str] | None, among: Collection[str] | None) -> Iterator[Sequence[int]]:
    """Yield the shapes of the adapted weights; a target may contain several layers. None: every linear layer."""
    from afina.models.kernels import linear

    for name, module in model.named_modules():
        if targets is None:
            chosen = type(module).__name__ in ("Linear", "Conv1D") and not is_head(name)
        else:
            chosen = any(f".{name}".endswith(f".{target}") for target in targets) and (among is None or name in among)
        for layer in module.modules() if chosen else ():
            if linear.is_linear(layer):
                yield linear.frozen_weight(layer).shape
            else:
                yield from (weight.shape for weight in layer.parameters(recurse=False) if weight.dim() == 2)


def _trained_in_full(model: Any) -> list[str]:
    """Return the head's layers to which peft's `all-linear` would add LoRA although they are trained in full."""
    modules = head_entry_of(model).modules
    return [path for path in (modules if classifies_tokens(model) else modules[:-1]) if "." not in path]
