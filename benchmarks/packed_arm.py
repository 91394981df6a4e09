"""afina's own training session, given one batch at a time. Its seconds are those that a record reports."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from afina import Backbone, allocator
from afina import device as devices
from afina.data.batch import Loader, MicroBatchLimits, pack
from afina.data.tokenize import Encoded
from afina.methods.method import Method
from afina.models.classifier import Classifier
from afina.models.objectives import Classes
from afina.studies.runs.prepared import attached
from afina.training.fit import Fit
from afina.training.recipe import Recipe
from afina.training.settings import Training
from arm import BATCH_SIZE, CPU, SEED, Watched
from sample import Batch

_NO_TEXTS = Encoded(np.zeros(0, np.int32), np.zeros(1, np.int64), 0)


class PackedArm:
    """A classifier in training, as `afina.studies.runs.prepared` prepares it.

    at_once  the most of a batch that is computed at once; by default all of it
    device   where the classifier trains
    """

    def __init__(
        self,
        backbone: Backbone,
        label_names: Sequence[str],
        method: Method,
        setting: Training,
        steps: int,
        at_once: MicroBatchLimits = MicroBatchLimits(),  # noqa: B008 - frozen
        device: torch.device = CPU,
    ) -> None:
        allocator.keep_kernels(allocator.MANY)  # as the process of a run has it
        opened = Classifier.open(backbone, label_names, SEED, precision=setting.precision)
        classifier = attached(opened, method, SEED, device)
        recipe = Recipe(setting, steps, setting.learning_rate or method.learning_rate, SEED, at_once=at_once)
        given = Loader(_NO_TEXTS, np.zeros(0, np.int64), BATCH_SIZE, SEED)  # batches come by `step`
        dtype = devices.precision(setting.dtype, device)
        self.fit = Fit(classifier, method, Classes(tuple(label_names)), given, recipe, dtype)
        self.fit.begin()
        self._dtype = Watched(classifier.model)

    @property
    def dtype(self) -> torch.dtype:
        """Seen in the first step."""
        return self._dtype.seen

    def step(self, batch: Batch) -> float:
        """The session's own figure, so whatever it does between steps is not counted, nor is packing."""
        before = self.fit.account.seconds.get("train", 0.0)
        self.fit.step(pack(batch.rows, batch.labels))
        return self.fit.account.seconds["train"] - before
