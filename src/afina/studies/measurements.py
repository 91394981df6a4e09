"""Measurements that only some runs have, as parts of a record. docs/reference/figures.md defines each figure."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from afina.schema import Count, Frozen

Duration = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A time in seconds."""


class HeadFit(Frozen):
    """How scikit-learn fitted the head of a linear probe.

    Attributes:
        parameter: The name of the regularization parameter, `C` or `alpha`.
        strength: The value that cross-validation on the training texts chose.
        seconds: The time of the fit on the features, a part of `seconds.train`.
        iterations: The iterations of the solver. None: a closed formula.
        converged: Whether the solver converged.
        pooling: How the features were pooled: "first", "last" or "mean".
        normalize: Whether the features were divided by their Euclidean norm.
    """

    parameter: Literal["C", "alpha"]
    strength: float
    seconds: Duration
    iterations: Count | None
    converged: bool
    pooling: Literal["first", "last", "mean"]
    normalize: bool


class Retention(Frozen):
    """The language-model loss of a model on neutral sentences, before and after its adaptation.

    Losses are nats per token, means over all tokens. Each interval is a 95 % interval over sentences.

    Attributes:
        source: Where the sentences come from.
        texts_digest: The digest of the sentences.
        sentences: The number of sentences.
        tokens: The number of tokens that were predicted.
        before: The loss of the backbone.
        after: The loss of the adapted model.
        change: `after` minus `before`; positive if the adaptation made the model worse on other texts.
        before_interval, after_interval, change_interval: The intervals; that of the change compares the same sentences.
        seconds: The time of both measurements, which no phase contains.
    """

    source: str
    texts_digest: str
    sentences: Count
    tokens: Count
    before: float
    after: float
    change: float
    before_interval: tuple[float, float]
    after_interval: tuple[float, float]
    change_interval: tuple[float, float]
    seconds: Duration
