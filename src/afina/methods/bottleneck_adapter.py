"""Bottleneck adapters: small modules in every transformer block train, the rest of the body stays frozen.

The hyperparameter `kind` gives the position of the adapters. `houlsby` adapters come after the attention and after the
MLP (Houlsby et al. 2019). `pfeiffer` adapters come after the MLP (Pfeiffer et al. 2021). `parallel` adapters are
parallel to the MLP and have a scaled output (He et al. 2022). Houlsby et al. also train the norms, which the method
`adapter+layernorm` does. In families whose attention and MLP modules contain the norms (BERT, RoBERTa, ELECTRA),
`houlsby` and `pfeiffer` adapters come after the norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from afina.methods.layers import ALL, Layers, blocks_from, check_layers
from afina.methods.method import Method, out_of_range, plain_name
from afina.models.architectures import architecture_of, blocks_of, head_of, is_head

if TYPE_CHECKING:
    from torch import Tensor

    from afina.models.kernels.layer_changes import BatchedAdapter, LayerChange

_LARGEST = 1e6


@dataclass(frozen=True)
class BottleneckAdapter(Method):
    """Bottleneck adapters: the method trains added bottleneck modules and the head.

    Attributes:
        kind: Position of the bottleneck modules, and their activation function: GELU for `houlsby`, ReLU for `pfeiffer`
            and `parallel`.
        reduction: Width of the hidden states divided by the inner width of a bottleneck module.
        scale: Factor by which the output of a `parallel` module is multiplied; `houlsby` and `pfeiffer` have no factor.
        layers: The transformer blocks that get bottleneck modules: "all", "upper half", "upper quarter", or the number
            of upper blocks.
    """

    name: ClassVar[str] = "adapter"
    title: ClassVar[str] = "adapters"
    summary: ClassVar[str] = "small bottleneck modules in every block train, the body stays frozen"
    learning_rate: ClassVar[float] = 1e-3
    encoder_rate: ClassVar[float | None] = 3e-3
    practical: ClassVar[bool] = False
    search: ClassVar[Mapping[str, tuple[Any, ...]]] = {"reduction": (4, 16, 64)}
    stated: ClassVar[frozenset[str]] = frozenset({"kind", "reduction", "scale"})

    kind: Literal["pfeiffer", "houlsby", "parallel"] = "pfeiffer"
    reduction: int = 16
    scale: float = 4.0
    layers: Layers = ALL

    def __post_init__(self) -> None:
        check_layers(self.layers, self.name)
        if self.reduction < 1 or not 0 < self.scale <= _LARGEST:  # NaN fails too
            expected = f"reduction >= 1 and 0 < scale <= {_LARGEST:,.0f}"
            raise out_of_range("adapter", expected, reduction=self.reduction, scale=self.scale)

    def attach(self, model: Any) -> Any:
        """Add the bottleneck modules, whose outputs are 0 before training. Raises InvalidStudy for too few blocks."""
        from afina.models.added_modules import BOTTLENECK, Bottleneck, behind, beside
        from afina.models.kernels.patches import Patch, call_of, patch

        first = blocks_from(self.layers, model, self.name)
        model.requires_grad_(False)
        for layer in head_of(model):
            layer.requires_grad_(True)
        width, names = int(model.config.hidden_size), architecture_of(model).block
        device = next(model.parameters()).device  # of the model: a module whose weights are held may have no parameter
        activation, scale = "gelu" if self.kind == "houlsby" else "relu", self.scale if self.kind == "parallel" else 1.0
        for block in blocks_of(model.base_model)[first:]:
            for path in (names.attended, names.mlp) if self.kind == "houlsby" else (names.mlp,):
                module = block.get_submodule(path)
                narrow = max(1, width // self.reduction)
                module.add_module(BOTTLENECK, Bottleneck(width, narrow, activation, scale, device))
                patch(module, Patch.BOTTLENECK, beside if self.kind == "parallel" else behind, call_of(module))
        return model

    def owns(self, name: str) -> bool:
        from afina.models.added_modules import BOTTLENECK

        return BOTTLENECK in name.split(".") or is_head(name)

    def batched(self, model: Any, state: Mapping[str, Tensor], base: Any) -> BatchedAdapter | None:
        """None for `parallel` bottlenecks in families such as BERT, where these add to the module's input."""
        from afina.models.added_modules import BOTTLENECK, BottleneckChange
        from afina.models.kernels.layer_changes import BatchedAdapter

        changes: dict[str, tuple[LayerChange, ...]] = {}
        tensor_names: set[str] = set()
        beside = self.kind == "parallel"
        block = architecture_of(model).block
        if beside and block.attended != block.attention:
            return None
        for full, module in model.named_modules():
            if full.rpartition(".")[2] != BOTTLENECK:
                continue
            names = [f"{full}.{layer}.{kind}" for layer in ("down", "up") for kind in ("weight", "bias")]
            down, down_bias, up, up_bias = (state[name] for name in names)
            made = BottleneckChange(down, down_bias, up, up_bias, module.activation, module.scale, beside)
            changes[plain_name(full).removesuffix(f".{BOTTLENECK}")] = (made,)
            tensor_names.update(names)
        return BatchedAdapter(changes, tensor_names=frozenset(tensor_names))
