"""`ProbeFit`: a training session in which scikit-learn fits the head to features of all texts, without gradient steps.

The whole fit of a linear probe counts as one step. The module `probe_fit` does not know tasks or runs, and writes no
checkpoint: an interrupted fit starts again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from afina import meter
from afina.data.batch import Loader
from afina.events import Listener, Progress, ignore
from afina.methods.method import Method
from afina.models.backbone_spec import FLOAT
from afina.models.classifier import Classifier
from afina.models.objectives import Objective
from afina.stats.linear_models import LinearFit, fit_dense
from afina.training import problems
from afina.training.checkpoint import Account
from afina.training.fit import Fit, Measured, Pace
from afina.training.inputs import AllFeatures, MicroBatch
from afina.training.optimizer import Recipe

COPIES = 3
"""Number of float64 copies of all features that exist at the peak of a fit: the features, and the parts of a
cross-validation fold."""


@dataclass(frozen=True)
class FittedHead:
    """How scikit-learn fitted the head of a linear probe.

    Attributes:
        parameter: scikit-learn's name of the regularization parameter: `C` or `alpha`.
        strength: The value of the regularization parameter that cross-validation chose.
        seconds: Time of the fit in seconds, without computing the features.
        iterations: Number of iterations of the solver; None if a closed formula gave the solution.
        converged: Whether scikit-learn's solver converged.
    """

    parameter: str
    strength: float
    seconds: float
    iterations: int | None
    converged: bool


class ProbeFit(Fit):
    """A training session that computes the features of all texts once, and fits the last layer of the head to them.

    Attributes:
        fitted: How scikit-learn fitted the head. None: the head was not fitted yet.
    """

    inputs: AllFeatures

    def __init__(
        self,
        classifier: Classifier,
        method: Method,
        objective: Objective,
        loader: Loader,
        recipe: Recipe,
        dtype: torch.dtype = torch.float32,
        products: str = FLOAT,
    ) -> None:
        recipe = replace(recipe, steps=1, warmup=0)
        super().__init__(classifier, method, objective, loader, recipe, dtype, products)
        self.fitted: FittedHead | None = None

    @property
    def learning_rate(self) -> float | None:
        """None, because a linear probe takes no gradient steps."""
        return None

    def advance(
        self,
        stop: int | None = None,
        *,
        keep: Callable[[Account], None] | None = None,
        listen: Listener = ignore,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """Compute the features and fit the head, if that was not done yet; `keep` is not called.

        Raises Diverged if a feature is NaN or infinite, and InvalidStudy if all texts have the same class.
        """
        if self.fitted is not None:
            return
        self.begin()
        self.objective.linear.model()  # imports scikit-learn, which takes a second and is no part of a fit
        began, tokens, done = meter.now(), AllFeatures.computed(self.loader, 1), 0
        texts, computed = len(self.loader.encoded), 0
        for packed in self.inputs.compute():
            done, computed = done + len(packed), computed + len(packed.tokens)
            pace = computed / (meter.now() - began)
            listen(Progress("train", done, texts, None, pace, (tokens - computed) / pace))
            if stopped():
                raise KeyboardInterrupt
        self._fit(self.inputs.computed_features)
        self.account.step, self.account.tokens = 1, tokens
        self.account.seconds["train"] = meter.now() - began

    def _fit(self, features: np.ndarray) -> None:
        began, linear = meter.now(), self.objective.linear
        targets = np.asarray(self.loader.labels)
        if not np.isfinite(features).all():
            raise problems.FEATURES_NOT_FINITE()
        if not linear.can_fit(targets):
            raise problems.ONE_LABEL(method=self.method.name, texts=len(targets))
        made = fit_dense(
            linear,
            features,
            targets,
            self.objective.width,
            intercept=self.classifier.output_layer.bias is not None,
            weights=_weights(self.objective, targets, self.loader.weights),
        )
        self._write(made)
        spent = meter.now() - began
        self.fitted = FittedHead(linear.parameter, made.strength, spent, made.iterations, made.converged)

    def _write(self, made: LinearFit) -> None:
        """Write the head's last layer.

        If the head's last layer has no bias, the fitted biases become the classifier's offset.
        """
        last = self.classifier.output_layer
        with torch.no_grad():
            last.weight.copy_(torch.from_numpy(made.weights))
            biases = torch.from_numpy(made.biases).float()
            if last.bias is not None:
                last.bias.copy_(biases)
            elif made.biases.any():
                self.classifier.offset = biases.to(self.device)

    def update(self, parts: Sequence[MicroBatch]) -> Tensor:
        return torch.zeros(())

    def warm_up(self) -> None:
        """Do nothing, because a linear probe takes no gradient steps."""

    def resume(self, path: Path, key: str) -> None:
        """Do nothing, because a linear probe has no checkpoints."""

    @property
    def beside_bytes(self) -> int:
        """Size in bytes of the float64 copies of all features."""
        width = int(self.classifier.output_layer.in_features)
        return COPIES * len(self.loader.encoded) * width * np.dtype(np.float64).itemsize

    def activation_bytes(self, part: MicroBatch) -> int | None:
        return None

    def pace(self, first: int, count: int) -> Pace:
        """Measure the seconds per token over `count` batches of features after `first` batches."""
        self.begin()
        began, spent, tokens = meter.now(), 0.0, 1
        batches = self.inputs.compute()
        for packed in islice(batches, first):
            spent, tokens = meter.now() - began, len(packed.tokens)
        began = meter.now()
        if measured := [len(packed.tokens) for packed in islice(batches, count)]:
            spent, tokens = meter.now() - began, sum(measured)
        return Pace(spent / tokens)

    def measure(self) -> Measured:
        """Measure the memory of the state; a linear probe keeps nothing for a backward pass."""
        return Measured(self.state_bytes)


def _weights(objective: Objective, targets: np.ndarray, of_texts: np.ndarray | None) -> np.ndarray | None:
    """Return the weight of each text in the loss, [N]: its label's weight times its own; None: all are 1."""
    of_labels: Any = getattr(objective, "weights", None)
    if of_labels is None:
        return of_texts
    by_label: np.ndarray = np.asarray(of_labels)[targets]
    return by_label if of_texts is None else by_label * of_texts


def fit_of(method: Method) -> type[Fit]:
    """Return the class of training sessions for `method`: `ProbeFit` or `Fit`."""
    return ProbeFit if method.is_fitted else Fit
