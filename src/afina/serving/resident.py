"""Resident: an adapter in memory, which answers on the host that it rides, or from weights of its own."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from afina.inference.predictor import Predictor
from afina.inference.reading import Reading
from afina.models import objectives
from afina.models.kernels.layer_changes import BatchedAdapter
from afina.models.manifest import Manifest
from afina.models.objective import Objective
from afina.repr_html import ReprCard


@dataclass(frozen=True, eq=False, repr=False)
class Resident(ReprCard, ABC):
    """An adapter, ready to answer. Its identity is its digest, whatever it was called by.

    manifest  the adapter's;  where  it was read from, for messages
    size      bytes that it takes beside the model that all share
    """

    rides: ClassVar[bool]

    digest: str
    manifest: Manifest
    where: str
    size: int

    def facts(self) -> dict[str, object]:
        """The facts that its repr shows."""
        return {"where": self.where, **self.manifest.summary, "shares the model": self.rides, "bytes": self.size}

    @cached_property
    def objective(self) -> Objective:
        """What it was asked of a text."""
        return objectives.make(self.manifest.label_names, self.manifest.objective)


@dataclass(frozen=True, eq=False, repr=False)
class Riding(Resident):
    """One that shares the frozen model.

    head    float32 [width of the head, width of the model];  offset  [width of the head], or None
    """

    rides = True

    rider: BatchedAdapter
    head: Tensor
    offset: Tensor | None
    reading: Reading

    def answer(self, features: Tensor) -> np.ndarray:
        """Outputs, float32 [N, width of the head], for features [N, width of the model]."""
        with torch.inference_mode(), torch.autocast(features.device.type, enabled=False):
            outputs = linear(features, self.head)
            found: np.ndarray = (outputs if self.offset is None else outputs + self.offset).cpu().numpy()
        return found


@dataclass(frozen=True, eq=False, repr=False)
class Apart(Resident):
    """One that has a model of its own, beside the one that others share."""

    rides = False

    predictor: Predictor
