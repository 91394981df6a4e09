"""`PairSampling`: how many pairs of texts a contrastive training draws. The module does not import NumPy or torch."""

from __future__ import annotations

from typing import Literal, NamedTuple

SamplingStrategy = Literal["oversampling", "undersampling", "unique"]
"""The values of `PairSampling.strategy`, as the package setfit names them."""


class PairSampling(NamedTuple):
    """How many positive and negative pairs are drawn, in the terms of the package setfit.

    Attributes:
        strategy: "oversampling" draws as many positive as negative pairs, until every pair was drawn: pairs of the kind
            with fewer pairs are drawn repeatedly. "undersampling" draws as many positive as negative pairs, until every
            pair of the kind with fewer pairs was drawn. "unique" draws every pair once.
        iterations: The number of positive and of negative pairs for each text, in place of `strategy`. None: the number
            of pairs follows from `strategy`.
        most: The largest number of pairs. If `strategy` or `iterations` give more pairs, a random part is drawn.
    """

    strategy: SamplingStrategy = "oversampling"
    iterations: int | None = None
    most: int = 16_000
