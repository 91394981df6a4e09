"""What keeps trained weights near something: their start, or their own mean. Knows weights by name, no loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter


class Pull:
    """L2-SP (Li et al. 2018): decay toward the pretrained weights in the place of zero; decoupled, as AdamW's is.

    strength     of the pull, in the units of weight decay
    parameters   float32, those that the backbone brought, before the first step
    multipliers  of their learning rates, by name; 1 for those not named
    """

    def __init__(self, strength: float, parameters: Mapping[str, Parameter], multipliers: Mapping[str, float]) -> None:
        self.strength = strength
        self._groups: dict[float, tuple[list[Tensor], list[Tensor]]] = {}
        for name, parameter in parameters.items() if strength else ():
            weights, starts = self._groups.setdefault(multipliers.get(name, 1.0), ([], []))
            weights.append(parameter.data)
            starts.append(parameter.detach().clone())

    @property
    def held(self) -> Sequence[Tensor]:
        """The start, where it is kept."""
        return [start for _, starts in self._groups.values() for start in starts]

    def apply(self, rate: float) -> None:
        """w <- w - rate multiplier strength (w - start)."""
        for multiplier, (weights, starts) in self._groups.items():
            torch._foreach_lerp_(weights, starts, rate * multiplier * self.strength)


class Average:
    """The mean of the weights after each of the last steps (Polyak and Juditsky 1992; Izmailov et al. 2018).

    share       of the steps, the last of them at least; 0: nothing is averaged
    parameters  float32, by name, as they are trained
    weights     the mean so far, by name; what a checkpoint has to hold
    """

    def __init__(self, share: float, steps: int, parameters: Mapping[str, Parameter]) -> None:
        self.first = steps - max(1, round(share * steps)) if share else steps
        self._parameters = parameters
        self.weights = {name: torch.zeros_like(each.data) for name, each in parameters.items() if share}

    def take(self, step: int) -> None:
        """Count in the weights after step number `step`, from 1."""
        if self.weights and step > self.first:
            trained = [self._parameters[name].data for name in self.weights]
            torch._foreach_lerp_(list(self.weights.values()), trained, 1 / (step - self.first))

    def settle(self) -> None:
        """Put the mean in the place of the weights."""
        for name, mean in self.weights.items():
            self._parameters[name].data.copy_(mean)
