"""Mixed precision: the weights with which a model computes in training, and their float32 master weights.

In bfloat16, no step casts a frozen weight, and each trained weight has a float32 master copy: the optimizer updates the
copy, and every step then writes the bfloat16 weight from the copy. If processes share a trained weight
(`afina.models.weights.sharding`), each of them updates its float32 part, and torch gathers the parts in bfloat16. The
module does not know batches or steps.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from afina.device import INT8
from afina.methods.method import Method
from afina.models.architectures import Architecture, architecture_of, is_after_pooling, is_head, output_embedding_of
from afina.models.backbone_spec import FLOAT
from afina.models.kernels.linear import HeldWeight, can_multiply_in_int8, can_pack
from afina.models.kernels.patches import Patch, multiply_in_int8, pack, patch
from afina.models.weights.sharding import is_sharded, own_part
from afina.ranks import ALONE, Ranks


class WorkingWeights:
    """The weights of `model`, converted to `dtype` except for the head and the pooler, which stay float32.

    Attributes:
        trained: The float32 weights that the optimizer updates and that are saved in the end, under the parameters'
            names; of a sharded weight, this process's part.
        parts: The sharded weights of the model by name.
        int8_layers: The number of linear layers whose products are computed in int8.
        copies: Size in bytes of the second copies of frozen weights in oneDNN's layout for the backward pass; a GPU
            needs no such copies.
    """

    def __init__(
        self,
        model: Any,
        parameters: Mapping[str, Parameter],
        dtype: torch.dtype,
        *,
        packs: bool = True,
        unlowered: Collection[str] = (),
        products: str = FLOAT,
        factors: Mapping[nn.Module, Tensor] = MappingProxyType({}),
        rows: bool = True,
    ) -> None:
        self.parameters = dict(parameters)
        self.trained = dict(parameters)
        self.in_int8 = products == INT8
        self.lowered = dtype != torch.float32
        self.copies = self.int8_layers = 0
        self._factors = factors
        self._rows: list[_Rows] = []
        self._masters: list[_Master] = []
        self._ranks = ALONE
        self.parts = {name: parameter for name, parameter in parameters.items() if is_sharded(parameter)}
        self.trained |= {name: Parameter(own_part(parameter).detach()) for name, parameter in self.parts.items()}
        names = {id(parameter): name for name, parameter in parameters.items()}
        entry = architecture_of(model)
        blocks, first = entry.block, first_with_gradient(entry, parameters)
        output = output_embedding_of(model)
        for path, module in model.named_modules():
            if is_after_pooling(path):
                continue
            for name, parameter in module.named_parameters(prefix=path, recurse=False):
                if self.lowered and name not in unlowered and not is_sharded(parameter):
                    self._lower(parameter, names.get(id(parameter)), dtype)
            if isinstance(module, HeldWeight) and self.lowered and module.dtype != dtype:
                module.to(dtype)
            weight = names.get(id(module._parameters.get("weight")))
            if packs and weight is None and module is not output:
                index = blocks.index(path)
                self.copies += self._convert(module, dtype, backward=index is None or index >= first)
            if rows and type(module) is nn.Embedding and weight is not None and not _is_tied(module, output):
                self._rows.append(_Rows(self.trained[weight]))
                patch(module, Patch.LOOK_UP, _look_up, self._rows[-1])

    @classmethod
    def of(
        cls,
        method: Method,
        model: Any,
        dtype: torch.dtype,
        products: str = FLOAT,
        factors: Mapping[nn.Module, Tensor] = MappingProxyType({}),
        *,
        rows: bool = True,
        packs: bool = True,
    ) -> Self:
        """Return the working weights of a model to which `method` is attached.

        Args:
            factors: The factors of the input channels of layers for int8 products (`int8_calibration`).
            rows: Whether only the rows of an embedding's gradient are written whose tokens are in the batch. Gradients
                that several processes sum have every row.
            packs: Whether frozen weights may be converted to a faster form; sharded weights may not.
        """
        trained, unlowered, packs = method.by_gradient(model), method.unlowered(model), packs and method.packs
        given: dict[str, Any] = {"packs": packs, "unlowered": unlowered, "products": products, "factors": factors}
        return cls(model, trained, dtype, rows=rows, **given)

    @property
    def reopens(self) -> bool:
        """Whether the model has no float32 copy of its frozen weights any more."""
        return self.lowered or self.in_int8

    def _convert(self, module: nn.Module, dtype: torch.dtype, *, backward: bool) -> int:
        """Convert a frozen linear layer to a faster form, and return the bytes of its copy for the backward pass."""
        if self.in_int8 and can_multiply_in_int8(module):
            self.int8_layers += 1
            weight = multiply_in_int8(module, self._factors.get(module), backward=backward)
            return weight.turned.nbytes + weight.turned_scales.nbytes
        if self.lowered and can_pack(module, dtype):
            return pack(module, backward=backward).transposed.nbytes
        return 0

    def _lower(self, parameter: Parameter, name: str | None, dtype: torch.dtype) -> None:
        if name is not None and self.trained[name] is parameter:
            self._masters.append(_Master(parameter))
            self.trained[name] = self._masters[-1].weight
        parameter.data = parameter.data.to(dtype)

    def clear(self) -> None:
        """Clear the gradients of the last step, keeping their memory for the next step."""
        for rows in self._rows:
            rows.clear()
        for master in self._masters:
            master.passes = 0
        kept = {id(rows.weight) for rows in self._rows} | {id(master.weight) for master in self._masters}
        for parameter in self.trained.values():
            if id(parameter) not in kept:
                parameter.grad = None
        for parameter in self.parts.values():
            parameter.grad = None

    @property
    def on_every_process(self) -> dict[str, Tensor]:
        """The trained float32 weights of which every process has all values, by name."""
        return {name: weight for name, weight in self.trained.items() if name not in self.parts}

    def sum_over(self, ranks: Ranks, loss: Tensor) -> None:
        """Add the gradients and the loss of all processes, in place.

        The parts of sharded weights have their gradients from the backward pass.
        """
        if ranks.count == 1:
            return
        self._ranks = ranks
        for name, parameter in self.parts.items():
            self.trained[name].grad = None if parameter.grad is None else own_part(parameter.grad)
        for master in self._masters:
            if not master.passes:
                master.weight.grad = None  # of the last step
        ranks.sum_gradients([*self.on_every_process.values()], loss)
        for master in self._masters:
            master.passes = 2  # its norm is not that of the sum

    def norm(self) -> Tensor:
        """Return the total norm of all gradients, a float32 scalar equal to `torch.nn.utils.get_total_norm`."""
        known = {id(rows.weight): rows.norm() for rows in self._rows if rows.used}
        known |= {id(master.weight): master.norm for master in self._masters if master.passes == 1}
        whole, parts = self.on_every_process.values(), [self.trained[name].grad for name in self.parts]
        grads = [p.grad for p in whole if p.grad is not None and id(p) not in known]
        norms = [*known.values(), *(torch._foreach_norm(grads) if grads else ())]
        if used := [grad for grad in parts if grad is not None]:
            squares = torch.stack(torch._foreach_norm(used)).square().sum()
            self._ranks.sum_([squares])
            norms.append(squares.sqrt())
        total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return total

    @torch.no_grad()
    def refresh(self) -> None:
        by_rows = {id(rows.weight) for rows in self._rows}  # look-up reads the float32 weight itself
        stale = [name for name, weight in self.trained.items() if weight is not self.parameters[name]]
        stale = [name for name in stale if name not in self.parts]  # gathering reads the float32 part itself
        stale = [name for name in stale if id(self.trained[name]) not in by_rows]
        if stale:
            torch._foreach_copy_([self.parameters[n].data for n in stale], [self.trained[n].data for n in stale])

    def settle(self) -> None:
        """Put the trained float32 weights into the model; frozen weights stay in `dtype`."""
        if self.lowered:
            for name, parameter in self.parameters.items():
                if name not in self.parts:
                    parameter.data = self.trained[name].data


def _is_tied(embedding: nn.Embedding, output: Any) -> bool:
    """Whether the output embedding is the same tensor, so that its gradient has every row."""
    return output is not None and output.weight is embedding.weight


def first_with_gradient(entry: Architecture, trained: Iterable[str]) -> float:
    """Return the index of the lowest block that a gradient passes if `trained` train; infinity: no block."""
    first = math.inf
    for name in trained:
        index = entry.block.index(name)
        if index is not None:
            first = min(first, index)
        elif not is_head(name) and not entry.is_above(name):
            return 0
    return first


class _Master:
    """The float32 master copy of a trained bfloat16 parameter, with its gradient.

    Each gradient is converted to float32 as soon as it is finished: only one gradient at a time exists in both
    precisions, and its norm is computed while the gradient is in the processor's cache.

    Attributes:
        passes: Number of backward passes since the last step.
        norm: Norm of the gradient of the first pass.
    """

    def __init__(self, parameter: Parameter) -> None:
        self.weight = Parameter(parameter.detach().clone())
        self.passes = 0
        self.norm = torch.zeros(())
        parameter.register_post_accumulate_grad_hook(self._take)

    def _take(self, parameter: Tensor) -> None:
        if parameter.grad is None:
            return
        if self.weight.grad is None:
            self.weight.grad = parameter.grad.to(torch.float32, memory_format=torch.contiguous_format)
        elif self.passes == 0:
            self.weight.grad.copy_(parameter.grad)
        else:
            self.weight.grad.add_(parameter.grad)
        if self.passes == 0:
            self.norm = torch.linalg.vector_norm(self.weight.grad)
        self.passes += 1
        parameter.grad = None


class _Rows:
    """The gradient of an embedding's float32 weight: only the rows of the batch's tokens are written and cleared."""

    def __init__(self, weight: Parameter) -> None:
        self.weight = weight
        self.used: list[Tensor] = []

    def add(self, ids: Tensor, gradient: Tensor) -> None:
        """Add gradients [N, width] to the rows `ids`, int64 [N]."""
        if self.weight.grad is None:
            self.weight.grad = torch.zeros_like(self.weight)
        self.weight.grad.index_add_(0, ids, gradient.float())
        self.used.append(ids)

    def norm(self) -> Tensor:
        """Return the norm of the gradient, computed from the used rows; repeated rows count once."""
        assert self.weight.grad is not None
        ids = torch.cat(self.used)
        ones = torch.ones(len(ids), device=ids.device)
        times = torch.zeros(len(self.weight), device=ids.device).index_add_(0, ids, ones)
        rows = self.weight.grad.index_select(0, ids)
        norm: Tensor = torch.linalg.vector_norm(rows.mul_(times.index_select(0, ids).rsqrt_()[:, None]))
        return norm

    def clear(self) -> None:
        if self.weight.grad is not None:
            for ids in self.used:
                self.weight.grad.index_fill_(0, ids, 0.0)
        self.used.clear()


class _RowLookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, ids: Tensor, weight: Tensor, rows: _Rows) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.rows = rows
        looked_up = rows.weight.detach().index_select(0, ids.reshape(-1)).to(weight.dtype)
        return looked_up.view(*ids.shape, weight.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None]:
        (ids,) = ctx.saved_tensors
        ctx.rows.add(ids.reshape(-1), grads[0].reshape(-1, grads[0].shape[-1]))
        return None, None, None


def _look_up(module: nn.Embedding, rows: _Rows, ids: Tensor) -> Tensor:
    result: Tensor = _RowLookUp.apply(ids, module.weight, rows)  # type: ignore[no-untyped-call]
    return result
