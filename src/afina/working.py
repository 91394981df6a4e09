"""Working weights: what a model computes in while it trains, beside the float32 weights that are trained.

In float32 they are the same tensors. In bfloat16 the model holds bfloat16 weights, so that no step casts a
frozen one; each trained one has a float32 master that the optimiser updates, and is written anew from it
after every step. The head stays float32. Knows parameters, not what they belong to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from afina.families import HEAD


class Working:
    """Lower the weights of `model` to `dtype`, but for its head.

    parameters  those that train, by name
    trained     float32, by the same names: what the optimiser gets, and what is saved in the end
    """

    def __init__(self, model: nn.Module, parameters: Mapping[str, Parameter], dtype: torch.dtype) -> None:
        self.parameters = dict(parameters)
        self.trained = dict(parameters)
        self.lowered = dtype != torch.float32
        self._rows: list[_Rows] = []
        names = {id(parameter): name for name, parameter in parameters.items()}
        for path, module in model.named_modules():
            if HEAD in path.split("."):
                continue
            for parameter in module.parameters(recurse=False):
                if self.lowered:
                    self._lower(parameter, names.get(id(parameter)), dtype)
            weight = names.get(id(getattr(module, "weight", None)))
            if type(module) is nn.Embedding and weight is not None:
                self._rows.append(_Rows(self.trained[weight]))
                module.forward = partial(_look_up, module, self._rows[-1])  # type: ignore[method-assign]

    def _lower(self, parameter: Parameter, name: str | None, dtype: torch.dtype) -> None:
        if name is not None and self.trained[name] is parameter:
            self.trained[name] = master = Parameter(parameter.detach().clone())
            parameter.register_post_accumulate_grad_hook(_hand_over(master))
        parameter.data = parameter.data.to(dtype)

    def clear(self) -> None:
        """Forget the gradients of the last step; their memory is kept for the next."""
        by_rows = {id(rows.weight) for rows in self._rows}
        for rows in self._rows:
            rows.clear()
        for parameter in self.trained.values():
            if id(parameter) not in by_rows:
                if self.lowered and parameter.grad is not None:
                    parameter.grad.zero_()
                else:
                    parameter.grad = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Write the working weights anew from what was trained."""
        if self.lowered:
            names = [name for name in self.trained if self.trained[name] is not self.parameters[name]]
            torch._foreach_copy_([self.parameters[n].data for n in names], [self.trained[n].data for n in names])

    def settle(self) -> None:
        """Give the model its trained weights in float32; frozen ones stay lowered."""
        if self.lowered:
            for name, parameter in self.parameters.items():
                parameter.data = self.trained[name].data


def _hand_over(master: Parameter) -> Callable[[Tensor], None]:
    """Move a finished gradient to its master at once, so that only one is ever held in both precisions."""

    def hook(parameter: Tensor) -> None:
        if parameter.grad is None:
            return
        if master.grad is None:
            master.grad = parameter.grad.float()
        else:
            master.grad.add_(parameter.grad)
        parameter.grad = None

    return hook


class _Rows:
    """The gradient of an embedding's float32 weight: only the rows that a batch uses are written, and cleared."""

    def __init__(self, weight: Parameter) -> None:
        self.weight = weight
        self.used: list[Tensor] = []

    def add(self, ids: Tensor, gradient: Tensor) -> None:
        """ids int64 [N], gradient [N, width]."""
        if self.weight.grad is None:
            self.weight.grad = torch.zeros_like(self.weight)
        self.weight.grad.index_add_(0, ids, gradient.float())
        self.used.append(ids)

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
        return weight.index_select(0, ids.reshape(-1)).view(*ids.shape, weight.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None]:
        (ids,) = ctx.saved_tensors
        ctx.rows.add(ids.reshape(-1), grads[0].reshape(-1, grads[0].shape[-1]))
        return None, None, None


def _look_up(module: nn.Embedding, rows: _Rows, ids: Tensor) -> Tensor:
    result: Tensor = _RowLookUp.apply(ids, module.weight, rows)  # type: ignore[no-untyped-call]
    return result
