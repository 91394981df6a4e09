"""Working weights: what a model computes in while it trains, beside the float32 weights that are trained.

In float32 they are the same tensors. In bfloat16 the model holds bfloat16 weights, so that no step casts a
frozen one; each trained one has a float32 master that the optimiser updates, and is written anew from it
after every step. The head stays float32. Knows parameters, not what they belong to.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
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
        if not self.lowered:
            return
        for name, parameter in parameters.items():
            if HEAD not in name.split("."):
                self.trained[name] = Parameter(parameter.detach().clone())
        by_identity = {id(parameter): name for name, parameter in parameters.items()}
        for path, module in model.named_modules():
            if HEAD in path.split("."):
                continue
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
                found = by_identity.get(id(parameter))
                if found is not None:
                    parameter.register_post_accumulate_grad_hook(self._hand_over(self.trained[found]))

    @staticmethod
    def _hand_over(master: Parameter):  # type: ignore[no-untyped-def]
        """Move a finished gradient to its master at once, so that only one is ever held in both precisions."""

        def hook(parameter: torch.Tensor) -> None:
            if parameter.grad is not None:
                fresh = parameter.grad.float()
                master.grad = fresh if master.grad is None else master.grad.add_(fresh)
                parameter.grad = None

        return hook

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
