"""Linear layers: what a layer holds a frozen weight in, what may be asked of it, and products by oneDNN.

Only this module reads a frozen weight. Kernels ask for products, DoRA and merging for the weight dequantized, memory
figures for its tensors. So a weight that is packed, or of few bits, is never taken for the matrix it stands for.

torch gives float32 products on a CPU to MKL, which on processors with AVX-512 of other makes than Intel's takes more
than twice as long as oneDNN; without AVX-512, and on Intel's, it is oneDNN that takes up to twice as long, with
weights as Conv1D stores them (docs/LOG.md). In bfloat16, oneDNN brings a weight into its own order before it
multiplies: a frozen weight is packed in that order once, for each direction, which saves a sixth of a product. Results
are the same but for rounding; `tests/models/kernels/test_linear.py` holds them to torch's. Knows layers, not what they
belong to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import Parameter
from torch.nn.functional import linear as plain_linear
from transformers.pytorch_utils import Conv1D

from afina import allocator
from afina import device as devices

allocator.keep_kernels(allocator.SOME, anew=False)

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
_ONEDNN_FLOAT32 = ONEDNN and (
    not torch.backends.mkl.is_available()
    or (torch.backends.cpu.get_cpu_capability() == "AVX512" and "Intel" not in devices.processor())
)
_ONEDNN_BFLOAT16 = ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported()

_TYPICAL_ROWS = 256
"""Rows of inputs that a weight is packed for; the order barely depends on it."""

_HELD = "frozen"
"""Name of a `HeldWeight` among the children of its layer."""


def multiply(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """inputs [N, K], weight [M, K] or packed, bias [M] -> inputs weight^T + bias, [N, M]. Keeps no graph."""
    if weight.is_mkldnn or by_onednn(weight):
        result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
        return result
    return plain_linear(inputs, weight, bias)


def by_onednn(weight: Tensor) -> bool:
    """Whether a plain weight is multiplied by oneDNN here."""
    return _ONEDNN_FLOAT32 and weight.device.type == "cpu" and weight.dtype == torch.float32


class FrozenWeight(ABC):
    """The weight W [M, K] of a linear layer with K inputs and M outputs. Nothing here keeps a graph."""

    @abstractmethod
    def product(self, inputs: Tensor, bias: Tensor | None = None) -> Tensor:
        """inputs [N, K], bias [M] -> inputs W^T + bias, [N, M]."""

    @abstractmethod
    def transposed_product(self, grads: Tensor) -> Tensor:
        """grads [N, M] -> grads W, [N, K]: what a backward pass needs."""

    @abstractmethod
    def dequantize(self) -> Tensor:
        """W as a matrix [M, K] of `dtype`, perhaps made for this call. Not to be written to."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """M, K."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of products."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where it is."""


@dataclass(frozen=True, eq=False)
class PlainWeight(FrozenWeight):
    """The layer's own parameter: a view, made for a call. weight [M, K]."""

    weight: Tensor

    def product(self, inputs: Tensor, bias: Tensor | None = None) -> Tensor:
        """By torch, or oneDNN where that is the faster."""
        return multiply(inputs, self.weight, bias)

    def transposed_product(self, grads: Tensor) -> Tensor:
        """Likewise."""
        return multiply(grads, self.weight.t())

    def dequantize(self) -> Tensor:
        """The parameter."""
        return self.weight

    @property
    def shape(self) -> tuple[int, int]:
        """The parameter's."""
        rows, columns = self.weight.shape
        return rows, columns

    @property
    def dtype(self) -> torch.dtype:
        """The parameter's."""
        return self.weight.dtype

    @property
    def device(self) -> torch.device:
        """The parameter's."""
        return self.weight.device


class HeldWeight(nn.Module, FrozenWeight):
    """A weight in the place of the layer's parameter, which the layer has no more.

    Its tensors are buffers that are not saved. They go where the model goes, and `to(dtype)` says what to compute in.
    """

    def _keep(self, **tensors: Tensor) -> None:
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)

    @property
    def tensors(self) -> list[Tensor]:
        """All that it takes memory for."""
        return list(self.buffers())


class PackedWeight(HeldWeight):
    """A bfloat16 weight in oneDNN's order, once for each direction; `transposed` is empty where none is backward."""

    weight: Tensor
    transposed: Tensor

    def __init__(self, weight: Tensor, *, backward: bool = True) -> None:
        super().__init__()
        self._shape, self._dtype, self._device = tuple(weight.shape), weight.dtype, weight.device
        turned = weight.t()
        self._keep(
            weight=_reorder(weight.contiguous()),
            transposed=_reorder(turned.contiguous()) if backward else turned.new_empty(0),
        )

    def product(self, inputs: Tensor, bias: Tensor | None = None) -> Tensor:
        """By oneDNN."""
        return multiply(inputs, self.weight, bias)

    def transposed_product(self, grads: Tensor) -> Tensor:
        """By oneDNN."""
        return multiply(grads, self.transposed)

    def dequantize(self) -> Tensor:
        """In torch's order again."""
        return self.weight.to_dense() if self.weight.is_mkldnn else self.weight

    @property
    def shape(self) -> tuple[int, int]:
        """That of the weight before."""
        rows, columns = self._shape
        return rows, columns

    @property
    def dtype(self) -> torch.dtype:
        """bfloat16."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return self._device


def _reorder(weight: Tensor) -> Tensor:
    if isinstance(weight, FakeTensor):  # has a size but no order (see `afina.training.dry_run`): a copy is as large
        return weight.clone()
    reordered: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _TYPICAL_ROWS)
    return reordered


def can_pack(layer: nn.Module, dtype: torch.dtype) -> bool:
    """Whether `PackedWeight` gains anything for this layer's weight, once that is `dtype`."""
    if not (_ONEDNN_BFLOAT16 and dtype == torch.bfloat16 and is_linear(layer)) or held_by(layer) is not None:
        return False
    return frozen_weight(layer).device.type == "cpu"


def is_linear(layer: object) -> bool:
    """Whether a layer is one of those whose weight may be held: `nn.Linear` and `Conv1D`."""
    return type(layer) in (nn.Linear, Conv1D)


def frozen_weight(layer: Any) -> FrozenWeight:
    """The frozen weight of a linear layer, in any form."""
    held: HeldWeight | None = layer._modules.get(_HELD)
    if held is not None:
        return held
    weight = layer.weight.detach()
    return PlainWeight(weight.t() if isinstance(layer, Conv1D) else weight)


def held_by(layer: nn.Module) -> HeldWeight | None:
    """The weight that a layer holds in the place of its parameter; None: its parameter is there."""
    held = layer._modules.get(_HELD)
    return held if isinstance(held, HeldWeight) else None


def weight_trains(layer: nn.Module) -> bool:
    """Whether a linear layer's weight is a parameter that gets gradients, and not frozen."""
    weight = layer._parameters.get("weight")
    return weight is not None and weight.requires_grad


def hold_weight(layer: Any, held: HeldWeight) -> None:
    """Let a linear layer hold its weight so. Its forward has to be one that asks, see `patches.hold`."""
    del layer.weight
    layer.add_module(_HELD, held.train(layer.training))


def held_tensors(model: nn.Module) -> list[Tensor]:
    """All that the layers of a model take for weights that are no parameters."""
    return [tensor for module in model.modules() if isinstance(module, HeldWeight) for tensor in module.tensors]


def round_weights(body: nn.Module, hold: Callable[[Tensor], HeldWeight]) -> None:
    """Exchange the parameters of all linear layers for what they are once they have been held and dequantized."""
    with torch.no_grad():
        for layer in body.modules():
            if is_linear(layer):
                weight: Any = frozen_weight(layer).dequantize()
                weight.copy_(hold(weight.clone()).dequantize())


class _Lent:
    """A linear layer whose `weight` can be read, dequantized anew each time."""

    @property
    def weight(self) -> Parameter:
        matrix = frozen_weight(self).dequantize()
        return Parameter(matrix.t() if isinstance(self, Conv1D) else matrix, requires_grad=False)


_LENT = {kind: type(kind.__name__, (_Lent, kind), {}) for kind in (nn.Linear, Conv1D)}


@contextmanager
def dequantized_weights(model: nn.Module) -> Iterator[None]:
    """Let peft read the weights that layers hold, for shapes and DoRA's lengths, while it wraps a model.

    What is written to such a weight is lost.
    """
    layers: list[Any] = [layer for layer in model.modules() if held_by(layer) is not None]
    kinds = [type(layer) for layer in layers]
    for layer, kind in zip(layers, kinds, strict=True):
        layer.__class__ = _LENT[kind]
    try:
        yield
    finally:
        for layer, kind in zip(layers, kinds, strict=True):
            layer.__class__ = kind


def can_accelerate(layer: nn.Module) -> bool:
    """Whether `linear_forward` may be faster than the layer's own forward."""
    return ONEDNN and is_linear(layer) and held_by(layer) is None


def linear_forward(layer: Any, plain: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """A layer, whose own forward is `plain`. Any leading shape, width K -> the same leading shape, width M."""
    if not (by_onednn(layer.weight) and inputs.dtype == torch.float32):
        return plain(inputs)
    return _apply(layer, layer.weight, inputs)


def held_forward(layer: Any, inputs: Tensor) -> Tensor:
    """A layer that holds its weight in another form; its bias may train. Shapes as in `linear_forward`."""
    return _apply(layer, None, inputs)


def _apply(layer: Any, weight: Tensor | None, inputs: Tensor) -> Tensor:
    """weight: what may get a gradient."""
    own = frozen_weight(layer)
    if not torch.is_grad_enabled():
        flat = inputs.reshape(-1, inputs.shape[-1])
        return own.product(flat, layer.bias).view(*inputs.shape[:-1], -1)
    result: Tensor = _Linear.apply(inputs, weight, layer.bias, own, isinstance(layer, Conv1D))  # type: ignore[no-untyped-call]
    # Not in there: what a Function returns as a view may not be added to in place, as some of peft's layers do.
    return result.view(*inputs.shape[:-1], -1)


class _Linear(torch.autograd.Function):
    """weight: what may get a gradient, None where held; inward: stored [K, M], as Conv1D does."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor | None, bias: Tensor | None, own: FrozenWeight, inward: bool
    ) -> Tensor:
        flat = inputs.reshape(-1, inputs.shape[-1])
        ctx.save_for_backward(flat if weight is not None and weight.requires_grad else None)
        ctx.own, ctx.shape, ctx.inward = own, inputs.shape, inward
        return own.product(flat, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (inputs,) = ctx.saved_tensors
        grad = grads[0]
        into = weight = bias = None
        if ctx.needs_input_grad[0]:
            into = ctx.own.transposed_product(grad).view(ctx.shape)
        if ctx.needs_input_grad[1]:
            weight = multiply(inputs.t(), grad.t()) if ctx.inward else multiply(grad.t(), inputs.t())
        if ctx.needs_input_grad[2]:
            bias = grad.sum(0)
        return into, weight, bias, None, None
