"""Rounding: how far float32 outputs are from float64 ones on this machine. Bounds that rounding decides follow from it.

How many digits of an output are right depends on the processor, on the library that multiplies, on the texts beside it
in a batch, and most of all on the text: where a norm divides by something small, errors grow. A fixed share of the
largest output holds on one processor and fails on the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from afina import Adapter, Backbone, Predictor

FACTOR = 8
"""How much farther than the plain computation another way of computing the same may be from the exact outputs. Measured
over all methods and texts of test_mixing: at most 2.6 times with oneDNN's products, 3.9 with MKL's."""

UNIT = 2.0**-21
"""Share of the largest output below which no error is told from rounding: four units of float32's last place."""


@dataclass(frozen=True, eq=False)
class Exact:
    """What an adapter says of some texts, in float64 but for the head; and how far float32 is from it here.

    outputs  [N, width]; of entities object [N], each [words, width]
    bounds   [N], the farthest from `outputs` that rounding explains, text by text
    """

    outputs: np.ndarray
    bounds: np.ndarray

    @classmethod
    def of(
        cls, adapter: Adapter, backbone: Backbone, texts: Sequence[str], pairs: Sequence[str] | None = None
    ) -> Exact:
        """What `of_predictor` gives for an adapter that is at hand."""
        return cls.of_predictor(Predictor.of(adapter, backbone), texts, pairs)

    @classmethod
    def of_predictor(cls, plain: Predictor, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Exact:
        """Compute `texts` in float32, each alone, all together and in another order; then in float64.

        One text is computed in one way only, whose error is 0 by chance at times, so texts that differ from it in their
        last word say how far rounding goes, too. The predictor stays in float64.
        """
        if len(texts) == 1:
            like = [f"{texts[0]} {word}" for word in ("and", "so", "on")]
            found = cls.of_predictor(plain, [*texts, *like], pairs and [*pairs] * 4)
            return cls(found.outputs[:1], found.bounds.max(keepdims=True))
        others: Sequence[str | None] = pairs or [None] * len(texts)
        together, turned = plain.outputs(texts, pairs), plain.outputs(texts[::-1], pairs and pairs[::-1])[::-1]
        each = zip(texts, others, strict=True)
        alone = [plain.outputs([text], None if pair is None else [pair])[0] for text, pair in each]
        plain.classifier.lower(torch.float64)  # type: ignore[attr-defined]
        outputs = plain.outputs(texts, pairs)
        ways = zip(together, turned, alone, outputs, strict=True)
        errors = [max(np.abs(one - exact).max() for one in found) for *found, exact in ways]
        return cls(outputs, FACTOR * np.maximum(errors, UNIT * max(np.abs(one).max() for one in outputs)))

    def explains(self, found: np.ndarray, text: int) -> bool:
        """Whether `found` differs from the exact outputs of that text by no more than rounding."""
        exact = self.outputs[text]
        return bool(found.shape == exact.shape and np.abs(found - exact).max() <= self.bounds[text])
