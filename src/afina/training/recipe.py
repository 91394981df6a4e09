"""Recipe: how to train, in numbers. Knows no model and no data."""

from __future__ import annotations

from dataclasses import dataclass, field

from afina.data.batch import MicroBatchLimits


@dataclass(frozen=True)
class Recipe:
    """How to train.

    steps               optimiser steps in all; the horizon of the decay
    learning_rate       at the first step; falls linearly to zero after the last
    weight_decay        of the parameters that the method says decay
    clip                largest total norm of the gradients
    seed                of the dropout stream
    checkpoint_seconds  shortest time between checkpoints
    at_once             the most of a batch that is computed at once; the gradients of its parts are added up
    checkpointing       keep only each block's input for the backward pass
    label_smoothing     share of a target that is spread over all labels
    average             share of the steps, the last ones, whose weights are averaged in the end
    pull                decay of the backbone's own weights toward where they began, in the place of weight decay
    """

    steps: int
    learning_rate: float
    weight_decay: float
    clip: float
    seed: int
    checkpoint_seconds: float = 60.0
    at_once: MicroBatchLimits = field(default_factory=MicroBatchLimits)
    checkpointing: bool = False
    label_smoothing: float = 0.0
    average: float = 0.0
    pull: float = 0.0

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.learning_rate * (self.steps - step) / self.steps
