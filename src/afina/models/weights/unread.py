"""Weights of a backbone that no process has read: their places in safetensors files, and stand-ins with their shapes.

A model whose weights are sharded over the ranks of a run is opened with stand-ins. A method is then attached to the
stand-ins, and each rank reads only its part of each weight (`afina.models.weights.sharding`). A stand-in has the shape
of its weight, takes no memory, and consists of NaN. A method that computes its first values from the backbone's weights
so gets NaN, and is refused. The module `unread` does not know heads, except which layers come after the pooling.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor
from torch.nn import Parameter

from afina.models.kernels.linear import HeldWeight
from afina.models.weights.stored import StoredTensor

_NAN = torch.full((), torch.nan)


def stand_in(shape: tuple[int, ...]) -> Tensor:
    """Return a float32 tensor of this shape that takes no memory and consists of NaN; writing to the tensor fails."""
    return _NAN.expand(shape)


def is_stand_in(tensor: Tensor) -> bool:
    """Whether a tensor only stands in for a weight that is not read yet."""
    if isinstance(tensor, (DTensor, FakeTensor)) or tensor.device.type != "cpu":
        return False
    return tensor.untyped_storage().data_ptr() == _NAN.untyped_storage().data_ptr()


class UnreadWeight(HeldWeight):
    """Stands in for the int8 or NF4 weight of a linear layer before the weight is read."""

    def __init__(self, shape: tuple[int, int], source: StoredTensor, *, turned: bool) -> None:
        """Make a stand-in for M outputs and K inputs. `turned`: the float weight is stored as [K, M] (Conv1D)."""
        super().__init__(stand_in(shape))
        self.source, self.turned = source, turned

    def product(self, inputs: Tensor, bias: Tensor | None = None) -> Tensor:
        return inputs.new_full((len(inputs), self.shape[0]), torch.nan)

    def transposed_product(self, grads: Tensor) -> Tensor:
        return grads.new_full((len(grads), self.shape[1]), torch.nan)

    def dequantize(self) -> Tensor:
        return stand_in(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def read(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Return the rows [start:stop] of the float32 weight [M, K], read from its file."""
        stop = self.shape[0] if stop is None else stop
        if self.turned:
            return self.source[...][:, start:stop].t().to(torch.float32, memory_format=torch.contiguous_format)
        return self.source.rows(start, stop).to(torch.float32)


@dataclass(frozen=True, eq=False)
class Unread:
    """The weights of an open model that are not read yet, by the stand-in among the model's parameters."""

    parameters: dict[Parameter, StoredTensor] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, sources: Mapping[str, StoredTensor]) -> Unread:
        """Return the unread weights of a model, given where each is stored by its name in the model."""
        named = dict(model.named_parameters())
        return cls({named[name]: source for name, source in sources.items() if name in named})

    def source(self, parameter: Parameter) -> StoredTensor | None:
        """Return where the weight of a stand-in is stored; None: the parameter is no stand-in, or no longer."""
        return self.parameters.get(parameter) if is_stand_in(parameter) else None


class UnreadShapes(Unread):
    """Weights of which a dry run knows only the shapes; a parameter without values stands in for each."""

    def source(self, parameter: Parameter) -> StoredTensor | None:
        return self.parameters.get(parameter)


def has_stand_ins(body: Any) -> bool:
    """Whether the weights of a transformer without its head are stand-ins."""
    return is_stand_in(body.get_input_embeddings().weight)


@contextmanager
def readable_embedding(body: Any, unread: Unread) -> Iterator[None]:
    """Return a context manager inside which the token embedding reads the rows of tokens from its file."""
    embedding = body.get_input_embeddings()
    source = unread.parameters[embedding.weight]
    embedding.forward = lambda ids: source.look_up(ids).to(torch.float32)
    try:
        yield
    finally:
        del embedding.forward


def computed_from_stand_ins(model: nn.Module) -> Iterator[str]:
    """Yield the names of a model's trained parameters and buffers that have NaN, because stand-ins are NaN."""
    tensors: list[tuple[str, Any]] = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        is_own = tensor.is_floating_point() and not isinstance(tensor, DTensor) and not is_stand_in(tensor)
        if is_own and tensor.isnan().any():
            yield name
