"""Whether training by a method fits in memory, roughly, from the backbone's configuration alone."""

from __future__ import annotations

import re

from afina.errors import InvalidData
from afina.methods import METHODS

GIB = 2**30
PROCESS = 0.9 * GIB
"""Python, torch and transformers."""

ACTIVATIONS = 0.5 * GIB
"""Of a batch of 16 short texts on a model of 135M parameters; docs/benchmarks.md."""

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def needed(backbone: str) -> dict[str, float]:
    """Bytes that the process of a run by each practical method holds at its peak, roughly; by method.

    Two float32 copies of the model (one is read anew to be evaluated), gradient and two moments of what trains,
    activations in proportion to the model, and the libraries.
    """
    from afina.count import count

    counted = count(backbone)
    total = counted["total"]
    return {
        name: PROCESS + 8 * total + 12 * one["trainable"] + ACTIVATIONS * total / 135e6
        for name, one in counted["methods"].items()
        if METHODS[name].practical
    }


def size(text: str) -> int:
    """Bytes of `8GiB`, `500 MiB`, `8G`: all in powers of 1,024. Raises InvalidData."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", text, re.IGNORECASE)
    if not match or not float(match[1]):
        raise InvalidData(f"--memory {text}: expected a size such as 8GiB.")
    return int(float(match[1]) * _UNITS[match[2].lower()])
