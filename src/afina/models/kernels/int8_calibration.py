"""Which layers compute their products in int8, and with which factors: measured on typical inputs.

Factors follow from the inputs of a layer and its weight alone. Which layers stay out of int8 follows from two
measurements: the change of a layer's own results, and the change that it causes at the end of the model. Of the layers
of the embedded model, the latter is 0.05 to 1.2 %. Much of it is caused by layers that are cheap to compute. So a
twentieth of the multiplications, left in floats, avoids half of the squared change (docs/LOG.md).

The module does not know models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn

from afina.models.kernels.int8_products import SMALLEST, DynamicInt8Weight
from afina.models.kernels.linear import frozen_weight

SENSITIVE = 0.04
"""Largest relative change of a layer's own results with which its products are in int8.

Of the 210 layers of the embedded model, one is above: the layer that gives a text's first token its extreme values.
"""

ENOUGH = 0.02
"""Relative change of the model's results that all layers may cause together without any of them staying out of int8."""

SHARE = 0.05
"""Largest share of the multiplications that stays out of int8 because of its effect on the model's results."""

DIRECTIONS = 2
"""Number of random directions in which an effect is measured, for each text."""

FLOOR = 0.25
"""Smallest size of an input channel in `smoothing`, as a share of the mean over channels."""


def smoothing(inputs: Tensor, *weights: Tensor) -> Tensor:
    """Return the factor of each input channel, float32 [K].

    The factor is the root of the channel's largest input divided by its largest weight; the mean of their logarithms is
    0. A channel that is small in all typical inputs counts as larger than it is, because other inputs may be large.

    Args:
        inputs: Typical inputs [N, K]; the largest of each channel alone, [1, K], give the same.
        weights: All weights that the inputs are multiplied by, [M, K] each.
    """
    sizes = inputs.abs().amax(0).float()
    largest = torch.stack([weight.abs().amax(0).float() for weight in weights]).amax(0)
    sizes = torch.maximum(sizes, FLOOR * sizes.mean()).clamp_(min=SMALLEST)
    largest = torch.maximum(largest, FLOOR * largest.mean()).clamp_(min=SMALLEST)
    logarithms = (sizes.log() - largest.log()) / 2
    return (logarithms - logarithms.mean()).exp()


def int8_factors(layers: Mapping[str, nn.Module], compute: Callable[[], Tensor], bounds: Tensor) -> dict[str, Tensor]:
    """Return the factors of the layers that compute in int8, measured in float32 computations.

    A layer is left out

    - if `compute` does not call it;
    - if its own results would change by more than SENSITIVE: the norm of the change of a token's results, divided by
      the norm of the results without a bias, as a mean over all tokens;
    - if its effect on the results of `compute` is large for its number of weights, while all effects together are
      above ENOUGH, and as long as at most SHARE of the weights are left out for this reason.

    Args:
        compute: Computes the model that the layers belong to, with the same inputs at every call; float32
            [texts, width].
        bounds: Where each text begins in the rows of a layer's inputs, and the end; [texts + 1].

    Returns:
        Factors, float32 [K], by name: the same tensor for layers that read the same inputs.
    """
    read: list[_Read] = []
    with torch.no_grad(), _observed(layers, lambda name, inputs, _: _see(read, name, inputs)):
        compute()
    factors = {name: of for one in read for of in [one.factors(layers)] for name in one.names}
    errors = _Errors(layers, factors)
    with torch.inference_mode(False), torch.enable_grad(), _observed({name: layers[name] for name in factors}, errors):
        effects = errors.effects(compute(), bounds)
    kept = [name for name, change in errors.changes.items() if change <= SENSITIVE]
    sizes = {name: math.prod(frozen_weight(layers[name]).shape) for name in factors}
    out = _most_harmful({name: effects[name] for name in kept}, sizes)
    return {name: factors[name] for name in kept if name not in out}


def _most_harmful(effects: Mapping[str, float], sizes: Mapping[str, int]) -> set[str]:
    """Return the layers that stay out of int8 because of their squared effects."""
    left, room, out = sum(effects.values()), SHARE * sum(sizes.values()), set[str]()
    for name in sorted(effects, key=lambda name: effects[name] / sizes[name], reverse=True):
        if left <= ENOUGH**2:
            break
        if sizes[name] <= room:
            out.add(name)
            left, room = left - effects[name], room - sizes[name]
    return out


Observer = Callable[[str, Tensor, Tensor], Tensor | None]
"""Gets a layer's name, inputs and results; may return other results."""


@contextmanager
def _observed(layers: Mapping[str, nn.Module], observer: Observer) -> Iterator[None]:
    """Call `observer` after each computation of a layer."""

    def hook(name: str) -> Any:
        return lambda layer, given, results: observer(name, given[0], results)

    hooks = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


class _Read:
    """A tensor that layers read: its largest inputs, and the names of the layers. Does not keep the tensor alive."""

    def __init__(self, inputs: Tensor) -> None:
        self.names: list[str] = []
        self._largest = inputs.reshape(-1, inputs.shape[-1]).abs().amax(0, keepdim=True)
        self._inputs, self._version = ref(inputs), inputs._version

    def is_of(self, inputs: Tensor) -> bool:
        """Whether this is the tensor, unchanged."""
        return self._inputs() is inputs and self._version == inputs._version

    def factors(self, layers: Mapping[str, nn.Module]) -> Tensor:
        """Return the factors of the channels for all layers together."""
        return smoothing(self._largest, *(frozen_weight(layers[name]).dequantize() for name in self.names))


def _see(read: list[_Read], name: str, inputs: Tensor) -> None:
    one = next((one for one in read if one.is_of(inputs)), None)
    if one is None:
        read.append(one := _Read(inputs))
    one.names.append(name)


class _Errors:
    """The errors that int8 makes in the results of layers, and what they do at the end of the model.

    Attributes:
        changes: Relative change of a layer's results, by name.
    """

    def __init__(self, layers: Mapping[str, nn.Module], factors: Mapping[str, Tensor]) -> None:
        self._layers, self._factors = layers, factors
        self._errors: dict[str, Tensor] = {}
        self._results: dict[str, Tensor] = {}
        self.changes: dict[str, float] = {}

    @torch.no_grad()
    def __call__(self, name: str, inputs: Tensor, results: Tensor) -> Tensor:
        own, rows = frozen_weight(self._layers[name]), inputs.reshape(-1, inputs.shape[-1])
        exact = own.product(rows)
        self._errors[name] = error = DynamicInt8Weight.of(own, self._factors[name]).product(rows) - exact
        self.changes[name] = float((error.norm(dim=1) / exact.norm(dim=1).clamp_(min=SMALLEST)).mean())
        # The first layers read nothing that has a gradient.
        self._results[name] = results if results.requires_grad else results.detach().requires_grad_()
        return self._results[name]

    def effects(self, found: Tensor, bounds: Tensor) -> dict[str, float]:
        """Return the squared relative change of the results [texts, width] by each layer's error, mean over texts.

        For a random direction v of variance 1, the mean of <v, J e>^2 is the squared norm of J e, where J is the
        derivative of the results and e the error. <v, J e> is the product of e with the gradient of <v, results>.
        """
        generator, sums = torch.Generator().manual_seed(0), dict.fromkeys(self._results, 0.0)
        sizes = found.detach().norm(dim=1, keepdim=True).clamp(min=SMALLEST)
        for _ in range(DIRECTIONS):
            direction = torch.randn(found.shape, generator=generator).to(found) / sizes
            grads = torch.autograd.grad(
                found, list(self._results.values()), direction, retain_graph=True, allow_unused=True
            )
            for (name, error), grad in zip(self._errors.items(), grads, strict=True):
                if grad is not None:
                    sums[name] += float(_by_text((grad.reshape(error.shape) * error).sum(1), bounds).square().mean())
        return {name: value / DIRECTIONS for name, value in sums.items()}


def _by_text(rows: Tensor, bounds: Tensor) -> Tensor:
    """Return the sum over the rows of each text; a layer after the pooling has one row for each text."""
    if len(rows) != int(bounds[-1]):
        return rows
    return torch.stack([part.sum() for part in rows.split(bounds.diff().tolist())])
