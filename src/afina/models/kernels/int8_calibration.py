"""Choose the layers that multiply in int8 and the factors of their input channels, measured on typical inputs.

The factors of a layer depend only on the layer's inputs and weight. Which layers stay in floats depends on two
measurements: how int8 changes a layer's own results, and how this changes the model's results. In the packaged language
model `embedded`, int8 in one layer changes the model's results by 0.05 to 1.2 %. Layers with few multiplications cause
much of the change by int8. If a twentieth of the model's multiplications stays in floats, the squared change of its
results by int8 is halved (docs/LOG.md).

The module `int8_calibration` does not know models.
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
"""Largest relative change of a layer's results by int8 for which the layer multiplies in int8."""

ENOUGH = 0.02
"""Largest relative change of the model's results for which all layers together may multiply in int8."""

SHARE = 0.05
"""Largest share of the multiplications that may stay in floats because of the effect on the model's results."""

DIRECTIONS = 2
"""Number of random directions, for each text, in which the effect of int8 on the model's results is measured."""

FLOOR = 0.25
"""Smallest size of an input channel that `smoothing` uses, as a share of the mean over channels."""


def smoothing(inputs: Tensor, *weights: Tensor) -> Tensor:
    """Return the factor of each input channel, float32 [K], by which int8 products divide the inputs [N, K].

    The factor is the square root of the channel's largest input divided by the channel's largest weight; factors are
    scaled so that the mean of their logarithms is 0. A channel that is small in all typical inputs counts as larger
    than it is, because other inputs may be large. The largest absolute inputs, [1, K], give the same factors.
    """
    sizes = inputs.abs().amax(0).float()
    largest = torch.stack([weight.abs().amax(0).float() for weight in weights]).amax(0)
    sizes = torch.maximum(sizes, FLOOR * sizes.mean()).clamp_(min=SMALLEST)
    largest = torch.maximum(largest, FLOOR * largest.mean()).clamp_(min=SMALLEST)
    logarithms = (sizes.log() - largest.log()) / 2
    return (logarithms - logarithms.mean()).exp()


def int8_factors(layers: Mapping[str, nn.Module], compute: Callable[[], Tensor], bounds: Tensor) -> dict[str, Tensor]:
    """Return the factors of the layers that should multiply in int8, float32 [K], by name.

    A layer stays in floats, without factors, if `compute` does not call it; if its own results would change by more
    than SENSITIVE (the norm of the change of a token's results, relative to the norm of the results without a bias,
    averaged over tokens); or if its effect on the results of `compute`, float32 [texts, width], is large relative to
    its number of weights, while all effects together are above ENOUGH and at most SHARE of the weights stay in floats
    for this reason. Layers that read the same inputs share a tensor.

    `compute` has the same inputs at every call; `bounds` [texts + 1] are the first rows of the texts among a layer's
    inputs.
    """
    factors = smoothing_factors(layers, {}, compute)
    errors = _Errors(layers, factors)
    with torch.inference_mode(False), torch.enable_grad(), _observed({name: layers[name] for name in factors}, errors):
        effects = errors.effects(compute(), bounds)
    kept = [name for name, change in errors.changes.items() if change <= SENSITIVE]
    sizes = {name: math.prod(frozen_weight(layers[name]).shape) for name in factors}
    out = _most_harmful({name: effects[name] for name in kept}, sizes)
    return {name: factors[name] for name in kept if name not in out}


def _most_harmful(effects: Mapping[str, float], sizes: Mapping[str, int]) -> set[str]:
    left, room, out = sum(effects.values()), SHARE * sum(sizes.values()), set[str]()
    for name in sorted(effects, key=lambda name: effects[name] / sizes[name], reverse=True):
        if left <= ENOUGH**2:
            break
        if sizes[name] <= room:
            out.add(name)
            left, room = left - effects[name], room - sizes[name]
    return out


def smoothing_factors(
    layers: Mapping[str, nn.Module], wrappers: Mapping[str, nn.Module], compute: Callable[[], object]
) -> dict[str, Tensor]:
    """Return the factors of the input channels of all layers that `compute` calls, float32 [K], by layer name.

    Layers that read the same inputs share a tensor. `wrappers` has modules around a layer that compute with its weight
    without calling the layer, such as peft's LoRA.
    """
    read, seen = list[_Read](), set[str]()

    def see(name: str, inputs: Tensor, _: Tensor) -> None:
        if name not in seen:  # a layer that is called by its wrapper reports first
            seen.add(name)
            _see(read, name, inputs)

    with torch.no_grad(), _observed(layers, see), _observed(wrappers, see):
        compute()
    return {name: of for one in read for of in [one.factors(layers)] for name in one.names}


Observer = Callable[[str, Tensor, Tensor], Tensor | None]


@contextmanager
def _observed(layers: Mapping[str, nn.Module], observer: Observer) -> Iterator[None]:
    def hook(name: str) -> Any:
        return lambda layer, given, results: observer(name, given[0], results)

    hooks = [layer.register_forward_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


class _Read:
    """A tensor that several layers read, without keeping it alive: its largest values by channel, and these layers."""

    def __init__(self, inputs: Tensor) -> None:
        self.names: list[str] = []
        self._largest = inputs.reshape(-1, inputs.shape[-1]).abs().amax(0, keepdim=True)
        self._inputs, self._version = ref(inputs), inputs._version

    def is_of(self, inputs: Tensor) -> bool:
        """Whether `inputs` is the tensor that this `_Read` was made from, unchanged since."""
        return self._inputs() is inputs and self._version == inputs._version

    def factors(self, layers: Mapping[str, nn.Module]) -> Tensor:
        return smoothing(self._largest, *(frozen_weight(layers[name]).dequantize() for name in self.names))


def _see(read: list[_Read], name: str, inputs: Tensor) -> None:
    one = next((one for one in read if one.is_of(inputs)), None)
    if one is None:
        read.append(one := _Read(inputs))
    one.names.append(name)


class _Errors:
    """The errors that int8 makes in the results of layers, and their effects on the model's results."""

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
        """Return, by layer, the squared relative change of the model's results [texts, width], averaged over texts.

        For a random direction v of variance 1, the mean of <v, J e>^2 is the squared norm of J e, where J is the
        derivative of the model's results with respect to the layer's results and e is the layer's error. <v, J e> is
        the product of e with the gradient of <v, results>.
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
    """Return the sum over the rows of each text; unchanged if there is one row for each text (after the pooling)."""
    if len(rows) != int(bounds[-1]):
        return rows
    return torch.stack([part.sum() for part in rows.split(bounds.diff().tolist())])
