"""What an adapter changes, layer by layer: LoRA's factors as the products they stand for, all else as it is stored.

Reads what methods and peft wrote down of the products' scales; computes with no model. Imports torch nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Any, Self

from afina.errors import CorruptAdapter, InvalidStudy
from afina.methods.peft_settings import Ends
from afina.models.adapter import FOREIGN, Adapter
from afina.models.manifest import Manifest
from afina.store.diff.low_rank import Product

if TYPE_CHECKING:
    from torch import Tensor

LORA = "lora"
ALPHA, PEFT_ALPHA = 16.0, 8.0
"""Of a LoRA that does not say: afina's default, and peft's."""

_FACTORS = ((".lora_A.weight", ".lora_B.weight"), (".lora_embedding_A", ".lora_embedding_B"))
"""Ends of the names of a layer's two factors, and of an embedding's."""

_BIAS = ".lora_B.bias"
"""End of the name of what B adds beside its product, with the same scale."""

_OTHERWISE = ("use_qalora", "use_bdlora", "kasa_config", "monteclora_config", "arrow_config", "target_parameters")
"""Settings of peft's LoRA under which the factors stand for something else than scale * B @ A."""


def is_foreign(manifest: Manifest) -> bool:
    """Whether peft made it, and so its labels have no names; afina's own method of that name says which type it is."""
    return manifest.method == FOREIGN and "type" not in manifest.hyperparameters


def parts(adapter: Adapter) -> dict[str, Product | Tensor]:
    """By name, as it is in a model that nothing is wrapped around. A product has the name of its layer.

    Raises CorruptAdapter where factors do not fit each other, or a scale is no number.
    """
    tensors = {name.removeprefix("base_model.model."): tensor for name, tensor in adapter.tensors.items()}
    scales = Scales.of(adapter)
    if scales is None:
        return dict(tensors)
    found: dict[str, Product | Tensor] = {}
    for name in list(tensors):
        for right, left in _FACTORS:
            layer = name.removesuffix(right)
            if layer == name or layer + left not in tensors:
                continue
            if {tensors[layer + right].dim(), tensors[layer + left].dim()} == {2}:  # not those of a convolution
                found[layer] = _product(adapter, layer, tensors.pop(layer + left), tensors.pop(layer + right), scales)
    for name in tensors:
        layer = name.removesuffix(_BIAS)
        if layer in found and layer != name:
            tensors[name] = tensors[name].double() * found[layer].scale  # type: ignore[union-attr]
    return found | tensors


def _product(adapter: Adapter, layer: str, left: Tensor, right: Tensor, scales: Scales) -> Product:
    if left.shape[1] != right.shape[0] or not right.shape[0]:
        raise CorruptAdapter(
            f"{adapter.where}: the factors of {layer} have shapes {list(left.shape)} and {list(right.shape)}, expected "
            "[outputs, rank] and [rank, inputs]. Copy the adapter again, or train it again.",
            code="adapter.tensors-mismatch",
            where=adapter.where,
            layer=layer,
        )
    return Product(left, right, scales.scale(layer, right.shape[0]))


@dataclass(frozen=True)
class Scales:
    """By what LoRA multiplies B @ A: alpha / r, or alpha / sqrt(r).

    patterns  other alphas, by patterns of layers' names
    dora      whether the sum of weight and product is then given another length
    """

    alpha: float
    rslora: bool = False
    dora: bool = False
    patterns: Mapping[str, float] = field(default_factory=dict)
    where: str = "adapter"

    @classmethod
    def of(cls, adapter: Adapter) -> Self | None:
        """None where there is no LoRA in the adapter, or one whose factors stand for something else."""
        manifest, where = adapter.manifest, adapter.where
        if is_foreign(manifest):
            given = manifest.hyperparameters
            if given.get("peft_type") != "LORA" or any(given.get(key) for key in _OTHERWISE):
                return None
            alphas = given.get("alpha_pattern") or {}
            if not isinstance(alphas, Mapping):
                raise _corrupt(where, "alpha_pattern", alphas, "a table of numbers")
            patterns = {key: _number(where, f"alpha_pattern.{key}", value) for key, value in alphas.items()}
            alpha = _number(where, "lora_alpha", given.get("lora_alpha", PEFT_ALPHA))
            return cls(alpha, bool(given.get("use_rslora")), bool(given.get("use_dora")), patterns, where)
        methods = manifest.method.split("+")  # a sum's hyperparameters are by part
        if LORA not in methods:
            return None
        given = manifest.hyperparameters if len(methods) == 1 else manifest.hyperparameters.get(LORA, {})
        if not isinstance(given, Mapping):
            raise _corrupt(where, LORA, given, "a table of hyperparameters")
        alpha = _number(where, "alpha", given.get("alpha", ALPHA))
        return cls(alpha, bool(given.get("rslora")), bool(given.get("dora")), where=where)

    def scale(self, layer: str, rank: int) -> float:
        """Of a layer by its name, as peft finds it: the first pattern that ends the name at a dot."""
        key = self._find(layer)
        alpha = self.alpha if key is None else self.patterns[key]
        return alpha / (sqrt(rank) if self.rslora else rank)

    @cached_property
    def _find(self) -> Ends:
        try:
            return Ends("alpha_pattern", self.patterns)
        except InvalidStudy:
            raise _corrupt(self.where, "alpha_pattern", [*self.patterns], "patterns of layers' names") from None


def _number(where: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise _corrupt(where, name, value, "a number")
    return float(value)


def _corrupt(where: str, name: str, value: Any, expected: str) -> CorruptAdapter:
    return CorruptAdapter(
        f"{where}: its hyperparameter {name} is {str(value)[:40]!r}, expected {expected}. Copy the adapter again, or "
        "train it again.",
        code="adapter.file-malformed",
        where=where,
        field=name,
        found=str(value)[:40],
    )
