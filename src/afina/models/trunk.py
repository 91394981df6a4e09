"""`Trunk`: the embeddings and the lower transformer blocks of a model in training, whose weights do not train.

A trunk whose outputs do not depend on random numbers gives a text the same outputs in every step. `Trunk.states`
computes these outputs, and a forward pass with given outputs begins above the trunk. The module `trunk` does not know
methods, batches of a training session, or where outputs are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from afina.data.batch import Packed
from afina.models.architectures import architecture_of, blocks_of
from afina.models.classifier import Classifier
from afina.models.kernels.layout import Layout
from afina.models.kernels.patches import Patch, call_of, patch


class Trunk:
    """The embeddings and the lowest `blocks` transformer blocks of a classifier.

    The constructor patches the blocks of the classifier. Without given outputs, the patched blocks compute as before.
    """

    def __init__(self, classifier: Classifier, blocks: int) -> None:
        self.classifier, self.blocks, self._flow = classifier, blocks, _Flow()
        for index, block in enumerate(blocks_of(classifier.body)):
            forward = _below if index < blocks else _above
            patch(block, Patch.TRUNK, forward, call_of(block), self._flow)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the trunk's outputs."""
        found: torch.dtype = next(blocks_of(self.classifier.body)[0].parameters()).dtype
        return found

    @property
    def width(self) -> int:
        """The number of values of the outputs at a token."""
        return int(self.classifier.body.config.hidden_size)

    def rest(self) -> None:
        """Turn the dropout of the trunk off, by switching its modules to evaluation mode."""
        for module in _modules(self.classifier.body, self.blocks):
            module.training = False

    @torch.inference_mode()
    def states(self, packed: Packed, layout: Layout | None = None) -> Tensor:
        """Return the outputs of the trunk for a batch, [T, width]; the blocks above are not computed."""
        self._flow.stops = True
        try:
            self.classifier.features(packed, layout)
            found, self._flow.reached = self._flow.reached, None
        finally:
            self._flow.stops = False
        assert found is not None
        return found.squeeze(0)

    @contextmanager
    def giving(self, states: Tensor) -> Iterator[None]:
        """Let forward passes in the `with` block begin above the trunk, with the outputs `states` [T, width]."""
        self._flow.given = states[None]
        try:
            yield
        finally:
            self._flow.given = None


def is_random(body: Any, blocks: int) -> bool:
    """Whether the embeddings or the lowest `blocks` transformer blocks of a body have dropout in training mode."""
    return any(_drops(module) for module in _modules(body, blocks))


def _modules(body: Any, blocks: int) -> Iterator[nn.Module]:
    """Yield the modules of a trunk: those in its blocks, and those outside all blocks that come before."""
    entry = architecture_of(body)
    for path, module in body.named_modules():
        index = entry.block.index(path)
        if index is not None and index >= blocks:
            continue
        if index is None and (not path or entry.is_above(path)):
            continue
        yield module


def _drops(module: nn.Module) -> bool:
    """Whether a module itself drops values in training: a dropout module, or an attention with a rate of dropout."""
    if "dropout" in type(module).__name__.lower():
        return float(getattr(module, "p", 0)) > 0
    return any("drop" in name and isinstance(value, float) and value > 0 for name, value in vars(module).items())


@dataclass(eq=False)
class _Flow:
    """The state of a forward pass: whether the patched blocks of a model compute, stop, or return given outputs.

    A `_Flow` does not refer to the model, so that no reference cycle keeps an unused model in memory.

    Attributes:
        given: The outputs of the trunk, [1, T, width], which the trunk's blocks return. None: the blocks compute.
        stops: Whether the blocks above the trunk return their input.
        reached: The input of the lowest block above the trunk, if `stops` is true.
    """

    given: Tensor | None = None
    stops: bool = False
    reached: Tensor | None = None


def _below(_: Any, call: Callable[..., Any], flow: _Flow, hidden: Tensor, *inputs: Any, **options: Any) -> Any:
    return call(hidden, *inputs, **options) if flow.given is None else flow.given


def _above(_: Any, call: Callable[..., Any], flow: _Flow, hidden: Tensor, *inputs: Any, **options: Any) -> Any:
    if not flow.stops:
        return call(hidden, *inputs, **options)
    if flow.reached is None:
        flow.reached = hidden
    return hidden
