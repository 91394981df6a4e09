"""`ProbeFit`: a training session in which scikit-learn fits the head to features of all texts, without gradient steps.

The whole fit counts as one step. The module does not know tasks or runs, and writes no checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from afina import meter
from afina.data.batch import Loader
from afina.events import Listener, Progress, ignore
from afina.methods.method import Method
from afina.models.classifier import Classifier
from afina.models.objective import Objective
from afina.training.checkpoint import Account
from afina.training.contrastive_fit import ContrastiveFit
from afina.training.fit import Fit, Measured, Pace
from afina.training.head_fit import fit_head, head_fit_bytes
from afina.training.inputs import AllFeatures, MicroBatch
from afina.training.recipe import Recipe


class ProbeFit(Fit):
    """A training session that computes the features of all texts once, and fits the last layer of the head to them."""

    inputs: AllFeatures

    def __init__(
        self,
        classifier: Classifier,
        method: Method,
        objective: Objective,
        loader: Loader,
        recipe: Recipe,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(classifier, method, objective, loader, replace(recipe, steps=1, warmup=0), dtype)

    @property
    def learning_rate(self) -> float | None:
        return None

    def advance(
        self,
        stop: int | None = None,
        *,
        keep: Callable[[Account], None] | None = None,
        listen: Listener = ignore,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Compute the features and fit the head, if not done yet; `keep` is not called.

        Raises Diverged if a feature is NaN or infinite, and InvalidStudy if all texts have the same class.
        """
        if self.fitted is not None:
            return
        self.begin()
        self.objective.linear.model()  # imports scikit-learn, which takes a second and is no part of a fit
        began, encoded, read = meter.now(), self.loader.encoded, 0
        tokens, computed = AllFeatures.computed(self.loader, 1), np.zeros(len(encoded), bool)
        for indices, packed in self.inputs.compute():
            computed[indices], read = True, read + len(packed.tokens)
            pace, done = read / (meter.now() - began), encoded.whole_texts(computed)
            listen(Progress("train", done, encoded.texts, None, pace, (tokens - read) / pace))
            if stopped():
                raise KeyboardInterrupt
        features = self.inputs.computed_features
        given = self.classifier, self.objective, self.loader, features, self.method.name
        self.fitted = fit_head(*given, ranks=self.recipe.ranks, common_scale=bool(self.method.common_scale))
        self.account.step, self.account.tokens = 1, tokens
        self.account.seconds["train"] = meter.now() - began

    def update(self, parts: Sequence[MicroBatch], learnt: int | None = None) -> Tensor:
        return torch.zeros(())

    def warm_up(self) -> None:
        """Do nothing: no step needs an optimizer."""

    def resume(self, path: Path, key: str) -> None:
        """Do nothing: an interrupted fit starts again."""

    @property
    def beside_bytes(self) -> int:
        return head_fit_bytes(self.classifier, self.objective, self.loader)

    def activation_bytes(self, part: MicroBatch) -> int | None:
        return None

    def pace(self, first: int, count: int) -> Pace:
        """Measure the seconds per token over `count` batches of features after `first` batches."""
        self.begin()
        began, spent, tokens = meter.now(), 0.0, 1
        batches = self.inputs.compute()
        for _, packed in islice(batches, first):
            spent, tokens = meter.now() - began, len(packed.tokens)
        began = meter.now()
        if measured := [len(packed.tokens) for _, packed in islice(batches, count)]:
            spent, tokens = meter.now() - began, sum(measured)
        return Pace(spent / tokens)

    def measure(self) -> Measured:
        return Measured(self.state_bytes)


def fit_of(method: Method) -> type[Fit]:
    """Return the class of training sessions for `method`."""
    if method.is_fitted:
        return ProbeFit
    return Fit if method.pairs is None else ContrastiveFit
