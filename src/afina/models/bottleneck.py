"""Bottleneck: two small layers with a nonlinearity between, beside or behind a module of a block. Knows no model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, relu

from afina.models.rider import Change

NAME = "bottleneck"
"""What it is called among the children of the module that it belongs to."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": gelu, "relu": relu}


class Bottleneck(nn.Module):
    """scale up(activation(down(x))), which is 0 at first: `up` starts at zero, `down` as torch draws it.

    width   of what goes in and comes out;  narrow  of what lies between
    """

    def __init__(self, width: int, narrow: int, activation: str, scale: float, device: torch.device) -> None:
        super().__init__()
        self.down = nn.Linear(width, narrow, device=device)
        self.up = nn.Linear(narrow, width, device=device)
        self.activation, self.scale = activation, scale
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Any leading shape, width -> the same."""
        result: Tensor = self.up(ACTIVATIONS[self.activation](self.down(inputs)))
        return result if self.scale == 1 else result * self.scale


def behind(module: Any, plain: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    """A module, whose own forward is `plain`, then h + bottleneck(h) of its output; of several outputs, the first."""
    outputs = plain(*inputs, **options)
    hidden, *others = outputs if isinstance(outputs, tuple) else (outputs,)
    hidden = hidden + module.get_submodule(NAME)(hidden)
    return (hidden, *others) if isinstance(outputs, tuple) else hidden


def beside(module: Any, plain: Callable[..., Any], inputs: Tensor) -> Any:
    """A module of one input, whose own forward is `plain`, and the bottleneck of the same input added."""
    return plain(inputs) + module.get_submodule(NAME)(inputs)


@dataclass(frozen=True, eq=False)
class Added(Change):
    """What a bottleneck adds to a module's output. Weights and biases of its two layers, as `nn.Linear` has them.

    beside  whether it reads what the module was given, and not what comes out
    """

    down: Tensor
    down_bias: Tensor
    up: Tensor
    up_bias: Tensor
    activation: str
    scale: float
    beside: bool

    def leaving(self, inputs: Tensor | None, outputs: Tensor) -> None:
        """[N, width], both."""
        given = inputs if self.beside else outputs
        assert given is not None
        inner = ACTIVATIONS[self.activation](linear(given, self.down, self.down_bias))
        outputs.add_(linear(inner, self.up, self.up_bias), alpha=self.scale)
