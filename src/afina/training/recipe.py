"""`Recipe`: the settings of a training session, with what follows from the method, the texts and the machine."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Self

from afina.data.batch import Loader, MicroBatchLimits
from afina.methods.method import Method
from afina.ranks import ALONE, Ranks
from afina.training import problems
from afina.training.settings import Training


@dataclass(frozen=True)
class Recipe:
    """The settings of a training session.

    Attributes:
        steps: The number of optimizer steps, over which the learning rate decays.
        learning_rate: The largest learning rate.
        seed: The seed of the dropout masks.
        warmup: The number of first steps in which the learning rate rises linearly from zero.
        at_once: The largest micro-batch, and the processes that share each batch. Gradients of micro-batches add up.
    """

    training: Training
    steps: int
    learning_rate: float
    seed: int
    warmup: int = 0
    at_once: MicroBatchLimits = field(default_factory=MicroBatchLimits)

    @classmethod
    def of(
        cls,
        training: Training,
        method: Method,
        loader: Loader,
        seed: int,
        ranks: Ranks = ALONE,
        *,
        encoder: bool = False,
    ) -> Self:
        """Return the recipe of a training of `method` on the batches of `loader`. `encoder`: the backbone is one.

        Raises InvalidStudy if the learning rate would rise in all steps.
        """
        epochs = training.epochs if method.pairs is None else 1
        steps = training.max_steps or epochs * loader.steps_per_epoch
        return cls(
            training,
            steps,
            learning_rate=training.learning_rate or method.rate_on(encoder),
            seed=seed,
            warmup=_warmup_steps(training.warmup, steps),
            at_once=MicroBatchLimits(training.batch_size, training.token_budget, method.takes_positions, ranks),
        )

    @property
    def ranks(self) -> Ranks:
        """The processes that compute the training together."""
        return self.at_once.ranks

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0, as in transformers' linear schedule with warm-up."""
        if step < self.warmup:
            return self.learning_rate * step / self.warmup
        return self.learning_rate * (self.steps - step) / (self.steps - self.warmup)


def _warmup_steps(warmup: float, steps: int) -> int:
    """Return the number of warm-up steps, less than `steps`; a share of all steps is rounded up, as in transformers."""
    if warmup < 1:
        return min(math.ceil(warmup * steps), steps - 1)
    if warmup >= steps:
        raise problems.WARMUP_TOO_LONG(option="warmup", found=warmup, steps=steps)
    return int(warmup)
