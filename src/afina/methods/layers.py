"""`layers`: the setting of a method that says which transformer blocks the method adapts: all, or the upper blocks.

The blocks below the adapted ones get no gradient, and no backward pass. The module `layers` does not know single
methods, and does not import torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import PlainValidator

from afina.methods import problems
from afina.models.architectures import architecture_of

Layers = Annotated[str | int, PlainValidator(lambda given: given)]
"""The type of the setting: a key of `SHARES`, `ALL`, or the number of adapted blocks; `check_layers` checks a value."""

ALL = "all"
"""Every transformer block is adapted."""

SHARES = {"upper half": 2, "upper quarter": 4}
"""The values that are a share of the blocks, each with its denominator."""


def check_layers(layers: Layers, method: str) -> None:
    counted = isinstance(layers, int) and not isinstance(layers, bool) and layers >= 1
    if not counted and layers not in (ALL, *SHARES):
        raise problems.LAYERS_INVALID(method=method, layers=layers, known=[ALL, *SHARES])


def blocks_from(layers: Layers, model: Any, method: str) -> int:
    """Return the index of the lowest adapted block. A share is rounded up to whole blocks. Raises InvalidStudy."""
    there = int(model.config.num_hidden_layers)
    if isinstance(layers, int):
        if layers > there:
            raise problems.BLOCKS_TOO_MANY(_setting="layers", _count=layers, found=there, method=method, layers=layers)
        return there - layers
    return 0 if layers == ALL else there - -(-there // SHARES[layers])


def adapted_modules(model: Any, first: int, targets: Sequence[str], method: str) -> tuple[list[str], list[str]]:
    """Return the paths of modules that `targets` name: in the blocks from `first` on, and all others.

    Raises InvalidStudy if a target names none in these blocks.
    """
    block = architecture_of(model).block
    paths = [path for path, _ in model.named_modules() if any(_names(target, path) for target in targets)]
    above = [path for path in paths if (index := block.index(path)) is not None and index >= first]
    for target in targets:
        if not any(_names(target, path) for path in above):
            raise problems.TARGET_BELOW_LAYERS(method=method, target=target, first=first)
    return above, [path for path in paths if path not in set(above)]


def _names(target: str, path: str) -> bool:
    return f".{path}".endswith(f".{target}")
