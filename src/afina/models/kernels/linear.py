"""Linear layers: the forms in which a frozen weight is stored, and products by oneDNN.

Only the module `linear` reads a frozen weight. Kernels ask the module `linear` for products, DoRA and merging ask for
the dequantized weight, and memory figures ask for the stored tensors. No other code can mistake the tensors of a
reordered or quantized weight for the weight's matrix.

torch computes float32 products on a CPU with MKL. On processors with AVX-512 that are not Intel's, MKL takes more than
twice as long as oneDNN for float32 products. Without AVX-512, and on Intel's processors, oneDNN takes up to twice as
long as MKL, for weights in the order of `Conv1D` (docs/LOG.md). For bfloat16 products, oneDNN first copies a weight
into its own memory layout. afina stores a frozen weight in this layout once for each direction, which saves a sixth of
the time of a product. The results equal torch's except for rounding, which `tests/models/kernels/test_linear.py`
checks. The module `linear` does not know models.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import Parameter
from torch.nn.functional import linear as plain_linear
from transformers.pytorch_utils import Conv1D

from afina import allocator, processor

allocator.keep_kernels(allocator.SOME, anew=False)

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
_ONEDNN_FLOAT32 = ONEDNN and (
    not torch.backends.mkl.is_available()
    or (torch.backends.cpu.get_cpu_capability() == "AVX512" and "Intel" not in processor.name())
)
_ONEDNN_BFLOAT16 = ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported()

_TYPICAL_ROWS = 256
"""Number of input rows for which oneDNN's memory layout of a weight is chosen; the layout barely depends on it."""

_HELD = "frozen"
"""Name of the `HeldWeight` among the children of the layer whose parameter it replaces."""


def multiply(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return inputs weight^T + bias [N, M] without a graph: inputs [N, K], weight [M, K], also in oneDNN's layout."""
    if weight.is_mkldnn or by_onednn(weight):
        result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
        return result
    return plain_linear(inputs, weight, bias)


def multiply_fused(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the result of `multiply` for a weight [M, K]; in bfloat16, oneDNN adds the bias before rounding."""
    if bias is not None and _ONEDNN_BFLOAT16 and weight.device.type == "cpu" and weight.dtype == torch.bfloat16:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
        return result
    return multiply(inputs, weight, bias)


def by_onednn(weight: Tensor) -> bool:
    """Whether oneDNN multiplies a plain float32 weight on this machine, because it is faster than MKL."""
    return _ONEDNN_FLOAT32 and weight.device.type == "cpu" and weight.dtype == torch.float32


class FrozenWeight(ABC):
    """The frozen weight W [M, K] of a linear layer with K inputs and M outputs. Its methods build no graph."""

    @abstractmethod
    def product(self, inputs: Tensor, bias: Tensor | None = None) -> Tensor:
        """Return inputs W^T + bias [N, M], for inputs [N, K] and bias [M]."""

    @abstractmethod
    def transposed_product(self, grads: Tensor) -> Tensor:
        """Return grads W [N, K], for grads [N, M]; used in backward passes."""

    @abstractmethod
    def dequantize(self) -> Tensor:
        """Return W as a matrix [M, K] in `dtype`, possibly in new memory. Callers must not write to the matrix."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """The numbers of outputs and inputs of the layer, M and K."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype: ...

    @property
    @abstractmethod
    def device(self) -> torch.device: ...


@dataclass(frozen=True, eq=False)
class PlainWeight(FrozenWeight):
    """A frozen weight that is a view of the layer's own parameter [M, K]; created for each call."""

    weight: Tensor

    def product(self, inputs: Tensor, bias: Tensor | None = None) -> Tensor:
        return multiply(inputs, self.weight, bias)

    def transposed_product(self, grads: Tensor) -> Tensor:
        return multiply(grads, self.weight.t())

    def dequantize(self) -> Tensor:
        return self.weight

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.weight.shape
        return rows, columns

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.weight.device


class HeldWeight(nn.Module, FrozenWeight):
    """A frozen weight in another form (such as int8, NF4 or oneDNN's layout) that replaces the layer's parameter.

    Its tensors are buffers that are not saved; of a weight that is sharded over the ranks of a run, parameters without
    gradient. `to(dtype)` sets the compute dtype. `by_rows`: the tensors' rows are those of the weight, each converted
    alone.
    """

    by_rows: ClassVar[bool] = False

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self._shape = weight.shape[0], weight.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        return self._shape

    @property
    def device(self) -> torch.device:
        return next(self.buffers()).device

    def _keep(self, **tensors: Tensor) -> None:
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Use tensors that were saved from the same weight, by name. Raises ValueError for other tensors."""
        own, given = (
            {name: (each.shape, each.dtype) for name, each in some} for some in (self.named_buffers(), tensors.items())
        )
        if own != given:
            raise ValueError("tensors of another weight")
        for name, tensor in tensors.items():
            setattr(self, name, tensor)

    @property
    def tensors(self) -> list[Tensor]:
        return list(self.buffers())


class PackedWeight(HeldWeight):
    """A bfloat16 weight in oneDNN's layout, once for each direction; `transposed` is empty without a backward pass."""

    weight: Tensor
    transposed: Tensor

    def __init__(self, weight: Tensor, *, backward: bool = True) -> None:
        super().__init__(weight)
        turned = weight.t()
        self._keep(
            weight=_reorder(weight.contiguous()),
            transposed=_reorder(turned.contiguous()) if backward else turned.new_empty(0),
        )

    def product(self, inputs: Tensor, bias: Tensor | None = None) -> Tensor:
        return multiply(inputs, self.weight, bias)

    def transposed_product(self, grads: Tensor) -> Tensor:
        return multiply(grads, self.transposed)

    def dequantize(self) -> Tensor:
        return self.weight.to_dense() if self.weight.is_mkldnn else self.weight

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16


def _reorder(weight: Tensor) -> Tensor:
    if isinstance(weight, FakeTensor):  # in a dry run (`afina.training.dry_run`), a copy has the same size
        return weight.clone()
    reordered: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _TYPICAL_ROWS)
    return reordered


def can_pack(layer: nn.Module, dtype: torch.dtype) -> bool:
    """Whether the layer is faster with a `PackedWeight`, after conversion of its weight to `dtype`."""
    if not (_ONEDNN_BFLOAT16 and dtype == torch.bfloat16 and is_linear(layer)) or held_by(layer) is not None:
        return False
    return frozen_weight(layer).device.type == "cpu"


def can_multiply_in_int8(layer: nn.Module) -> bool:
    """Whether the frozen layer's products can be computed in int8, on a device that `device.check_int8` accepts."""
    return is_linear(layer) and not weight_trains(layer) and frozen_weight(layer).device.type == "cpu"


def is_linear(layer: object) -> bool:
    """Whether the layer is an `nn.Linear` or `Conv1D`, whose weight a `HeldWeight` may replace."""
    return type(layer) in (nn.Linear, Conv1D)


def frozen_weight(layer: Any) -> FrozenWeight:
    held: HeldWeight | None = layer._modules.get(_HELD)
    if held is not None:
        return held
    weight = layer.weight.detach()
    return PlainWeight(weight.t() if isinstance(layer, Conv1D) else weight)


def held_by(layer: nn.Module) -> HeldWeight | None:
    """Return the `HeldWeight` that replaces the layer's parameter; None: the layer has its parameter."""
    held = layer._modules.get(_HELD)
    return held if isinstance(held, HeldWeight) else None


def weight_trains(layer: nn.Module) -> bool:
    weight = layer._parameters.get("weight")
    return weight is not None and weight.requires_grad


def hold_weight(layer: Any, held: HeldWeight) -> None:
    """Replace the parameter or the `HeldWeight` of a linear layer; `patches.hold` also replaces its forward."""
    if held_by(layer) is None:
        del layer.weight
    layer.add_module(_HELD, held.train(layer.training))


def held_weights(model: nn.Module) -> list[HeldWeight]:
    return [module for module in model.modules() if isinstance(module, HeldWeight)]


def held_tensors(model: nn.Module) -> list[Tensor]:
    return [tensor for held in held_weights(model) for tensor in held.tensors]


def round_weights(body: nn.Module, hold: Callable[[Tensor], HeldWeight]) -> None:
    """Round the parameters of all linear layers to the values that they have after conversion by `hold`."""
    with torch.no_grad():
        for layer in body.modules():
            if is_linear(layer):
                weight: Any = frozen_weight(layer).dequantize()
                weight.copy_(hold(weight.clone()).dequantize())


class _Lent:
    """A linear layer with a `HeldWeight` whose attribute `weight` is dequantized at each access."""

    @property
    def weight(self) -> Parameter:
        matrix = frozen_weight(self).dequantize()
        return Parameter(matrix.t() if isinstance(self, Conv1D) else matrix, requires_grad=False)


_LENT = {kind: type(kind.__name__, (_Lent, kind), {}) for kind in (nn.Linear, Conv1D)}


@contextmanager
def dequantized_weights(model: nn.Module) -> Iterator[None]:
    """Let peft read int8 and NF4 weights while it wraps a model, for shapes and DoRA's row norms.

    Writing to an int8 or NF4 weight that peft has read has no effect on the model.
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
    """Compute a linear layer, [..., K] -> [..., M], with oneDNN if that is faster than its own forward (`plain`)."""
    if not (by_onednn(layer.weight) and inputs.dtype == torch.float32):
        return plain(inputs)
    return _apply(layer, layer.weight, inputs)


def held_forward(layer: Any, inputs: Tensor) -> Tensor:
    """Compute a linear layer with a `HeldWeight`, [..., K] -> [..., M]; the layer's bias may train."""
    return _apply(layer, None, inputs)


def _apply(layer: Any, weight: Tensor | None, inputs: Tensor) -> Tensor:
    own = frozen_weight(layer)
    if not torch.is_grad_enabled():
        flat = inputs.reshape(-1, inputs.shape[-1])
        return own.product(flat, layer.bias).view(*inputs.shape[:-1], -1)
    result: Tensor = _Linear.apply(inputs, weight, layer.bias, own, isinstance(layer, Conv1D))  # type: ignore[no-untyped-call]
    # Outside of the Function: some peft layers add in place, which is not allowed on a view returned by a Function.
    return result.view(*inputs.shape[:-1], -1)


class _Linear(torch.autograd.Function):
    """A linear layer; `weight` may get a gradient, or is None; `inward`: it is stored as [K, M] (Conv1D)."""

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
