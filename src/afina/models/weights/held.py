"""Open a model with linear layers in int8 or NF4, without ever having all weights in float32.

transformers reads, renames and ties the weights, as in float32. A transformers quantizer of afina receives each tensor:
it keeps the int8 or NF4 form of a linear layer's weight, and a copy of any other tensor. The module does not know
heads, except which layers come after the pooling.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from afina import allocator
from afina.models.architectures import is_after_pooling
from afina.models.kernels import patches
from afina.models.kernels.linear import HeldWeight, held_by, is_linear
from afina.models.weights.copies import CopyPlace, DamagedCopy, HeldCopy, StandIn
from afina.models.weights.stored import StoredTensor
from afina.models.weights.unread import Unread, UnreadWeight, stand_in

Hold = Callable[[Tensor], HeldWeight]
"""A function that converts a float32 weight [M, K] to a `HeldWeight` (`Precision.hold`)."""

_NAME = "afina"


@dataclass(frozen=True)
class HeldModel:
    """An open model whose linear layers are in int8 or NF4.

    Attributes:
        found: What transformers reports about missing and mismatched weights.
        sources: Where the float weight of each int8 or NF4 layer is stored, by the weight's name in the body.
        copy: The quantised copy from which the weights were read. None: the weights were quantised.
        damage: Why the quantised copy could not be used; "" if it was used, or if there is none.
    """

    model: PreTrainedModel
    found: dict[str, Any]
    sources: Mapping[str, StoredTensor]
    copy: HeldCopy | None = None
    damage: str = ""

    def by_source(self) -> dict[str, HeldWeight]:
        """Return the int8 or NF4 weights, by their names in the model's files."""
        layers = {f"{path}.weight": layer for path, layer in held_layers(self.model.base_model).items()}
        held = {source.name: held_by(layers[name]) for name, source in self.sources.items()}
        return {name: weight for name, weight in held.items() if weight is not None}


def open_held(
    opener: type[PreTrainedModel],
    path: Path,
    stored: Mapping[str, StoredTensor],
    hold: Hold,
    place: CopyPlace | None = None,
    **options: Any,
) -> HeldModel:
    """Open a model from stored tensors, with the body's linear layers before the pooling in int8 or NF4.

    Args:
        place: Where a quantised copy may be; a damaged copy is not used.
        **options: Options of transformers' `from_pretrained`, such as `config`.
    """
    damage = ""
    if place is not None:
        try:
            if (copy := place.read()) is not None:
                return _open(opener, path, stored, _Holding(hold, copy), options)
        except DamagedCopy as error:
            damage = f"the quantised copy {place.path} cannot be used ({error})"
            gc.collect()  # the weights that were read before the damage was found
    return replace(_open(opener, path, stored, _Holding(hold), options), damage=damage)


def _open(
    opener: type[PreTrainedModel],
    path: Path,
    stored: Mapping[str, StoredTensor],
    holding: _Holding,
    options: Mapping[str, Any],
) -> HeldModel:
    copied = set() if holding.copy is None else holding.copy.layers.keys()
    read = {name: StandIn(each) if name in copied else each for name, each in stored.items()}
    try:
        opened: Any = opener.from_pretrained(
            None, state_dict=read, quantization_config=holding, output_loading_info=True, **options
        )
    except RuntimeError as error:
        raise holding.error or error from None  # transformers reports every error of a conversion as a RuntimeError
    if holding.copy is not None and copied != set(holding.sources.values()):
        raise DamagedCopy("it has other layers")
    model, found = opened
    model.name_or_path = model.config.name_or_path = str(path)
    allocator.give_back()
    return HeldModel(model, found, {name: stored[source] for name, source in holding.sources.items()}, holding.copy)


def open_unread(
    opener: type[PreTrainedModel], stored: Mapping[str, StoredTensor], *, held: bool, **options: Any
) -> tuple[PreTrainedModel, dict[str, Any], Unread, dict[str, StoredTensor]]:
    """Open a model whose weights before the pooling are stand-ins; weights after the pooling are read.

    Args:
        held: Whether the body's linear layers will be in int8 or NF4, so that each gets an `UnreadWeight`.
        **options: Options of transformers' `from_pretrained`, such as `config`.

    Returns:
        The model; what transformers reports about missing and mismatched weights; the stand-ins; and where each weight
        of the body before the pooling is stored, by its name in the body.
    """
    holding = _Holding(None)
    try:
        opened: Any = opener.from_pretrained(
            None,
            state_dict={name: StandIn(each) for name, each in stored.items()},
            quantization_config=holding.reading_from(stored),
            output_loading_info=True,
            **options,
        )
    except RuntimeError as error:
        raise holding.error or error from None
    model, found = opened
    sources = {name: stored[source] for name, source in holding.sources.items()}
    unread, prefix = Unread.of(model, sources), f"{model.base_model_prefix}."
    if held:
        for layer in held_layers(model.base_model).values():
            source = unread.parameters.pop(layer.weight)
            turned = isinstance(layer, Conv1D)
            rows, columns = layer.weight.shape[::-1] if turned else layer.weight.shape
            patches.hold(layer, UnreadWeight((rows, columns), source, turned=turned))
    of_body = {name.removeprefix(prefix): each for name, each in sources.items() if name.startswith(prefix)}
    return model, found, unread, of_body


def held_layers(body: Any) -> dict[str, Any]:
    """Return the layers of a body that int8 or NF4 applies to, by path: the linear layers before the pooling."""
    return {path: layer for path, layer in body.named_modules() if is_linear(layer) and not is_after_pooling(path)}


def hold_layers(body: Any, hold: Hold) -> None:
    """Convert the float32 weights of an open body's linear layers by `hold`."""
    for layer in held_layers(body).values():
        patches.hold(layer, hold(_matrix(layer, layer.weight.detach())))


def _matrix(layer: Any, weight: Tensor) -> Tensor:
    """Return a layer's weight as [M, K]."""
    return weight.t() if isinstance(layer, Conv1D) else weight


class _Holding(QuantizationConfigMixin):
    """How one model is opened in int8 or NF4, and what is known after opening; not copied by transformers."""

    def __init__(self, hold: Hold | None, copy: HeldCopy | None = None) -> None:
        self.quant_method: Any = _NAME
        self.hold = hold
        self.copy = copy
        self.stored: Mapping[str, StoredTensor] = {}
        self.sources: dict[str, str] = {}
        self.error: Exception | None = None

    def reading_from(self, stored: Mapping[str, StoredTensor]) -> _Holding:
        """Leave all weights before the pooling unread; read the others from `stored`. Returns self."""
        self.stored = stored
        return self

    def __deepcopy__(self, memo: Any) -> _Holding:
        return self

    def held(self, weight: Tensor, source: str) -> HeldWeight:
        """Return the converted weight [M, K]; `source` is the weight's name in the backbone's files."""
        assert self.hold is not None
        if self.copy is None:
            return self.hold(weight)
        return self.copy.fill(self.hold(torch.empty(weight.shape, device="meta")), source)


@register_quantizer(_NAME)
class _Quantizer(HfQuantizer):
    """A transformers quantizer that receives every parameter in float32 as it is read."""

    def __init__(self, quantization_config: _Holding, **options: Any) -> None:
        super().__init__(quantization_config, **options)
        self.holding = quantization_config

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        self.prefix = f"{model.base_model_prefix}."
        self.expected = {name: parameter.shape for name, parameter in model.named_parameters()}
        self.layers = {f"{self.prefix}{path}.weight": layer for path, layer in held_layers(model.base_model).items()}
        self.held: dict[str, HeldWeight] = {}
        self.mismatched: set[str] = set()

    def param_needs_quantization(self, model: Any, param_name: str, **_: Any) -> bool:
        return param_name in self.expected and param_name not in self.mismatched

    def get_quantize_ops(self) -> ConversionOps:
        return _Take(self)

    def take(self, name: str, source: str, weight: Tensor) -> dict[str, Tensor]:
        """Receive a weight that was read; return it by name if it stays a parameter."""
        if weight.shape != self.expected[name]:
            self.mismatched.add(name)
        elif self.holding.hold is None:
            return {name: self._unread(name, source)}
        elif (layer := self.layers.get(name)) is not None:
            self.held[name] = self.holding.held(_matrix(layer, weight), source)
            self.holding.sources[name.removeprefix(self.prefix)] = source
            layer.weight._is_hf_initialized = True
            return {}
        return {name: weight.clone()}  # the file is unmapped

    def _unread(self, name: str, source: str) -> Tensor:
        """Return a stand-in for a weight, or the weight itself if it comes after the pooling."""
        if is_after_pooling(name):
            return self.holding.stored[source][...].to(torch.float32, copy=True)
        self.holding.sources[name] = source
        return stand_in(tuple(self.expected[name]))

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> None:
        # Not earlier: transformers would replace the tensors of a held weight, which are buffers that are not saved.
        for name, held in self.held.items():
            patches.hold(self.layers[name], held)
        self.remove_quantization_config(model)  # type: ignore[no-untyped-call]
        for module in model.modules():
            if isinstance(module, PreTrainedModel):
                module.config.__dict__.pop("_is_quantized", None)

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return True


class _Take(ConversionOps):
    """Gives every tensor that transformers reads to a `_Quantizer`."""

    def __init__(self, quantizer: _Quantizer) -> None:
        self.quantizer = quantizer

    @torch.no_grad()
    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **given: Any
    ) -> dict[str, Any]:
        """Return the tensor by its name if it stays a parameter."""
        (value,) = input_dict.values()
        weight = value[0] if isinstance(value, list) else value
        try:
            kept = self.quantizer.take(given["full_layer_name"], source_patterns[0], weight)
        except Exception as error:  # any: transformers would only log it
            self.quantizer.holding.error = error
            raise
        if not kept:
            given["missing_keys"].discard(given["full_layer_name"])
        return kept
